import dataclasses

import pytest

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.grounding import evidence_at, is_grounded

EVIDENCE = "Our model achieves 71.40 F1 on LongQA, improving over Block-Sparse by 2.3 points."


@pytest.mark.parametrize(
    "statement",
    [
        "The model achieves 71.4 F1 on LongQA.",
        "It improves over Block-Sparse by 2.3 points.",
    ],
)
def test_paraphrases_pass(statement):
    assert is_grounded(statement, EVIDENCE)


@pytest.mark.parametrize(
    "statement",
    [
        "The model achieves 73.4 F1 on LongQA.",  # another number
        "The model achieves 71.4 F1 on SQuAD.",  # another name
        "The model does not achieve 71.4 F1 on LongQA.",  # a negation of its own
        "The model achieves the best F1 on LongQA.",  # a judgement of its own
        "Bananas are a healthy breakfast for everybody.",  # other words
        "",
    ],
)
def test_what_says_more_fails(statement):
    assert not is_grounded(statement, EVIDENCE)


def test_numbers_are_compared_by_value():
    assert is_grounded("It has 12000 questions.", "The set has 12,000 questions.")


def test_every_sentence_can_be_quoted(paper):
    for sentence in paper.sentences:
        evidence = evidence_at(paper, sentence.spans, "")
        assert evidence.verified
        assert evidence.quote in " ".join(p.text for p in paper.pages)


def test_a_span_outside_the_page_is_not_verified(paper):
    end = len(paper.pages[0].text)
    assert not evidence_at(paper, (Span(1, end + 5, end + 9),), "").verified
    assert not evidence_at(paper, (), "").verified
    blank = dataclasses.replace(paper.pages[0], text="   " + paper.pages[0].text)
    moved = dataclasses.replace(paper, pages=(blank,))
    assert not evidence_at(moved, (Span(1, 0, 3),), "").verified
