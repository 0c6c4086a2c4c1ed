"""Many requests at once: their common beginning is read once, and they run in one pass.

The slow reference is one request after the other through `Engine.score` and `generate`.
"""

import contextlib
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from deepseek.core.llm import Completion, SamplingParams, Score
from deepseek.engine.answer import Answer
from deepseek.engine.grouping import Group, group_by_beginning
from deepseek.engine.request import AnswerStream
from deepseek.engine.runner import Runner, Slots
from deepseek.tokenizer.tokenizer import Tokenizer

ROW_TOKENS = 2_048
"""New tokens of one pass: enough for full speed, bounded in memory."""
ROW_CONTEXTS = 64
"""Prompts of one pass: each has pages of its own."""
HEAD_ROWS = 256
"""Logits in memory at once."""
MAX_RUNNING = 32
"""Sequences that are generated side by side."""
AHEAD = 64
"""Requests that a scheduler is given at once."""

Pair = tuple[list[int], list[list[int]]]
"""Token ids of a prompt and of each of its continuations."""


def score_many(runner: Runner, pairs: Sequence[Pair]) -> Iterator[list[Score]]:
    """Score the continuations of many prompts, in order."""
    prompts = [prompt for prompt, _ in pairs]
    for group in group_by_beginning(prompts):
        beginning = prompts[group.start][: group.n_shared]
        row: list[Pair] = []
        n_tokens = 0
        for prompt, continuations in pairs[group.start : group.stop]:
            own = prompt[group.n_shared :]
            size = len(own) + sum(len(c) - 1 for c in continuations)
            if row and (n_tokens + size > ROW_TOKENS or len(row) == ROW_CONTEXTS):
                yield from _score_row(runner, beginning, row)
                row, n_tokens = [], 0
            row.append((own, continuations))
            n_tokens += size
        yield from _score_row(runner, beginning, row)


def _score_row(runner: Runner, beginning: list[int], row: list[Pair]) -> list[list[Score]]:
    contexts = [own for own, _ in row]
    # The last token of a continuation predicts nothing that is asked for.
    inner = [[c[:-1] for c in continuations if len(c) > 1] for _, continuations in row]
    ends, inside = runner.read_branches(beginning, contexts, inner)
    wanted: list[int] = []
    targets: list[int] = []
    place = len(contexts)
    for context, (_, continuations) in enumerate(row):
        for continuation in continuations:
            n_inner = len(continuation) - 1
            wanted += [context, *range(place, place + n_inner)]
            targets += continuation
            place += n_inner
    hidden = torch.cat((ends, inside))[wanted]
    logprobs, greedy = _logprobs(runner, hidden, targets)
    scores, at = [], 0
    for _, continuations in row:
        mine = []
        for continuation in continuations:
            part = slice(at, at + len(continuation))
            total = float(logprobs[part].double().sum())
            mine.append(Score(total, len(continuation), bool(greedy[part].all())))
            at = part.stop
        scores.append(mine)
    return scores


def _logprobs(runner: Runner, hidden: Tensor, targets: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and whether it is the likeliest token."""
    wanted = torch.tensor(targets, device=hidden.device)
    logprobs, greedy = [], []
    for start in range(0, len(targets), HEAD_ROWS):
        part = wanted[start : start + HEAD_ROWS]
        logits = runner.head(hidden[start : start + HEAD_ROWS]).float()
        chosen = logits.gather(1, part[:, None])[:, 0]
        logprobs.append(chosen - logits.logsumexp(-1))
        greedy.append(logits.argmax(-1) == part)
    return torch.cat(logprobs), torch.cat(greedy)


class _Running:
    """One sequence that is being generated."""

    def __init__(self, index: int, answer: Answer, started: float) -> None:
        self.index, self.answer, self.started = index, answer, started
        self.prefill_seconds = 0.0


def generate_many(
    runner: Runner,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    params: Sequence[SamplingParams],
    adapters: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[int, Completion]]:
    """Answer many prompts, up to `MAX_RUNNING` side by side, as they are finished."""
    for group in group_by_beginning(prompts, _kinds(adapters, params)):
        runner.use(adapters[group.start])
        runner.spend(params[group.start].expert_budget)
        slots = runner.slots(prompts[group.start][: group.n_shared])
        with contextlib.closing(slots):
            asked = prompts, params, adapters
            yield from _generate_group(runner, slots, tokenizer, group, asked, clock)


def _kinds(adapters: Sequence[int], params: Sequence[SamplingParams]) -> list[int]:
    """The same number for requests that read what they have in common alike."""
    known: dict[tuple[int, float | None], int] = {}
    pairs = ((adapter, one.expert_budget) for adapter, one in zip(adapters, params, strict=True))
    return [known.setdefault(pair, len(known)) for pair in pairs]


def submit_many(
    submit: Callable[[int, Callable[[], None]], AnswerStream], n_requests: int
) -> Iterator[tuple[int, Completion]]:
    """Answer many requests through a scheduler, as they are finished.

    Args:
        submit: Submits the request of an index, and lets the scheduler call when it has ended.
        n_requests: That there are.
    """
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    streams: dict[int, AnswerStream] = {}
    following = iter(range(n_requests))
    try:
        while True:
            for index in itertools.islice(following, AHEAD - len(streams)):
                streams[index] = submit(index, partial(ended.put, index))
            if not streams:
                return
            index = ended.get()
            yield index, streams.pop(index).result()
    finally:
        for stream in streams.values():
            stream.close()


def _generate_group(
    runner: Runner,
    slots: Slots,
    tokenizer: Tokenizer,
    group: Group,
    asked: tuple[Sequence[list[int]], Sequence[SamplingParams], Sequence[int]],
    clock: Callable[[], float],
) -> Iterator[tuple[int, Completion]]:
    prompts, params, adapters = asked
    waiting = deque(range(group.start, group.stop))
    running: list[_Running] = []
    while waiting or running:
        entering = _next_entering(waiting, len(running), prompts, group.n_shared)
        if entering:
            started = clock()
            fresh = [
                _Running(i, Answer(tokenizer, params[i], prompts[i]), started) for i in entering
            ]
            own = [prompts[i][group.n_shared :] for i in entering]
            shares = [params[i].expert_budget for i in entering]
            logits = runner.head(slots.enter(own, [adapters[i] for i in entering], shares))
            for one in fresh:
                one.prefill_seconds = clock() - started
            running += fresh
            _add(fresh, logits)
        else:
            last = [one.answer.token_ids[-1] for one in running]
            _add(running, runner.head(slots.step(last)))
        for slot in reversed(range(len(running))):
            one = running[slot]
            if one.answer.finish_reason is None:
                continue
            used = slots.experts_used(slot)
            slots.remove(slot)
            running[slot] = running[-1]
            running.pop()
            one.answer.flush()
            yield (
                one.index,
                one.answer.completion(
                    n_reused_tokens=group.n_shared if one.index != group.start else 0,
                    prefill_seconds=one.prefill_seconds,
                    decode_seconds=clock() - one.started - one.prefill_seconds,
                    experts=used,
                ),
            )


def _next_entering(
    waiting: deque[int], n_running: int, prompts: Sequence[list[int]], n_shared: int
) -> list[int]:
    """The next prompts that fit beside what runs; enough at once to be worth a pass."""
    room = MAX_RUNNING - n_running
    if not waiting or (n_running and room < min(len(waiting), MAX_RUNNING // 4)) or not room:
        return []
    entering: list[int] = []
    n_tokens = 0
    while waiting and len(entering) < room:
        size = len(prompts[waiting[0]]) - n_shared
        if entering and n_tokens + size > ROW_TOKENS:
            break
        entering.append(waiting.popleft())
        n_tokens += size
    return entering


def _add(running: Sequence[_Running], logits: Tensor) -> None:
    for one, row in zip(running, logits, strict=True):
        one.answer.add(row)
