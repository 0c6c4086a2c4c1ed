"""MBPP from its authors' file: prompts, grading, and files that are something else."""

import json

import pytest

from deepseek.core.errors import RequestError
from deepseek.eval.code import grade_code
from deepseek.eval.task import Setup
from deepseek.eval.tasks.mbpp_sanitized import NAME
from deepseek.eval.tasks.table import find_task

PROBLEM = {
    "source_file": "a notebook",
    "task_id": 7,
    "prompt": "Write a function to find the area of a circle.",
    "code": "import math\ndef area(r):\n    return math.pi * r * r",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(area(1), math.pi)", "assert area(0) == 0"],
}
TASK = find_task("mbpp_sanitized")


def read(path, rows):
    path.write_text(json.dumps(rows))
    return list(TASK.items(Setup(shots=0, folder=path)))


def test_problem_is_asked_with_its_first_test(tmp_path):
    (item,) = read(tmp_path / NAME, [PROBLEM])
    words = f'"""\n{PROBLEM["prompt"]}\n{PROBLEM["test_list"][0]}\n"""'
    assert words in item.prompt[0].content
    assert item.reference["names"] == ["area"]
    assert grade_code(item, PROBLEM["code"]) == {"pass@1": 1.0}
    assert grade_code(item, "def area(r):\n    return 3 * r * r") == {"pass@1": 0.0}


def test_a_folder_is_searched(tmp_path):
    read(tmp_path / NAME, [PROBLEM])
    assert len(list(TASK.items(Setup(shots=0, folder=tmp_path)))) == 1


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [1],
        [{**PROBLEM, "prompt": None}],
        [{**PROBLEM, "task_id": "7"}],
        [{**PROBLEM, "test_list": []}],
        [{**PROBLEM, "test_list": [3]}],
        [{**PROBLEM, "code": "def area(r:"}],
    ],
)
def test_another_file_is_said_to_be_one(tmp_path, rows):
    with pytest.raises(RequestError):
        read(tmp_path / "other.json", rows)


def test_no_json_and_no_file_are_errors(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    for name in ("x.json", "absent.json"):
        with pytest.raises(RequestError, match="cannot be read"):
            list(TASK.items(Setup(shots=0, folder=tmp_path / name)))
