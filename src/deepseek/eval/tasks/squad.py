"""SQuAD: short answers that stand in a paragraph of Wikipedia."""

from collections.abc import Iterator

from deepseek.eval.answers import best_f1, exact_match
from deepseek.eval.data import read_rows
from deepseek.eval.fewshot import examples_before, with_examples
from deepseek.eval.task import Grades, Question, Setup, Task, as_prompt

MAX_TOKENS = 50


def items(setup: Setup) -> Iterator[Question]:
    """1,000 questions of the development set."""
    rows = read_rows(setup, "squad/bpb_5shot")
    examples, description = examples_before(rows)
    for row in rows:
        text = with_examples(row["doc"]["query"], examples[: setup.shots], description)
        yield Question(
            id=row["doc"]["id"],
            prompt=as_prompt(text, setup),
            reference=row["doc"]["answers_text"],
            max_tokens=MAX_TOKENS,
            stop=("\n",),
        )


def grade(item: Question, answer: str) -> Grades:
    """Exact match and overlap of words with the nearest gold answer."""
    return {
        "exact_match": exact_match(answer, item.reference),
        "f1": best_f1(answer, item.reference),
    }


TASK = Task(
    name="squad",
    summary="questions whose answers stand in a paragraph",
    protocol="AI2's prompt: title, 'Background:', 'Question:', 'Answer:', five fixed examples; "
    "greedy, first line; SQuAD v1.1's normalisation, best of all gold answers; "
    "1,000 questions of the v1.1 development set",
    metric="f1",
    items=items,
    grade=grade,
    shots=5,
    max_shots=5,
    licence="CC BY-SA 4.0",
)
