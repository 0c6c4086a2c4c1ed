"""What goes into the sandbox and what comes out of it."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "timed out", "crashed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Code that nobody trusts, and the tests that judge it."""

    code: str
    """The candidate's module."""
    names: tuple[str, ...]
    """What the tests take from that module, mostly one function."""
    tests: str
    """Trusted statements; the program passes when they run to their end."""
    preamble: str = ""
    """Trusted definitions that the tests need, run before `names` are bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use. The defaults are far above what a right answer needs."""

    seconds: int = 10
    """Processor time of the program, and of the tests: a busy machine fails no right program."""
    wall_seconds: float = 60.0
    """For programs that wait, of everything together."""
    memory_bytes: int = 2 << 30
    """Address space."""
    disk_bytes: int = 64 << 20
    """All files together, and each one."""
    output_bytes: int = 64 << 10
    """Kept of what is printed; the rest is read and dropped."""
    threads: int = 64
    without: frozenset[str] = frozenset()
    """Names of layers to leave out, to test that the others hold without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the tests found."""

    verdict: Verdict
    detail: str
    """The failed assertion, the exception or the signal; empty when passed."""
    stdout: str
    stderr: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every test ran and held."""
        return self.verdict == "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One way in which a program is held back."""

    name: str
    what: str
    active: bool
    reason: str = ""
    """Why it is not active."""
