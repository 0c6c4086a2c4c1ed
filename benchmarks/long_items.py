"""Long contexts with several questions each, for what hierarchical attention keeps of dense.

A context is read once and kept for all of its questions. They come from RULER's recipes (needles in
essays and among needles, variables in noise), from SQuAD's questions among passages of others, from
Qasper's questions on whole papers, and from Python files of which the next line is wanted. Besides
being asked, each question has one right continuation whose likelihood says more than right or wrong
where a small model can do little.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from string import ascii_uppercase

from deepseek.engine.engine import Engine
from deepseek.eval.data import read_requests
from deepseek.eval.lengths import fitting_size
from deepseek.eval.ruler.chains import TEMPLATE as CHAINS
from deepseek.eval.ruler.documents import ASK, Corpus, Inquiry
from deepseek.eval.ruler.filled import Build
from deepseek.eval.ruler.needles import NOISE, Needles, recipe_of
from deepseek.eval.ruler.sources import Sources
from deepseek.eval.task import Setup, cut_middle
from deepseek.eval.tasks.qasper import paper_text
from held_out import code_files, windows

NEEDLE = re.compile(r"special magic \w+ for (\S+) is: (\S+?)\.(?:\s|$)")
MARGIN = 96
"""Tokens that are left for question and answer beside a context."""
LAST = 1_536
"""Tokens at the end of a window of code whose lines are asked for: all before them is context."""
LINE = 12, 60
"""Characters of a line that is worth asking for."""
HOPS = 2
"""Assignments of a chain after its first; RULER's four are beyond the smallest models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question about a context."""

    question: str
    """What follows the context."""
    gold: str
    """The right continuation, with the space that joins it."""
    answers: tuple[str, ...] = ()
    """What a generated answer must have."""
    any_of: bool = False
    """Whether one of the answers will do."""
    others: tuple[str, ...] = ()
    """Wrong continuations that `gold` may be chosen among, by likelihood a character."""
    room: int = 16
    """Tokens of a generated answer; 0: it is right if greedy decoding gives `gold`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A text and what is asked about it."""

    text: str
    asked: Sequence[Asked]


def needles(kinds: Needles, length: int, n_asked: int, engine: Engine, index: int) -> Context:
    """Hidden values of which some are asked for, one by one, at even depths.

    Args:
        kinds: What is hidden in what; one value for each key, and one query.
        length: Tokens of context, question and answer.
        n_asked: How many.
        engine: Counts tokens.
        index: Of the context: another one has other words.
    """
    setup = Setup(shots=0, model=engine)
    recipe = recipe_of(kinds, Sources(setup).essay)
    seed = f"needles/{kinds}/{length}/{index}"
    build = partial(_filled, recipe.build, seed)
    size = fitting_size(build, setup, length - 32, max(recipe.least, n_asked))
    text, _, question = build(size).rpartition("\nWhat ")
    hidden = NEEDLE.findall(text)
    (own,) = re.findall(r" for (\S+) mentioned in the provided text\?", question)
    chosen = [hidden[len(hidden) * (2 * i + 1) // (2 * n_asked)] for i in range(n_asked)]
    asked = [
        Asked(
            question="\nWhat " + question.replace(own, key),
            gold=f" {value}",
            answers=(value,),
            others=tuple(f" {other}" for _, other in chosen if other != value),
            room=40 if kinds.values == "uuids" else 12,
        )
        for key, value in chosen
    ]
    return Context(text=text, asked=asked)


def _filled(build: Build, seed: str, size: int) -> str:
    return build(Random(seed), size).text


def variables(length: int, n_chains: int, engine: Engine, index: int) -> Context:
    """Chains of assignments hidden in noise, each asked for in turn after a solved example."""
    setup = Setup(shots=0, model=engine)

    def build(size: int) -> tuple[str, list[tuple[str, list[str]]]]:
        generator = Random(f"variables/{length}/{index}")
        example, (solved, *_) = _chains(generator, 1, 20, letters=3)
        text, chains = _chains(generator, n_chains, size, letters=5)
        start = _chain_question(example, *solved) + " " + " ".join(solved[1])
        return f"{start}\n\n{_head(text)}", chains

    room = length - MARGIN
    size = fitting_size(lambda n: build(n)[0], setup, room, (HOPS + 1) * n_chains)
    text, chains = build(size)
    asked = []
    for value, names in chains:
        question = _chain_question("", value, names).removeprefix(_head(""))
        answers = tuple(names)
        asked.append(
            Asked(
                question=question,
                gold=f" {' '.join(names)}",
                answers=answers,
                others=tuple(f" {' '.join(other)}" for _, other in chains if other != names),
                room=30,
            )
        )
    return Context(text=text, asked=asked)


def _head(context: str) -> str:
    return CHAINS.partition("{context}")[0] + context


def _chain_question(context: str, value: str, names: Sequence[str]) -> str:
    return CHAINS.format(context=context, value=value, n_variables=len(names)).rstrip()


def _chains(
    generator: Random, n_chains: int, n_noise: int, letters: int
) -> tuple[str, list[tuple[str, list[str]]]]:
    """Noise with assignments between its lines, and the value and the names of each chain."""
    names: list[str] = []
    while len(names) < n_chains * (HOPS + 1):
        name = "".join(generator.choices(ascii_uppercase, k=letters))
        if name not in names:
            names.append(name)
    values = generator.sample(range(10_000, 99_999), n_chains)
    lines = [NOISE] * n_noise
    places = generator.sample(range(n_noise), len(names))
    hidden: dict[int, str] = {}
    found = []
    for i, value in enumerate(values):
        own = names[i * (HOPS + 1) : (i + 1) * (HOPS + 1)]
        where = sorted(places[i * (HOPS + 1) : (i + 1) * (HOPS + 1)])
        said = [str(value), *(f"VAR {name}" for name in own)]
        hidden |= {p: f"VAR {own[j]} = {said[j]} " for j, p in enumerate(where)}
        found.append((str(value), own))
    for place in sorted(hidden, reverse=True):
        lines.insert(place, hidden[place])
    return "\n".join(lines), found


def passages(corpus: Corpus, length: int, n_asked: int, engine: Engine, index: int) -> Context:
    """Questions of SQuAD, each about another one of many passages, after two that are solved."""
    setup = Setup(shots=0, model=engine)
    generator = Random(f"passages/{length}/{index}")
    chosen: dict[str, Inquiry] = {}
    for asked in generator.sample(corpus.inquiries, len(corpus.inquiries)):
        if len(chosen) < n_asked + 2:
            chosen.setdefault(asked.passages[0], asked)
    others = [text for text in corpus.documents if text not in chosen]
    generator.shuffle(others)
    solved, posed = list(chosen.values())[:2], list(chosen.values())[2:]
    shown = "".join(_posed(asked) + f" {asked.answers[0]}" for asked in solved)

    def build(size: int) -> str:
        texts = [*chosen, *others][:size]
        Random(f"order/{index}").shuffle(texts)
        documents = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(texts, start=1))
        return f"{ASK}\n\nThe following are given documents.\n\n{documents}\n\n{ASK}{shown}"

    size = fitting_size(build, setup, length - MARGIN, len(chosen))
    questions = [
        Asked(
            question=_posed(asked),
            gold=f" {asked.answers[0]}",
            answers=asked.answers,
            any_of=True,
            others=tuple(f" {other.answers[0]}" for other in posed if other is not asked),
        )
        for asked in posed
    ]
    return Context(text=build(size), asked=questions)


def _posed(asked: Inquiry) -> str:
    return f"\n\nQuestion: {asked.question} Answer:"


def papers(length: int, engine: Engine) -> Iterator[Context]:
    """Papers of Qasper that fill the length, with their yes-or-no questions."""
    by_paper: dict[str, list[dict[str, object]]] = {}
    for doc in read_requests(Setup(shots=0), "qasper_yesno/rc_5shot"):
        by_paper.setdefault(str(doc["id"]).rpartition("_")[0], []).append(doc)
    # Those with most questions first: a paper is read once for all of them.
    for docs in sorted(by_paper.values(), key=len, reverse=True):
        text = paper_text(docs[0])
        if engine.count_tokens(text) < length * 3 // 4:
            continue
        asked = []
        for doc in docs:
            choices, gold = doc["choices"], doc["gold"]
            assert isinstance(choices, list)
            assert isinstance(gold, int)
            options = [f" {str(choice).strip()}" for choice in choices]
            right = options.pop(gold)
            question = f"\n\nQuestion: {doc['question']}\nAnswer:"
            asked.append(Asked(question=question, gold=right, others=tuple(options), room=0))
        yield Context(text=cut_middle(text, length - MARGIN, engine), asked=asked)


def code(length: int, n_asked: int, engine: Engine) -> Iterator[Context]:
    """Windows of Python files, and lines at their ends that are to be written next."""
    for ids in windows(code_files(), engine.encode, length - MARGIN, 16):
        text = engine.decode(ids[:-LAST])
        lines = engine.decode(ids[-LAST:]).splitlines(keepends=True)[:-1]
        starts = [
            i
            for i, line in enumerate(lines[:-1])
            if i and lines[i - 1].strip() and LINE[0] <= len(line.strip()) <= LINE[1]
        ]
        step = max(1, len(starts) // n_asked)
        chosen = starts[step - 1 :: step][:n_asked]
        yield Context(text=text, asked=[_next_line(lines, i) for i in chosen])


def _next_line(lines: Sequence[str], i: int) -> Asked:
    """A line after those before it; its indentation has to be written, too."""
    before = "".join(lines[:i])
    question = before.rstrip()
    return Asked(question=question, gold=before[len(question) :] + lines[i].rstrip(), room=0)
