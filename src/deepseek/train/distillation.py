"""Teaching a router where attention goes: its shares of pages beside those of all keys.

Beyond the reach, pages are looked at from logarithmic distances (`ops.hierarchical`). What a
router has to foresee there is what all of a page's keys would score from that distance, so that
windows as long as the trained length teach any distance.

Axes as in `ops.hierarchical`; P pages of queries in a lesson.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.model.cache import DenseCache
from deepseek.model.config import ModelConfig
from deepseek.ops.hierarchical import (
    PAGE,
    Blocks,
    Hierarchy,
    Router,
    Turns,
    choose_pages,
    far_rows,
    page_shares,
    seen_scores,
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What some pages of a window asked in one layer, and what there was to see."""

    pages: Sequence[int]
    queries: Float[Tensor, "P H 64 K"]
    keys: Float[Tensor, "G S K"]


class Teacher(DenseCache):
    """A dense cache that keeps a lesson of each layer while a window is read in one pass."""

    def __init__(
        self, config: ModelConfig, pages: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(config, dtype=dtype, device=device)
        self._pages = pages
        self.lessons: list[Lesson] = []

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
    ) -> Float[Tensor, "B H T K"]:
        """Dense attention; queries of the wanted pages and all keys are kept."""
        assert len(q) == 1, "one window"
        assert layer == len(self.lessons), "one pass"
        asked = torch.stack([q[0, :, page * PAGE : (page + 1) * PAGE] for page in self._pages])
        self.lessons.append(Lesson(self._pages, asked.float(), k[0].float()))
        return super().attend(layer, q, k, v)


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries of one page in blocks that choose together, as they look at what can be chosen.

    Shares are of a block's attention: of each page that can be chosen, then in the last place of
    all that is seen anyway.
    """

    looks: Sequence[tuple[slice, Float[Tensor, "G B Q K"]]]
    mass: Float[Tensor, "G B Q"]
    """Logarithm of what is seen anyway."""
    keys: Float[Tensor, "G S K"]

    def expected(
        self, router: Router, layer: int, nodes: Float[Tensor, "G P M K"]
    ) -> Float[Tensor, "G B N"]:
        """Shares that a router foresees from its nodes of all pages."""
        scores = [router.look(layer, rows, nodes[:, part]) for part, rows in self.looks]
        return _mean_shares(scores, self.mass)

    @torch.no_grad()
    def true(self) -> Float[Tensor, "G B N"]:
        """Shares that follow from all keys."""
        scores = []
        for part, rows in self.looks:
            inside = self.keys[:, None, part.start * PAGE : part.stop * PAGE].transpose(2, 3)
            scores.append(torch.unflatten(rows @ inside, -1, (-1, PAGE)).logsumexp(-1))
        return _mean_shares(scores, self.mass)


@torch.no_grad()
def ask(lesson: Lesson, number: int, hierarchy: Hierarchy, turns: Turns, further: int = 0) -> Asked:
    """Put the queries of one page of a lesson.

    Args:
        lesson: Queries and keys.
        number: Which of the lesson's pages.
        hierarchy: What is seen.
        turns: How to turn queries back.
        further: Pages by which all is taken to be farther away, beyond the reach.
    """
    page, (n_groups, _, width) = lesson.pages[number], lesson.keys.shape
    keys, q = lesson.keys[:, : (page + 1) * PAGE], lesson.queries[number]
    blocks = Blocks(len(q) // n_groups, page * PAGE, (page + 1) * PAGE)
    rows = blocks.split(q / width**0.5, n_groups)
    seen = seen_scores(rows, keys, blocks.positions, hierarchy, turns)
    looks = list(far_rows(rows, page, hierarchy, turns, further))
    return Asked(looks, torch.cat(seen, -1).logsumexp(-1), keys)


def divergence(expected: Float[Tensor, "G B N"], true: Float[Tensor, "G B N"]) -> Float[Tensor, ""]:
    """Kullback-Leibler, in nats, of shares; a mean over groups and blocks."""
    tiny = torch.finfo(true.dtype).tiny
    true = true.clamp(min=tiny)
    ratio = true.log() - expected.clamp(min=tiny).log()
    return (true * ratio).sum(-1).mean()


def _mean_shares(scores: list[Tensor], mass: Tensor) -> Float[Tensor, "G B N"]:
    shares = page_shares(torch.cat(scores, -1), mass)
    anyway = 1 - shares.sum(-1, keepdim=True)
    return torch.cat((shares, anyway), -1).mean(2)


@torch.no_grad()
def coverage(
    routers: Mapping[str, Router],
    lessons: Sequence[Lesson],
    hierarchy: Hierarchy,
    turns: Turns,
    further: int = 0,
) -> dict[str, float]:
    """Share of all attention that window, sinks and recalled pages hold, a mean over everything.

    Args:
        routers: By name; `best` is added: the pages with most attention, as if they were known.
        lessons: Of each layer in order, for votes that pass to the next one.
        hierarchy: What is seen.
        turns: How to turn queries back.
        further: As in `ask`.
    """
    sums = dict.fromkeys((*routers, "best"), 0.0)
    before: dict[tuple[str, int], Tensor] = {}
    for layer, lesson in enumerate(lessons):
        nodes = {name: router.remember(layer, lesson.keys, 0) for name, router in routers.items()}
        for number, page in enumerate(lesson.pages):
            asked = ask(lesson, number, hierarchy, turns, further)
            true, n_chosen = asked.true(), hierarchy.n_recalled(page)
            best = true[..., :-1].topk(n_chosen, -1).indices
            sums["best"] += _covered(best, true)
            for name, router in routers.items():
                votes = asked.expected(router, layer, nodes[name])[..., :-1]
                fused = votes + hierarchy.fusion * before.get((name, page), votes.new_zeros(1))
                before[name, page] = fused.mean(0)
                sums[name] += _covered(choose_pages(votes, fused, n_chosen, hierarchy), true)
    n_measured = len(lessons) * len(lessons[0].pages)
    return {name: value / n_measured for name, value in sums.items()}


def _covered(chosen: Tensor, true: Tensor) -> float:
    return float((true.gather(-1, chosen).sum(-1) + true[..., -1]).mean())
