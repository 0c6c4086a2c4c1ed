"""Runs a task on any `LanguageModel`: asks, grades, keeps a record of every item.

Items go to the model in portions, many at once where it can serve that
(`BatchLanguageModel`), one by one otherwise. Grading of generated answers, which may run
programs, happens beside generation.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepseek.core.config import suggest
from deepseek.core.errors import RequestError
from deepseek.core.llm import (
    BatchLanguageModel,
    LanguageModel,
    Prompt,
    SamplingParams,
    Score,
    ScoreRequest,
)
from deepseek.core.log import LOGGER
from deepseek.eval.journal import Journal, fingerprint
from deepseek.eval.record import Record, TaskRun
from deepseek.eval.statistics import summarise, summarise_groups
from deepseek.eval.task import Choice, Item, Passage, Question, Setup, Task, sample_items

PORTION = 256
"""Items given to the model at once: they bound what a prompt costs in memory."""
KEPT_CHARACTERS = 20_000
"""Of a longer prompt only the beginning and the end are kept in its record."""
HOPELESS = 32
"""So many errors and no success: the cause is not in the items."""

OnProgress = Callable[[int, int], None]
"""Called with items done and items in all."""


def run_task(
    model: LanguageModel,
    task: Task,
    setup: Setup,
    *,
    journal: Path,
    limit: int | None = None,
    only: Sequence[str] = (),
    fresh: bool = False,
    on_progress: OnProgress | None = None,
) -> TaskRun:
    """Ask a model everything a task has, or a sample of it.

    Args:
        model: Whom to ask.
        task: What to ask.
        setup: Solved examples, chat template, data.
        journal: Where finished items are kept; the same call goes on from there.
        limit: At most so many items, in proportion from each group, by `setup.seed`.
        only: Groups to ask; default: all.
        fresh: Forget what the journal has.
        on_progress: Told how far it is.

    Raises:
        RequestError: The task does not have what is asked for, or nothing can be answered.
    """
    if not 0 <= setup.shots <= max(task.shots, task.max_shots):
        raise RequestError(
            f"{task.name} has no {setup.shots}-shot form",
            f"--shots takes 0 to {max(task.shots, task.max_shots)} here",
        )
    items = _chosen(task, list(task.items(setup)), only)
    asked = sample_items(items, limit, setup.seed)
    run = fingerprint(
        *(task.name, task.protocol, setup.shots, setup.chat, setup.seed, setup.lengths),
        *(setup.folder, model.name, getattr(model, "weights", ""), model.context_window),
        getattr(setup.against, "name", ""),
    )
    tell = on_progress or (lambda done, total: None)
    start = time.perf_counter()
    with Journal(journal, run, fresh=fresh) as done:
        known = {item.id: done.records.get(item.id) for item in asked}
        pending = [item for item in asked if not _is_same(known[item.id], item)]
        spent = sum(r.seconds for r in known.values() if r is not None)
        n_before = len(asked) - len(pending)
        tell(n_before, len(asked))
        for n, record in enumerate(_answered(model, task, setup, pending), 1):
            done.add(record)
            tell(n_before + n, len(asked))
            _give_up_if_hopeless(task, done, n)
        records = tuple(done.records[item.id] for item in asked)
    return TaskRun(
        task=task.name,
        protocol=task.protocol,
        metric=task.metric,
        shots=setup.shots,
        chat=setup.chat,
        limit=limit,
        seed=setup.seed,
        n_available=len(items),
        n_errors=sum(bool(record.error) for record in records),
        seconds=time.perf_counter() - start + (spent if n_before else 0.0),
        summary=summarise(records, by_group=task.by_group),
        groups=summarise_groups(records, task.metric) if any(r.group for r in records) else {},
        records=records,
    )


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text: a conversation becomes JSON."""
    if isinstance(prompt, str):
        return prompt
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
    return json.dumps(turns, ensure_ascii=False)


def prompt_digest(item: Item) -> str:
    """A hash of all that the model is shown of an item."""
    shown: list[object] = [prompt_text(item.prompt)]
    if isinstance(item, Choice):
        shown += item.choices
    elif isinstance(item, Passage):
        shown.append(item.text)
    else:
        shown += [item.max_tokens, *item.stop]
    text = json.dumps(shown, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _chosen(task: Task, items: list[Item], only: Sequence[str]) -> list[Item]:
    groups = dict.fromkeys(item.group for item in items)
    for name in only:
        if name not in groups:
            raise RequestError(f"{task.name} has no part {name!r}", suggest(name, groups))
    items = [item for item in items if item.group in only] if only else items
    if not items:
        raise RequestError(f"{task.name} has no items", "check --data and --only")
    if len({item.id for item in items}) != len(items):
        raise RequestError(f"{task.name} has two items of one id", "check the data")
    return items


def _is_same(record: Record | None, item: Item) -> bool:
    """Whether a record answers exactly this item. What failed is asked again."""
    return record is not None and not record.error and record.prompt_sha256 == prompt_digest(item)


def _give_up_if_hopeless(task: Task, done: Journal, n: int) -> None:
    if n == HOPELESS and all(record.error for record in done.records.values()):
        first = next(iter(done.records.values()))
        raise RequestError(f"no item of {task.name} can be asked: {first.error}", "see the cause")


def _answered(
    model: LanguageModel, task: Task, setup: Setup, items: Sequence[Item]
) -> Iterator[Record]:
    """Records as they are finished, in any order within a portion."""
    if task.ask is not None:
        last = time.perf_counter()
        for item, grades in task.ask(model, setup, items):
            now = time.perf_counter()
            yield _record(item, grades=dict(grades), seconds=now - last)
            last = now
        return
    for start in range(0, len(items), PORTION):
        portion = items[start : start + PORTION]
        scored = [item for item in portion if not isinstance(item, Question)]
        asked = [item for item in portion if isinstance(item, Question)]
        yield from _scored(model, task, scored)
        yield from _generated(model, task, asked)


def _scored(
    model: LanguageModel, task: Task, items: Sequence[Choice | Passage]
) -> Iterator[Record]:
    requests = [_request(item) for item in items]
    last = time.perf_counter()
    for item, scores in zip(items, _scores(model, requests), strict=True):
        now = time.perf_counter()
        if isinstance(scores, RequestError):
            yield _record(item, error=scores.message, seconds=now - last)
        else:
            yield _record(
                item,
                scores=tuple((s.logprob, s.n_tokens, s.is_greedy) for s in scores),
                grades=dict(task.grade(item, scores)),
                seconds=now - last,
            )
        last = now


def _scores(
    model: LanguageModel, requests: Sequence[ScoreRequest]
) -> Iterator[list[Score] | RequestError]:
    """Scores in order. Where all at once fails, those that are left are asked one by one."""
    n_done = 0
    if isinstance(model, BatchLanguageModel):
        try:
            for scores in model.score_many(requests):
                yield scores
                n_done += 1
        except RequestError as error:
            LOGGER.info("asking one by one: %s", error.message)
    for request in requests[n_done:]:
        try:
            yield model.score(request.prompt, request.continuations)
        except RequestError as error:
            yield error


def _generated(model: LanguageModel, task: Task, items: Sequence[Question]) -> Iterator[Record]:
    last = time.perf_counter()
    with ThreadPoolExecutor(max_workers=1) as graders:
        waiting: list[tuple[Record, Future[Any]]] = []
        for item, text in _texts(model, items):
            now = time.perf_counter()
            if isinstance(text, RequestError):
                yield _record(item, error=text.message, seconds=now - last)
            else:
                record = _record(item, output=text, seconds=now - last)
                waiting.append((record, graders.submit(task.grade, item, text)))
            last = now
            while waiting and waiting[0][1].done():
                yield _graded(*waiting.pop(0))
        for record, future in waiting:
            yield _graded(record, future)


def _texts(
    model: LanguageModel, items: Sequence[Question]
) -> Iterator[tuple[Question, str | RequestError]]:
    """Answers as they are finished; those that all at once did not give, one by one."""
    params = [SamplingParams(max_tokens=item.max_tokens, stop=item.stop) for item in items]
    prompts = [item.prompt for item in items]
    left = set(range(len(items)))
    if isinstance(model, BatchLanguageModel):
        try:
            for index, completion in model.generate_many(prompts, params):
                left.remove(index)
                yield items[index], completion.text
        except RequestError as error:
            LOGGER.info("asking one by one: %s", error.message)
    for index in sorted(left):
        try:
            yield items[index], model.generate(prompts[index], params[index]).text
        except RequestError as error:
            yield items[index], error


def _request(item: Choice | Passage) -> ScoreRequest:
    texts = item.choices if isinstance(item, Choice) else (item.text,)
    return ScoreRequest(item.prompt, texts)


def _graded(record: Record, future: "Future[Any]") -> Record:
    return replace(record, grades={k: float(v) for k, v in future.result().items()})


def _record(item: Item, **values: Any) -> Record:
    expected: Any = None
    if isinstance(item, Choice):
        expected = {"choices": list(item.choices), "gold": item.gold}
    elif isinstance(item, Question):
        expected = item.reference
    return Record(
        id=item.id,
        group=item.group,
        prompt=_shortened(prompt_text(item.prompt) or getattr(item, "text", "")),
        prompt_sha256=prompt_digest(item),
        expected=expected,
        **values,
    )


def _shortened(text: str) -> str:
    if len(text) <= KEPT_CHARACTERS:
        return text
    half = KEPT_CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"
