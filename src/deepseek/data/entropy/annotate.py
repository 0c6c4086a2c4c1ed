"""Questions of a file with what a model's answers to them tell: entropy and the baselines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.core.llm import EmbeddingModel, LanguageModel
from deepseek.data.entropy.attempts import Attempt, Style, attempt
from deepseek.data.entropy.auroc import Auroc, compare_aurocs
from deepseek.data.entropy.clusters import COSINE, by_vectors
from deepseek.data.entropy.sampling import Cluster, Sampling
from deepseek.data.entropy.signals import SIGNS
from deepseek.data.lines import read_lines
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.programs import ProgramRunner

VECTORS = "vectors"
"""In place of a verifier: meanings by an embedding model."""
FIELD = "semantic_entropy"
PORTION = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How questions are put and answers compared."""

    verifier: str = "text"
    """Of rows that name none; or `vectors`."""
    style: Style = "direct"
    p_true: bool = True
    cosine: float = COSINE


def read_questions(path: Path, verifier: str) -> list[tuple[dict[str, Any], Problem]]:
    """Rows of a file of JSON lines, each with the problem that it states.

    A row has `question`; it may have `answer`, `verifier`, and `details` (of a program: `names`,
    `tests`, `calls`).

    Raises:
        ConfigError: The file cannot be read, or a row is none of this kind.
    """
    found = []
    for number, row in read_lines(path):
        question, answer = row.get("question"), row.get("answer", "")
        named, details = row.get("verifier", verifier), row.get("details", {})
        if not isinstance(question, str) or not question.strip():
            raise ConfigError(f"{path}:{number} has no question", 'write {"question": "…"}')
        if not isinstance(answer, str | int | float) or isinstance(answer, bool):
            raise ConfigError(f"{path}:{number}: answer is {answer!r}", "give a text or a number")
        if not isinstance(named, str) or not isinstance(details, dict):
            raise ConfigError(f"{path}:{number}: verifier or details is malformed", "mend the row")
        if named == "program" and not _is_program(details):
            raise ConfigError(
                f"{path}:{number}: details must have names, tests and calls",
                '{"names": ["f"], "tests": "assert f(1) == 2", "calls": ["f(3)"]}',
            )
        problem = Problem(
            question=question,
            answer=str(answer),
            verifier="text" if named == VECTORS else named,
            family="questions",
            index=number,
            details=details,
        )
        found.append((row, problem))
    return found


def annotate(
    model: LanguageModel,
    questions: Sequence[tuple[dict[str, Any], Problem]],
    sampling: Sampling,
    asking: Asking,
    *,
    runner: ProgramRunner | None = None,
    embedding_model: EmbeddingModel | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Each row with the field `semantic_entropy`; `is_wrong` is there where the answer is known.

    Raises:
        ConfigError: Vectors are wanted and nothing makes any.
        RequestError: A question cannot be answered.
    """
    cluster = _by_vectors(embedding_model, asking) if asking.verifier == VECTORS else None
    for start in range(0, len(questions), PORTION):
        part = questions[start : start + PORTION]
        attempts = attempt(
            model,
            [problem for _, problem in part],
            sampling,
            asking.style,
            runner=runner,
            p_true=asking.p_true,
            cluster=cluster,
        )
        for (row, problem), one in zip(part, attempts, strict=True):
            yield row | {FIELD: _field(one, problem)}
        if on_done:
            on_done(start + len(part), len(questions))


def tell_wrong(rows: Sequence[Mapping[str, Any]]) -> dict[str, Auroc]:
    """How well each signal tells wrong greedy answers, over the rows whose answer is known.

    Empty without wrong or without right answers. Signals that a row lacks are left out.
    """
    fields = [row[FIELD] for row in rows if "is_wrong" in row[FIELD]]
    risks = {name: [_risk(name, one) for one in fields] for name in SIGNS}
    known: dict[str, Sequence[float]] = {
        name: [value for value in values if value is not None]
        for name, values in risks.items()
        if None not in values
    }
    return compare_aurocs(known, [bool(one["is_wrong"]) for one in fields])


def _by_vectors(model: EmbeddingModel | None, asking: Asking) -> Cluster:
    if model is None:
        raise ConfigError("no embedding model is given", "name one, or compare answers otherwise")
    return lambda i, texts: by_vectors(texts, model, asking.cosine)


def _is_program(details: Mapping[str, Any]) -> bool:
    names, calls = details.get("names"), details.get("calls")
    return (
        isinstance(details.get("tests"), str)
        and all(isinstance(part, list) and part for part in (names, calls))
        and all(isinstance(text, str) for part in (names, calls) for text in part or ())
    )


def _field(one: Attempt, problem: Problem) -> dict[str, Any]:
    field: dict[str, Any] = {**one.signals, "greedy": one.greedy.text}
    field["meanings"] = sorted(
        (sum(s.cluster == c for s in one.samples) for c in {s.cluster for s in one.samples}),
        reverse=True,
    )
    if problem.answer or problem.verifier == "program":
        field |= {"is_wrong": not one.greedy.is_right, "pass_rate": round(one.pass_rate, 6)}
    return field


def _risk(name: str, field: Mapping[str, Any]) -> float | None:
    value = field[name]
    return None if value is None else SIGNS[name] * float(value)
