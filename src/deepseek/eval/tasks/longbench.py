"""LongBench v1: 21 datasets of long documents in English, Chinese and code."""

from collections.abc import Iterator

from deepseek.core.llm import LanguageModel, Prompt
from deepseek.eval.lengths import prompt_room
from deepseek.eval.longbench.datasets import DATASETS, Dataset, prompt_of, score_of
from deepseek.eval.longbench.files import SOURCE, find_datasets, read_samples
from deepseek.eval.task import Grades, Question, Setup, Task, as_prompt, cut_middle


def items(setup: Setup) -> Iterator[Question]:
    """The questions of all datasets that the user's data has.

    Raises:
        RequestError: There is no data, or it is not LongBench's.
    """
    sources = find_datasets(setup.need_folder("longbench", SOURCE))
    for name, source in sources.items():
        dataset = DATASETS[name]
        for sample in read_samples(name, source):
            text = prompt_of(name, sample.context, sample.question)
            yield Question(
                id=f"{name}/{sample.id}",
                prompt=_prompt(dataset, text, setup),
                reference={"answers": sample.answers, "classes": sample.classes},
                max_tokens=dataset.max_tokens,
                group=name,
            )


def grade(item: Question, answer: str) -> Grades:
    """The official score from 0 to 100, for all datasets and for those of one language."""
    reference = item.reference
    score = score_of(item.group, answer, reference["answers"], reference["classes"])
    return {"score": score, DATASETS[item.group].language: score}


def _prompt(dataset: Dataset, text: str, setup: Setup) -> Prompt:
    if setup.model is not None:
        room = prompt_room(setup, setup.model.context_window, dataset.max_tokens)
        text = _cut(text, max(room, 2), setup.model)
    return text if dataset.is_few_shot else as_prompt(text, setup)


def _cut(text: str, room: int, model: LanguageModel) -> str:
    """The text without its middle; cut anew if more tokens arise where the halves meet."""
    kept = room
    cut = cut_middle(text, kept, model)
    while cut is not text and (surplus := model.count_tokens(cut) - room) > 0 and kept > surplus:
        kept -= surplus
        cut = cut_middle(text, kept, model)
    return cut


TASK = Task(
    name="longbench",
    summary="21 datasets of long documents: questions, summaries, examples, retrieval, code",
    protocol=(
        "LongBench v1 (arXiv:2308.14508): official prompts, answer lengths and metrics, 0 to 100;"
        " too long prompts lose their middle; few-shot and code datasets without a chat template;"
        " score, english, chinese and code are means over datasets (the official tables average"
        " over categories); samsum is not stopped at its first line end, its first line is scored"
    ),
    metric="score",
    items=items,
    grade=grade,
    by_group=True,
    licence="the data's own, each dataset its source's; the prompts MIT",
)
