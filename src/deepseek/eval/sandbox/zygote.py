"""A small process that waits to be forked: starting Python for each program would be slow.

It has the modules loaded that programs use most, and none of torch, so that a fork takes
about a millisecond. It has one thread, which a process with torch has not, so a fork is safe.
"""

import gc
import importlib
import os
import signal
import socket
import sys

from deepseek.eval.sandbox import linux
from deepseek.eval.sandbox.codec import Channel, Closed
from deepseek.eval.sandbox.layers import probe
from deepseek.eval.sandbox.supervisor import supervise

LOADED = """
    abc array ast bisect cmath collections copy dataclasses datetime decimal enum fractions
    functools hashlib heapq io itertools json math operator random re statistics string sys time
    traceback typing unicodedata
""".split()


def main() -> None:
    """Serve the harness at the other end of standard input's socket until it is gone."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for end in (0, 1, 2):
        os.dup2(nothing, end)
    os.close(nothing)
    channel = Channel(control)
    setup = channel.receive()
    sys.path[:] = setup["path"]
    for name in LOADED:
        importlib.import_module(name)
    readable = tuple(setup["readable"])
    reasons = probe(readable)
    channel.send(reasons)
    if linux.IS_LINUX:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
    gc.collect()
    gc.freeze()
    _serve(control, reasons, readable)


def _serve(control: socket.socket, reasons: dict[str, str], readable: tuple[str, ...]) -> None:
    while True:
        message, ends, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            status = 1
            try:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                supervise(socket.socket(fileno=ends[0]), reasons, readable)
                status = 0
            except Closed:  # the harness changed its mind
                status = 0
            finally:
                os._exit(status)
        for end in ends:
            os.close(end)
