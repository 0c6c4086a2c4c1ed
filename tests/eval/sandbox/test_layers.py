"""Layers are reported as they are, and a program is held by what is left of them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from leftovers import descendants, folders

from deepseek.core.errors import RequestError
from deepseek.eval.sandbox import Limits, Program, Sandbox, harness
from deepseek.eval.sandbox.layers import HIDDEN_PYTHON, LAYERS, NAMESPACES, resolve

ALL = frozenset(LAYERS) - {"process group", "limits"}
NO_NAMESPACES = frozenset({"user namespace", *NAMESPACES})
SETTINGS = {
    "all": frozenset(),
    "a container that refuses namespaces": NO_NAMESPACES,
    "a kernel without Landlock": NO_NAMESPACES | {"landlock"},
    "namespaces and nothing else": ALL - NO_NAMESPACES,
    "limits and a process group": ALL,
}
RIGHT = Program(code="def f(x):\n    return x + 1", names=("f",), tests="assert f(1) == 2")


def every_setting(*but):
    return pytest.mark.parametrize(
        "without", [SETTINGS[name] for name in SETTINGS if name not in but],
        ids=[name for name in SETTINGS if name not in but],
    )  # fmt: skip


def test_every_layer_is_named_with_its_state(sandbox):
    layers = sandbox.active_layers()
    assert [layer.name for layer in layers] == list(LAYERS)
    for layer in layers:
        assert layer.active == (not layer.reason)
        assert layer.what
    assert {layer.name for layer in layers if layer.active} >= {"process group", "limits"}
    left = sandbox.active_layers(without=ALL)
    assert {layer.name for layer in left if layer.active} == {"process group", "limits"}


def test_layers_that_need_another_go_with_it():
    reasons = dict.fromkeys(LAYERS, "") | {HIDDEN_PYTHON: "only root can read it"}
    assert resolve(reasons, ["user namespace"])["pid namespace"] == "needs the user namespace"
    assert resolve(reasons, ["private root"])["own user"] == "only root can read it"
    assert resolve(reasons, [])["own user"] == ""
    refused = reasons | {"landlock": "not supported"}
    assert resolve(refused, ["landlock"])["landlock"] == "not supported"


@every_setting()
def test_verdicts_are_right_in_every_setting(sandbox, without, clean):
    def verdict(code, **limits):
        program = Program(code=code, names=("f",), tests="assert f(1) == 2")
        return sandbox.run_tests(program, Limits(without=without, **limits)).verdict

    assert verdict("def f(x): return x + 1") == "passed"
    assert verdict("def f(x): return x") == "failed"
    assert verdict("import os\ndef f(x): os._exit(0)") == "crashed"
    assert verdict("def f(x):\n    while True: pass", seconds=1) == "timed out"
    assert verdict("def f(x):\n    [bytes(1 << 20) for _ in range(10 << 10)]") == "failed"
    assert (
        verdict("import os\nwhile True: os.write(1, b'x' * 65536)", wall_seconds=0.5) == "timed out"
    )


@every_setting("limits and a process group", "a kernel without Landlock")
def test_files_of_others_are_out_of_reach(sandbox, without, clean):
    if not {layer.name for layer in sandbox.active_layers(without) if layer.active} & {
        "landlock",
        "private root",
    }:
        pytest.skip("neither Landlock nor a private root is to be had")
    code = "def f(x): return open(x).read()"
    tests = "try:\n    f('/etc/passwd')\nexcept OSError:\n    pass\nelse:\n    assert False"
    program = Program(code=code, names=("f",), tests=tests)
    assert sandbox.run_tests(program, Limits(without=without)).passed


@pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
@every_setting()
def test_a_fork_bomb_is_held_in_every_setting(sandbox, without, clean):
    layers = {layer.name for layer in sandbox.active_layers(without) if layer.active}
    if os.geteuid() == 0 and not layers & {"seccomp", "own user"}:
        pytest.skip("nothing counts the processes of root here: a real one must not be tried")
    code = "import os\ndef f(x):\n    while True:\n        os.fork()"
    tests = "try:\n    f(1)\nexcept OSError:\n    pass\nelse:\n    assert False"
    program = Program(code=code, names=("f",), tests=tests)
    outcome = sandbox.run_tests(program, Limits(without=without))
    assert outcome.passed, outcome


def test_a_layer_that_cannot_be_entered_lets_no_program_run():
    sandbox = Sandbox()
    try:
        with pytest.raises(RequestError, match="the code sandbox failed: ") as caught:
            sandbox.run_tests(RIGHT, Limits(memory_bytes=1 << 70))  # not a limit
        assert caught.value.hint
        assert sandbox.run_tests(RIGHT).passed
        sandbox.close()
        assert sandbox.run_tests(RIGHT).passed, "it starts again when it is needed"
    finally:
        sandbox.close()


def test_other_systems_have_limits_and_a_process_group(monkeypatch):
    """The zygote believes to be on macOS, and calls nothing that only Linux has."""
    start = harness.START.replace("import sys;", "import sys; sys.platform = 'darwin';")
    assert start != harness.START
    monkeypatch.setattr(harness, "START", start)
    sandbox = Sandbox()
    try:
        active = [layer for layer in sandbox.active_layers() if layer.active]
        if os.geteuid() != 0:
            assert [layer.name for layer in active] == ["process group", "limits"]
        assert not {layer.name for layer in active} & {"seccomp", "landlock", *NAMESPACES}
        assert sandbox.run_tests(RIGHT).passed
        loop = Program(code="while True: pass", names=(), tests="")
        assert sandbox.run_tests(loop, Limits(seconds=1)).verdict == "timed out"
        gone = Program(code="import os\nos._exit(0)", names=(), tests="")
        assert sandbox.run_tests(gone).verdict == "crashed"
    finally:
        sandbox.close()


KILLED = """
import threading, time
from deepseek.eval.sandbox import Limits, Program, Sandbox
sandbox = Sandbox()
code = "import time\\nprint(1)\\nwhile True: time.sleep(1)"
program = Program(code=code, names=(), tests="")
limits = Limits(wall_seconds=500.0, without=frozenset({"private root"}))
sandbox.active_layers()
threading.Thread(target=sandbox.run_tests, args=(program, limits)).start()
time.sleep(0.3)
print(sandbox._zygote.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_when_the_harness_is_killed():
    before = folders()
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        zygote = int(child.stdout.readline())
        family = descendants(zygote) | {zygote}
        assert len(family) >= 4, "zygote, supervisor, judge and candidate"
        child.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in family) or folders() - before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
