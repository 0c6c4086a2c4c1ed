"""Values of keys in JSON objects."""

import json

import pytest
from word_model import WordModel

from deepseek.eval.task import Question, Setup
from deepseek.eval.tasks.infinitebench_kv import TASK


def questions(*lengths: int, seed: int = 0) -> list[Question]:
    return list(TASK.items(Setup(shots=0, model=WordModel(), lengths=lengths, seed=seed)))


def parts(item: Question) -> tuple[dict[str, str], str]:
    """The object and the key of a prompt that must be InfiniteBench's."""
    head, data, asked = str(item.prompt).split("\n\n")
    assert head == "Extract the value corresponding to the specified key in the JSON object below."
    key, question = asked.split("\n")
    assert question == "The value associated with the specified key is: "
    pairs = json.loads(data.removeprefix("JSON data:\n"))
    return pairs, key.removeprefix('Key: "').removesuffix('"')


def test_in_full() -> None:
    item = questions(80)[4]
    assert item.prompt == (
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        'JSON data:\n{"a4aff9ee-bcb6-4d82-8d88-1112ae6f8f49":'
        ' "4cd23e1e-adb5-404e-a0b5-81cec193d48b"}\n\n'
        'Key: "a4aff9ee-bcb6-4d82-8d88-1112ae6f8f49"\n'
        "The value associated with the specified key is: "
    )
    assert (item.id, item.group, item.reference) == (
        *("80/4", "80"),
        "4cd23e1e-adb5-404e-a0b5-81cec193d48b",
    )


def test_keys_stand_at_all_depths() -> None:
    found = questions(200, 2_000)
    assert [item.group for item in found] == ["200"] * 10 + ["2000"] * 10
    for i, item in enumerate(found):
        pairs, key = parts(item)
        assert pairs[key] == item.reference
        assert list(pairs).index(key) == len(pairs) * (i % 10) // 10
        length = int(item.group)
        assert length - 2 <= len(str(item.prompt).split()) + 52 <= length
        assert item.max_tokens == 50


def test_the_seed_decides() -> None:
    assert questions(200) == questions(200)
    other = {item.reference for item in questions(200, seed=1)}
    assert not other & {item.reference for item in questions(200)}


@pytest.mark.parametrize(
    ("answer", "acc"),
    [
        ('"ab-1".', 1),
        ("It is ab-1", 1),
        ("cd-2 or\nab-1!", 1),
        ("AB-1", 0),
        ("ab-12", 0),
        ("ab -1", 0),
        ("", 0),
    ],
)
def test_the_value_must_be_a_word(answer: str, acc: float) -> None:
    item = Question(id="1", prompt="", reference="ab-1", max_tokens=50)
    assert TASK.grade(item, answer) == {"acc": acc}
