"""Tries grammars in a child process, with limits that a grammar cannot get around.

Compiling is fast for sane grammars, and nothing in the compiler bounds the time of the others.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek.core.child import Child, ChildError

PROGRAM = Path(__file__).with_name("grammar_child.py")
SETUP_SECONDS = 30.0
TRIAL_SECONDS = 2.0  # of computing
BUSY_SECONDS = 30.0  # of the clock, more than the trial takes on a busy machine
N_STEPS = 4


class GrammarTrial:
    """The child is started at the first use, kept for the next, replaced when it dies."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[int],
        ends: Sequence[int],
        limits: dict[str, Any],
    ) -> None:
        self._setup = {
            "tokens": [token.decode("latin-1") for token in tokens],
            "special": list(special),
            "ends": list(ends),
            "limits": limits,
        }
        self._child: Child | None = None
        self._lock = threading.Lock()

    def error(self, grammar: str) -> str:
        """What is wrong with a grammar; empty if it compiles within the limits."""
        request = {"grammar": grammar, "n_steps": N_STEPS, "seconds": TRIAL_SECONDS}
        with self._lock:
            try:
                if self._child is None or not self._child.is_alive:
                    self._child = Child(PROGRAM)
                    self._child.ask(self._setup | {"seconds": SETUP_SECONDS}, SETUP_SECONDS)
                answer = self._child.ask(request, TRIAL_SECONDS + BUSY_SECONDS)
            except ChildError as error:
                self._child = None
                return f"it is too complex ({error})"
        return str(answer["error"])
