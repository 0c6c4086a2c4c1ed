"""Programs that try to get out, to stay, or to take the machine down.

Each says itself whether its attempt failed ("held"), and the harness looks as well.
"""

import os
import signal
import socket
import sys
import threading

import pytest

from deepseek.eval.sandbox import Limits, Program
from deepseek.eval.sandbox.codec import Channel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")

ATTEMPT = """
def f():
    try:
        attempt()
    except (OSError, RuntimeError, MemoryError, AttributeError) as error:
        return 'held'
    return 'escaped'
"""
HELD = "result = f()\nassert result == 'held', result"


def attempt(sandbox, body, without=()):
    """The outcome of a program whose `attempt()` should raise."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    program = Program(code=f"def attempt():\n{lines}{ATTEMPT}", names=("f",), tests=HELD)
    return sandbox.run_tests(program, Limits(without=frozenset(without)))


def need(active, *names):
    """Skip where none of these layers is to be had."""
    if not active.intersection(names):
        pytest.skip(f"needs one of: {', '.join(names)}")


def without_each(*names):
    """With all layers, and without each of these."""
    return pytest.mark.parametrize("without", [(), *((name,) for name in names)], ids=str)


# Resources


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal, time\nfor n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: time.sleep(1000)",
        "import threading\ndef g():\n    while True: pass\n"
        "for _ in range(4): threading.Thread(target=g).start()\ng()",
        "def f():\n    while True: pass",
        "import re\ndef f(): return re.match('(a+)+$', 'a' * 60 + 'b')",
        "def f():\n    def g():\n        while True: yield 1\n    return g()",
    ],
    ids=["loop", "sleep", "threads that spin", "loop in a call", "regex", "endless generator"],
)
def test_what_never_ends_is_ended(sandbox, code, clean):
    program = Program(code=code, names=("f",), tests="assert sum(f()) == 1")
    limits = Limits(seconds=1, wall_seconds=2.0, memory_bytes=256 << 20)
    outcome = sandbox.run_tests(program, limits)
    if "yield" in code:  # memory may end before the time does
        assert not outcome.passed
    else:
        assert outcome.verdict == "timed out"
    if "sleep" in code:
        assert outcome.detail == "no verdict after 2 s"


def test_processor_time_is_what_counts(sandbox, clean):
    program = Program(code="while True: pass", names=(), tests="")
    outcome = sandbox.run_tests(program, Limits(seconds=1, wall_seconds=500.0))
    assert (outcome.verdict, outcome.detail) == ("timed out", "took 1 s of processor time")


def test_tests_that_never_end_are_ended(sandbox, clean):
    code = "def f():\n    return 10 ** 12"
    program = Program(code=code, names=("f",), tests="for _ in range(f()): pass")
    outcome = sandbox.run_tests(program, Limits(seconds=1, wall_seconds=500.0))
    assert (outcome.verdict, outcome.detail) == ("timed out", "took 1 s of processor time")


@pytest.mark.parametrize(
    "body",
    [
        "bytearray(10 << 30)",
        "[bytes(1 << 20) for _ in range(10 << 10)]",
        "import mmap; mmap.mmap(-1, 10 << 30)",
    ],
)
def test_memory_bomb_is_refused(sandbox, body, clean):
    assert attempt(sandbox, body).passed


def test_answer_of_gigabytes_is_no_answer(sandbox, clean):
    code = "def f():\n    return 'x' * (200 << 20)"
    program = Program(code=code, names=("f",), tests="assert f() == ''")
    outcome = sandbox.run_tests(program, Limits(memory_bytes=512 << 20))
    assert not outcome.passed


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_flood_of_output_is_read_and_dropped(sandbox, stream, clean):
    code = f"import os, sys\nwhile True: os.write(sys.{stream}.fileno(), b'x' * (1 << 20))"
    limits = Limits(seconds=100, wall_seconds=1.0, output_bytes=1000)
    outcome = sandbox.run_tests(Program(code=code, names=("f",), tests=""), limits)
    assert outcome.verdict == "timed out"
    assert getattr(outcome, stream) == "x" * 1000


@without_each("private root")
def test_disk_cannot_be_filled(sandbox, without, clean):
    one = "with open('big', 'wb') as file:\n    for _ in range(200): file.write(bytes(1 << 20))"
    many = (
        "for n in range(200):\n"
        "    with open(f'part{n}', 'wb') as file:\n"
        "        file.write(bytes(1 << 20)); file.flush()\n"
        "import time; time.sleep(5)"
    )
    assert attempt(sandbox, one, without).passed
    outcome = attempt(sandbox, many, without)
    held = (outcome.verdict, outcome.detail) == ("crashed", "wrote more than 67,108,864 bytes")
    assert outcome.passed or (without and held)


@without_each("private root")
def test_many_files_and_locked_folders_go_with_the_program(sandbox, without, clean):
    code = (
        "import os\ndef f():\n"
        "    for n in range(500): open(f'file{n}', 'w').close()\n"
        "    os.makedirs('a/b/c'); open('a/b/c/file', 'w').close()\n"
        "    os.symlink('/', 'a/link'); os.symlink('a', 'around')\n"
        "    os.chmod('a/b', 0); os.chmod('a', 0); os.chmod('.', 0)\n"
        "    return True"
    )
    program = Program(code=code, names=("f",), tests="assert f()")
    assert sandbox.run_tests(program, Limits(without=frozenset(without))).passed


def test_deep_recursion_ends_only_the_program(sandbox, clean):
    code = "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return max([1], key=lambda _: f())"
    limits = Limits(memory_bytes=512 << 20)
    outcome = sandbox.run_tests(Program(code=code, names=("f",), tests="assert f()"), limits)
    assert outcome.verdict in ("crashed", "failed")  # later Pythons count what is on the stack


def test_segmentation_fault_ends_only_the_program(sandbox, clean):
    code = "import ctypes\ndef f(): ctypes.string_at(0)"
    outcome = sandbox.run_tests(Program(code=code, names=("f",), tests="f()"))
    assert (outcome.verdict, outcome.detail) == ("crashed", "the program was ended by SIGSEGV")


def test_thousands_of_threads_are_refused(sandbox, clean):
    body = (
        "import threading\n"
        "for _ in range(5000): threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    assert attempt(sandbox, body).passed


# Processes


FORKS = {
    "fork": "import os\nif os.fork() == 0: os._exit(0)",
    "spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "system": "import os\nassert os.system('true') == 0 or (_ for _ in ()).throw(OSError())",
    "raw clone": (
        "import ctypes, errno\nlibc = ctypes.CDLL(None)\n"
        "pid = libc.syscall(56 if __import__('platform').machine() == 'x86_64' else 220, 17, 0)\n"
        "if pid == 0: libc._exit(0)\nif pid < 0: raise OSError"
    ),
    "bomb": "import os\nfor _ in range(20): os.fork()",
}


@pytest.mark.parametrize("name", FORKS)
@without_each("seccomp", "own user")
def test_no_process_can_be_started(sandbox, active, name, without, clean):
    if not active - set(without) & {"seccomp", "own user"} and os.geteuid() == 0:
        pytest.skip("nothing counts the processes of root here")
    if without == ("own user",):
        need(active, "seccomp")
    assert attempt(sandbox, FORKS[name], without).passed


DAEMON = """
import os, signal, time
def f():
    for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(n, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for n in range(3, 64):
                    try: os.close(n)
                    except OSError: pass
                while True: time.sleep(1000)
            os._exit(0)
    return True
"""


@pytest.mark.parametrize("without", [(), ("pid namespace",)], ids=str)
def test_a_daemon_does_not_outlive_its_program(sandbox, active, without, clean):
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's programs cannot fork at all")
    without = {"seccomp", "own user", *without}  # so that forking works
    program = Program(code=DAEMON, names=("f",), tests="assert f()")
    assert sandbox.run_tests(program, Limits(without=frozenset(without))).passed


@pytest.fixture
def signals():
    """Signals that reach this process."""
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGUSR1, old)


@without_each("seccomp", "pid namespace", "own user", "landlock")
def test_no_signal_reaches_the_harness(sandbox, active, signals, without, clean):
    need(active - set(without), "seccomp", "pid namespace", "own user")
    body = (
        "import os, signal\nreached = 0\n"
        f"for pid in (os.getppid(), {os.getpid()}, {sandbox._zygote.pid}, -1, 0):\n"
        "    try: os.kill(pid, signal.SIGUSR1 if pid else 0); reached += pid > 1\n"
        "    except OSError: pass\n"
        "if not reached: raise OSError"
    )
    if "seccomp" in without:
        body = body.replace(", -1, 0)", ",)")  # it may signal itself
    assert attempt(sandbox, body, without).passed
    assert signals == []


@without_each("seccomp", "pid namespace", "own user")
def test_no_memory_of_another_process_can_be_reached(sandbox, active, without, clean):
    need(active, "seccomp", "pid namespace", "own user")
    body = f"""
import ctypes, glob, os
libc = ctypes.CDLL(None, use_errno=True)
reached = []
for pid in ({os.getpid()}, {sandbox._zygote.pid}, os.getppid(), os.getpid() - 1):
    if pid <= 0 or pid == os.getpid(): continue
    for name in ('mem', 'maps', 'environ', 'root/etc/passwd', 'fd/0'):
        try: open(f'/proc/{{pid}}/{{name}}', 'rb').read(1); reached.append(name)
        except OSError: pass
    if libc.ptrace(16, pid, 0, 0) == 0: reached.append('ptrace')
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    if libc.process_vm_readv(pid, vector, 1, vector, 1, 0) > 0: reached.append('readv')
if not reached: raise OSError
"""
    outcome = attempt(sandbox, body, without)
    assert outcome.passed, outcome


# Network


@pytest.fixture
def server(tmp_path):
    """Listens on TCP, UDP, a Unix path and an abstract name; what came is in `heard`."""
    sockets = {
        "tcp": socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix": socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "abstract": socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    }
    path = tmp_path / "socket"
    name = f"\0deepseek-test-{os.getpid()}"
    for kind, address in {
        "tcp": ("127.0.0.1", 0),
        "udp": ("127.0.0.1", 0),
        "unix": str(path),
        "abstract": name,
    }.items():
        sockets[kind].bind(address)
        sockets[kind].setblocking(False)
        if kind != "udp":
            sockets[kind].listen()
    path.chmod(0o777)
    yield {kind: each.getsockname() for kind, each in sockets.items()}
    for kind, each in sockets.items():
        with pytest.raises(BlockingIOError):
            each.recv(1) if kind == "udp" else each.accept()
        each.close()


@without_each("seccomp", "network namespace", "landlock", "private root")
@pytest.mark.parametrize("kind", ["tcp", "udp", "unix", "abstract"])
def test_no_connection_is_made(sandbox, active, server, kind, without, clean):
    guards = {
        "tcp": ("seccomp", "network namespace", "landlock"),
        "udp": ("seccomp", "network namespace"),
        "unix": ("seccomp", "private root"),
        "abstract": ("seccomp", "network namespace", "landlock"),
    }
    need(active - set(without), *guards[kind])
    family = "AF_INET" if kind in ("tcp", "udp") else "AF_UNIX"
    shape = "SOCK_DGRAM" if kind == "udp" else "SOCK_STREAM"
    address = server[kind]
    if isinstance(address, bytes):
        address = address.decode()
    body = (
        f"import socket\ns = socket.socket(socket.{family}, socket.{shape})\n"
        f"s.connect({address!r})\ns.send(b'out')"
    )
    assert attempt(sandbox, body, without).passed


@without_each("seccomp")
def test_no_name_is_resolved(sandbox, active, without, clean):
    need(active - set(without), "seccomp", "network namespace")
    assert attempt(sandbox, "import socket\nsocket.getaddrinfo('example.com', 80)", without).passed


# Files


@without_each("landlock", "private root")
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/hostname", "~", "/proc/self/root/etc/passwd", "/proc/1/environ"]
)
def test_no_file_of_others_is_read(sandbox, active, path, without, clean):
    need(active - set(without), "landlock", "private root")
    if path == "~":
        path = os.path.expanduser("~")
        real = sorted(os.listdir(path))  # a path to Python may lead through it
        body = f"import os\nif sorted(os.listdir({path!r})) != {real!r}: raise OSError"
    else:
        body = f"open({path!r}, 'rb').read(1)"
    assert attempt(sandbox, body, without).passed


@without_each("landlock", "private root")
def test_no_file_of_the_harness_is_read_or_written(sandbox, active, tmp_path, without, clean):
    need(active - set(without), "landlock", "private root")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for step in (secret, tmp_path, *tmp_path.parents[:2]):
        step.chmod(0o777)
    for body in (
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w').write('changed')",
        f"open({str(tmp_path / 'new')!r}, 'w').write('new')",
        f"import os\nos.symlink({str(secret)!r}, 'link')\nopen('link').read()",
        f"import os\nos.link({str(secret)!r}, 'link')",
        f"import os\nos.rename({str(secret)!r}, 'here')",
        f"import os\nos.unlink({str(secret)!r})",
        f"import os\nos.mkdir({str(tmp_path / 'folder')!r})",
        f"import os\nopen(os.path.relpath({str(secret)!r})).read()",
    ):
        outcome = attempt(sandbox, body, without)
        assert outcome.passed, (body, outcome)
    assert secret.read_text() == "secret"
    assert list(tmp_path.iterdir()) == [secret]


@without_each("landlock", "private root")
def test_python_itself_cannot_be_changed(sandbox, active, without, clean):
    need(active - set(without), "landlock", "private root", "own user")
    for body in (
        "import json\nopen(json.__file__, 'a').write('')",
        "import os, json\nos.unlink(json.__file__)",
        "import os, json\nopen(os.path.join(os.path.dirname(json.__file__), 'new.py'), 'w')",
        "import json, os\nos.chmod(json.__file__, 0o777)\n"
        "if os.access(json.__file__, os.W_OK): open(json.__file__, 'a')\nelse: raise OSError",
    ):
        assert attempt(sandbox, body, without).passed, body


def test_environment_and_folder_tell_nothing_of_the_harness(sandbox, monkeypatch, clean):
    monkeypatch.setenv("DEEPSEEK_TEST_SECRET", "secret")
    code = (
        "import os\ndef f(): return dict(os.environ), os.listdir('.'), os.getcwd()\n"
        "def descriptors():\n    found = []\n    for n in range(200):\n"
        "        try: os.fstat(n); found.append(n)\n        except OSError: pass\n"
        "    return found"
    )
    tests = (
        "environment, files, folder = f()\n"
        "assert set(environment) == {'PATH', 'LANG', 'PYTHONHASHSEED', 'HOME', 'TMPDIR',"
        " 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'} - "
        "({'LC_CTYPE'} - set(environment)), environment\n"
        "assert files == [] and environment['HOME'] == folder\n"
        "assert descriptors() == [0, 1, 2, 4], descriptors()"
    )
    outcome = sandbox.run_tests(Program(code=code, names=("f", "descriptors"), tests=tests))
    assert outcome.passed, outcome.detail


CALLS = {
    "unshare": "libc.unshare(0x10000000)",
    "setns": "libc.setns(0, 0)",
    "mount": "libc.mount(b'none', b'/program', b'tmpfs', 0, None)",
    "chroot": "libc.chroot(b'.')",
    "keyctl": "libc.syscall(250, 0, -3, 1)",
    "bpf": "libc.syscall(321, 0, 0, 0)",
    "io_uring": "libc.syscall(425, 8, buffer)",
    "perf": "libc.syscall(298, buffer, 0, -1, -1, 0)",
    "parent's death signal": "libc.prctl(1, 0, 0, 0, 0)",
    "be read by others": "libc.prctl(4, 1, 0, 0, 0)",
    "limits of others": "libc.prlimit(1, 7, None, buffer)",
    "run a program": "libc.execv(b'/bin/true', (ctypes.c_char_p * 2)(b'true', None))",
    "memory of an x32 call": "libc.syscall(0x40000000 + 39)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of another machine")
@pytest.mark.parametrize("name", CALLS)
def test_seccomp_refuses_calls_that_reach_outside(sandbox, active, name, clean):
    need(active, "seccomp")
    body = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"buffer = ctypes.create_string_buffer(1024)\nresult = {CALLS[name]}\n"
        "if result < 0 and ctypes.get_errno() == 1: raise OSError"
    )
    outcome = attempt(sandbox, body)
    assert outcome.passed or outcome.detail == "the program was ended by SIGSYS"


def test_the_harness_may_leave_while_a_program_runs(sandbox, clean):
    """The fixture finds the processes if the supervisor does not end them."""
    connection = sandbox._connect()
    channel = Channel(connection)
    channel.send({"code": "while True: pass", "limits": {"wall_seconds": 500.0, "without": []}})
    channel.send({"names": [], "tests": "", "preamble": ""})
    threading.Event().wait(0.2)
    connection.close()
