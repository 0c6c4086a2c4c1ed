"""HellaSwag with lm-eval's cleaning."""

import re
from pathlib import Path

from deepseek.eval.data import read_requests
from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.hellaswag import TASK, cleaned


def one_stop(text: str) -> str:
    return re.sub(r"\.+", ".", text)


def test_all_scenes(evaluation_data: Path) -> None:
    setup = Setup(shots=0, evaluation_data=evaluation_data)
    items = list(TASK.items(setup))
    assert len(items) == 10_042 == len({item.id for item in items})
    assert items[0] == Choice(
        id="0",
        prompt="Roof shingle removal: A man is sitting on a roof. He",
        choices=(
            " is using wrap to wrap a pair of skis.",
            " is ripping level tiles off.",
            " is holding a rubik's cube.",
            " starts pulling up roofing on a roof.",
        ),
        gold=3,
    )


def test_another_copy_cleaned_by_others_is_the_same(evaluation_data: Path) -> None:
    setup = Setup(shots=0, evaluation_data=evaluation_data)
    theirs = read_requests(setup, "hellaswag/rc_0shot")
    for item, row in zip(TASK.items(setup), theirs, strict=True):
        assert item.gold == row["gold"]
        # They also mend the two stops that lm-eval leaves where a title began.
        assert one_stop(item.prompt) == one_stop(row["query"])
        theirs_joined = [f" {choice}" for choice in row["choices"]]
        assert [*map(one_stop, item.choices)] == [*map(one_stop, theirs_joined)]


def test_marks_of_wikihow_go() -> None:
    text = " [header] How to knit [title] Buy wool. [substeps]  Take  two balls. "
    # As lm-eval 0.4.13's `preprocess` gives it, whose spaces at the ends come from the marks.
    assert cleaned(text) == " How to knit. Buy wool.  Take two balls."
