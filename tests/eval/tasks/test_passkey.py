"""Passkeys at lengths and depths."""

from collections import Counter

import pytest
from word_model import WordModel

from deepseek.eval.task import Question, Setup
from deepseek.eval.tasks.passkey import DEPTHS, GARBAGE, TASK


def questions(*lengths: int, seed: int = 0) -> list[Question]:
    return list(TASK.items(Setup(shots=0, model=WordModel(), lengths=lengths, seed=seed)))


def test_in_full() -> None:
    item = questions(150)[23]
    assert item.prompt == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize"
        " them. I will quiz you about the important information there.\n"
        f"{GARBAGE} {GARBAGE}\nThe pass key is 27683. Remember it. 27683 is the pass key.\n"
        f"{GARBAGE} {GARBAGE}\nWhat is the pass key? The pass key is"
    )
    assert (item.id, item.group, item.reference, item.max_tokens) == (
        *("150/50/3", "150/50", "27683"),
        10,
    )


def test_the_grid() -> None:
    found = questions(256, 2_000)
    assert list(Counter(item.group for item in found).items()) == [
        (f"{length}/{depth}", 10) for length in (256, 2_000) for depth in DEPTHS
    ]
    for item in found:
        length, depth = map(int, item.group.split("/"))
        text = str(item.prompt)
        assert length - 20 < len(text.split()) + 12 <= length
        before, _, after = text.partition(f"The pass key is {item.reference}.")
        sentences = before.count(GARBAGE), after.count(GARBAGE)
        assert sentences[0] == sum(sentences) * depth // 100


def test_the_seed_decides() -> None:
    assert questions(300) == questions(300)
    keys = [item.reference for item in questions(300)]
    assert len(set(keys)) == 50
    assert keys != [item.reference for item in questions(300, seed=1)]


@pytest.mark.parametrize(
    ("answer", "acc"),
    [
        (" 71432. Remember", 1),
        ("the pass key is 71432", 1),
        ("071432", 1),
        ("7143", 0),
        ("1 or 71432", 0),
        ("", 0),
        ("9" * 10_000, 0),
    ],
)
def test_the_first_number_counts(answer: str, acc: float) -> None:
    item = Question(id="1", prompt="", reference="71432", max_tokens=10)
    assert TASK.grade(item, answer) == {"acc": acc}
