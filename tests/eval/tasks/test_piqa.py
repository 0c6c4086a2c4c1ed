"""PIQA."""

from pathlib import Path

from deepseek.eval.data import read_requests
from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.piqa import TASK


def test_all_goals(evaluation_data: Path) -> None:
    setup = Setup(shots=0, evaluation_data=evaluation_data)
    items = list(TASK.items(setup))
    assert len(items) == 1_838 == len({item.id for item in items})
    assert items[1] == Choice(
        id="1",
        prompt="Question: dresser\nAnswer:",
        choices=(" replace drawer with bobby pin ", " finish, woodgrain with  bobby pin "),
        gold=1,
    )
    # A second copy of the set, asked with "Goal:".
    for item, row in zip(items, read_requests(setup, "piqa/rc_0shot"), strict=True):
        assert item.prompt == f"Question: {row['goal']}\nAnswer:"
        assert item.choices == tuple(f" {choice}" for choice in row["choices"])
        assert item.gold == row["gold"]
