"""MMLU: 57 subjects, four options shown, the likeliest letter is the answer."""

from collections.abc import Iterator
from typing import Any

from deepseek.eval.data import read_arrow
from deepseek.eval.fewshot import Example, choice_item
from deepseek.eval.task import Choice, Setup, Task, grade_choice

DATA = "hails/mmlu_no_train"
SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
college_chemistry college_computer_science college_mathematics college_medicine college_physics
computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality international_law
jurisprudence logical_fallacies machine_learning management marketing medical_genetics
miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory
professional_accounting professional_law professional_medicine professional_psychology
public_relations security_studies sociology us_foreign_policy virology world_religions
""".split()
LETTERS = "ABCD"


def question_text(row: dict[str, Any]) -> str:
    """A question with its four options."""
    options = "".join(f"{k}. {v}\n" for k, v in zip(LETTERS, row["choices"], strict=True))
    return f"{row['question'].strip()}\n{options}Answer:"


def items(setup: Setup) -> Iterator[Choice]:
    """The test questions; those of a subject stand together and share their beginning."""
    for subject in SUBJECTS:
        name = f"{DATA}/{subject}"
        about = subject.replace("_", " ")
        solved = read_arrow(setup, name, "dev")[: setup.shots] if setup.shots else []
        examples = [Example(question_text(row), LETTERS[row["answer"]]) for row in solved]
        for index, row in enumerate(read_arrow(setup, name, "test")):
            yield choice_item(
                setup,
                question_text(row),
                LETTERS,
                id=f"{subject}/{index}",
                gold=row["answer"],
                group=subject,
                examples=examples,
                description="The following are multiple choice questions (with answers) "
                f"about {about}.\n\n",
            )


TASK = Task(
    name="mmlu",
    summary="multiple-choice exam questions on 57 subjects, options A to D",
    protocol="Hendrycks format as in lm-eval 0.4.13 `mmlu`: subject line, dev examples in order, "
    "options shown, likeliest of ' A' ' B' ' C' ' D'; test split, mean over questions",
    metric="acc",
    items=items,
    grade=grade_choice,
    shots=5,
    max_shots=5,
    licence="MIT",
)
