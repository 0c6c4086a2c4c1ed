"""The layers of the sandbox: which there are, which hold here, and how a process enters them.

The namespaces are entered by the supervisor for all its processes, the others by each process
itself, last of all before it runs foreign code (`confine`). What can be had is found
out once, by doing it in a process that ends afterwards (`probe`); from then on a layer that
is refused is an error and no program runs.
"""

import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from deepseek.eval.sandbox import linux, namespaces
from deepseek.eval.sandbox.landlock import restrict_files
from deepseek.eval.sandbox.program import Limits
from deepseek.eval.sandbox.seccomp import filter_calls

LAYERS = {
    "process group": "processes of its own, ended as a group",
    "limits": "bounds on time, memory, files and processes",
    "user namespace": "the right to make the namespaces below without being root",
    "network namespace": "no network",
    "ipc namespace": "no shared memory or message queues of others",
    "private root": "no files but Python's, and a folder in memory",
    "pid namespace": "no other process is seen, and none outlives the program",
    "own user": "a user that owns nothing, where the harness is run by root",
    "no privileges": "no capabilities, and no program can give them back",
    "landlock": "files by path, no TCP, no signals to others",
    "seccomp": "no sockets, no new processes, no calls that reach other processes",
}
"""Name and purpose, in the order in which they are entered."""
NAMESPACES = ("network namespace", "ipc namespace", "private root", "pid namespace")
HIDDEN_PYTHON = "own user without private root"
"""In what `probe` finds: why a stranger could not run Python where it lies."""
PRIVATE_FOLDER = "/program"
FIRST_USER, USERS = 61184, 4336  # by convention for users that exist for a while


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a program runs."""

    folder: str
    readable: tuple[str, ...]
    owner: int


def enter_namespaces(active: Collection[str], place: Place, limits: Limits) -> None:
    """Enter the layers that the supervisor and its processes share; not yet the pid namespace."""
    if "user namespace" in active:
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # or the files of /proc/self are root's
        namespaces.enter_user_namespace()
    if "network namespace" in active:
        linux.unshare(linux.CLONE_NEWNET)
    if "ipc namespace" in active:
        linux.unshare(linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)
    if "private root" in active:
        namespaces.enter_private_root(place.readable, place.folder, limits.disk_bytes, place.owner)


def confine(active: Collection[str], place: Place, limits: Limits, *, writes: bool) -> None:
    """Enter all layers that a process puts on itself, before it runs code that may be hostile.

    Args:
        active: Names of the layers to enter.
        place: Its folder and what else it may read.
        limits: What it may use.
        writes: Whether it may write to the folder, in which it is.
    """
    _set_limits(active, limits)
    if "own user" in active:
        _become(place.owner)
    if "no privileges" in active:
        linux.drop_capabilities()
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if linux.IS_LINUX:
        # After the change of user, which resets both: this process ends with its parent, and
        # no other process may read it.
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    if "landlock" in active:
        restrict_files((*place.readable, *namespaces.DEVICES), (".",) if writes else ())
    if "seccomp" in active:
        filter_calls(os.getpid())


def _set_limits(active: Collection[str], limits: Limits) -> None:
    # In memory the folder has a size; on disk a file is small, for a deleted one is not seen.
    file_bytes = limits.disk_bytes if "private root" in active else limits.disk_bytes // 16
    # Where seccomp refuses new processes, threads are all that is counted.
    tasks = limits.threads if "seccomp" in active and "own user" in active else 0
    bounds = {
        # The first limit's signal tells what happened; a program that ignores it meets the second.
        resource.RLIMIT_CPU: (limits.seconds, limits.seconds + 1),
        resource.RLIMIT_AS: (limits.memory_bytes, limits.memory_bytes),
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),
    }
    if tasks or "seccomp" not in active:
        bounds[resource.RLIMIT_NPROC] = (tasks, tasks)
    if sys.platform == "linux":
        bounds[resource.RLIMIT_MSGQUEUE] = (0, 0)
    for kind, (soft, hard) in bounds.items():
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):
            if sys.platform == "linux":  # macOS does not know all of them
                raise


def resolve(reasons: dict[str, str], without: Collection[str]) -> dict[str, str]:
    """What `probe` found, when some layers are left out: the reasons of all inactive ones."""
    left_out = {name: "left out" for name in without if not reasons[name]}
    found = {name: reasons[name] for name in LAYERS} | left_out
    if "user namespace" in left_out:
        for name in NAMESPACES:
            found[name] = found[name] or "needs the user namespace"
    if found["private root"] and not found["own user"]:
        found["own user"] = reasons[HIDDEN_PYTHON]
    return found


def choose_owner() -> int:
    """A user that nobody is, for the program of this process."""
    return FIRST_USER + os.getpid() % USERS


def _hidden(paths: Sequence[str]) -> str:
    """Why strangers cannot reach all of these where they lie; empty if they can."""
    for path in paths:
        folder = path
        while folder != os.path.dirname(folder):
            bit = stat.S_IXOTH if os.path.isdir(folder) else stat.S_IROTH
            if os.path.exists(folder) and not os.stat(folder).st_mode & bit:
                return f"only root can read {folder}, where Python lies"
            folder = os.path.dirname(folder)
    return ""


def probe(readable: tuple[str, ...]) -> dict[str, str]:
    """Layer to the reason why it cannot be had here; empty where it can."""
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(read_end)
            os.write(write_end, json.dumps(_try_all(readable)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    reasons: dict[str, str] = json.loads(text)
    return reasons


def _try_all(readable: tuple[str, ...]) -> dict[str, str]:
    """Enter one layer after the other, as a program would."""
    reasons = dict.fromkeys(LAYERS, "")
    place = Place(folder=PRIVATE_FOLDER, readable=readable, owner=os.geteuid())
    limits = Limits()

    def attempt(name: str, enter: Callable[[], Any]) -> None:
        try:
            enter()
        except OSError as error:
            reasons[name] = error.strerror or str(error)

    reasons[HIDDEN_PYTHON] = _hidden(readable)
    for name in ("user namespace", *NAMESPACES[:-1]):
        attempt(name, partial(enter_namespaces, {name}, place, limits))
    attempt("pid namespace", _try_pid_namespace)
    attempt("own user", _try_own_user)
    attempt("no privileges", lambda: linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1))
    attempt("landlock", lambda: restrict_files(readable, ()))
    attempt("seccomp", lambda: filter_calls(os.getpid()))
    return reasons


def _try_pid_namespace() -> None:
    linux.unshare(linux.CLONE_NEWPID)
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _try_own_user() -> None:
    if os.geteuid() != 0:
        raise OSError("not needed: the harness is not run by root")
    _become(choose_owner())


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
