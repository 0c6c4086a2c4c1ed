"""Code is found in answers as people and models write them."""

import random
import warnings

import pytest

from deepseek.core.llm import Message
from deepseek.eval.code import _longest_code, ask_for_code, extract_code, parse_code

ADD = "def add(a, b):\n    return a + b"

ANSWERS = {
    "as asked: the block goes on and ends": (f"{ADD}\n```", ADD),
    "the block is not ended": (f"{ADD}\n", ADD),
    "a block of its own with words around": (
        f"Here is the function:\n\n```python\n{ADD}\n```\n\nIt adds two numbers. Enjoy!",
        ADD,
    ),
    "imports stay": (
        f"import math\nfrom typing import List\n\n{ADD}",
        f"import math\nfrom typing import List\n{ADD}",
    ),
    "helpers that are used stay, others go": (
        "def unused(x):\n    return x\n\ndef plus(a, b):\n    return a + b\n\n"
        "def add(a, b):\n    return plus(a, b)\n\ndef test():\n    return add(1, 2)",
        "def plus(a, b):\n    return a + b\ndef add(a, b):\n    return plus(a, b)",
    ),
    "constants and classes that are used stay": (
        "ZERO = 0\nONE: int = 1\nOTHER = 2\nclass Box:\n    start = ZERO\n\n"
        "def add(a, b):\n    return Box.start + a + b",
        "ZERO = 0\nclass Box:\n    start = ZERO\ndef add(a, b):\n    return Box.start + a + b",
    ),
    "a decorator belongs to its function": (
        f"from functools import cache\n@cache\n{ADD}\nprint(add(1, 2))",
        f"from functools import cache\n@cache\n{ADD}",
    ),
    "main blocks, asserts and examples go": (
        f"{ADD}\n\nassert add(1, 2) == 3\nprint(add(1, 2))\n"
        "if __name__ == '__main__':\n    add(1, 2)",
        ADD,
    ),
    "the stub of the problem is repeated first": (
        f'def add(a, b):\n    """Add."""\n\n{ADD}\n',
        ADD,
    ),
    "a second try in a second block": (
        f"```python\n{ADD}\n```\nOr shorter:\n```python\nadd = sum\n```",
        ADD,
    ),
    "cut off in the middle of the next function": (
        f"{ADD}\n\ndef more(x):\n    for i in range(x):\n        if i",
        ADD,
    ),
    "cut off in the function itself": ("def add(a, b):\n    c = (a +", ""),
    "words only": ("I am sorry, but I cannot help with that!", ""),
    "nothing": ("", ""),
    "another name": ("def plus(a, b):\n    return a + b\n", "def plus(a, b):\n    return a + b\n"),
    "tabs": ("def add(a, b):\n\treturn a + b", ADD),
    "line ends of Windows": ("def add(a, b):\r\n    return a + b\r\n", ADD),
    "a generator is a function, too": (
        "def add(a, b):\n    yield a + b",
        "def add(a, b):\n    yield a + b",
    ),
    "changed in place, without a return": (
        "def add(a, b):\n    a.append(b)",
        "def add(a, b):\n    a.append(b)",
    ),
    "a lambda": ("add = lambda a, b: a + b\n```", "add = lambda a, b: a + b"),
    "a fence in a docstring": (
        'def add(a, b):\n    """Add.\n    ```\n    add(1, 2)\n    ```\n    """\n'
        "    return a + b\n```",
        'def add(a, b):\n    """Add.\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b',
    ),
    "a bad escape is no reason to warn": (
        "import re\ndef add(a, b):\n    return re.sub('\\d', a, b)",
        "import re\ndef add(a, b):\n    return re.sub('\\d', a, b)",
    ),
    "nul bytes": (f"\0\n{ADD}", ADD),
    "nested too deeply": ("(" * 500 + f"\n{ADD}", ADD),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_code_is_found(name):
    text, code = ANSWERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract_code(text, ["add"]).rstrip("\n") == code.rstrip("\n")


def test_what_is_found_is_found_again():
    for text, _ in ANSWERS.values():
        code = extract_code(text, ["add"])
        assert extract_code(code, ["add"]).strip() == code.strip()


def test_search_skips_no_run_that_parses():
    """Against trying every run of lines, on answers that are torn and mixed."""
    pool = [line for text, _ in ANSWERS.values() for line in text.split("\n")]
    pool += ["'''", '"""', "x = [", "]", "if x:", "    pass", "else:", "\\", "f(1,", ")", "# no"]
    generator = random.Random(0)
    for _ in range(300):
        lines = generator.choices(pool, k=generator.randint(1, 12))
        best = 0
        for start in range(len(lines)):
            for end in range(start + 1, len(lines) + 1):
                if parse_code("\n".join(lines[start:end]))[0] is not None:
                    best = max(best, sum(bool(line.strip()) for line in lines[start:end]))
        found = _longest_code("\n".join(lines))
        assert sum(bool(line.strip()) for line in found.split("\n")) == best, lines


def test_several_names_are_kept():
    code = f"class Node:\n    pass\n\n{ADD}\n\ndef other():\n    return 1"
    assert extract_code(code, ["Node", "add"]) == f"class Node:\n    pass\n{ADD}"


def test_endless_answers_take_no_endless_time():
    text = "\n".join(f"x{n} = (" for n in range(3000))
    assert extract_code(f"{ADD}\n{text}", ["add"]) in (ADD, "")


def test_question_in_evalplus_words():
    assert ask_for_code("def f():\n    '''Do.'''\n\n") == [
        Message(
            "user",
            "Please provide a self-contained Python script that solves the following problem "
            "in a markdown code block:\n```\ndef f():\n    '''Do.'''\n```\n",
        ),
        Message(
            "assistant",
            "Below is a Python script with a self-contained function that solves the problem "
            "and passes corresponding tests:\n```python\n",
        ),
    ]
