"""One request at a time, on the runner's cached sequence: the slow reference of all else."""

import time
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from deepseek.core.llm import Delta, Score
from deepseek.engine.answer import Answer
from deepseek.engine.recall import RecallCounts
from deepseek.engine.runner import Runner


def generate(
    runner: Runner,
    answer: Answer,
    prompt_ids: list[int],
    on_prefill: Callable[[int, int], None] | None = None,
    counts: RecallCounts | None = None,
) -> Generator[Delta, None, None]:
    """Read a prompt, and let an answer grow to its end.

    Args:
        runner: Nobody else may use it meanwhile.
        answer: Chooses the tokens; empty yet.
        prompt_ids: Of the prompt.
        on_prefill: Told of prompt tokens read and to read.
        counts: Notes what is recalled; None: that is not asked for.
    """
    start = time.perf_counter()
    runner.prepare(prompt_ids)
    reused = runner.resumed_at(prompt_ids)
    read = runner.read if counts is None else counts.read
    rows = read(prompt_ids, on_prefill)[None]
    prefill_end = time.perf_counter()
    while True:
        for row in rows:
            piece = answer.add(row)
            if piece or answer.thought:
                yield Delta(piece, reasoning=answer.thought)
            if answer.finish_reason is not None:
                break
        if answer.finish_reason is not None:
            break
        ahead = answer.forced() if may_run_ahead(runner) else []
        rows = runner.extend([answer.token_ids[-1], *ahead])
        if counts is not None:
            counts.note()
    rest = answer.flush()
    n_tokens = len(prompt_ids) + len(answer.token_ids)
    if n_tokens < len(runner.tokens):  # a stop string among tokens read ahead
        runner.rewind(n_tokens)
    completion = answer.completion(
        n_reused_tokens=reused,
        prefill_seconds=prefill_end - start,
        decode_seconds=time.perf_counter() - prefill_end,
        attended=runner.attended(),
        experts=runner.experts_used(),
    )
    yield Delta(rest, completion, answer.thought)


def score(runner: Runner, first: Tensor, token_ids: list[int]) -> Score:
    """Score one continuation with the prompt in the cache; leaves it there.

    Args:
        runner: Has read the prompt.
        first: Logits after the prompt.
        token_ids: Of the continuation.
    """
    n_prompt = len(runner.tokens)
    logits = first[None]
    if len(token_ids) > 1:
        logits = torch.cat((logits, runner.extend(token_ids[:-1])))
        runner.rewind(n_prompt)
    wide = logits.float()
    chosen = wide[torch.arange(len(token_ids)), token_ids]
    total = float((chosen - wide.logsumexp(-1)).double().sum())
    return Score(total, len(token_ids), bool((wide.argmax(-1).tolist()) == token_ids))


def may_run_ahead(runner: Runner) -> bool:
    """Whether some tokens read together are read as one by one: else they recall together."""
    return runner.hierarchy is None and runner.tier is None
