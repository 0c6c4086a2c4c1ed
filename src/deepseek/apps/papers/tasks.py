"""What can be asked about a paper: tasks made of facets, read from TOML.

A facet is one short thing to look for ("the central idea", "the data sets used"). It names
where in a paper such sentences stand, how they usually begin, and the question that a model
answers about each of them. `tasks.toml` holds the built-in tasks; users add their own with
`load_tasks(path)` or `deepseek papers analyze --task-file my.toml`.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from deepseek.apps.documents.document import SectionRole
from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError

LANGUAGES = ("en", "zh")
FLAWS = "experiment_flaws"
"""The task whose findings come from checks in code; the model only confirms."""
QUESTION_END = ("?", "？")
MAX_QUESTION_CHARACTERS = 1_000

Words = Mapping[str, str]
"""A text by language: `en` and `zh`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """One thing to look for in a paper."""

    kind: str
    title: Words
    claim: Words
    """Completes "Does the sentence state …?"."""
    ask: Words
    """The question that a finding's statement answers."""
    roles: Mapping[str, float]
    """How likely such sentences stand in a section of a role; other roles are not searched."""
    cues: tuple[str, ...] = ()
    """Patterns that speak for a sentence."""
    avoid: tuple[str, ...] = ()
    """Patterns that speak against it."""
    contribution: float = 0.0
    """Weight of the contribution score."""
    own: float = 0.0
    """Weight of speaking of the paper's own work."""
    evaluation: bool = False
    """Whether only a document with experiments can say such a thing."""
    search: bool = False
    """Whether to rank sentences by the words of the question instead of cues."""
    missing: Words = field(default_factory=dict)
    """Statement to make when nothing is found; empty: say nothing."""
    min_lean: float = 0.7
    """Nats above the baseline below which a sentence does not state the claim."""
    max_findings: int = 1
    max_candidates: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A named set of facets."""

    name: str
    title: Words
    facets: tuple[Facet, ...] = ()


@cache
def builtin_tasks() -> Mapping[str, Task]:
    """The tasks that come with the package, by name."""
    file = resources.files("deepseek.apps.papers").joinpath("tasks.toml")
    return _tasks(tomllib.loads(file.read_text(encoding="utf-8")), "tasks.toml")


def load_tasks(path: Path) -> Mapping[str, Task]:
    """Tasks from a user's TOML file in the form of the built-in one.

    Raises:
        ConfigError: The file cannot be read, or a key or value in it is wrong.
    """
    return _tasks(load_table(path), str(path))


def resolve_tasks(
    asked: Sequence[str | Task], extra: Mapping[str, Task] | None = None
) -> list[Task]:
    """Tasks by name; a text of several words or with a question mark is a task of its own.

    Raises:
        ConfigError: Nothing is asked, or a name is unknown.
    """
    known = {**builtin_tasks(), **(extra or {})}
    tasks: dict[str, Task] = {}
    for item in [asked] if isinstance(asked, str) else asked:
        if isinstance(item, Task):
            task = item
        elif item in known:
            task = known[item]
        elif is_free(item):
            task = question_task(item.strip())
        else:
            raise ConfigError(
                f"unknown task {item!r}",
                f"{suggest(item, known)}; a free question has several words or a question mark",
            )
        tasks[task.name] = task
    if not tasks:
        raise ConfigError("no task was named", f"known: {', '.join(known)}")
    return list(tasks.values())


def is_free(text: str) -> bool:
    """Whether a text asks something in the user's own words, and is not a misspelt name."""
    is_chinese = any("\u4e00" <= character <= "\u9fff" for character in text)
    return text.strip().endswith(QUESTION_END) or len(text.split()) > 2 or is_chinese


def question_task(question: str) -> Task:
    """A task that answers one free question, or tells what is wished to be told.

    Raises:
        ConfigError: The question is too long.
    """
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise ConfigError(f"a question has {len(question):,} characters", "ask it in fewer words")
    claim = {
        "en": f'information that answers the question "{question}"',
        "zh": f"能够回答“{question}”的信息",
    }
    words = dict.fromkeys(LANGUAGES, question)
    roles = {r: 0.0 for r in get_args(SectionRole) if r not in ("front", "references")}
    facet = Facet(
        kind="answer",
        title=words,
        claim=claim,
        ask=words,
        roles=roles,
        search=True,
        max_findings=3,
        max_candidates=12,
    )
    return Task(name=question, title=words, facets=(facet,))


def _tasks(table: dict[str, Any], where: str) -> dict[str, Task]:
    tasks = {}
    for name, values in table.items():
        if not isinstance(values, dict) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ConfigError(f"{where}: {name!r} is no task", "write [task_name] in lower case")
        facets = values.pop("facets", [])
        if not isinstance(facets, list):
            raise ConfigError(f"{where}: {name}.facets is no list", f"write [[{name}.facets]]")
        parts = tuple(_facet(facet, f"{where}: {name}.facets.") for facet in facets)
        tasks[name] = build(Task, {"name": name, "facets": parts, **values}, f"{where}: {name}.")
        _check_words(tasks[name].title, f"{where}: {name}.title")
    return tasks


def _facet(values: Any, where: str) -> Facet:
    if not isinstance(values, dict):
        raise ConfigError(f"{where[:-1]} holds {values!r}", "a facet is a table")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    facet = build(Facet, values, where)
    for name in ("title", "claim", "ask"):
        _check_words(getattr(facet, name), where + name)
    for role in facet.roles:
        if role not in get_args(SectionRole):
            raise ConfigError(f"{where}roles names {role!r}", suggest(role, get_args(SectionRole)))
    for pattern in (*facet.cues, *facet.avoid):
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"{where}cues: {pattern!r} is no pattern: {error}", "mend it"
            ) from None
    return facet


def _check_words(words: Words, where: str) -> None:
    if set(words) != set(LANGUAGES) or not all(isinstance(v, str) and v for v in words.values()):
        raise ConfigError(f"{where} is {dict(words)!r}", 'write { en = "…", zh = "…" }')
