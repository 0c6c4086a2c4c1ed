"""What form an answer must have: JSON after a schema, a regular expression, a grammar, a choice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deepseek.core.errors import RequestError

Kind = Literal["json_schema", "regex", "grammar", "choice"]

MAX_CHARACTERS = 100_000
MAX_CHOICES = 1_000
NAMES: dict[Kind, str] = {
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "grammar": "grammar",
    "choice": "choice",
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form that the whole answer must have. Make one with the class methods."""

    kind: Kind
    source: str
    """The schema as JSON, the expression, the grammar, or the choices as a list in JSON."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise RequestError(
                f"the constraint is of kind {self.kind!r}", f"allowed: {', '.join(get_args(Kind))}"
            )
        if not isinstance(self.source, str) or not 1 <= len(self.source) <= MAX_CHARACTERS:
            raise RequestError(
                f"the {self.name} is empty, too long or no text",
                f"allowed: 1 to {MAX_CHARACTERS:,} characters",
            )
        if self.kind == "json_schema":
            if not isinstance(self._parsed(), dict | bool):
                raise RequestError("the JSON schema is no object", 'for any JSON give "{}"')
        elif self.kind == "choice":
            _check_choices(self._parsed())

    @property
    def name(self) -> str:
        """The kind, for people."""
        return NAMES[self.kind]

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be chosen; empty for other kinds."""
        return tuple(self._parsed()) if self.kind == "choice" else ()

    @classmethod
    def json(cls) -> "Constraint":
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> "Constraint":
        """JSON that a schema accepts; an empty schema accepts any.

        Properties come in the schema's order, on one line, as Python's `json.dumps` writes them.

        Args:
            schema: An object, or JSON text.

        Raises:
            RequestError: It is no JSON object, or too long.
        """
        return cls("json_schema", schema if isinstance(schema, str) else _to_json(schema))

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        """Text that a regular expression matches from its beginning to its end.

        Args:
            pattern: In the syntax of Rust's `regex`: no look-around, no backreferences.
        """
        return cls("regex", pattern)

    @classmethod
    def grammar(cls, text: str) -> "Constraint":
        """Text that a context-free grammar derives.

        Args:
            text: Rules in Lark's syntax, with a rule `start`.
        """
        return cls("grammar", text)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> "Constraint":
        """One of some texts.

        Raises:
            RequestError: There are none or more than 1,000, or one is empty or no text.
        """
        if isinstance(choices, str):
            raise RequestError("the choices are one string", "give a list of strings")
        return cls("choice", _to_json(list(choices)))

    def _parsed(self) -> Any:
        try:
            return json.loads(self.source, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the {self.name} is no valid JSON: {error}", "correct it") from None


def _to_json(value: Any) -> str:
    try:
        return json.dumps(value if isinstance(value, list | bool) else dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"this cannot be written as JSON: {error}", "use objects, lists, texts and numbers"
        ) from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _check_choices(choices: Any) -> None:
    if not isinstance(choices, list) or not 1 <= len(choices) <= MAX_CHOICES:
        raise RequestError("there is nothing or too much to choose", f"give 1 to {MAX_CHOICES:,}")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise RequestError("a choice is empty or no text", "give non-empty strings")
