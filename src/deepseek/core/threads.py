"""How many threads to use: what this process may really run on, not what the host has.

A container with a quota of two CPUs on a 64-core host that starts 64 threads runs many times
slower than with two. The smallest of affinity mask and control-group quota decides.
"""

import math
import os
from pathlib import Path

from deepseek.core.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")
MAX_THREADS = 1_024


def thread_count(requested: int | None = None) -> tuple[int, str]:
    """Threads to compute with, and the reason.

    Args:
        requested: A number that the user named; it wins.

    Returns:
        The count (at least 1) and one phrase that says where it comes from.

    Raises:
        ConfigError: The requested number is no sensible one.
    """
    if requested is not None:
        if not 1 <= requested <= MAX_THREADS:
            raise ConfigError(f"threads is {requested}", f"allowed: 1 to {MAX_THREADS:,}")
        return requested, "as requested"
    available = _affinity()
    quota = cgroup_quota()
    if quota is not None and math.ceil(quota) < available:
        return max(1, math.ceil(quota)), f"control-group quota of {quota:g} CPUs"
    return available, f"{available} CPUs in the affinity mask"


def cgroup_quota(root: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the control group may use, the tightest over all ancestors; None if unlimited."""
    quotas = [
        q
        for folder in group_folders(root, membership)
        if (q := _quota_v2(folder / "cpu.max") or _quota_v1(folder)) is not None
    ]
    return min(quotas, default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def group_folders(root: Path, membership: Path, controller: str = "cpu") -> list[Path]:
    """The process's own group and its ancestors, for cgroup v2 and a controller of v1."""
    folders = [root, root / controller]
    text = _read(membership)
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        base = root if controllers == "" else root / controller
        if controllers == "" or controller in controllers.split(","):
            parts = [p for p in path.split("/") if p and p != ".."]
            folders += [base.joinpath(*parts[: i + 1]) for i in range(len(parts))]
    return folders


def _quota_v2(file: Path) -> float | None:
    fields = _read(file).split()
    if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]) > 0:
        return int(fields[0]) / int(fields[1])
    return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = (
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    )
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # not every system has control groups
        return ""
