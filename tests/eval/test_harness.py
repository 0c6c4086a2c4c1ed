"""The harness on a model of a few lines and on the tiny engine: asks, grades, resumes, gives up."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deepseek.core.errors import RequestError
from deepseek.core.llm import (
    BatchLanguageModel,
    Completion,
    Message,
    Prompt,
    SamplingParams,
    Score,
    ScoreRequest,
)
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.eval import harness
from deepseek.eval.harness import run_task
from deepseek.eval.task import Choice, Grades, Item, Passage, Question, Setup, Task, grade_choice

SETUP = Setup(shots=0)


class Speller:
    """Finds a continuation likely that repeats the prompt's last word; answers in capitals."""

    name = "speller"
    context_window = 100

    def __init__(self) -> None:
        self.asked: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        self.asked.append(text)
        self._check(text)
        return Completion(text=text.upper(), token_ids=(), finish_reason="stop", n_prompt_tokens=1)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[object]:
        raise NotImplementedError

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        self.asked.append(text)
        self._check(text)
        last = text.split()[-1] if text.split() else ""
        return [Score(-1.0 if c.strip() == last else -9.0, 1, False) for c in continuations]

    def _check(self, text: str) -> None:
        if "TOO LONG" in text:
            raise RequestError("prompt exceeds the context window", "shorten it")


def choices(setup: Setup) -> Iterator[Item]:
    for index, word in enumerate(("red", "green", "blue", "red", "green", "blue")):
        yield Choice(
            id=f"c{index}",
            prompt=f"Say {word}",
            choices=(" red", " green", " blue"),
            gold=index % 3 if index < 5 else 0,  # the last one is wrong on purpose
            group="warm" if word == "red" else "cold",
        )


def questions(setup: Setup) -> Iterator[Item]:
    for word in ("yes", "no", "maybe"):
        yield Question(id=word, prompt=f"say {word}", reference=word.upper(), max_tokens=5)


def grade_question(item: Question, text: str) -> Grades:
    return {"contains": float(item.reference in text)}


CHOICES = Task(
    name="colours", summary="s", protocol="p", metric="acc", items=choices, grade=grade_choice
)
QUESTIONS = Task(
    name="words", summary="s", protocol="p", metric="contains", items=questions,
    grade=grade_question,
)  # fmt: skip


def test_choices_are_scored_and_grouped(tmp_path: Path) -> None:
    run = run_task(Speller(), CHOICES, SETUP, journal=tmp_path / "j")
    assert run.summary["acc"].value == pytest.approx(5 / 6)
    assert run.groups["warm"].value == 1.0
    assert run.groups["cold"].value == 0.75
    assert (run.n_available, run.n_errors, len(run.records)) == (6, 0, 6)
    first = run.records[0]
    assert first.scores == ((-1.0, 1, False), (-9.0, 1, False), (-9.0, 1, False))
    assert first.expected == {"choices": [" red", " green", " blue"], "gold": 0}
    assert first.prompt == "Say red"
    assert len(first.prompt_sha256) == 64


def test_questions_are_generated_and_graded(tmp_path: Path) -> None:
    run = run_task(Speller(), QUESTIONS, SETUP, journal=tmp_path / "j")
    assert run.summary["contains"].value == 1.0
    assert [r.output for r in run.records] == ["SAY YES", "SAY NO", "SAY MAYBE"]
    assert run.groups == {}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    class Killed(Speller):
        def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
            if len(self.asked) == 4:
                raise KeyboardInterrupt
            return super().score(prompt, continuations)

    with pytest.raises(KeyboardInterrupt):
        run_task(Killed(), CHOICES, SETUP, journal=tmp_path / "j")
    second = Speller()
    seen: list[tuple[int, int]] = []
    run = run_task(
        second, CHOICES, SETUP, journal=tmp_path / "j", on_progress=lambda *x: seen.append(x)
    )
    assert second.asked == ["Say green", "Say blue"]
    assert seen == [(4, 6), (5, 6), (6, 6)]
    whole = run_task(Speller(), CHOICES, SETUP, journal=tmp_path / "other")
    assert [replace(r, seconds=0.0) for r in run.records] == [
        replace(r, seconds=0.0) for r in whole.records
    ]


def test_a_larger_sample_keeps_what_is_done(tmp_path: Path) -> None:
    few, more = Speller(), Speller()
    small = run_task(few, CHOICES, SETUP, journal=tmp_path / "j", limit=2)
    run = run_task(more, CHOICES, SETUP, journal=tmp_path / "j")
    assert len(few.asked) == 2
    assert len(more.asked) == 4
    assert (small.limit, len(small.records), len(run.records)) == (2, 2, 6)


def test_changed_prompts_are_asked_again(tmp_path: Path) -> None:
    run_task(Speller(), CHOICES, SETUP, journal=tmp_path / "j")

    def reworded(setup: Setup) -> Iterator[Item]:
        for item in choices(setup):
            yield replace(item, prompt=item.prompt + " now red") if item.id == "c1" else item

    model = Speller()
    run_task(model, replace(CHOICES, items=reworded), SETUP, journal=tmp_path / "j")
    assert model.asked == ["Say green now red"]


def test_another_model_or_protocol_starts_anew(tmp_path: Path) -> None:
    run_task(Speller(), CHOICES, SETUP, journal=tmp_path / "j")
    other = Speller()
    other.name = "other"
    run_task(other, CHOICES, SETUP, journal=tmp_path / "j")
    assert len(other.asked) == 6
    again = Speller()
    run_task(again, replace(CHOICES, protocol="q"), SETUP, journal=tmp_path / "j")
    assert len(again.asked) == 6


@pytest.mark.parametrize("task", [CHOICES, QUESTIONS], ids=["choices", "questions"])
def test_what_cannot_be_asked_counts_as_wrong(tmp_path: Path, task: Task) -> None:
    def with_one_too_long(setup: Setup) -> Iterator[Item]:
        for index, item in enumerate(task.items(setup)):
            yield replace(item, prompt="TOO LONG") if index == 1 else item

    run = run_task(Speller(), replace(task, items=with_one_too_long), SETUP, journal=tmp_path / "j")
    assert run.n_errors == 1
    assert run.records[1].error == "prompt exceeds the context window"
    assert run.summary[task.metric].value == pytest.approx({"acc": 4 / 6}.get(task.metric, 2 / 3))
    again = Speller()  # what failed is asked again, nothing else
    run_task(again, replace(task, items=with_one_too_long), SETUP, journal=tmp_path / "j")
    assert again.asked == ["TOO LONG"]


@pytest.mark.parametrize("task", [CHOICES, QUESTIONS], ids=["choices", "questions"])
def test_one_failure_among_many_at_once_costs_only_itself(tmp_path: Path, task: Task) -> None:
    """A server refuses one item while others are in flight."""

    class Together(Speller):
        def score_many(self, requests: Sequence[ScoreRequest]) -> Iterator[list[Score]]:
            for request in requests:
                yield self.score(request.prompt, request.continuations)

        def generate_many(
            self, prompts: Sequence[Prompt], params: Sequence[SamplingParams]
        ) -> Iterator[tuple[int, Completion]]:
            for index, prompt in enumerate(prompts):
                yield index, self.generate(prompt, params[index])

    def with_one_too_long(setup: Setup) -> Iterator[Item]:
        for index, item in enumerate(task.items(setup)):
            yield replace(item, prompt="TOO LONG") if index == 1 else item

    model = Together()
    assert isinstance(model, BatchLanguageModel)
    run = run_task(model, replace(task, items=with_one_too_long), SETUP, journal=tmp_path / "j")
    assert [bool(r.error) for r in run.records] == [i == 1 for i in range(len(run.records))]
    assert all(r.grades for r in run.records if not r.error)


def test_when_nothing_can_be_asked_it_stops(tmp_path: Path) -> None:
    def hopeless(setup: Setup) -> Iterator[Item]:
        for index in range(harness.HOPELESS + 5):
            yield Question(id=str(index), prompt="TOO LONG", reference="", max_tokens=1)

    model = Speller()
    with pytest.raises(RequestError, match="no item of words can be asked: prompt exceeds"):
        run_task(model, replace(QUESTIONS, items=hopeless), SETUP, journal=tmp_path / "j")


def test_only_some_parts(tmp_path: Path) -> None:
    run = run_task(Speller(), CHOICES, SETUP, journal=tmp_path / "j", only=["warm"])
    assert [r.group for r in run.records] == ["warm", "warm"]
    with pytest.raises(RequestError, match="no part 'wram'") as caught:
        run_task(Speller(), CHOICES, SETUP, journal=tmp_path / "j", only=["wram"])
    assert "warm" in caught.value.hint


def test_mistakes_are_named(tmp_path: Path) -> None:
    def twice(setup: Setup) -> Iterator[Item]:
        yield from choices(setup)
        yield from choices(setup)

    with pytest.raises(RequestError, match="two items of one id"):
        run_task(Speller(), replace(CHOICES, items=twice), SETUP, journal=tmp_path / "j")
    with pytest.raises(RequestError, match="no items"):
        run_task(Speller(), replace(CHOICES, items=lambda s: []), SETUP, journal=tmp_path / "j")
    with pytest.raises(RequestError, match="no 3-shot form"):
        run_task(Speller(), CHOICES, Setup(shots=3), journal=tmp_path / "j")


def test_long_prompts_are_shortened_in_the_record_only(tmp_path: Path) -> None:
    text = "word " * 10_000

    def one(setup: Setup) -> Iterator[Item]:
        yield Question(id="a", prompt=[Message("user", text)], reference="WORD", max_tokens=1)

    run = run_task(Speller(), replace(QUESTIONS, items=one), SETUP, journal=tmp_path / "j")
    assert len(run.records[0].prompt) < harness.KEPT_CHARACTERS + 100
    shown = json.dumps([json.dumps([{"role": "user", "content": text}]), 1])
    assert run.records[0].prompt_sha256 == hashlib.sha256(shown.encode()).hexdigest()


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Engine:
    return load_engine(str(tiny_folder), dtype="float32", threads=1)[0]


def test_the_engine_gives_what_it_gives_one_by_one(engine: Engine, tmp_path: Path) -> None:
    """Many at once through `score_many` and `generate_many`, against the plain protocol."""

    class Plain:
        name, context_window = "plain", engine.context_window
        count_tokens, generate = engine.count_tokens, engine.generate
        stream, score = engine.stream, engine.score

    def passages(setup: Setup) -> Iterator[Item]:
        yield Passage(id="p", text="The Work shall mean any.", prompt="")
        yield Passage(id="q", text=" licence that You may grant", prompt="This is a")

    def grade_passage(item: Passage, answer: Sequence[Score]) -> Grades:
        return {"nats": -answer[0].logprob, "nats/weight": float(answer[0].n_tokens)}

    mixed = replace(CHOICES, items=passages, grade=grade_passage, metric="nats")
    for number, task in enumerate((CHOICES, QUESTIONS, mixed)):
        together = run_task(engine, task, SETUP, journal=tmp_path / f"a{number}")
        alone = run_task(Plain(), task, SETUP, journal=tmp_path / f"b{number}")
        for mine, theirs in zip(together.records, alone.records, strict=True):
            assert mine.output == theirs.output
            assert [s[1:] for s in mine.scores] == [s[1:] for s in theirs.scores]
            assert [s[0] for s in mine.scores] == pytest.approx(
                [s[0] for s in theirs.scores], abs=1e-3
            )
