"""What the scorer sees of a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document
from deepseek.apps.papers.cues import PATTERNS
from deepseek.apps.papers.features import Item, features, items_of, own_names, words

PAPER = Path(__file__).with_name("paper.md")
SENTENCE = Item(
    "We propose a reader that reaches 71.4 % F1 .", "introduction", "Introduction", 0, 9
)


@pytest.fixture(scope="module")
def document() -> Document:
    return read_document(PAPER)


def test_one_item_a_sentence_with_its_place(document: Document) -> None:
    items = items_of(document)
    assert [item.text for item in items] == [document.text_of(s) for s in document.sentences]
    for item, sentence in zip(items, document.sentences, strict=True):
        assert (item.role, item.heading) == (
            document.section_of(sentence).role,
            document.section_of(sentence).title,
        )
    captions = [item.text for item in items if item.is_caption]
    assert captions == ["Table 1: F1 on LongQA."]
    introduction = [item for item in items if item.role == "introduction"]
    assert [item.index for item in introduction] == list(range(len(introduction)))
    assert {item.of for item in introduction} == {len(introduction)}


def test_document_and_plain_items_have_equal_features(document: Document) -> None:
    items = items_of(document)
    by_hand = [
        Item(item.text, item.role, item.heading, item.index, item.of, is_caption=item.is_caption)
        for item in items
    ]
    assert features(items, document.title) == features(by_hand, document.title)
    assert [words(item) for item in items] == [words(item) for item in by_hand]


def test_tokenised_text_gives_the_same_words_as_printed_text() -> None:
    printed = "Our model achieves state-of-the-art results (Smith et al., 2015) on 2 tasks [3, 4]."
    spaced = "Our model achieves state - of - the - art results on 2 tasks ."
    assert words(replace(SENTENCE, text=printed)) == words(replace(SENTENCE, text=spaced))
    printed = "As shown in Table 2, our joint model outperforms it by 1.3 points."
    spaced = "As shown in , our joint model outperforms it by 1 . 3 points ."
    assert words(replace(SENTENCE, text=printed)) == words(replace(SENTENCE, text=spaced))


def test_words_are_plain_pairs_and_heading() -> None:
    assert words(Item("We use 3 layers", "method", "Our Model", 0, 1)) == [
        "we", "use", "#", "layers",
        "^_we", "we_use", "use_#", "#_layers", "layers_$",
        "h:our", "h:model",
    ]  # fmt: skip


def test_own_names_are_claimed_names() -> None:
    items = [
        replace(SENTENCE, text="We propose DCRNet, which extends BiDAF."),
        replace(SENTENCE, text="Our DCRNet reads chunks."),
        replace(SENTENCE, text="BiDAF reads words."),
    ]
    assert own_names(items) == {"DCRNet"}
    assert own_names([], "RankGAN: ranking for text with LSTMs") == {"RankGAN"}
    row = features(items)[1]
    assert row["own_name"] == row["own_name@opening"] == 1.0
    assert "own_name" not in features(items)[2]


@pytest.mark.parametrize(
    ("cue", "text"),
    [
        ("propose", "本文提出了一种新的模型"),
        ("outperform", "我们的方法优于基线"),
        ("hyper", "学习率设为0.001"),
        ("propose", "we introduce a gate"),
        ("hyper", "a batch size of 16"),
        ("ablation", "w/o the gate"),
        ("dataset", "on two datasets"),
    ],
)
def test_cues_in_both_languages(cue: str, text: str) -> None:
    assert PATTERNS[cue].search(text)
    assert features([replace(SENTENCE, text=text)])[0][cue] == 1.0


def test_same_cue_is_told_apart_by_the_section() -> None:
    opening, evaluation = features([SENTENCE, replace(SENTENCE, role="results")])
    assert "propose@opening" in opening
    assert "propose@evaluation" in evaluation
    assert "propose@opening" not in evaluation


def test_features_are_bounded(document: Document) -> None:
    long = replace(SENTENCE, text="1.5 % we propose " * 500)
    for row in features([*items_of(document), long], document.title):
        assert all(0 <= value <= 1 for value in row.values())
    assert features([]) == []
