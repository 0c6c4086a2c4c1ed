"""How much memory this process holds and held at most."""

import re
import sys
from pathlib import Path

from deepseek.core.errors import ConfigError

STATUS = Path("/proc/self/status")


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
        return _status_field("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Resident memory now, in bytes (0 where the system does not say)."""
    return _status_field("VmRSS") if STATUS.exists() else 0


def reset_peak() -> None:
    """Forget the peak so far, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not permitted: the peak then covers the whole process
        return


def _status_field(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
