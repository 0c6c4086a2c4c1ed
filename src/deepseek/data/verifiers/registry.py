"""The verifiers by name."""

from typing import Any

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError
from deepseek.data.verifiers.gym import GymVerifier
from deepseek.data.verifiers.programs import ProgramRunner, ProgramVerifier
from deepseek.data.verifiers.verifier import (
    ChoiceVerifier,
    NumberVerifier,
    TextVerifier,
    Verifier,
)

VERIFIERS: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (NumberVerifier, ChoiceVerifier, TextVerifier, GymVerifier, ProgramVerifier)
}


def find_verifier(name: str, runner: ProgramRunner | None = None) -> Verifier:
    """A verifier.

    Args:
        name: In `VERIFIERS`.
        runner: Runs programs, for the verifier that needs it.

    Raises:
        ConfigError: There is none of that name.
        MissingDependencyError: It needs a package that is not installed.
    """
    if name not in VERIFIERS:
        raise ConfigError(f"there is no verifier {name!r}", suggest(name, VERIFIERS))
    kind = VERIFIERS[name]
    found: Verifier = kind(runner) if kind is ProgramVerifier else kind()
    return found
