"""GSM8K: word problems of grade school, worked step by step."""

from collections.abc import Iterator

from deepseek.eval.answers import last_number, same_number, stated_number
from deepseek.eval.data import read_rows
from deepseek.eval.fewshot import Example, examples_before, with_examples
from deepseek.eval.task import Grades, Question, Setup, Task, as_prompt

STOP = ("Q:", "</s>", "<|im_end|>")
MAX_TOKENS = 256


def items(setup: Setup) -> Iterator[Question]:
    """The test split."""
    rows = read_rows(setup, "gsm8k/gold_bpb_5shot")
    examples = [_asked_as_lm_eval(example) for example in examples_before(rows)[0]]
    for row in rows:
        asked = f"Q: {row['doc']['question']}\nA:"
        yield Question(
            id=str(row["doc"]["id"]),
            prompt=as_prompt(with_examples(asked, examples[: setup.shots]), setup),
            reference=row["doc"]["answer"].split("####")[-1].strip(),
            max_tokens=MAX_TOKENS,
            stop=STOP,
        )


def _asked_as_lm_eval(example: Example) -> Example:
    """The data holds the same eight examples in other words around them."""
    question = example.question.removeprefix("Question: ").removesuffix("\nAnswer:")
    answer = example.answer.replace("So the answer is", "The answer is")
    return Example(f"Q: {question}\nA:", answer)


def grade(item: Question, answer: str) -> Grades:
    """The number after "The answer is", and, more leniently, the last number of all."""
    return {
        "strict_match": same_number(stated_number(answer), item.reference),
        "flexible_match": same_number(last_number(answer), item.reference),
    }


TASK = Task(
    name="gsm8k",
    summary="word problems, worked step by step",
    protocol="lm-eval 0.4.13 `gsm8k_cot`: the first of its eight fixed worked examples, "
    "'Q: …\\nA:', greedy, 256 tokens; strict_match reads 'The answer is N', flexible_match "
    "the last number; test split",
    metric="strict_match",
    items=items,
    grade=grade,
    shots=5,
    max_shots=8,
    licence="MIT",
)
