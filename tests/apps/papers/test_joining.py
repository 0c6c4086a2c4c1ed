"""Answers on the whole paper beside what sentences told."""

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.analysis import Evidence, Finding
from deepseek.apps.papers.joining import joined

ONE = Evidence("We train with Adam.", (Span(1, 0, 19),), "Training", verified=True)
TWO = Evidence("The rate is 0.1.", (Span(1, 20, 36),), "Training", verified=True)


def finding(statement, *evidence, kind="optimizer", **fields):
    return Finding(
        task="t",
        kind=kind,
        title=kind,
        statement=statement,
        confidence=fields.pop("confidence", 0.6),
        evidence=evidence,
        **fields,
    )


ANSWER = finding("Adam at a rate of 0.1.", ONE, TWO, confidence=0.8, in_view="paper")


def test_it_words_what_was_only_a_quote():
    other = finding("Other.", TWO, kind="rate")
    found, new = joined([finding(ONE.quote, ONE), other], ANSWER)
    assert found == [new, other]
    assert (new.statement, new.confidence, new.in_view) == (ANSWER.statement, 0.8, "paper")
    assert new.evidence == (ONE, TWO)


def test_it_adds_nothing_to_what_was_worded_or_told_by_another_facet():
    for known in (finding("Adam is used.", ONE), finding(ONE.quote, ONE, kind="training")):
        assert joined([known], ANSWER) == ([known], None)


def test_it_takes_the_place_of_not_found():
    missing = finding("No optimizer is named.", kind="no_optimizer", is_missing=True)
    other = finding("No rate is named.", kind="no_rate", is_missing=True)
    assert joined([missing, other], ANSWER) == ([other, ANSWER], ANSWER)


def test_it_comes_last_if_it_quotes_something_else():
    known = finding("Later.", Evidence("Later.", (Span(2, 0, 6),), "", verified=True))
    assert joined([known], ANSWER) == ([known, ANSWER], ANSWER)
