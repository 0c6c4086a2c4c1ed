"""MMLU's answer texts as SmolLM2's makers score them."""

from pathlib import Path

from deepseek.core.llm import Score
from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.mmlu_cloze import TASK


def test_all_questions(evaluation_data: Path) -> None:
    items = list(TASK.items(Setup(shots=0, evaluation_data=evaluation_data)))
    assert len(items) == 14_042 == len({item.id for item in items})
    assert items[0] == Choice(
        id="abstract_algebra/0",
        prompt="The following are questions about abstract algebra.\nQuestion: Find the degree "
        "for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\nAnswer:",
        choices=(" 0", " 4", " 2", " 6"),
        gold=1,
        group="abstract_algebra",
    )


def test_the_length_that_counts_leaves_out_the_joining_space() -> None:
    item = Choice(id="0", prompt="?", choices=(" ab", " abcd"), gold=1)
    # By characters without the space: -2/2 against -3.9/4; with it: -2/3 against -3.9/5.
    grades = TASK.grade(item, [Score(-2.0, 1, False), Score(-3.9, 1, False)])
    assert grades["acc_norm"] == 1
    assert grades["acc"] == 0
    assert grades["acc_bytes"] == 0
