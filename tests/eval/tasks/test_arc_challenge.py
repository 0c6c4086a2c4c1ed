"""ARC-Challenge."""

from pathlib import Path

from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.arc_challenge import TASK


def test_all_questions(evaluation_data: Path) -> None:
    items = list(TASK.items(Setup(shots=0, evaluation_data=evaluation_data)))
    assert len(items) == 1_172
    assert items[0] == Choice(
        id="Mercury_7175875",
        prompt="Question: An astronomer observes that a planet rotates faster after a meteorite "
        "impact. Which is the most likely effect of this increase in rotation?\nAnswer:",
        choices=(
            " Planetary density will decrease.",
            " Planetary years will become longer.",
            " Planetary days will become shorter.",
            " Planetary gravity will become stronger.",
        ),
        gold=2,
        group="ARC-Challenge",
    )
