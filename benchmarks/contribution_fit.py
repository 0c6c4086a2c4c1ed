"""Learning the contribution scorer from annotated papers: codebook, losses, schedule."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import ncg
from deepseek.apps.papers.features import features, words
from deepseek.apps.papers.scorer import UNITS, Codebook, Encoded, Network


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is made and fitted; chosen by cross-validation over training tasks."""

    members: int = 3
    width: int = 24
    hidden: int = 48
    layers: int = 5
    min_groups: int = 6
    """A word has a weight if it occurs in so many groups of papers …"""
    max_words: int = 3000
    """… and is among so many that tell contributions best."""
    epochs: int = 14
    batch: int = 8
    rate: float = 3e-3
    decay: float = 1e-2
    dropout: float = 0.3
    word_dropout: float = 0.3
    unit_weight: float = 1.0
    bare: float = 0.3
    """Share of papers shown without their heading lines, as parsed PDFs come."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One paper, ready to learn from."""

    task: str
    bags: list[list[str]]
    rows: list[dict[str, float]]
    headings: NDArray[np.bool_]
    gold: NDArray[np.float32]
    units: NDArray[np.int64]
    """Unit of each item from 1; 0 if it is none, -1 if it is not known."""


def examples(folder: Path) -> list[Example]:
    """The papers of a split with their labels."""
    result = []
    for paper in ncg.papers(folder):
        items = ncg.items(paper)
        gold = np.array([i + 1 in paper.gold for i in range(len(items))], np.float32)
        units = [
            (UNITS.index(unit) + 1 if unit else -1) if is_gold else 0
            for unit, is_gold in zip(ncg.units(paper), gold, strict=True)
        ]
        bags, rows = [words(item) for item in items], features(items, paper.title)
        headings = np.array([item.is_heading for item in items])
        result.append(Example(paper.task, bags, rows, headings, gold, np.array(units)))
    return result


def codebook(papers: Sequence[Example], recipe: Recipe) -> Codebook:
    """Words and features that occur across tasks; of the words those that tell the most."""
    groups, inside, total = defaultdict[str, set[str]](set), Counter[str](), Counter[str]()
    numeric = Counter[str]()
    sizes = Counter(p.task for p in papers)
    for number, paper in enumerate(papers):
        # A task with many papers counts as three groups: words of one topic must not get in.
        group = f"{paper.task}{number % 3}" if sizes[paper.task] > 30 else paper.task
        for bag, gold in zip(paper.bags, paper.gold, strict=True):
            for word in set(bag):
                groups[word].add(group)
                total[word] += 1
                inside[word] += gold
        for row in paper.rows:
            numeric.update(name for name, value in row.items() if value)
    share = sum(inside.values()) / sum(total.values())
    kept = [w for w, g in groups.items() if len(g) >= recipe.min_groups and total[w] >= 15]
    kept.sort(key=lambda w: (-((inside[w] - share * total[w]) ** 2) / total[w], w))
    chosen = sorted(kept[: recipe.max_words])
    return Codebook(tuple(chosen), tuple(sorted(n for n, c in numeric.items() if c >= 30)))


def fit(papers: Sequence[Example], recipe: Recipe) -> tuple[Codebook, Network]:
    """Learn from papers."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    book = codebook(papers, recipe)
    network = Network(
        len(book.words), len(book.features), members=recipe.members,
        width=recipe.width, hidden=recipe.hidden, layers=recipe.layers,
    )  # fmt: skip
    whole = [_encode(book, paper) for paper in papers]
    bare = [_encode(book, paper, without_headings=True) for paper in papers]
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * -(-len(papers) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=steps, pct_start=0.15
    )
    for _ in range(recipe.epochs):
        order = random.permutation(len(papers))
        for start in range(0, len(order), recipe.batch):
            batch = [
                (bare if random.random() < recipe.bare else whole)[i]
                for i in order[start : start + recipe.batch]
            ]
            n_rows = sum(len(gold) for _, gold, _ in batch)
            optimiser.zero_grad()
            for encoded, gold, units in batch:
                loss = _loss(network, _thin(encoded, recipe.word_dropout), gold, units, recipe)
                (loss / n_rows).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return book, network


def predict(book: Codebook, network: Network, paper: Example) -> NDArray[np.float64]:
    """Probability of each item."""
    with torch.inference_mode():
        scores, _ = network(book.encode(paper.bags, paper.rows))
    return scores.sigmoid().mean(dim=1).double().numpy()


def _encode(
    book: Codebook, paper: Example, without_headings: bool = False
) -> tuple[Encoded, Tensor, Tensor]:
    keep = np.flatnonzero(~paper.headings) if without_headings else np.arange(len(paper.gold))
    encoded = book.encode([paper.bags[i] for i in keep], [paper.rows[i] for i in keep])
    return encoded, torch.from_numpy(paper.gold[keep]), torch.from_numpy(paper.units[keep])


def _thin(encoded: Encoded, share: float) -> Encoded:
    """Some words forgotten: id 0 counts for nothing."""
    kept = torch.rand(len(encoded.ids)) >= share
    return Encoded(encoded.ids * kept, encoded.starts, encoded.numbers)


def _loss(
    network: Network, encoded: Encoded, gold: Tensor, units: Tensor, recipe: Recipe
) -> Tensor:
    scores, logits = network(encoded, recipe.dropout)
    loss = F.binary_cross_entropy_with_logits(
        scores, gold.unsqueeze(1).expand_as(scores), reduction="sum"
    )
    known = units >= 0
    wanted = units[known].repeat_interleave(network.members)
    by_unit = F.cross_entropy(logits[known].flatten(0, 1), wanted, reduction="sum")
    return (loss + recipe.unit_weight * by_unit) / network.members
