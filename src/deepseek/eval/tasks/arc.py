"""ARC: science questions of school exams; both parts, or each by its own task."""

from collections.abc import Iterator

from deepseek.eval.data import read_arrow, read_requests
from deepseek.eval.fewshot import Example, choice_item
from deepseek.eval.task import Choice, Setup, Task, grade_choice

PARTS = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}
PROTOCOL = (
    "lm-eval 0.4.13 `{task}`: 'Question: …\\nAnswer:', likeliest answer text, acc_norm per "
    "character; test split, {mean}; examples, if any, are the first of the validation split"
)


def part_items(setup: Setup, part: str) -> Iterator[Choice]:
    """The test questions of `arc_easy` or `arc_challenge`."""
    name = PARTS[part]
    examples = solved_examples(setup, name) if setup.shots else []
    for row in read_requests(setup, f"{part}/test_rc_5shot"):
        yield choice_item(
            setup,
            row["query"],
            row["choices"],
            id=row["id"],
            gold=row["gold"],
            group=name,
            examples=examples,
        )


def solved_examples(setup: Setup, name: str) -> list[Example]:
    """The first questions of the validation split with their answers."""
    examples = []
    for row in read_arrow(setup, f"ai2_arc/{name}", "validation")[: setup.shots]:
        right = row["choices"]["label"].index(row["answerKey"])
        question = f"Question: {row['question']}\nAnswer:"
        examples.append(Example(question, row["choices"]["text"][right]))
    return examples


def items(setup: Setup) -> Iterator[Choice]:
    """The test questions of both parts."""
    for part in PARTS:
        yield from part_items(setup, part)


def part_task(part: str, summary: str) -> Task:
    """The task of one part."""
    return Task(
        name=part,
        summary=summary,
        protocol=PROTOCOL.format(task=part, mean="mean over questions"),
        metric="acc_norm",
        items=lambda setup: part_items(setup, part),
        grade=grade_choice,
        max_shots=25,
        licence="CC BY-SA 4.0",
    )


TASK = Task(
    name="arc",
    summary="science questions of school exams, easy and hard ones",
    protocol=PROTOCOL.format(task="arc_easy and arc_challenge", mean="mean of the two parts"),
    metric="acc_norm",
    items=items,
    grade=grade_choice,
    max_shots=25,
    by_group=True,
    licence="CC BY-SA 4.0",
)
