"""Programs: right if they pass their tests, alike if they answer the same calls alike.

What runs them is passed in: a sandbox belongs to a layer above.
"""

import re
from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from deepseek.core.errors import ConfigError
from deepseek.data.verifiers.problem import Problem

MARK = "behaviour:"
MAX_REPR = 2_000
"""Characters of a value that count; what programs return may be endless."""
_PRINTED = re.compile(rf"{MARK}([0-9a-f]{{32}})")


@runtime_checkable
class ProgramRunner(Protocol):
    """Finds code in answers and runs it where it can do no harm."""

    def extract(self, text: str, names: Collection[str]) -> str:
        """The definitions in an answer that some names need."""
        ...

    def run(self, code: str, names: Sequence[str], tests: str) -> tuple[bool, str]:
        """Whether trusted tests pass that use these names of the code, and if not, why.

        Raises:
            RequestError: The sandbox failed.
        """
        ...


class ProgramVerifier:
    """Runs what an answer defines. `details`: `names`, `tests`, and `calls` to compare by."""

    name = "program"
    form = "a Python code block"

    def __init__(self, runner: ProgramRunner | None) -> None:
        self._runner = runner

    def key(self, problem: Problem, text: str) -> str | None:
        """A digest of what the calls return or raise; None: there is no such function."""
        names = problem.details["names"]
        code = self._run.extract(text, names)
        return behaviour(self._run, code, names, problem.details["calls"])

    def is_right(self, problem: Problem, text: str) -> bool:
        """Whether all tests pass."""
        names = problem.details["names"]
        code = self._run.extract(text, names)
        return self._run.run(code, names, problem.details["tests"])[0]

    @property
    def _run(self) -> ProgramRunner:
        if self._runner is None:
            raise ConfigError("nothing is given that runs programs", "pass a ProgramRunner")
        return self._runner


def behaviour(
    runner: ProgramRunner, code: str, names: Sequence[str], calls: Sequence[str]
) -> str | None:
    """A digest of what some calls of a program's functions return or raise.

    Two programs are taken for the same if they do the same on all of them. The values are compared
    on the tests' side, from plain data, so a program cannot pretend to be another one.

    Args:
        runner: The sandbox.
        code: The program.
        names: What the calls use of it.
        calls: Trusted expressions, such as `f(3)`.

    Returns:
        None if the program does not run, takes too long, or lacks the names.
    """
    _, detail = runner.run(code, names, _probe(names, calls))
    found = _PRINTED.search(detail)
    return found.group(1) if found else None


def _probe(names: Sequence[str], calls: Sequence[str]) -> str:
    """Tests that fail with a digest of what the calls gave."""
    lines = ["import hashlib", "def _shown(call):"]
    lines += ["    try:", "        value = call()", "    except NameError: raise"]
    lines += ["    except Exception as error: return 'raises ' + type(error).__name__"]
    lines += [f"    return type(value).__name__ + repr(value)[:{MAX_REPR}]"]
    lines += [f"_calls = [{', '.join(f'lambda: {call}' for call in calls)}]"]
    lines += ["_all = '\\n'.join(map(_shown, _calls))"]
    lines += ["_digest = hashlib.blake2b(_all.encode('utf-8', 'replace'), digest_size=16)"]
    lines += [f"raise AssertionError('{MARK}' + _digest.hexdigest())"]
    return "\n".join(lines)
