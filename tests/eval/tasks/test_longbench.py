"""LongBench on a small folder of its own kind."""

import json
from pathlib import Path
from typing import Any

import pytest
from word_model import WordModel, WordTokenModel

from deepseek.core.errors import RequestError
from deepseek.core.llm import Message
from deepseek.eval.task import Question, Setup
from deepseek.eval.tasks.longbench import TASK

STORY = " ".join(f"w{i}" for i in range(500))
ROWS: dict[str, list[dict[str, Any]]] = {
    "multifieldqa_zh": [{"input": "谁？", "context": "她。", "answers": ["她"]}],
    "hotpotqa": [
        {"input": "Where?", "context": "It was in Paris.", "answers": ["Paris", "in Paris"]},
        {"input": "Who?", "context": STORY, "answers": ["w3"]},
    ],
    "trec": [
        {
            "input": "Question: When?\nType:",
            "context": "Question: What?\nType: Food",
            "answers": ["Date"],
            "all_classes": ["Food", "Date"],
        }
    ],
    "lcc": [{"input": "", "context": "x = 1\n", "answers": ["y = 2"]}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def questions(folder: Path, **setup: Any) -> list[Question]:
    return list(TASK.items(Setup(shots=0, folder=folder, **setup)))


def test_items(folder: Path) -> None:
    found = questions(folder)
    assert [(item.id, item.group, item.max_tokens) for item in found] == [
        ("multifieldqa_zh/1", "multifieldqa_zh", 64),
        ("hotpotqa/1", "hotpotqa", 32),
        ("hotpotqa/2", "hotpotqa", 32),
        ("trec/1", "trec", 64),
        ("lcc/1", "lcc", 64),
    ]
    assert found[0].prompt == (
        "阅读以下文字并用中文简短回答：\n\n她。\n\n现在请基于上面的文章回答下面的问题，只告诉我答案，"
        "不要输出任何其他字词。\n\n问题：谁？\n回答："
    )
    assert found[3].prompt == (
        "Please determine the type of the question below. Here are some examples of questions.\n\n"
        "Question: What?\nType: Food\nQuestion: When?\nType:"
    )
    assert found[3].reference == {"answers": ["Date"], "classes": ["Food", "Date"]}
    assert json.loads(json.dumps(found[0].reference)) == found[0].reference
    assert not any(item.stop for item in found)


def test_few_shot_and_code_have_no_template(folder: Path) -> None:
    plain, chat = questions(folder), questions(folder, chat=True)
    for item, asked in zip(plain, chat, strict=True):
        is_plain = item.group in ("trec", "lcc")
        assert asked.prompt == (item.prompt if is_plain else [Message("user", str(item.prompt))])


@pytest.mark.parametrize("model", [WordModel(150), WordTokenModel(150)])
def test_long_prompts_lose_their_middle(folder: Path, model: WordModel) -> None:
    whole = questions(folder)[2].prompt
    cut = questions(folder, model=model)[2].prompt
    assert isinstance(cut, str)
    assert isinstance(whole, str)
    # 150 less 32 for the answer and two for special tokens.
    assert model.count_tokens(cut) in (115, 116)
    assert len(cut) < len(whole)
    half = len(cut) // 3
    assert whole.startswith(cut[:half])
    assert whole.endswith(cut[-half:])
    assert "w3 " in cut
    assert "w250" not in cut
    assert [str(item.prompt) for item in questions(folder, model=model)][1] == questions(folder)[
        1
    ].prompt


def test_grades(folder: Path) -> None:
    zh, first, _, trec, code = questions(folder)
    assert TASK.grade(zh, "她") == {"score": 100, "chinese": 100}
    assert TASK.grade(first, "in Paris, France") == {
        "score": pytest.approx(80),
        "english": pytest.approx(80),
    }
    assert TASK.grade(trec, "Date\nQuestion: Food?") == {"score": 100, "english": 100}
    assert TASK.grade(code, "y = 3") == {"score": 80, "code": 80}
    assert TASK.metric == "score"
    assert TASK.by_group


def test_data_is_asked_for() -> None:
    with pytest.raises(RequestError, match="longbench needs its data") as error:
        list(TASK.items(Setup(shots=0)))
    assert "--data" in error.value.hint
    assert "THUDM/LongBench" in error.value.hint
