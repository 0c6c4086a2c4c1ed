"""What two ways to train are worth beside each other: losses by document, seeds in pairs.

The interval is a bootstrap over seeds and documents at once: each replicate draws seeds and, the
same for all of them, documents of each set. Of m things m - 1 are drawn, which makes the variance
of a mean unbiased (as in `deepseek.eval.statistics`): with three seeds that counts.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from deepseek.data.packed import Window, pack
from deepseek.data.stream import Piece
from deepseek.data.token_file import TokenFile
from deepseek.eval.statistics import RESAMPLES, Difference
from deepseek.model.packed import PackedCache
from deepseek.model.transformer import Transformer
from report import Row

ROW = 2_048
"""Tokens that are read at once."""
_SEED = 20_240_101
Losses = Mapping[str, Sequence[float]]
"""Nats of each document, by set."""


@torch.no_grad()
def document_nats(model: Transformer, tokens: TokenFile, window: int, most: int) -> list[float]:
    """Nats of the first documents of a set, up to so many tokens together.

    Args:
        model: Read as it is, in float32.
        tokens: The set.
        window: Tokens of a document that are read together.
        most: Tokens of all; at least one document is read.
    """
    n = max(1, int(np.searchsorted(tokens.ends, most, side="right")))
    nats = torch.zeros(min(n, tokens.n_documents), dtype=torch.float64)
    pieces, owners, length = list[Piece](), list[int](), 0
    model.eval()
    for number in range(len(nats)):
        start, end = tokens.span(number)
        for first in range(0, end - start, window):
            pieces.append(Piece(*tokens.piece(number, first, window)))
            owners.append(number)
            length += len(pieces[-1].ids)
            if length >= ROW:
                _add(nats, model, pieces, owners)
                pieces, owners, length = [], [], 0
    if pieces:
        _add(nats, model, pieces, owners)
    model.train()
    return nats.tolist()  # type: ignore[no-any-return]


def _add(
    nats: torch.Tensor, model: Transformer, pieces: Sequence[Piece], owners: Sequence[int]
) -> None:
    row = pack([Window(0, tuple(pieces))])
    logits = model.head(model.norm(model.hidden_states(row.ids, PackedCache(row.lengths))))[0]
    found = nn.functional.cross_entropy(
        logits.float(), row.labels, ignore_index=-100, reduction="none"
    )
    places = torch.repeat_interleave(torch.tensor(owners), torch.tensor(row.lengths))
    nats.index_add_(0, places, found.double())


def bits_per_byte(losses: Losses, sets: Mapping[str, TokenFile]) -> dict[str, float]:
    """Of the documents that were read of each set."""
    return {
        name: sum(nats) / math.log(2) / int(sets[name].n_bytes[: len(nats)].sum())
        for name, nats in losses.items()
    }


def compare(
    ours: Sequence[Losses], theirs: Sequence[Losses], n_bytes: Losses, names: Sequence[str]
) -> Difference:
    """Bits per byte of ours less theirs: the mean over some sets and all seeds.

    Args:
        ours: Of each seed.
        theirs: The same seeds, sets and documents.
        n_bytes: Of each document, by set.
        names: The sets.
    """
    rng = np.random.default_rng(_SEED)
    n_seeds = len(ours)
    seeds = _draws(rng, n_seeds)
    value, drawn = 0.0, np.zeros(RESAMPLES)
    for name in names:
        apart = np.array([a[name] for a in ours]) - np.array([b[name] for b in theirs])
        sizes = np.array(n_bytes[name], dtype=np.float64)[: apart.shape[1]]
        documents = _draws(rng, apart.shape[1])
        sums = np.einsum("rs,sd,rd->r", seeds, apart, documents) / seeds.sum(1)
        scale = math.log(2) * len(names)
        drawn += sums / (documents @ sizes) / scale
        value += float(apart.mean(0).sum() / sizes.sum()) / scale
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    low, high = (float(bound) for bound in np.quantile(drawn, (0.025, 0.975)))
    return Difference(
        value=value,
        low=min(low, value),
        high=max(high, value),
        p=min(1.0, 2 * (1 + min(below, above)) / (RESAMPLES + 1)),
        p_exact=None,
        n=n_seeds,
    )


def _draws(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "r n"]:
    """How often each of n things is in each replicate."""
    return rng.multinomial(max(1, n - 1), np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def difference_rows(name: str, found: Difference, *, must: bool, moonshot: bool) -> list[Row]:
    """A difference of bits per byte with its interval; if it must be below 0, the end of that too.

    Args:
        name: What is less what.
        found: The difference.
        must: Whether the whole interval must be below 0.
        moonshot: Whether that would be more than must be.
    """
    row = Row(name, found.value, "bits/byte", None, None, None, found.n, found.low, found.high)
    row.better = "lower"
    if not (must or moonshot):
        return [row]
    end = Row(f"{name}: upper end of the 95 % interval", found.high, "bits/byte", rounds=found.n)
    end.better = "lower"
    end.must, end.moonshot = (0.0 if must else None), (0.0 if moonshot else None)
    return [row, end]
