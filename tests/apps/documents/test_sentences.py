"""Sentence boundaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.apps.documents.sentences import split_sentences


def pieces(text: str) -> list[str]:
    return [text[a:b] for a, b in split_sentences(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["We train for 3.5 days.", "The result is 28.4 BLEU [12].", "It is new."],
        ["See Fig. 3 and Sec. 4.2 for details.", "Then stop."],
        ["Vaswani et al. (2017) propose it.", "He et al. show the same."],
        ["This holds, i.e. always, w.r.t. all of them.", "Is it so?", "Yes!"],
        ["J. Smith and A. B. Jones wrote it.", "They agree."],
        ["We use dropout, weight decay, etc. in all runs.", "We tune the rate."],
        ["We call it “attention.”", "It is all you need."],
        ["本文提出一种新方法。", "实验结果表明，准确率达到 95.2%。", "“真的吗？”", "是！"],
        ["We get 3 vs. 5 points (p < 0.05).", "Others get 2 resp. 4."],
        ["Approx. 10 % of them fail."],
        ["The U.S. data are larger.", "That helps."],
    ],
)
def test_boundaries(sentences: list[str]) -> None:
    text = " ".join(sentences)
    assert pieces(text) == sentences


@given(st.text(st.sampled_from("ab A.?!。 \n(1)'\"“”"), max_size=80))
def test_every_printed_character_is_in_exactly_one_sentence(text: str) -> None:
    bounds = split_sentences(text)
    covered = [i for a, b in bounds for i in range(a, b)]
    assert len(covered) == len(set(covered))
    assert {i for i, c in enumerate(text) if not c.isspace()} <= set(covered)
    for a, b in bounds:
        assert text[a:b] == text[a:b].strip()
