"""Qasper's yes-or-no questions on whole papers."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from deepseek.core.llm import LanguageModel
from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.qasper import RESERVED_TOKENS, TASK


class WordModel(LanguageModel):
    """Counts words; nothing else of a model is asked for."""

    name = "words"
    context_window = 1_000

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture(scope="module")
def whole(evaluation_data: Path) -> list[Choice]:
    return list(TASK.items(Setup(shots=0, evaluation_data=evaluation_data)))


def test_all_questions(whole: list[Choice]) -> None:
    assert len(whole) == 319 == len({item.id for item in whole})
    assert Counter(item.gold for item in whole) == {0: 215, 1: 104}
    assert {item.choices for item in whole} == {(" Yes", " No")}
    papers = [item.id.rpartition("_")[0] for item in whole]
    assert len(list(itertools.groupby(papers))) == len(set(papers)) == 260


def test_the_whole_paper_stands_before_the_question(whole: list[Choice]) -> None:
    prompt = whole[0].prompt
    assert isinstance(prompt, str)
    assert prompt.startswith(
        "Title: PO-EMO: Conceptualization, Annotation, and Modeling of Aesthetic Emotions in "
        "German and English Poetry\n\nAbstract: Most approaches to emotion analysis"
    )
    assert prompt.endswith("\n\nQuestion: Does the paper report macro F1?\nAnswer:")
    assert sum(len(str(item.prompt)) for item in whole) / 319 > 20_000


def test_papers_are_cut_in_the_middle_to_the_window(
    whole: list[Choice], evaluation_data: Path
) -> None:
    model = WordModel()
    setup = Setup(shots=0, evaluation_data=evaluation_data, model=model)
    for item, full in zip(TASK.items(setup), whole, strict=True):
        assert isinstance(item.prompt, str)
        assert isinstance(full.prompt, str)
        assert model.count_tokens(item.prompt) < model.context_window
        text, _, question = item.prompt.rpartition("\n\nQuestion: ")
        paper = full.prompt.rpartition("\n\nQuestion: ")[0]
        if model.count_tokens(paper) > model.context_window - RESERVED_TOKENS:
            assert paper.startswith(text[:1_000])
            assert paper.endswith(text[-1_000:])
            assert len(text) < len(paper)
        assert full.prompt.endswith(question)


def test_questions_on_one_paper_share_their_text(evaluation_data: Path) -> None:
    model = WordModel()
    setup = Setup(shots=0, evaluation_data=evaluation_data, model=model)
    texts: dict[str, set[str]] = {}
    for item in TASK.items(setup):
        paper = item.id.rpartition("_")[0]
        texts.setdefault(paper, set()).add(str(item.prompt).rpartition("\n\nQuestion: ")[0])
    assert all(len(found) == 1 for found in texts.values())
