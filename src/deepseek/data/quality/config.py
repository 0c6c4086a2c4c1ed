"""The TOML file of a cleaning run: what is read, and which operators it goes through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError
from deepseek.data.quality.operator import Context, Operator, build_operator
from deepseek.data.quality.registry import operator_class

Kind = Literal["auto", "jsonl", "parquet", "text", "html", "pdf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSettings:
    """Sizes. None of them changes which documents are kept, but `max_document_bytes`."""

    shard_bytes: int = 16_000_000
    """Bytes of input in a shard, the unit of work that is done again after a kill."""
    batch_characters: int = 2_000_000
    """Of the documents that operators see at once."""
    max_document_bytes: int = 10_000_000
    """Larger records are put aside."""
    samples: int = 8
    """Dropped documents of each operator that the report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """`[sources.NAME]`."""

    paths: list[str]
    """Files and folders; relative ones start at the config's folder."""
    kind: Kind = "auto"
    """How files are read; auto goes by the ends of their names."""
    domain: str = ""
    """Among what documents are compared; the source's name if empty."""
    include: list[str] = field(default_factory=list)
    """In folders only files with such names: `*.py`. Empty: all that the kind knows."""
    text_key: str = "text"
    """Where records have their text."""
    id_key: str = "id"


@dataclass(frozen=True, slots=True)
class Step:
    """`[[operators]]`: one operator with its settings."""

    use: str
    label: str
    """Before its scores and in the report; the operator's name unless two are alike."""
    domains: tuple[str, ...]
    """Whose documents it sees; empty: all."""
    table: Mapping[str, Any]
    """Its own settings."""


@dataclass(frozen=True, slots=True)
class CleanConfig:
    """A whole file."""

    folder: Path
    settings: CleanSettings
    sources: Mapping[str, SourceSettings]
    steps: tuple[Step, ...]

    def path(self, name: str) -> Path:
        """A path that the file names."""
        return self.folder / Path(name).expanduser()

    def domain(self, source: str) -> str:
        """Of a source's documents."""
        return self.sources[source].domain or source

    def operators(self, context: Context) -> list[Operator]:
        """All operators, built anew.

        Raises:
            ConfigError: A setting is unknown, of the wrong type or out of its range.
        """
        return [
            build_operator(operator_class(step.use), dict(step.table), context)
            for step in self.steps
        ]


def load_clean_config(path: Path, overrides: tuple[str, ...] = ()) -> CleanConfig:
    """Read and check a file.

    Raises:
        ConfigError: It is missing, no TOML, or a setting is wrong.
    """
    table = load_table(path, overrides)
    for key, value in table.items():
        if key not in ("clean", "sources", "operators"):
            raise ConfigError(
                f"unknown section [{key}] in {path}",
                suggest(key, ["clean", "sources", "operators"]),
            )
        if not isinstance(value, list if key == "operators" else dict):
            raise ConfigError(
                f"{key} is no section", f"write [{key}], or [[operators]] for operators"
            )
    sources = {}
    for name, values in table.get("sources", {}).items():
        if not isinstance(values, dict):
            raise ConfigError(f"sources.{name} is {values!r}", f"write [sources.{name}]")
        sources[name] = build(SourceSettings, values, f"sources.{name}.")
    config = CleanConfig(
        folder=path.absolute().parent,
        settings=build(CleanSettings, table.get("clean", {}), "clean."),
        sources=sources,
        steps=tuple(_step(values) for values in table.get("operators", [])),
    )
    _check(config)
    return config


def _step(values: Any) -> Step:
    if not isinstance(values, dict) or not isinstance(values.get("use"), str):
        raise ConfigError("an operator has no name", 'write use = "…" below [[operators]]')
    table = dict(values)
    use, label, domains = table.pop("use"), table.pop("label", ""), table.pop("domains", [])
    operator_class(use)
    if not isinstance(label, str):
        raise ConfigError(f"operators.{use}.label is {label!r}", "it must be a text")
    if not isinstance(domains, list) or not all(isinstance(d, str) for d in domains):
        raise ConfigError(f"operators.{use}.domains is {domains!r}", "it must be a list of names")
    return Step(use, label or use, tuple(domains), table)


def _check(config: CleanConfig) -> None:
    settings = config.settings
    if not config.sources:
        raise ConfigError("there are no sources", 'add [sources.NAME] with paths = ["…"]')
    for name in ("shard_bytes", "batch_characters", "max_document_bytes"):
        if getattr(settings, name) < 1_000:
            raise ConfigError(
                f"clean.{name} is {getattr(settings, name)}", "it must be 1000 or more"
            )
    if settings.samples < 0:
        raise ConfigError(f"clean.samples is {settings.samples}", "it must be 0 or more")
    labels = [step.label for step in config.steps]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ConfigError(f"two operators are called {twice[0]}", 'give one a label = "…"')
    domains = {config.domain(name) for name in config.sources}
    for step in config.steps:
        for domain in step.domains:
            if domain not in domains:
                raise ConfigError(
                    f"operator {step.label} is for domain {domain}, which no source has",
                    suggest(domain, domains),
                )
