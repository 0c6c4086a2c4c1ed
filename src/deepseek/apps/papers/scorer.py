"""How likely a sentence states a contribution, and of which sort: a small network over the paper.

Task and data are those of NLPContributionGraph (SemEval-2021 task 11, "contribution sentences"
and "information units"). Each sentence becomes one vector from its features and its frequent
plain words; dilated convolutions over the sentences of the paper add what stands around it.
Several independent members vote. The weights are written by `benchmarks/contribution.py
calibrate` from the training split alone, everything in it chosen by cross-validation over tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from deepseek.apps.papers.features import Item, features, words

Unit = Literal["problem", "approach", "setup", "results", "ablation", "baselines", "resources"]
UNITS: tuple[Unit, ...] = get_args(Unit)
WEIGHTS = "contribution_weights.npz"


@dataclass(frozen=True, slots=True)
class Guess:
    """What the scorer says about one item."""

    score: float
    """Probability that it states a contribution."""
    unit: Unit | None
    """What it would be about if it does: NLPContributionGraph's units, the rare ones merged.
    None for what is passed over."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Items as numbers: word ids of all sentences in a row, where each starts, and features."""

    ids: Int[Tensor, " words"]
    starts: Int[Tensor, " sentences"]
    numbers: Float[Tensor, "sentences features"]


@dataclass(frozen=True, slots=True)
class Codebook:
    """The words and features that have a weight."""

    words: tuple[str, ...]
    features: tuple[str, ...]

    def encode(self, bags: Sequence[Sequence[str]], rows: Sequence[Mapping[str, float]]) -> Encoded:
        """Words and features of one paper's items; id 0 stands where no word is known."""
        word_id = {word: i + 1 for i, word in enumerate(self.words)}
        column = {name: i for i, name in enumerate(self.features)}
        known = [[word_id[word] for word in bag if word in word_id] or [0] for bag in bags]
        numbers = np.zeros((len(rows), len(self.features)), np.float32)
        for i, row in enumerate(rows):
            for name, value in row.items():
                if name in column:
                    numbers[i, column[name]] = value
        starts = np.cumsum([0, *(len(ids) for ids in known)])[:-1]
        ids = torch.tensor([i for ids in known for i in ids], dtype=torch.int64)
        return Encoded(ids, torch.from_numpy(starts), torch.from_numpy(numbers))


class Network(nn.Module):
    """Votes of `members` independent networks that are computed side by side (grouped layers)."""

    def __init__(
        self, n_words: int, n_features: int, *, members: int, width: int, hidden: int, layers: int
    ) -> None:
        super().__init__()
        self.members = members
        self.words = nn.EmbeddingBag(n_words + 1, members * width, mode="sum", padding_idx=0)
        nn.init.normal_(self.words.weight, 0, 0.1)
        self.numbers = nn.Linear(n_features, members * width)
        self.into = nn.Conv1d(members * width, members * hidden, 1, groups=members)
        self.around = nn.ModuleList(
            nn.Conv1d(
                members * hidden, members * hidden, 3,
                padding=2**i, dilation=2**i, groups=members,
            )
            for i in range(layers)
        )  # fmt: skip
        n_out = 1 + len(UNITS) + 1  # the score, the units, and "no unit"
        self.out = nn.Parameter(
            torch.randn(members, hidden + width, n_out) / (hidden + width) ** 0.5
        )
        self.bias = nn.Parameter(torch.zeros(members, n_out))

    def forward(
        self, paper: Encoded, dropout: float = 0.0
    ) -> tuple[Float[Tensor, "sentences members"], Float[Tensor, "sentences members units"]]:
        """Logits of the score and of the units ("no unit" first) of one paper's sentences."""

        def drop(x: Tensor) -> Tensor:
            return F.dropout(x, dropout, training=dropout > 0)

        ends = torch.cat([paper.starts[1:], torch.tensor([len(paper.ids)])])
        norm = (ends - paper.starts).sqrt().unsqueeze(1)
        own = drop(F.relu(self.words(paper.ids, paper.starts) / norm + self.numbers(paper.numbers)))
        near = self.into(own.T.unsqueeze(0))
        for layer in self.around:
            near = near + drop(F.relu(layer(near)))
        shape = (len(own), self.members, -1)
        both = torch.cat([drop(near[0].T).reshape(shape), own.reshape(shape)], dim=2)
        logits = torch.einsum("smi,mio->smo", both, self.out) + self.bias
        return logits[:, :, 0], logits[:, :, 1:]


def contribution_guesses(items: Sequence[Item], title: str = "") -> list[Guess]:
    """Score and unit of each item of one paper, given in reading order.

    Captions, references and what stands before the abstract besides the title are passed over
    and score 0: such lines do not occur in the annotated texts.
    """
    text = [i for i, item in enumerate(items) if not _is_apparatus(item, title)]
    guesses = [Guess(0.0, None)] * len(items)
    if text:
        read = [items[i] for i in text]
        codebook, network, _ = load_scorer()
        bags = [words(item) for item in read]
        with torch.inference_mode():
            scores, units = network(codebook.encode(bags, features(read, title)))
            probabilities = scores.sigmoid().mean(dim=1).tolist()
            best = units.softmax(dim=2).mean(dim=1)[:, 1:].argmax(dim=1).tolist()
        for i, probability, unit in zip(text, probabilities, best, strict=True):
            guesses[i] = Guess(probability, UNITS[unit])
    return guesses


def contribution_scores(items: Sequence[Item], title: str = "") -> list[float]:
    """Probability that each item states a contribution of the paper, by the fitted weights."""
    return [guess.score for guess in contribution_guesses(items, title)]


def units_of(items: Sequence[Item], title: str = "") -> list[Unit | None]:
    """What each item would contribute to, whether or not it does; None if it is passed over."""
    return [guess.unit for guess in contribution_guesses(items, title)]


def contribution_threshold() -> float:
    """The probability above which a sentence counts as one, chosen on the training split."""
    return load_scorer()[2]


@cache
def load_scorer() -> tuple[Codebook, Network, float]:
    """The shipped codebook, network and threshold."""
    file = resources.files("deepseek.apps.papers").joinpath(WEIGHTS)
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        state = {
            name.removeprefix("int8:"): torch.from_numpy(
                arrays[name].astype(np.float32) * arrays[f"scale:{name.removeprefix('int8:')}"]
            )
            for name in arrays.files
            if name.startswith("int8:")
        }
        book = [
            tuple(arrays[name].tobytes().decode().split("\n")) for name in ("words", "features")
        ]
        members, width, hidden, layers = arrays["shape"].tolist()
        threshold = float(arrays["threshold"])
    codebook = Codebook(*book)
    network = Network(
        len(codebook.words), len(codebook.features),
        members=members, width=width, hidden=hidden, layers=layers,
    )  # fmt: skip
    network.load_state_dict(state)
    return codebook, network.eval(), threshold


def _is_apparatus(item: Item, title: str) -> bool:
    if item.is_caption or item.role == "references":
        return True
    if item.role != "front" or item.is_heading:
        return False
    return "".join(item.text.split()).lower() != "".join(title.split()).lower()
