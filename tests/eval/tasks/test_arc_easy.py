"""ARC-Easy."""

from pathlib import Path

from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.arc_easy import TASK


def test_all_questions(evaluation_data: Path) -> None:
    items = list(TASK.items(Setup(shots=0, evaluation_data=evaluation_data)))
    assert len(items) == 2_376
    assert items[0] == Choice(
        id="Mercury_417466",
        prompt="Question: Which statement best explains why photosynthesis is the foundation of "
        "most food webs?\nAnswer:",
        choices=(
            " Sunlight is the source of energy for nearly all ecosystems.",
            " Most ecosystems are found on land instead of in water.",
            " Carbon dioxide is more available than other gases.",
            " The producers in all ecosystems are plants.",
        ),
        gold=0,
        group="ARC-Easy",
    )
