"""How much memory this process holds, held at most, and could still get."""

import os
import re
import sys
from pathlib import Path

from deepseek.core.errors import ConfigError
from deepseek.core.threads import CGROUP, group_folders

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")

UNITS = {"B": 1, "": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", 1)
    for ending, base in (("iB", 1024), ("B", 1000), ("", 1024))
}


def parse_bytes(size: int | str) -> int:
    """Bytes of a size such as `4GiB`, `800 MB` or a plain number.

    Raises:
        ConfigError: It is no such size, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if match is None or match[2].lower() not in units or not float(match[1]):
        raise ConfigError(f"{size!r} is no size", "write it as 4GiB, 800MB or in bytes")
    return int(float(match[1]) * units[match[2].lower()])


def peak_bytes() -> int:
    """Most resident memory since the start or since `reset_peak`, in bytes."""
    if STATUS.exists():
        return _field(STATUS, "VmHWM") * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Resident memory now, in bytes (0 where the system does not say)."""
    return _field(STATUS, "VmRSS") * 1024 if STATUS.exists() else 0


def available_bytes(
    root: Path = CGROUP, membership: Path = Path("/proc/self/cgroup"), meminfo: Path = MEMINFO
) -> int | None:
    """Memory that the process could still take, in bytes; None where the system does not say.

    The least of what the machine has left and what control groups allow.
    """
    left = [
        found
        for folder in group_folders(root, membership, "memory")
        if (found := _left_in(folder)) is not None
    ]
    if meminfo.exists():
        left.append(_field(meminfo, "MemAvailable") * 1024)
    elif {"SC_PAGE_SIZE", "SC_AVPHYS_PAGES"} <= os.sysconf_names.keys():
        left.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    return min(left, default=None)


def _left_in(folder: Path) -> int | None:
    """What a control group of either version allows more; files read before make room."""
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for most, now, files in names:
        try:
            limit, used = (int((folder / name).read_text()) for name in (most, now))
            return max(0, limit - used + _field(folder / "memory.stat", files))
        except (OSError, ValueError):  # not there, or `max`: no limit
            continue
    return None


def reset_peak() -> None:
    """Forget the peak so far, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not permitted: the peak then covers the whole process
        return


def _field(file: Path, name: str) -> int:
    """The number behind a name that begins a line; 0 if there is none."""
    for line in file.read_text().splitlines():
        key, _, value = line.strip().replace(":", " ").partition(" ")
        if key == name:
            return int(value.split()[0])
    return 0
