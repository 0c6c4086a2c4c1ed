"""What sandboxes have left behind: processes and folders."""

import os
import tempfile
from pathlib import Path


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
