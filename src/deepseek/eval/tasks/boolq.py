"""BoolQ: yes or no, from a paragraph of Wikipedia."""

from collections.abc import Iterator

from deepseek.eval.data import read_requests
from deepseek.eval.fewshot import choice_item
from deepseek.eval.task import Choice, Setup, Task, grade_choice

ANSWERS = ("no", "yes")


def items(setup: Setup) -> Iterator[Choice]:
    """The validation split; the test split has no public answers."""
    for row in read_requests(setup, "boolq/rc_0shot"):
        yield choice_item(
            setup,
            row["query"],
            ANSWERS,
            id=str(row["idx"]),
            gold=ANSWERS.index(row["choices"][row["gold"]]),
        )


TASK = Task(
    name="boolq",
    summary="yes-or-no questions on a paragraph",
    protocol="lm-eval 0.4.13 `boolq` (SuperGLUE's text with the title): paragraph, "
    "'Question: …?\\nAnswer:', likelier of ' no' and ' yes'; validation split",
    metric="acc",
    items=items,
    grade=grade_choice,
    licence="CC BY-SA 3.0",
)
