"""The texts of `make train-tiny` as lines of JSON: prose, code, sums, puzzles, conversations.

Everything comes from packages with pinned hashes, from the interpreter's own library, or from a
generator; the same versions give the same texts. Answers are checked by verifiers before they are
written down as right or wrong.
"""

import argparse
import ast
import itertools
import json
import pydoc_data.topics
import random
import sysconfig
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deepseek.data.lines import write_lines
from deepseek.data.synthesis.families import make_problem
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.registry import find_verifier
from deepseek.data.verifiers.verifier import NumberVerifier
from deepseek.weights.pull import pull

TALK = Path(__file__).with_name("talk.toml")
SEED = 20_261
"""Of generated problems; evaluations that generate theirs take other seeds."""
SUMS = {"gym/basic_arithmetic": 1, "gym/chain_sum": 1, "gym/products": 1}
STORIES = {"words/story": 1, "words/ages": 1, "gym/leg_counting": 1}
PUZZLES = {
    "gym/syllogism": 2,
    "gym/family_relationships": 2,
    "gym/letter_counting": 1,
    "gym/leg_counting": 1,
    "gym/aiw": 1,
}
"""Families of problems and how much there is of each."""
THEMES = (
    "ai botprofile computers food greetings literature money movies science sports tech_support "
    "trivia"
)
"""Of ChatterBot's corpus, those that are harmless small talk."""
NOT_LIBRARY = frozenset(
    "test tests idlelib lib2to3 site-packages dist-packages __pycache__".split()
)
LONGEST_ANSWER = 160
"""Characters; a small model would not get further."""

Row = dict[str, Any]
Turns = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a folder for the files")
    parser.add_argument("--scale", type=float, default=1.0, help="share of what is generated")
    args = parser.parse_args()
    for name, rows in all_texts(args.scale).items():
        found = list(rows)
        write_lines(args.out / f"{name}.jsonl", found)
        print(f"{name}: {len(found):,} texts, {sum(len(json.dumps(r)) for r in found):,} bytes")


def all_texts(scale: float = 1.0) -> Mapping[str, Iterator[Row]]:
    """By the name of the source."""
    manual = pull("django-docs").path
    corpus = pull("chatterbot-corpus").path
    count = max(1, round(1_500 * scale))
    return {
        "prose": prose(manual, ("intro", "topics", "howto", "faq", "misc", "internals")),
        "reference": itertools.chain(prose(manual, ("ref",)), language_reference()),
        "code": library(Path(sysconfig.get_paths()["stdlib"])),
        "maths": itertools.chain(sums(2 * count), problems(SUMS | STORIES, count)),
        "logic": problems(PUZZLES, count),
        "talk": conversations(corpus, scale),
    }


def prose(manual: Path, parts: Sequence[str]) -> Iterator[Row]:
    """Pages of a manual, in parts of it."""
    root = next(manual.glob("*/docs"))
    for part in parts:
        for page in sorted((root / part).rglob("*.txt")):
            yield {"text": page.read_text(encoding="utf-8"), "id": f"{part}/{page.name}"}


def language_reference() -> Iterator[Row]:
    """What `help("topic")` says of Python."""
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield {"text": text, "id": f"help/{name}"}


def library(folder: Path) -> Iterator[Row]:
    """Modules of the interpreter's library, without its tests."""
    for module in sorted(folder.rglob("*.py")):
        place = module.relative_to(folder)
        if NOT_LIBRARY.isdisjoint(place.parts):
            text = module.read_text(encoding="utf-8", errors="replace")
            yield {"text": text, "id": str(place)}


def sums(count: int) -> Iterator[Row]:
    """Pages of small sums, each line another one."""
    rng = random.Random(f"sums {SEED}")
    for number in range(count):
        lines = (f"{left} = {right}" for left, right in (small_sum(rng) for _ in range(8)))
        yield {"text": "\n".join(lines), "id": f"sums/{number}"}


def small_sum(rng: random.Random) -> tuple[str, int]:
    """A sum that is within a small model's reach, and what it gives."""
    kind = rng.choice("++--*")
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if kind == "*":
        a, b = rng.randint(0, 10), rng.randint(0, 10)
    if kind == "-" and a < b:
        a, b = b, a
    return f"{a} {kind} {b}", {"+": a + b, "-": a - b, "*": a * b}[kind]


def problems(families: Mapping[str, int], count: int) -> Iterator[Row]:
    """Generated problems with their solutions, if the verifier calls these right."""
    for family, times in families.items():
        for index in range(count * times):
            problem = make_problem(family, index % 2, SEED, index)
            told = f"{problem.solution}\nAnswer: {problem.answer}".strip()
            if is_right(problem, told):
                yield {"text": f"{problem.question}\n{told}", "id": problem.id}


def is_right(problem: Problem, text: str) -> bool:
    """Whether its verifier says so."""
    return find_verifier(problem.verifier).is_right(problem, text)


def conversations(corpus: Path, scale: float) -> Iterator[Row]:
    """All talk, in several spellings, and some of it one after the other."""
    rng = random.Random(f"talk {SEED}")
    table = tomllib.loads(TALK.read_text(encoding="utf-8"))
    social = [(ask, answer) for t in table["talk"] for ask in t["asks"] for answer in t["answers"]]
    facts = [pair for t in table["table"] for pair in table_talk(t["rows"], t["forms"], rng)]
    reckoning = [sum_talk(rng) for _ in range(round(2_000 * scale))]
    borrowed = list(small_talk(corpus)) + list(docstrings())
    for turns in itertools.chain(
        ([pair] for pair in spelt(social, 6, rng)),
        ([pair] for pair in spelt(facts, 2, rng)),
        ([pair] for pair in reckoning),
        ([pair] for pair in borrowed),
        mixed((social, facts, reckoning), round(1_500 * scale), rng),
    ):
        yield {"messages": [message for pair in turns for message in messages(pair)]}


def messages(pair: tuple[str, str]) -> list[Row]:
    """A question and its answer as a conversation has them."""
    return [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def mixed(pools: Sequence[Turns], count: int, rng: random.Random) -> Iterator[Turns]:
    """Conversations of two to four turns about different things."""
    for _ in range(count):
        turns = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 4))]
        yield [next(spelt([turn], 1, rng)) for turn in turns]


def spelt(
    pairs: Sequence[tuple[str, str]], most: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Each question in up to so many spellings: as it is, and as people type."""
    changes: list[Callable[[str], str]] = [
        str,
        str.lower,
        lambda ask: ask.rstrip("?!."),
        lambda ask: ask.lower().rstrip("?!."),
        lambda ask: f"{ask.rstrip('?!.')}, please",
        lambda ask: f"Please, {ask[0].lower()}{ask[1:]}",
        lambda ask: f"Hi. {ask}",
        lambda ask: f"{ask.rstrip('.!?')}!",
    ]
    for ask, answer in pairs:
        forms = sorted({change(ask) for change in changes} - {""})
        for form in [ask, *rng.sample(forms, min(most, len(forms)))][-most:]:
            yield form, answer


def table_talk(
    rows: Sequence[str], forms: Sequence[Sequence[str]], rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Questions about a table, and about what is not in it."""
    cells = [tuple(row.split(", ", 1)) for row in rows]
    for first, second in cells:
        wrong = rng.choice(sorted({other for _, other in cells} - {second}))
        for ask, answer in forms:
            said = (form.format(first, second, wrong=wrong) for form in (ask, answer))
            asked, answered = said
            yield asked, answered[0].upper() + answered[1:]


def sum_talk(rng: random.Random) -> tuple[str, str]:
    """A question about a sum; what is claimed of it may be wrong, and a verifier says so."""
    left, right = small_sum(rng)
    problem = Problem(question=left, answer=str(right), verifier=NumberVerifier.name)
    answer = f"{left} = {right}"
    if rng.random() < 0.6:
        form = rng.choice(
            ("What is {}?", "what is {}", "{} = ?", "{}", "How much is {}?", "Calculate {}")
        )
        return form.format(left), f"{answer}."
    claim = right + rng.choice((0, 0, 1, -1, 2, 10))
    told = f"{left} = {claim}"
    form = rng.choice(("Is {} right?", "Is it true that {}?", "{}, right?", "My teacher says {}."))
    verdict = "Yes" if is_right(problem, told) else "No"
    return form.format(told), f"{verdict}, {answer}."


def small_talk(corpus: Path) -> Iterator[tuple[str, str]]:
    """Questions of ChatterBot's corpus with their first short answer."""
    known: dict[str, str] = {}
    for theme in THEMES.split():
        file = next(corpus.rglob(f"english/{theme}.yml"))
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            said = (
                [" ".join(str(turn).split()) for turn in turns] if isinstance(turns, list) else []
            )
            if len(said) > 1 and all(said[:2]) and len(said[1]) <= LONGEST_ANSWER:
                known.setdefault(said[0], said[1])
    yield from known.items()


def docstrings() -> Iterator[tuple[str, str]]:
    """What functions of well-known modules do, in the first sentence of their own words."""
    for name in "json math random statistics string textwrap shutil pathlib csv calendar".split():
        file = Path(sysconfig.get_paths()["stdlib"], f"{name}.py")
        if not file.is_file():
            file = file.with_suffix("") / "__init__.py"
        if not file.is_file():
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            told = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if told and not node.name.startswith("_"):
                first = " ".join(told.split("\n\n")[0].split())
                if len(first) <= LONGEST_ANSWER:
                    yield f"What does {name}.{node.name} do in Python?", first


if __name__ == "__main__":
    main()
