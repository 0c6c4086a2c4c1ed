"""MMLU without showing the options: the likeliest answer text, as SmolLM2's makers score it."""

from collections.abc import Iterator

from deepseek.eval.data import read_arrow
from deepseek.eval.fewshot import choice_item
from deepseek.eval.task import Choice, Setup, Task, grade_choice
from deepseek.eval.tasks.mmlu import DATA, SUBJECTS


def items(setup: Setup) -> Iterator[Choice]:
    """The test questions."""
    for subject in SUBJECTS:
        about = subject.replace("_", " ")
        for index, row in enumerate(read_arrow(setup, f"{DATA}/{subject}", "test")):
            yield choice_item(
                setup,
                f"The following are questions about {about}.\nQuestion: {row['question']}\nAnswer:",
                row["choices"],
                id=f"{subject}/{index}",
                gold=row["answer"],
                group=subject,
            )


TASK = Task(
    name="mmlu_cloze",
    summary="exam questions on 57 subjects without their options",
    protocol="SmolLM2's `mmlu_cloze_prompt` for lighteval: subject line, question, likeliest "
    "answer text per character without its leading space; test split, mean over questions",
    metric="acc_norm",
    items=items,
    grade=grade_choice,
    licence="MIT",
)
