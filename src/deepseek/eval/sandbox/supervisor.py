"""The trusted process of one run: starts candidate and judge, watches, ends them, tells.

              connection              tests, verdict
    harness <------------> supervisor <------------> judge
                            ^      ^                   |
                     stdout |      | stderr            | calls and plain answers
                            candidate  <---------------+

Only the judge holds the socket on which a verdict can be said, and only the supervisor the
connection to the harness. Nothing that the candidate does, prints or returns is a verdict. The
tests arrive when the candidate's process exists already: they were never in its memory.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deepseek.eval.sandbox import linux, namespaces
from deepseek.eval.sandbox.candidate import run_candidate
from deepseek.eval.sandbox.codec import Channel, Closed
from deepseek.eval.sandbox.judge import judge
from deepseek.eval.sandbox.layers import (
    PRIVATE_FOLDER,
    Place,
    choose_owner,
    confine,
    enter_namespaces,
    resolve,
)
from deepseek.eval.sandbox.program import Limits

MAX_VERDICT_BYTES = 1 << 16
DISK_CHECK_SECONDS = 0.1
END_SECONDS = 20.0
TROUBLE, CALLS, VERDICT = 3, 4, 5
"""Descriptors of the children; the first is closed before foreign code runs."""


def supervise(
    connection: socket.socket, reasons: dict[str, str], readable: tuple[str, ...]
) -> None:
    """Run the one program that is asked for on a connection and answer with its outcome."""
    channel = Channel(connection)
    request = channel.receive()
    limits = Limits(**{**request["limits"], "without": frozenset(request["limits"]["without"])})
    active = {name for name, why in resolve(reasons, limits.without).items() if not why}
    try:
        channel.send(_Run(request["code"], limits, active, connection).outcome(readable))
    except OSError as error:
        channel.send({"broken": str(error)})


@dataclass
class _Seen:
    """What came out of the pipes."""

    output: dict[str, bytearray] = field(
        default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()}
    )
    verdict: bytearray = field(default_factory=bytearray)
    stopped: str = ""
    """Why the run was cut short."""


class _Run:
    """One program, from its first process to its last."""

    def __init__(
        self,
        code: str,
        limits: Limits,
        active: set[str],
        connection: socket.socket,
    ) -> None:
        self._code = code
        self._limits = limits
        self._active = active
        self._connection = connection
        self._proc: int | None = None
        self._pids: dict[str, int] = {}
        self._statuses: dict[int, int] = {}
        self._out_of_time = False

    def outcome(self, readable: tuple[str, ...]) -> dict[str, Any]:
        """Run it, leave nothing behind, and say what was found."""
        if linux.IS_LINUX:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
            self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        on_disk = "private root" not in self._active
        owner = choose_owner() if "own user" in self._active else os.geteuid()
        folder = namespaces.make_folder(owner) if on_disk else PRIVATE_FOLDER
        place = Place(folder=folder, readable=readable, owner=owner)
        try:
            enter_namespaces(self._active, place, self._limits)
            if linux.IS_LINUX:
                linux.prctl(linux.PR_SET_DUMPABLE, 0)
            started = time.monotonic()
            pipes = self._start(place)
            self._hand_over_tests(pipes["verdict"])
            seen = self._watch(pipes, started, folder if on_disk else None)
            seconds = time.monotonic() - started
            said = _parse(seen.verdict)
            if said is not None and said["ended"]:
                self._let_end(self._pids["candidate"])
        finally:
            self._end()
            if on_disk:
                namespaces.remove_folder(folder)
        return self._summary(seen, seconds)

    def _start(self, place: Place) -> dict[str, int]:
        """Fork both processes; the ends of the pipes that are read here."""
        asks, answers = socket.socketpair()
        ours, theirs = socket.socketpair()
        reads, writes = {"verdict": ours.detach()}, {"verdict": theirs.detach()}
        for name in ("stdout", "stderr", "trouble"):
            reads[name], writes[name] = os.pipe()
        self._pids["judge"] = _fork()
        if self._pids["judge"] == 0:
            _keep_only(writes["trouble"], asks.fileno(), writes["verdict"])
            self._run_child(place, _run_judge, writes=False)
        if "pid namespace" in self._active:
            linux.unshare(linux.CLONE_NEWPID)
        self._pids["candidate"] = _fork()
        if self._pids["candidate"] == 0:
            os.dup2(writes["stdout"], 1)
            os.dup2(writes["stderr"], 2)
            _keep_only(writes["trouble"], answers.fileno())
            self._run_child(place, partial(_run_candidate, self._code), writes=True)
        asks.close()
        answers.close()
        for end in writes.values():
            os.close(end)
        return reads

    def _hand_over_tests(self, end: int) -> None:
        """Give the judge what the harness says next."""
        tests = Channel(self._connection).receive()
        with socket.socket(fileno=os.dup(end)) as judges, contextlib.suppress(Closed):
            Channel(judges).send(tests)  # if the judge is gone, that is seen soon enough

    def _run_child(self, place: Place, run: Callable[[], None], *, writes: bool) -> None:
        """What a child does between its fork and its end; it never returns."""
        try:
            os.setsid()
            os.chdir(place.folder if writes else "/")
            try:
                confine(self._active, place, self._limits, writes=writes)
            except Exception as error:
                os.write(TROUBLE, str(error).encode())
                raise
            os.close(TROUBLE)
            run()
        except BaseException:
            traceback.print_exc()  # into the captured output
        finally:
            os._exit(1)

    def _watch(self, pipes: dict[str, int], started: float, disk_folder: str | None) -> _Seen:
        """Read until there is a verdict, time is up, or the harness is gone."""
        seen = _Seen()
        deadline = started + self._limits.wall_seconds
        next_check = started + DISK_CHECK_SECONDS
        with selectors.DefaultSelector() as selector:
            for name, end in pipes.items():
                os.set_blocking(end, False)
                selector.register(end, selectors.EVENT_READ, name)
            selector.register(self._connection, selectors.EVENT_READ, "harness")
            while not seen.stopped:
                now = time.monotonic()
                if now >= deadline:
                    seen.stopped = "timed out"
                    break
                if disk_folder is not None and now >= next_check:
                    next_check = now + DISK_CHECK_SECONDS
                    if namespaces.folder_bytes(disk_folder) > self._limits.disk_bytes:
                        seen.stopped = "disk"
                        break
                wait = deadline if disk_folder is None else min(deadline, next_check)
                for key, _ in selector.select(max(0.0, wait - now)):
                    if not self._read(seen, key.data, key.fd):
                        selector.unregister(key.fileobj)
        for name in ("stdout", "stderr"):  # what was printed before the verdict
            self._read(seen, name, pipes[name])
        return seen

    def _read(self, seen: _Seen, name: str, end: int) -> bool:
        """Take what a pipe holds; False when it has ended."""
        if name == "harness":
            seen.stopped = "the harness is gone"
            return False
        try:
            piece = os.read(end, 1 << 16)
        except BlockingIOError:
            return True
        if name == "trouble" and piece:
            raise OSError(piece.decode(errors="replace"))
        if name == "verdict":
            seen.verdict += piece[: MAX_VERDICT_BYTES - len(seen.verdict)]
            if not piece:
                seen.stopped = "verdict"
        elif name in seen.output:
            room = self._limits.output_bytes - len(seen.output[name])
            seen.output[name] += piece[: max(0, room)]
        return bool(piece)

    def _end(self) -> None:
        """End both processes and whatever they have started, and wait until all are gone."""
        for pid in self._pids.values():
            if pid not in self._statuses:
                _kill(pid)
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            try:
                if self._reap(-1):
                    continue
            except ChildProcessError:
                return
            for pid in _children(self._proc):
                _kill(pid)
            time.sleep(0.0005)
        raise OSError("processes of the program could not be ended")

    def _let_end(self, pid: int) -> None:
        """Give a process that has closed its connection a moment to say how it ended."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if self._reap(pid):
                return
            time.sleep(0.001)

    def _reap(self, which: int) -> bool:
        """Take note of a process that has ended, if one has."""
        pid, status, used = os.wait4(which, os.WNOHANG)
        if pid == 0:
            return False
        self._statuses[pid] = status
        if pid in self._pids.values() and os.WIFSIGNALED(status):
            # The kernel counts for its limit in ticks, which on a busy machine runs ahead of the
            # time that it reports as used.
            spent = used.ru_utime + used.ru_stime
            ended_by = os.WTERMSIG(status)
            self._out_of_time |= ended_by == signal.SIGXCPU or (
                ended_by == signal.SIGKILL and spent > self._limits.seconds / 2
            )
        return True

    def _summary(self, seen: _Seen, seconds: float) -> dict[str, Any]:
        verdict, detail = self._conclude(seen)
        return {
            "verdict": verdict,
            "detail": detail,
            "seconds": seconds,
            **{name: text.decode(errors="replace") for name, text in seen.output.items()},
        }

    def _conclude(self, seen: _Seen) -> tuple[str, str]:
        if seen.stopped == "timed out":
            return "timed out", f"no verdict after {self._limits.wall_seconds:g} s"
        if seen.stopped == "disk":
            return "crashed", f"wrote more than {self._limits.disk_bytes:,} bytes"
        said = _parse(seen.verdict)
        if self._out_of_time and (said is None or said["ended"]):
            return "timed out", f"took {self._limits.seconds} s of processor time"
        if said is None:
            return "failed", "the tests ended early"
        if said["passed"]:
            return "passed", ""
        if said["ended"]:
            return "crashed", _how_it_ended(self._statuses.get(self._pids["candidate"], 0))
        return "failed", said["detail"]


def _parse(verdict: bytearray) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(verdict)
    except ValueError:  # the judge was ended before it had said anything
        return None
    return said


def _run_judge() -> None:
    said = socket.socket(fileno=VERDICT)
    tests = Channel(said).receive()
    verdict = judge(Channel(socket.socket(fileno=CALLS)), **tests)
    said.sendall(json.dumps(verdict).encode())


def _run_candidate(code: str) -> None:
    run_candidate(Channel(socket.socket(fileno=CALLS)), code)


def _fork() -> int:
    """Fork; signals that the parent ignores are not ignored by the child."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return pid


def _keep_only(*ends: int) -> None:
    """Make these the descriptors 3, 4, … and close all others above them."""
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in ends]
    for place, end in enumerate(high, 3):
        os.dup2(end, place)
    os.closerange(3 + len(ends), 1 << 16)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def _children(proc: int | None) -> list[int]:
    """Processes whose parent is this one, orphans of its children included."""
    if proc is None:
        return []
    found = []
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            stat = os.open(f"{name}/stat", os.O_RDONLY, dir_fd=proc)
        except OSError:
            continue
        with os.fdopen(stat, "rb") as file, contextlib.suppress(OSError):
            parent = int(file.read().rpartition(b")")[2].split()[1])
            if parent == os.getpid():
                found.append(int(name))
    return found


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the program was ended by {name}"
    return f"the program ended with status {os.waitstatus_to_exitcode(status)} before the tests"
