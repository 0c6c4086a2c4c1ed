"""The child's side of `core/child.py`: it keeps to limits and answers with lines of JSON.

It imports the standard library only, so that a child starts quickly and without torch.
"""

import json
import signal
import sys
from typing import Any


def limit_memory(n_bytes: int) -> None:
    """Let this process take no more memory than so many bytes."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    except (ImportError, ValueError, OSError):  # Windows, macOS: the limit on time still holds
        return


def limit_time(seconds: float, *, by_clock: bool = False) -> None:
    """End this process after so many seconds, even if the one that started it is gone.

    Args:
        seconds: 0: no longer.
        by_clock: Whether waiting counts; else computing only, however busy the machine is.
    """
    if hasattr(signal, "setitimer"):  # not on Windows, where the parent's clock has to do
        signal.setitimer(signal.ITIMER_REAL if by_clock else signal.ITIMER_PROF, seconds)


def reply(answer: dict[str, Any]) -> None:
    """Answer, and take limits of time away."""
    text = json.dumps(answer)
    limit_time(0)
    limit_time(0, by_clock=True)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
