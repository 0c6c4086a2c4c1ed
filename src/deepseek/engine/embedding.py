"""Texts as vectors, made of the model's last hidden states."""

from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import Pooling
from deepseek.engine.batch import ROW_CONTEXTS, ROW_TOKENS
from deepseek.engine.grouping import group_by_beginning
from deepseek.engine.runner import Runner


def embed_many(
    runner: Runner, texts: Sequence[list[int]], pooling: Pooling
) -> Iterator[Float32[Tensor, "N D"]]:
    """Vectors of length 1 of some texts after others, in order.

    With `last`, what neighbours have in common at their beginning is read once.

    Args:
        runner: Runs the model.
        texts: Token ids, at least one each.
        pooling: Which tokens' states count.

    Raises:
        RequestError: There is no such pooling.
    """
    if pooling not in get_args(Pooling):
        raise RequestError(f"pooling is {pooling!r}", f"allowed: {', '.join(get_args(Pooling))}")
    if not texts:
        return
    if pooling == "mean":
        for row in _rows(texts):
            yield _means(runner, row)
        return
    for group in group_by_beginning(texts):
        beginning = texts[group.start][: group.n_shared]
        for row in _rows([ids[group.n_shared :] for ids in texts[group.start : group.stop]]):
            ends, _ = runner.read_branches(beginning, row, [[] for _ in row])
            yield _unit(_normed(runner, ends))


def _rows(texts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """As many as one pass should read."""
    row: list[list[int]] = []
    n_tokens = 0
    for ids in texts:
        if row and (n_tokens + len(ids) > ROW_TOKENS or len(row) == ROW_CONTEXTS):
            yield row
            row, n_tokens = [], 0
        row.append(ids)
        n_tokens += len(ids)
    yield row


def _means(runner: Runner, row: Sequence[list[int]]) -> Float32[Tensor, "N D"]:
    """Of each text the mean over all its tokens; nothing but its own tokens has a part in it."""
    rest = [[ids[1:]] if len(ids) > 1 else [] for ids in row]
    first, others = runner.read_branches([], [ids[:1] for ids in row], rest)
    first, others = _normed(runner, first), _normed(runner, others)
    sums, start = [], 0
    for one, ids in zip(first, row, strict=True):
        end = start + len(ids) - 1
        sums.append((one + others[start:end].sum(0)) / len(ids))
        start = end
    return _unit(torch.stack(sums))


@torch.inference_mode()
def _normed(runner: Runner, hidden: Float[Tensor, "N D"]) -> Float32[Tensor, "N D"]:
    """As the head would see them."""
    return runner.model.norm(hidden.to(runner.dtype)).float()  # type: ignore[no-any-return]


def _unit(vectors: Float32[Tensor, "N D"]) -> Float32[Tensor, "N D"]:
    return torch.nn.functional.normalize(vectors, dim=-1).cpu()
