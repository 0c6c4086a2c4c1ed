"""A run of synthesis: problems are made, answered, judged, sorted, and written for training."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from deepseek.core.llm import LanguageModel
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.entropy.attempts import Attempt, attempt
from deepseek.data.entropy.journal import AttemptJournal
from deepseek.data.lines import write_lines
from deepseek.data.synthesis.config import SynthesisConfig
from deepseek.data.synthesis.families import make_problem
from deepseek.data.synthesis.records import hard_record, held_out_record, preference_pair
from deepseek.data.synthesis.selection import hard_cases, kind_of
from deepseek.data.verifiers.final import normalised
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.programs import ProgramRunner

FORMAT = 1
HARD, PAIRS, HELD_OUT = "hard.jsonl", "pairs.jsonl", "held_out.jsonl"
JOURNAL = "attempts.jsonl"
PARTS = 1 << 32
OnProblems = Callable[[int, int], None]
"""Told of problems done and to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Whose answers these are."""

    name: str
    weights: str = ""
    fingerprint: str = ""
    """Of the weights; empty where they are not at hand, e.g. a server's."""


@dataclass(slots=True)
class Counts:
    """What became of the problems."""

    generated: int = 0
    repeated: int = 0
    contaminated: int = 0
    attempted: int = 0
    held_out: int = 0
    skipped_levels: list[str] = field(default_factory=list)
    """Families and levels that were not tried since the one below was too hard."""


@dataclass(slots=True)
class Cell:
    """One family at one level."""

    family: str
    level: int
    problems: list[Problem] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def pass_rate(self) -> float:
        """Share of all samples that are right."""
        rates = [attempt.pass_rate for attempt in self.attempts]
        return sum(rates) / len(rates) if rates else 0.0


@dataclass(slots=True)
class Outcome:
    """What a run has made."""

    about: dict[str, Any]
    counts: Counts
    cells: list[Cell]
    held_out: set[str]
    """Ids of the problems that are."""
    n_hard: int = 0
    n_pairs: int = 0


def synthesize(
    config: SynthesisConfig,
    model: LanguageModel,
    identity: ModelIdentity,
    out: Path,
    *,
    runner: ProgramRunner | None = None,
    index: ContaminationIndex | None = None,
    forget: Callable[[], None] | None = None,
    on_problems: OnProblems | None = None,
) -> Outcome:
    """Make hard cases for a model; a killed run goes on, and ends in the same bytes.

    Args:
        config: What is made.
        model: The one that is attacked.
        identity: Its name and digest, for the records.
        out: A folder for journal and results.
        runner: Runs programs, if there are problems of that kind.
        index: Evaluation texts; problems that share a stretch with them are dropped.
        forget: Empties the model's cache. What is in it can change the last bits of an answer, so
            it is done before each portion: a run that goes on begins without one, too.
        on_problems: Told of problems done and to do.

    Raises:
        ConfigError: The folder holds another run, or cannot be written.
        RequestError: The model cannot answer.
    """
    about = about_run(config, identity)
    cells, counts = generate(config, index)
    outcome = Outcome(about, counts, [], set())
    n_all = sum(len(cell.problems) for cell in cells)
    journal = AttemptJournal(out / JOURNAL, about)
    n_done = 0
    ended: set[str] = set()
    try:
        for cell in cells:
            if cell.family in ended:
                counts.skipped_levels.append(f"{cell.family}/{cell.level}")
                n_all -= len(cell.problems)
                continue
            for number, part in enumerate(_portions(cell.problems, config.run.portion)):
                key = (cell.family, cell.level, number)
                if key not in journal.portions:
                    if forget is not None:
                        forget()
                    journal.add(key, _attempts(config, model, part, runner))
                cell.attempts += journal.portions[key]
                n_done += len(part)
                if on_problems:
                    on_problems(n_done, n_all)
            outcome.cells.append(cell)
            if cell.pass_rate < config.problems.stop_below:
                ended.add(cell.family)
    finally:
        journal.close()
    _write(config, outcome, out)
    return outcome


def about_run(config: SynthesisConfig, identity: ModelIdentity) -> dict[str, Any]:
    """Everything that the result depends on, as plain data."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return {"format": FORMAT, "model": asdict(identity), "config": plain}


def generate(
    config: SynthesisConfig, index: ContaminationIndex | None = None
) -> tuple[list[Cell], Counts]:
    """All different problems without evaluation texts, by family and level.

    Raises:
        MissingDependencyError: A family's package is not installed.
    """
    wanted, counts = config.problems, Counts()
    seen: set[bytes] = set()
    cells = []
    # Held-out families first: what is said in them is then repeated elsewhere, and dropped there.
    for family in dict.fromkeys([*wanted.held_out_families, *wanted.families]):
        for level in dict.fromkeys(wanted.levels):
            cell = Cell(family, level)
            for i in range(wanted.count):
                problem = make_problem(family, level, wanted.seed, i)
                counts.generated += 1
                digest = question_digest(problem.question)
                if digest in seen:
                    counts.repeated += 1
                    continue
                seen.add(digest)
                if index is not None and index.matches(f"{problem.question}\n{problem.answer}"):
                    counts.contaminated += 1
                    continue
                cell.problems.append(problem)
            cells.append(cell)
    return cells, counts


def is_held_out(problem: Problem, config: SynthesisConfig) -> bool:
    """On which side of the line a problem is: a matter of its family and words alone."""
    if problem.family in config.problems.held_out_families:
        return True
    part = int.from_bytes(question_digest(problem.question)[:4], "little")
    return part < config.problems.held_out * PARTS


def question_digest(question: str) -> bytes:
    """The same for questions that differ in case, marks and spaces only."""
    return blake2b(normalised(question).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _attempts(
    config: SynthesisConfig,
    model: LanguageModel,
    problems: Sequence[Problem],
    runner: ProgramRunner | None,
) -> list[Attempt]:
    return attempt(
        model,
        problems,
        config.sampling,
        config.problems.style,
        runner=runner,
        p_true=config.run.p_true,
    )


def _portions(problems: Sequence[Problem], size: int) -> Iterator[Sequence[Problem]]:
    for start in range(0, len(problems), size):
        yield problems[start : start + size]


def _write(config: SynthesisConfig, outcome: Outcome, out: Path) -> None:
    """Sort the attempts and write the three files, each whole or not at all."""
    problems = {p.id: p for cell in outcome.cells for p in cell.problems}
    attempts = [a for cell in outcome.cells for a in cell.attempts]
    outcome.held_out = {p.id for p in problems.values() if is_held_out(p, config)}
    outcome.counts.attempted = len(attempts)
    outcome.counts.held_out = len(outcome.held_out)
    cases = hard_cases((a for a in attempts if a.id not in outcome.held_out), config.selection)
    worked = config.selection.worked and config.problems.style == "steps"
    rows = [hard_record(kind, a, problems[a.id], outcome.about, worked=worked) for kind, a in cases]
    pairs = [
        preference_pair(kind, a, problems[a.id], outcome.about, worked=worked) for kind, a in cases
    ]
    kept_pairs = [pair for pair in pairs if pair is not None]
    held_out = [
        held_out_record(kind_of(a, config.selection), a, problems[a.id], outcome.about)
        for a in attempts
        if a.id in outcome.held_out
    ]
    outcome.n_hard, outcome.n_pairs = len(rows), len(kept_pairs)
    for name, lines in ((HARD, rows), (PAIRS, kept_pairs), (HELD_OUT, held_out)):
        write_lines(out / name, lines)
