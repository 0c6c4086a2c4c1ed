"""The metrics of LongBench on cases whose values follow from the official definitions by hand."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from deepseek.eval.longbench import metrics


def f1(precision: Fraction, recall: Fraction) -> float:
    return float(2 * precision * recall / (precision + recall))


def test_qa_f1() -> None:
    assert metrics.qa_f1("The Eiffel Tower!", "eiffel tower") == 1
    # "in", "paris" and "it", "was", "in", "paris", "france": 2 of 5 and 2 of 2.
    answer = metrics.qa_f1("It was in the Paris, France.", "in Paris")
    assert answer == pytest.approx(f1(Fraction(2, 5), Fraction(1)))
    # A word counts as often as both have it.
    assert metrics.qa_f1("no no no", "no no") == pytest.approx(f1(Fraction(2, 3), Fraction(1)))
    assert metrics.qa_f1("", "x") == metrics.qa_f1("x", "") == metrics.qa_f1("the", "a") == 0


def test_qa_f1_zh() -> None:
    # 北京 | 大学, and 我 | 爱 | 北京: 1 of 2, 1 of 3; a full stop is no word.
    score = metrics.qa_f1_zh("爱北京。", "我爱北京")
    assert score == pytest.approx(f1(Fraction(1), Fraction(2, 3)))
    assert metrics.qa_f1_zh("北京 ！", "北京") == 1
    assert metrics.qa_f1_zh("ABC", "abc") == 1
    assert metrics.qa_f1_zh("", "北京") == 0


def test_rouge_zh() -> None:
    # 我 | 来到 | 北京 against 我 | 爱 | 北京: two of three words on both sides.
    assert metrics.rouge_zh("我来到北京", "我爱北京") == pytest.approx(2 / 3, abs=1e-7)
    assert metrics.rouge_zh("", "北京") == 0


def test_classification() -> None:
    classes = ["Food", "Date", "Other number", "Number of something", "Other"]
    assert metrics.classification("Type: Date", "Date", classes) == 1
    assert metrics.classification("Food or Date", "Date", classes) == 1 / 2
    assert metrics.classification("Food", "Date", classes) == 0
    assert metrics.classification("date", "Date", classes) == 0
    # "Other" is only a part of the gold name and does not count against it.
    assert metrics.classification("Other number", "Other number", classes) == 1
    # Removed while the list is walked, a part hides the part behind it.
    assert metrics.classification("a ab abc", "abc", ["a", "ab", "abc"]) == 1 / 2


def test_numbers() -> None:
    assert metrics.count("17", "17") == 1
    assert metrics.count("17 of 30 or 17", "17") == pytest.approx(2 / 3)
    assert metrics.count("seventeen", "17") == 0
    assert metrics.count("017", "17") == 0
    assert metrics.retrieval("Paragraph 3, maybe 4", "Paragraph 3") == 1 / 2
    assert metrics.retrieval("Paragraph 13", "Paragraph 3") == 0
    assert metrics.retrieval_zh("段落3", "段落3") == 1
    assert metrics.retrieval_zh("3 5 7", "段落5") == pytest.approx(1 / 3)
    assert metrics.retrieval("3", "no number") == 0


def test_code_similarity() -> None:
    assert metrics.code_sim("return x", "return x") == 1
    assert metrics.code_sim("\n\n# note\n```python\n// c\nreturn x\nmore", "return x") == 1
    # "abcd" and "bcde" share "bcd": 2 * 3 / 8.
    assert metrics.code_sim("abcd", "bcde") == 0.75
    # 2 / 3 in whole percent.
    assert metrics.code_sim("ab", "a") == 0.67
    assert metrics.code_sim("# only a comment", "return x") == 0
    assert metrics.code_sim("", "return x") == 0
    # The first of the longest blocks is "a", with nothing of "bc" behind it: 2 * 1 / 6. An edit
    # distance would find "ba".
    assert metrics.code_sim("aba", "bca") == 0.33


def test_chinese_words_are_divided_in_silence(tmp_path: Path) -> None:
    """No message, no warning, and no cache file that others could replace."""
    code = (
        "import os, sys, tempfile\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "from deepseek.eval.longbench.metrics import qa_f1_zh\n"
        "assert qa_f1_zh('北京大学', '北京大学') == 1\n"
        "assert 'jieba' in sys.modules and not os.listdir(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_jieba_is_imported_only_when_needed() -> None:
    code = "import sys, deepseek.eval.tasks.longbench; assert 'jieba' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
