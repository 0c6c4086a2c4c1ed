"""Layers are reported as they are, and a program is held by what is left of them."""

import os
import sys

import pytest

from deepseek.core.errors import RequestError
from deepseek.eval.sandbox import Limits, Program, Sandbox
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
    def verdict(code, seconds=10.0):
        program = Program(code=code, names=("f",), tests="assert f(1) == 2")
        return sandbox.run_tests(program, Limits(seconds=seconds, without=without)).verdict

    assert verdict("def f(x): return x + 1") == "passed"
    assert verdict("def f(x): return x") == "failed"
    assert verdict("import os\ndef f(x): os._exit(0)") == "crashed"
    assert verdict("def f(x):\n    while True: pass", 0.5) == "timed out"
    assert verdict("def f(x):\n    [bytes(1 << 20) for _ in range(10 << 10)]") == "failed"
    assert verdict("import os\nwhile True: os.write(1, b'x' * 65536)", 0.5) == "timed out"


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
    outcome = sandbox.run_tests(program, Limits(without=without, seconds=5.0))
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
