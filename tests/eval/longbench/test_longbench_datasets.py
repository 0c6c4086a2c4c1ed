"""The 21 datasets: official prompts, lengths, metrics and what is done to the answers."""

import hashlib
import json
from collections import Counter

import pytest

from deepseek.eval.longbench import metrics
from deepseek.eval.longbench.datasets import DATASETS, prompt_of, score_of

OFFICIAL_PROMPTS = "bb89f011861ff65f8534f366632b99cc9d5681ae983c50f2537230faae16613f"
"""SHA-256 of the official dataset2prompt.json, its keys sorted."""


def test_prompts_are_the_official_ones() -> None:
    table = {name: dataset.prompt for name, dataset in DATASETS.items()}
    text = json.dumps(table, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == OFFICIAL_PROMPTS


def test_a_prompt_in_full() -> None:
    assert prompt_of("hotpotqa", "Passage 1:\n{x}", "Who?") == (
        "Answer the question based on the given passages. Only give me the answer and do not output"
        " any other words.\n\nThe following are given passages.\nPassage 1:\n{x}\n\nAnswer the"
        " question based on the given passages. Only give me the answer and do not output any other"
        " words.\n\nQuestion: Who?\nAnswer:"
    )
    assert prompt_of("repobench-p", "a.py\n", "x = 1\n") == (
        "Please complete the code given below. \na.py\nx = 1\nNext line of code:\n"
    )


def test_lengths_of_answers() -> None:
    assert {name: dataset.max_tokens for name, dataset in DATASETS.items()} == {
        **dict.fromkeys(("narrativeqa", "qasper", "dureader", "samsum"), 128),
        **dict.fromkeys(("multifieldqa_en", "multifieldqa_zh", "trec", "lsht"), 64),
        **dict.fromkeys(("lcc", "repobench-p"), 64),
        **dict.fromkeys(("hotpotqa", "2wikimqa", "musique", "triviaqa", "passage_count"), 32),
        **dict.fromkeys(("passage_retrieval_en", "passage_retrieval_zh"), 32),
        **dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), 512),
    }


def test_metrics() -> None:
    used: dict[metrics.Metric, set[str]] = {}
    for name, dataset in DATASETS.items():
        used.setdefault(dataset.metric, set()).add(name)
    assert used == {
        metrics.qa_f1: {
            *("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"),
            "triviaqa",
        },
        metrics.qa_f1_zh: {"multifieldqa_zh"},
        metrics.rouge: {"gov_report", "qmsum", "multi_news", "samsum"},
        metrics.rouge_zh: {"dureader", "vcsum"},
        metrics.classification: {"trec", "lsht"},
        metrics.retrieval: {"passage_retrieval_en"},
        metrics.retrieval_zh: {"passage_retrieval_zh"},
        metrics.count: {"passage_count"},
        metrics.code_sim: {"lcc", "repobench-p"},
    }


def test_languages_and_few_shot() -> None:
    assert Counter(d.language for d in DATASETS.values()) == {
        "english": 14,
        "chinese": 5,
        "code": 2,
    }
    few_shot = {name for name, dataset in DATASETS.items() if dataset.is_few_shot}
    assert few_shot == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert {name for name, d in DATASETS.items() if d.first_line} == few_shot - {
        "lcc",
        "repobench-p",
    }


@pytest.mark.parametrize(
    ("name", "prediction", "answers", "score"),
    [
        ("triviaqa", "\n\nParis\nQuestion: and Rome?", ["Rome", "Paris"], 100),
        ("hotpotqa", "Paris\nRome", ["Rome", "Paris"], 100 * 2 / 3),
        ("trec", "Date\nFood", ["Date"], 100),
        ("passage_count", "5 or 6", ["6"], 50),
        ("lcc", "x = 1\ny = 2", ["x = 1"], 100),
        ("qasper", "no", ["yes", "unanswerable"], 0),
    ],
)
def test_scores(name: str, prediction: str, answers: list[str], score: float) -> None:
    assert score_of(name, prediction, answers, ["Date", "Food"]) == pytest.approx(score)
