"""TOML files and `a.b=c` overrides into frozen dataclasses; an unknown key is an error."""

import difflib
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deepseek.core.errors import ConfigError

T = TypeVar("T")


def load_table(path: Path | None, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a TOML file, if there is one, and apply overrides such as `model.n_layers=4`.

    Raises:
        ConfigError: The file is missing or no TOML, or an override has no `=`.
    """
    try:
        table = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "mend the line it names") from None
    for override in overrides:
        apply_override(table, override)
    return table


def build(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Make a dataclass from a table, checking keys and types.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"unknown setting {where}{key}", suggest(key, known))
        if not _matches(value, hints[key]):
            raise ConfigError(f"{where}{key} is {value!r}", f"it must be {_described(hints[key])}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}{name} is missing", f"add {name} = …")
    return cls(**values)


def suggest(word: str, known: Any) -> str:
    """A did-you-mean hint for a word that is not among the known ones."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"


def apply_override(table: dict[str, Any], override: str) -> None:
    """Change a table as a text such as `model.n_layers=4` says.

    Raises:
        ConfigError: The text has no `=`, or goes through a value as if it were a section.
    """
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} has no '='", "write it as section.key=value")
    *parents, last = key.strip().split(".")
    if not last or not all(parents):
        raise ConfigError(f"override {override!r} names no setting", "write section.key=value")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{parent} in {override!r} is no section", "check the dots")
    table[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return f"of type {hint.__name__ if isinstance(hint, type) else hint}"


def _matches(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_matches(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
