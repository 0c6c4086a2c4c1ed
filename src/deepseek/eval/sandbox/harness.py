"""The harness's side of the sandbox: starts the zygote and asks it to run programs."""

import atexit
import contextlib
import dataclasses
import os
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path

from deepseek.core.errors import RequestError
from deepseek.eval.sandbox.codec import Channel, Closed
from deepseek.eval.sandbox.layers import LAYERS, resolve
from deepseek.eval.sandbox.program import Layer, Limits, Outcome, Program

SOURCE = str(Path(__file__).parents[3])
START = "import sys; sys.path.insert(0, sys.argv[1]); " + (
    "from deepseek.eval.sandbox.zygote import main; main()"
)
GRACE_SECONDS = 60.0
"""More than a run may take beyond its limit, on a machine that is busy with a model."""
SYSTEM_PATHS = """
    /lib /lib32 /lib64 /usr/lib /usr/lib64 /usr/local/lib /etc/ld.so.cache /etc/alternatives
    /usr/share/zoneinfo /etc/localtime
""".split()
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a verdict must not depend on the order of a set
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Sandbox:
    """Runs programs apart from everything else. Safe to use from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reasons: dict[str, str] = {}

    def run_tests(self, program: Program, limits: Limits | None = None) -> Outcome:
        """Run a program and its tests, and leave nothing of either behind.

        Raises:
            RequestError: The sandbox itself failed; this says nothing about the program.
        """
        limits = limits or Limits()
        bounds = dataclasses.asdict(limits) | {"without": sorted(limits.without)}
        tests = {
            "names": program.names,
            "preamble": program.preamble,
            "tests": program.tests,
        }
        with self._connect() as connection:
            connection.settimeout(limits.wall_seconds + GRACE_SECONDS)
            channel = Channel(connection)
            try:
                channel.send({"code": program.code, "limits": bounds})
                channel.send(tests)
                answer = channel.receive()
            except (Closed, ValueError) as error:
                raise _broken(str(error)) from None
        if "broken" in answer:
            raise _broken(answer["broken"])
        return Outcome(**answer)

    def active_layers(self, without: Collection[str] = ()) -> list[Layer]:
        """Every layer, whether it holds on this machine, and why not."""
        with self._lock:
            self._start()
        reasons = resolve(self._reasons, without)
        return [
            Layer(name=name, what=what, active=not reasons[name], reason=reasons[name])
            for name, what in LAYERS.items()
        ]

    def close(self) -> None:
        """End the zygote; programs that still run are ended, too."""
        with self._lock:
            self._stop()

    def _connect(self) -> socket.socket:
        """A connection to a new supervisor."""
        with self._lock:
            for _ in range(2):
                self._start()
                assert self._control is not None
                ours, theirs = socket.socketpair()
                with theirs:
                    try:
                        socket.send_fds(self._control, [b"+"], [theirs.fileno()])
                        return ours
                    except OSError:  # somebody has ended the zygote: once more with a new one
                        ours.close()
                        self._stop()
        raise _broken("it ended twice")

    def _start(self) -> None:
        if self._zygote is not None and self._zygote.poll() is None:
            return
        self._stop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._zygote = subprocess.Popen(
                # -P and -S: neither the current folder nor a .pth file decides what is imported.
                [sys.executable, "-P", "-s", "-S", "-B", "-c", START, SOURCE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT | {"TMPDIR": tempfile.gettempdir()},
                cwd="/",
                start_new_session=True,
            )
        self._control = ours
        ours.settimeout(GRACE_SECONDS)
        channel = Channel(ours)
        try:
            channel.send({"path": _import_path(), "readable": readable_paths()})
            self._reasons = channel.receive()
        except (Closed, ValueError) as error:
            self._stop()
            raise _broken(str(error)) from None
        ours.settimeout(None)

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._zygote is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._zygote.wait(5)
            self._zygote.kill()
            self._zygote.wait()
        self._zygote = self._control = None


def readable_paths() -> list[str]:
    """What a program may read: Python, its packages, and the system's libraries."""
    python = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    python += [os.path.join(sys.base_prefix, "lib"), *_packages()]
    paths = {path for name in [*python, *SYSTEM_PATHS] for path in (name, os.path.realpath(name))}
    found = sorted(path for path in paths if os.path.exists(path))
    return [p for p in found if not any(p.startswith(other + "/") for other in found)]


def _import_path() -> list[str]:
    """The standard library and installed packages, without the folder this package lies in."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    dynamic = {os.path.join(path, "lib-dynload") for path in standard}
    return [*sorted(standard), *sorted(dynamic), *_packages()]


def _packages() -> list[str]:
    known = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    return [path for path in sys.path if path in known]


def _broken(why: str) -> RequestError:
    return RequestError(
        f"the code sandbox failed: {why}",
        "run again; if it fails again, memory or processes may be short on this machine",
    )


_shared = Sandbox()
atexit.register(_shared.close)


def run_tests(program: Program, limits: Limits | None = None) -> Outcome:
    """Run a program and its tests in the sandbox that this process shares.

    Raises:
        RequestError: The sandbox itself failed; this says nothing about the program.
    """
    return _shared.run_tests(program, limits)


def active_layers(without: Collection[str] = ()) -> list[Layer]:
    """Every layer of that sandbox, whether it holds on this machine, and why not."""
    return _shared.active_layers(without)
