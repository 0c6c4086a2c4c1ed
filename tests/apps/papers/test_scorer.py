"""The shipped contribution scorer: sane weights, monotone judgements, both languages."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from deepseek.apps.documents.reader import read_document
from deepseek.apps.papers import scorer
from deepseek.apps.papers.features import Item, items_of
from deepseek.apps.papers.scorer import (
    UNITS,
    Codebook,
    Network,
    contribution_guesses,
    contribution_scores,
    contribution_threshold,
    units_of,
)

PAPER = Path(__file__).with_name("paper.md")
FILLER = "The rest of the paper is organised as follows ."
INTRODUCTION = "introduction"


def scored(texts: list[str], role: str, heading: str, at: int) -> float:
    """Score of one sentence among others of its section in a longer paper."""
    before = [Item("title", "front", "title", 0, 1, True), Item("A paper", "front", "title", 0, 1)]
    after = [Item(FILLER, "method", "Model", i, 60) for i in range(60)]
    if role != INTRODUCTION:
        before, after = before + after, []
    items = [Item(t, role, heading, i, len(texts)) for i, t in enumerate(texts)]  # type: ignore[arg-type]
    return contribution_scores(before + items + after, "A paper")[len(before) + at]


def test_weights_are_complete_small_and_finite() -> None:
    file = resources.files("deepseek.apps.papers").joinpath(scorer.WEIGHTS)
    assert len(file.read_bytes()) < 500_000
    codebook, network, threshold = scorer.load_scorer()
    assert 1_000 < len(codebook.words) == len(set(codebook.words))
    assert 100 < len(codebook.features) == len(set(codebook.features))
    assert 0.1 <= threshold <= 0.6
    assert threshold == contribution_threshold()
    assert network.words.num_embeddings == len(codebook.words) + 1
    for parameter in network.parameters():
        assert torch.isfinite(parameter).all()
        assert parameter.abs().max() > 0


def test_vocabulary_holds_no_topic_of_one_task() -> None:
    codebook, _, _ = scorer.load_scorer()
    assert {"we", "outperforms", "propose"} <= set(codebook.words)
    assert not {"sarcasm", "prosody", "smile"} & set(codebook.words)


@pytest.mark.parametrize(
    ("role", "heading", "states", "plain"),
    [
        (
            INTRODUCTION, "Introduction",
            "In this paper , we propose a novel attention model that reads long documents .",
            "The rest of the paper is organized as follows .",
        ),
        (
            INTRODUCTION, "Introduction",
            "We propose a new model based on a gated recurrent network .",
            "Recently , Smith et al . proposed a model with two layers .",
        ),
        (
            "experiments", "Implementation Details",
            "We use the Adam optimizer with a learning rate of 0.001 and a batch size of 32 .",
            "The remainder of this section is an example .",
        ),
        (
            "results", "Results",
            "Our model outperforms the previous state - of - the - art by 2.1 % F1 .",
            "This example is shown for illustration .",
        ),
    ],
)  # fmt: skip
def test_contributions_score_above_boilerplate(
    role: str, heading: str, states: str, plain: str
) -> None:
    around = [FILLER] * 4
    high = scored([*around, states, *around], role, heading, 4)
    low = scored([*around, plain, *around], role, heading, 4)
    assert high > 2 * low


def test_chinese_contribution_scores_above_boilerplate() -> None:
    around = ["该领域近年来受到广泛关注。"] * 4
    high = scored(
        [*around, "本文提出了一种新的模型,我们的方法优于基线。", *around], INTRODUCTION, "引言", 4
    )
    low = scored([*around, "第三节介绍相关的例子。", *around], INTRODUCTION, "引言", 4)
    assert high > 2 * low


def test_front_matter_captions_and_references_score_nothing_but_the_title_does() -> None:
    items = items_of(read_document(PAPER))
    title = Item("Gated Sparse Readers for Long Documents", "front", "", 0, 2)
    author = Item("Ada Author, University of Examples", "front", "", 1, 2)
    entry = Item("We propose a reader that outperforms all.", "references", "References", 0, 1)
    caption = replace(items[-1], text="Table 1: Our model outperforms all.", is_caption=True)
    guesses = contribution_guesses([title, author, *items, caption, entry], title.text)
    assert guesses[0].score > contribution_threshold()
    for guess in (guesses[1], guesses[-2], guesses[-1]):
        assert (guess.score, guess.unit) == (0.0, None)
    without = contribution_guesses([title, *items], title.text)
    assert [guess for guess in guesses if guess.unit] == [g for g in without if g.unit]


def test_units_follow_the_section() -> None:
    items = items_of(read_document(PAPER))
    unit = dict(zip([item.text for item in items], units_of(items), strict=True))
    assert unit[next(t for t in unit if t.startswith("We train with Adam"))] == "setup"
    assert unit[next(t for t in unit if t.startswith("Our model outperforms both"))] == "results"
    assert set(unit.values()) <= {*UNITS, None}


def test_guesses_are_probabilities_and_repeatable() -> None:
    items = items_of(read_document(PAPER))
    guesses = contribution_guesses(items, "Gated Sparse Readers")
    assert len(guesses) == len(items)
    assert all(0 <= guess.score <= 1 for guess in guesses)
    assert guesses == contribution_guesses(items, "Gated Sparse Readers")
    assert contribution_scores([]) == []
    assert len(contribution_scores([replace(items[0], text="")])) == 1


def test_network_sees_neighbours_within_its_reach_only() -> None:
    torch.manual_seed(0)
    book = Codebook(("we", "they"), ("x",))
    network = Network(2, 1, members=2, width=4, hidden=4, layers=2).eval()
    rows = [{"x": 1.0}] * 20
    with torch.inference_mode():
        plain, units = network(book.encode([["we"]] * 20, rows))
        other, _ = network(book.encode([["we"]] * 10 + [["they"]] + [["we"]] * 9, rows))
    assert plain.shape == (20, 2)
    assert units.shape == (20, 2, len(UNITS) + 1)
    changed = np.flatnonzero((plain != other).any(dim=1).numpy())
    # Dilations 1 and 2 reach three sentences.
    assert changed.min() >= 7
    assert changed.max() <= 13
    assert 10 in changed


def test_codebook_ignores_what_it_does_not_know() -> None:
    book = Codebook(("we", "use"), ("first", "last"))
    encoded = book.encode([["we", "never", "use"], ["nothing"]], [{"first": 1.0, "odd": 9.0}, {}])
    assert encoded.ids.tolist() == [1, 2, 0]
    assert encoded.starts.tolist() == [0, 2]
    assert encoded.numbers.tolist() == [[1.0, 0.0], [0.0, 0.0]]
