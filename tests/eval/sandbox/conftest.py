"""One sandbox for these tests, and a look at what is left when they are done."""

import sys
import time

import pytest
from leftovers import descendants, folders

from deepseek.eval.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture
def active(sandbox):
    """Names of the layers that this machine allows."""
    return {layer.name for layer in sandbox.active_layers() if layer.active}


@pytest.fixture
def clean(sandbox):
    """Checks after the test that no process and no folder of it is left."""
    before = folders()
    yield
    assert folders() <= before
    if sys.platform != "linux":
        return
    zygote = sandbox._zygote.pid
    deadline = time.monotonic() + 30
    while left := descendants(zygote):  # a supervisor ends after it has answered
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)
