"""PIQA: which of two ways reaches a practical goal."""

from collections.abc import Iterator

from deepseek.eval.data import read_arrow
from deepseek.eval.fewshot import choice_item
from deepseek.eval.task import Choice, Setup, Task, grade_choice


def items(setup: Setup) -> Iterator[Choice]:
    """The validation split; the test split has no public answers."""
    for index, row in enumerate(read_arrow(setup, "piqa/plain_text", "validation")):
        yield choice_item(
            setup,
            f"Question: {row['goal']}\nAnswer:",
            (row["sol1"], row["sol2"]),
            id=str(index),
            gold=row["label"],
        )


TASK = Task(
    name="piqa",
    summary="which of two ways reaches a practical goal",
    protocol="lm-eval 0.4.13 `piqa`, which is SmolLM2's `piqa_harness` too: "
    "'Question: goal\\nAnswer:', likelier solution, acc_norm per character; validation split",
    metric="acc_norm",
    items=items,
    grade=grade_choice,
    licence="AFL 3.0",
)
