"""Pairs of answers in a run: how they are drawn, and what the model before training thinks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from deepseek.core.errors import CheckpointError
from deepseek.core.log import LOGGER
from deepseek.data.packed import Window, pack
from deepseek.data.sampler import Sampler
from deepseek.data.stream import Piece
from deepseek.data.token_file import TokenFile
from deepseek.model.packed import PackedCache
from deepseek.model.router import read_tensors, write_tensors
from deepseek.model.transformer import Transformer
from deepseek.train.loss import token_nats
from deepseek.train.objective import Pair, PreferenceSettings, piece_logprobs, preference_loss
from deepseek.train.tuning.examples import CHOSEN

FILE = "reference.safetensors"
PASS_TOKENS = 4_096


class PairSampler(Sampler):
    """Draws pairs: documents of one number in two token files."""

    def __init__(
        self,
        chosen: TokenFile,
        rejected: TokenFile,
        references: Float32[Tensor, "D 2"],
        window: int,
        seed: int,
    ) -> None:
        """Open both.

        Args:
            chosen: The better answers, with their prompts.
            rejected: The worse ones, in the same order.
            references: Log-probabilities of both before training.
            window: Tokens of the longest.
            seed: Of the order.

        Raises:
            ConfigError: There are no pairs.
        """
        super().__init__({CHOSEN: chosen}, window, seed, whole=True)
        self._rejected, self._references = rejected, references.tolist()

    def _cut(self, name: str) -> Window:
        stream = self._streams[name]
        number = stream.number
        worse = Piece(*self._rejected.piece(number, 0, self._window))
        pieces = stream.take(self._window), worse
        first, second = self._references[number]
        return Pair(self.names.index(name), pieces, references=(first, second))


def reference_logprobs(
    model: Transformer,
    chosen: TokenFile,
    rejected: TokenFile,
    dtype: torch.dtype,
    folder: Path | None = None,
) -> Float32[Tensor, "D 2"]:
    """Log-probability of both answers of each pair; found again in a folder if they are there.

    Raises:
        CheckpointError: They cannot be written.
    """
    path = None if folder is None else folder / FILE
    key = torch.tensor(list(f"{chosen.checksum} {rejected.checksum}".encode()), dtype=torch.uint8)
    if path is not None and path.exists():
        try:
            kept = read_tensors(path)
            if torch.equal(kept["key"], key):
                return kept["logprobs"]
        except (CheckpointError, KeyError, RuntimeError) as error:
            LOGGER.info("%s cannot be used and is made anew: %s", path, error)
    found = torch.tensor(
        [
            [first, second]
            for first, second in zip(
                _logprobs(model, chosen, dtype), _logprobs(model, rejected, dtype), strict=True
            )
        ],
        dtype=torch.float32,
    )
    if path is not None:
        write_tensors(path, {"key": key, "logprobs": found})
    return found


def pair_figures(
    model: Transformer,
    pairs: tuple[TokenFile, TokenFile],
    references: Float32[Tensor, "D 2"],
    settings: PreferenceSettings,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Loss, share in the right order, and margin of held-out pairs."""
    now = torch.tensor(
        [list(_logprobs(model, side, dtype)) for side in pairs], dtype=torch.float64
    ).T
    gains = now - references.double()
    margins = settings.beta * (gains[:, 0] - gains[:, 1])
    losses, _ = preference_loss(margins, settings.smoothing)
    right = (margins > 0).double()
    return {
        "loss": float(losses.mean()),
        "accuracy": float(right.mean()),
        "margin": float(margins.mean()),
    }


@torch.no_grad()
def _logprobs(model: Transformer, tokens: TokenFile, dtype: torch.dtype) -> Iterator[float]:
    """Of the learned tokens of each document, in order."""
    device = next(model.parameters()).device
    for numbers in _passes(tokens):
        windows = [Window(0, (Piece(*tokens.piece(n, 0, 1 << 30)),)) for n in numbers]
        row = pack(windows, device)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            hidden = model.hidden_states(row.ids, PackedCache(row.lengths, device))
            nats = token_nats(lambda x: model.head(model.norm(x)), hidden, row.labels)
        yield from piece_logprobs(nats, row).tolist()


def _passes(tokens: TokenFile) -> Iterator[list[int]]:
    numbers: list[int] = []
    room = PASS_TOKENS
    for number, size in enumerate(np.diff(tokens.ends, prepend=0).tolist()):
        if numbers and size > room:
            yield numbers
            numbers, room = [], PASS_TOKENS
        numbers.append(number)
        room -= size
    if numbers:
        yield numbers
