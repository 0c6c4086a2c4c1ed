"""Code in a model's answer: how it is asked for, found and tested."""

import ast
import threading
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from deepseek.core.llm import Message
from deepseek.eval.sandbox import Limits, Program, run_tests
from deepseek.eval.task import Grades, Question

INSTRUCTION = (
    "Please provide a self-contained Python script that solves the following problem "
    "in a markdown code block:"
)
OPENING = (
    "Below is a Python script with a self-contained function that solves the problem "
    "and passes corresponding tests:"
)
CHAT_STOP = (
    "<|endoftext|>",
    "<|endofmask|>",
    "</s>",
    "\nif __name__",
    "\ndef main(",
    "\nprint(",
    "\n```\n",
)
"""evalplus's words and stop strings."""
MAX_CHAT_TOKENS = 768
MAX_TRIES = 2_000
"""Parses in the search for code, so that an endless answer costs no endless time."""

LIMITS = Limits()
LIMITS_IN_WORDS = (
    f"own sandbox, {LIMITS.seconds} s of processor time"
    f" and {LIMITS.memory_bytes >> 30} GB a program"
)

_warnings_lock = threading.Lock()


def ask_for_code(problem: str) -> list[Message]:
    """A conversation in evalplus's form, in which the model is to go on inside a code block."""
    return [
        Message("user", f"{INSTRUCTION}\n```\n{problem.strip()}\n```\n"),
        Message("assistant", f"{OPENING}\n```python\n"),
    ]


def reference_of(names: Sequence[str], tests: str, preamble: str = "") -> dict[str, Any]:
    """What `grade_code` needs, as plain data."""
    return {"names": list(names), "tests": tests, "preamble": preamble}


def grade_code(item: Question, code: str) -> Grades:
    """Whether code passes the tests of an item."""
    program = Program(
        code=code,
        names=tuple(item.reference["names"]),
        tests=item.reference["tests"],
        preamble=item.reference["preamble"],
    )
    return {"pass@1": float(run_tests(program, LIMITS).passed)}


def grade_answer(item: Question, answer: str) -> Grades:
    """Whether the code in an answer in words passes the tests of an item."""
    return grade_code(item, extract_code(answer, item.reference["names"]))


def extract_code(text: str, names: Collection[str]) -> str:
    """The definitions in a text that some names need, as evalplus finds them.

    Of the longest run of lines that is Python: all imports, and the functions, classes and
    assignments that can be reached from the names. Prose, examples and `if __name__` go. Code
    in which nothing defines the names is given back as it is, to fail by its own fault.
    """
    code = _longest_code(text.replace("\r\n", "\n").replace("\t", "    "))
    tree, _ = parse_code(code)
    assert tree is not None
    statements = [(node, _defined(node)) for node in _without_repeats(tree.body)]
    needed = _reachable(names, statements)
    if not needed:
        return code
    numbers = {
        number
        for node, defined in statements
        if isinstance(node, ast.Import | ast.ImportFrom) or defined & needed
        for number in range(_first_line(node), (node.end_lineno or node.lineno) + 1)
    }
    lines = code.split("\n")
    return "\n".join(lines[number - 1] for number in sorted(numbers))


def parse_code(code: str) -> tuple[ast.Module | None, int]:
    """The tree, or the line at which there is none; 0 if that is not known."""
    # Warnings about the model's code, e.g. of "\d", are nothing that the user has to see.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code), 0
        except SyntaxError as error:
            return None, error.lineno or 0
        except (ValueError, MemoryError, RecursionError):
            return None, 0


def _longest_code(text: str) -> str:
    """The run with the most lines that are not blank among those that parse."""
    lines = text.split("\n")
    filled = [bool(line.strip()) for line in lines]
    best, best_count, tries = "", 0, 0
    for start in range(len(lines)):
        end = len(lines)
        while sum(filled[start:end]) > best_count and tries < MAX_TRIES:
            tries += 1
            run = "\n".join(lines[start:end])
            tree, wrong = parse_code(run)
            if tree is not None:
                best, best_count = run, sum(filled[start:end])
            # What holds the wrong line is wrong too, however it goes on.
            end = min(end - 1, start + wrong - 1) if wrong else end - 1
    return best


def _without_repeats(body: list[ast.stmt]) -> list[ast.stmt]:
    """Of functions of one name only the first that gives a value: others are stubs or repeats."""
    chosen: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            node.name not in chosen or not _gives_a_value(chosen[node.name])
        ):
            chosen[node.name] = node
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [n for n in body if not isinstance(n, functions) or chosen[n.name] is n]


def _gives_a_value(node: ast.stmt) -> bool:
    return any(isinstance(n, ast.Return | ast.Yield | ast.YieldFrom) for n in ast.walk(node))


def _defined(node: ast.stmt) -> set[str]:
    """What a statement at the top level defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {name for target in node.targets for name in _names_in(target)}
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        return _names_in(node.target)
    return set()


def _names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _first_line(node: ast.stmt) -> int:
    """Where a statement begins, decorators included."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.lineno


def _reachable(names: Collection[str], statements: list[tuple[ast.stmt, set[str]]]) -> set[str]:
    """The names that are defined, and all that their definitions mention in turn."""
    uses: dict[str, set[str]] = {}
    for node, defined in statements:
        for name in defined:
            uses.setdefault(name, set()).update(_names_in(node))
    found: set[str] = set()
    queue = [name for name in names if name in uses]
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += uses[name] & uses.keys()
    return found
