"""Perplexity and bits per byte of any text, read in overlapping windows."""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepseek.core.errors import RequestError
from deepseek.core.llm import LanguageModel, Score
from deepseek.eval.task import Grades, Passage, Setup, Task

WINDOW = 2_048
SUFFIXES = (".txt", ".md", ".rst")
WORD = re.compile(r"\s*\S{1,64}|\s+")
"""A word with the space before it: tokens do not reach across such borders."""


def items(setup: Setup) -> Iterator[Passage]:
    """Half a window of text each, after the half before it."""
    folder = setup.need_folder("perplexity", "a text file, or a folder of .txt, .md or .rst files")
    for path in text_files(folder):
        name = path.name if path == folder else str(path.relative_to(folder))
        halves = segments(read_text(path), half_window(setup), setup.model)
        for index, (before, text) in enumerate(pairs(halves)):
            yield Passage(id=f"{name}/{index}", text=text, prompt=before, group=name)


def text_files(folder: Path) -> list[Path]:
    """The files of a folder, or the path itself.

    Raises:
        RequestError: There are none.
    """
    if not folder.is_dir():
        return [folder]
    files = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not files:
        raise RequestError(f"no text in {folder}", f"give {', '.join(SUFFIXES)} files")
    return files


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        RequestError: It cannot be read, is no UTF-8, or too short to be predicted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}", "check --data") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path} is no UTF-8 text", "convert it first") from None
    if len(WORD.findall(text)) < 2:
        raise RequestError(f"{path} has less than two words", "give a longer text")
    return text


def half_window(setup: Setup) -> int | None:
    """Tokens of a segment; None if nothing bounds it."""
    wanted = setup.lengths[0] if setup.lengths else WINDOW
    if setup.model is None:
        return wanted // 2 if setup.lengths else None
    return min(wanted, setup.model.context_window) // 2


def segments(text: str, n_tokens: int | None, model: LanguageModel | None) -> list[str]:
    """The text in pieces of at most `n_tokens`, cut between words.

    Without a model a word counts as one token.
    """
    words = WORD.findall(text)
    if n_tokens is None:
        return ["".join(words)]
    # The same words come again and again: each is counted once.
    count = functools.lru_cache(maxsize=100_000)(model.count_tokens if model else lambda _: 1)
    pieces: list[list[str]] = [[]]
    used = 0
    for word in words:
        size = count(word)
        if pieces[-1] and used + size > n_tokens:
            pieces.append([])
            used = 0
        pieces[-1].append(word)
        used += size
    return ["".join(piece) for piece in pieces]


def pairs(halves: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is read, and what is predicted after it. The first word has nothing before it."""
    first = WORD.match(halves[0])
    assert first is not None
    if rest := halves[0][first.end() :]:
        yield first.group(), rest
    for index in range(1, len(halves)):
        yield halves[index - 1], halves[index]


def grade(item: Passage, answer: Sequence[Score]) -> Grades:
    """Averages over bytes and over tokens."""
    (score,) = answer
    n_bytes = len(item.text.encode())
    return {
        "bits_per_byte": -score.logprob / math.log(2) / n_bytes,
        "bits_per_byte/weight": float(n_bytes),
        "nats_per_token": -score.logprob / score.n_tokens,
        "nats_per_token/weight": float(score.n_tokens),
    }


TASK = Task(
    name="perplexity",
    summary="how likely a text of your own is",
    protocol="windows of 2,048 tokens or of --lengths, each predicting its second half after its "
    "first, so that every word but a file's first is predicted once; perplexity per token is "
    "exp(nats_per_token)",
    metric="bits_per_byte",
    items=items,
    grade=grade,
    licence="yours",
)
