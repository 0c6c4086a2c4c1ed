"""Prompts with solved examples before the question, joined as lm-eval joins them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepseek.eval.task import Choice, Setup, as_prompt


@dataclass(frozen=True, slots=True)
class Example:
    """A question as it is asked, with its answer as it should be given."""

    question: str
    answer: str


def with_examples(question: str, examples: Sequence[Example], description: str = "") -> str:
    """A description, each example with its answer after a space, and the question."""
    solved = "".join(f"{example.question} {example.answer}\n\n" for example in examples)
    return f"{description}{solved}{question}"


def choice_item(
    setup: Setup,
    question: str,
    answers: Sequence[str],
    *,
    id: str,
    gold: int,
    group: str = "",
    examples: Sequence[Example] = (),
    description: str = "",
) -> Choice:
    """A question whose possible answers are compared by their likelihood.

    In plain text an answer continues the question after one space. A chat template ends with a
    line break, after which an answer begins at once: lm-eval's rule for `--apply_chat_template`.
    """
    text = with_examples(question, examples, description)
    joint = "" if setup.chat else " "
    return Choice(
        id=id,
        prompt=as_prompt(text, setup),
        choices=tuple(f"{joint}{answer}" for answer in answers),
        gold=gold,
        group=group,
    )


def examples_before(rows: Sequence[dict[str, Any]]) -> tuple[list[Example], str]:
    """The solved examples that stand before every question of a task of the evaluation data.

    Args:
        rows: As `deepseek.eval.data.read_rows` gives them. All share the same examples, each a
            paragraph that ends in an `Answer:`.

    Returns:
        The examples, and the description before them, empty if there is none.
    """
    contexts = [row["request"]["context"] for row in rows[:2]]
    shared = contexts[0].rpartition("\n\n")[0]
    assert all(context.startswith(f"{shared}\n\n") for context in contexts)
    paragraphs = shared.split("\n\n")
    has_description = "\nAnswer:" not in paragraphs[0]
    description = f"{paragraphs.pop(0)}\n\n" if has_description else ""
    examples = []
    for paragraph in paragraphs:
        question, marker, answer = paragraph.rpartition("\nAnswer: ")
        examples.append(Example(question + marker.rstrip(), answer))
    return examples, description
