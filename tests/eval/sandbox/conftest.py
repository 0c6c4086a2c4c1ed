"""One sandbox for these tests, and a look at what is left when they are done."""

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

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


def folders():
    return set(Path(tempfile.gettempdir()).glob("deepseek-sandbox-*"))


def descendants(zygote):
    """Processes forked from the zygote, and orphans that look like it."""
    parents, commands = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
            commands[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        if fields[0] != "Z":
            parents[int(entry.name)] = int(fields[1])
    found = {zygote}
    for _ in range(8):
        found |= {pid for pid, parent in parents.items() if parent in found}
    orphans = {
        pid
        for pid, parent in parents.items()
        if parent == 1 and commands[pid] == commands.get(zygote) and pid != os.getpid()
    }
    return (found | orphans) - {zygote}
