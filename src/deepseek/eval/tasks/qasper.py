"""Qasper: yes-or-no questions on whole papers."""

from collections.abc import Iterator
from typing import Any

from deepseek.eval.data import read_requests
from deepseek.eval.fewshot import choice_item
from deepseek.eval.task import Choice, Setup, Task, cut_middle, grade_choice

RESERVED_TOKENS = 256
"""Left free for the question (at most 123 characters), the answer and a chat template."""


def paper_text(doc: dict[str, Any]) -> str:
    """A paper from its title to its last section."""
    sections = zip(doc["full_text"]["section_name"], doc["full_text"]["paragraphs"], strict=True)
    parts = [f"Title: {doc['title']}", f"Abstract: {doc['abstract']}"]
    for name, paragraphs in sections:
        parts += [part for part in (name, *paragraphs) if part]
    return "\n\n".join(parts)


def items(setup: Setup) -> Iterator[Choice]:
    """The questions; those on one paper stand together and share its text."""
    text, of_paper = "", ""
    for doc in read_requests(setup, "qasper_yesno/rc_5shot"):
        paper, _, _ = doc["id"].rpartition("_")
        if paper != of_paper:
            of_paper, text = paper, paper_text(doc)
            if setup.model is not None:
                room = setup.model.context_window - RESERVED_TOKENS
                text = cut_middle(text, room, setup.model)
        yield choice_item(
            setup,
            f"{text}\n\nQuestion: {doc['question']}\nAnswer:",
            doc["choices"],
            id=doc["id"],
            gold=doc["gold"],
        )


TASK = Task(
    name="qasper",
    summary="yes-or-no questions on whole papers",
    protocol="319 questions of Qasper that have a yes-or-no answer (67.4 % yes), "
    "asked after the whole paper, its middle cut to the model's window; likelier of ' Yes' and "
    "' No'",
    metric="acc",
    items=items,
    grade=grade_choice,
    licence="CC BY 4.0",
)
