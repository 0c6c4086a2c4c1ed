"""RULER: thirteen long-context tasks of retrieval, tracing, aggregation and questions."""

from collections.abc import Iterator
from functools import partial
from random import Random

from deepseek.core.errors import RequestError
from deepseek.eval.lengths import context_lengths, count_tokens, fitting_size, prompt_room
from deepseek.eval.ruler.chains import chain_recipe
from deepseek.eval.ruler.documents import document_recipe
from deepseek.eval.ruler.filled import Recipe
from deepseek.eval.ruler.frequent import coded_recipe, common_recipe
from deepseek.eval.ruler.needles import NEEDLES, needle_recipe
from deepseek.eval.ruler.scoring import string_match_all, string_match_part
from deepseek.eval.ruler.sources import Sources
from deepseek.eval.task import Grades, Question, Setup, Task, as_prompt

NAMES = (*NEEDLES, "vt", "cwe", "fwe", "qa_1", "qa_2")
PER_CELL = 10
"""Items of one task at one length."""


def items(setup: Setup) -> Iterator[Question]:
    """All tasks at all lengths, each item made when it is asked for.

    Raises:
        RequestError: A length is too large for the model or too small for a task.
    """
    lengths = context_lengths(setup)
    sources = Sources(setup)
    for name in NAMES:
        if name == "qa_2" and sources.hotpot is None:
            continue
        for length in lengths:
            yield from _cell(name, length, setup, sources)


def grade(item: Question, answer: str) -> Grades:
    """RULER's metric of the task, from 0 to 100."""
    match = string_match_all if item.reference["match"] == "all" else string_match_part
    return {"score": match(answer, item.reference["outputs"])}


def _cell(name: str, length: int, setup: Setup, sources: Sources) -> Iterator[Question]:
    """The items of one task at one length.

    Their size is that of the first, as in RULER, so that long texts are counted once each; an
    item that comes out too long is measured anew, and so are all with documents.
    """
    size = 0
    for index in range(PER_CELL):
        recipe = _recipe(name, length, index, setup, sources)
        # The same for the same seed, whatever else is made.
        seed = f"{setup.seed}/{name}/{length}/{index}"
        room = prompt_room(setup, length, recipe.max_tokens)
        alike = 0 if name.startswith("qa") else size
        try:
            size = fitting_size(partial(_text, recipe, seed), setup, room, recipe.least, alike)
        except RequestError as error:
            raise RequestError(f"{name} at {length:,}: {error.message}", error.hint) from None
        filled = recipe.build(Random(seed), size)
        yield Question(
            id=f"{name}/{length}/{index}",
            prompt=as_prompt(filled.text, setup),
            reference={
                "outputs": list(filled.outputs),
                "match": recipe.match,
                "haystack": sources.haystack if _has_essay(name) else "",
            },
            max_tokens=recipe.max_tokens,
            group=f"{name}/{length}",
        )


def _text(recipe: Recipe, seed: str, n_pieces: int) -> str:
    return recipe.build(Random(seed), n_pieces).text


def _recipe(name: str, length: int, index: int, setup: Setup, sources: Sources) -> Recipe:
    if name in NEEDLES:
        return needle_recipe(name, sources.essay)
    if name == "vt":
        return chain_recipe(length, lambda text: count_tokens(setup, text))
    if name == "cwe":
        return common_recipe(length)
    if name == "fwe":
        return coded_recipe(length)
    corpus = sources.squad if name == "qa_1" else sources.hotpot
    assert corpus is not None
    order = list(range(len(corpus.inquiries)))
    Random(f"{setup.seed}/{name}").shuffle(order)
    return document_recipe(corpus, order[index % len(order)])


def _has_essay(name: str) -> bool:
    return name in NEEDLES and NEEDLES[name].haystack == "essay"


TASK = Task(
    name="ruler",
    summary="13 generated tasks: needles, chains of variables, frequent words, questions",
    protocol=(
        "RULER (arXiv:2404.06654): official templates with the beginning of the answer,"
        " complexities and string matching, 0 to 100, 10 items for each task and length; essay"
        " haystacks are SQuAD passages, then Qasper papers, unless --data has"
        " PaulGrahamEssays.json: scores on them are not the original's; words from wonderwords;"
        " qa_1 from 1,000 SQuAD questions; qa_2 only with hotpotqa.json in --data"
    ),
    metric="score",
    items=items,
    grade=grade,
    by_group=True,
    licence="RULER Apache-2.0; SQuAD CC BY-SA 4.0; Qasper CC BY 4.0; wonderwords MIT",
)
