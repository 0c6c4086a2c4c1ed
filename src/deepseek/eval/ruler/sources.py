"""The texts that RULER takes from elsewhere: running text for haystacks, questions with passages.

Its essays are under copyright, so passages of Wikipedia (SQuAD) and papers (Qasper) take their
place unless the user gives a text. RULER's own files are read under the names that it uses.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.core.log import LOGGER
from deepseek.eval.data import read_requests
from deepseek.eval.ruler.documents import Corpus, Inquiry
from deepseek.eval.task import Setup

ESSAYS = ("PaulGrahamEssays.json", "essay.txt")
SQUAD = ("squad.json", "dev-v2.0.json")
HOTPOT = ("hotpotqa.json", "hotpot_dev_distractor_v1.json")
WANTED = f"a folder with any of {', '.join((*ESSAYS, *SQUAD, *HOTPOT))}, or one of these files"
LIMIT = 512 << 20
"""Bytes of a file; the largest of RULER's has 57 million."""
PARAGRAPH = 200
"""Characters: shorter paragraphs of papers are formulas and captions."""


class Sources:
    """Finds and reads the texts when they are first needed."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        known = (*ESSAYS, *SQUAD, *HOTPOT)
        if setup.folder is not None and not any(self._file((name,)) for name in known):
            LOGGER.warning(
                "ruler finds nothing for itself in %s; it takes %s", setup.folder, WANTED
            )

    def essay(self, n_words: int) -> Sequence[str]:
        """The first words of the haystack, from the beginning again where it ends."""
        words = self._essay if n_words <= len(self._essay) else self._long_essay
        repeats = -(-n_words // len(words))
        return (words * repeats)[:n_words]

    @property
    def haystack(self) -> str:
        """Where the essay comes from, for the records."""
        file = self._file(ESSAYS)
        return file.name if file else "SQuAD and Qasper"

    @cached_property
    def squad(self) -> Corpus:
        """Questions about passages of Wikipedia."""
        file = self._file(SQUAD)
        return _squad_file(file) if file else _squad_requests(self._squad_rows)

    @cached_property
    def hotpot(self) -> Corpus | None:
        """Questions that need two passages, if the user has them."""
        file = self._file(HOTPOT)
        if file is None:
            LOGGER.warning(
                "ruler leaves out qa_2: it needs HotpotQA; give --data with %s", " or ".join(HOTPOT)
            )
            return None
        return _hotpot_file(file)

    @cached_property
    def _squad_rows(self) -> list[dict[str, Any]]:
        return read_requests(self.setup, "squad/bpb_5shot")

    @cached_property
    def _essay(self) -> list[str]:
        file = self._file(ESSAYS)
        if file is None:
            return _words(_squad_requests(self._squad_rows).documents)
        text = _read(file)
        if file.suffix == ".json":
            text = _parsed(file, text, lambda table: table["text"].strip())
        words = _words([text])
        if not words:
            raise RequestError(f"{file} is empty", f"give --data: {WANTED}")
        return words

    @cached_property
    def _long_essay(self) -> list[str]:
        """With the papers, which are read only for haystacks that need them."""
        if self._file(ESSAYS):
            return self._essay
        papers = {row["title"]: row for row in read_requests(self.setup, "qasper_yesno/rc_5shot")}
        paragraphs = (
            paragraph
            for row in papers.values()
            for section in row["full_text"]["paragraphs"]
            for paragraph in section
            if len(paragraph) >= PARAGRAPH
        )
        return [*self._essay, *_words(paragraphs)]

    def _file(self, names: Sequence[str]) -> Path | None:
        """The user's file of one of these names."""
        folder = self.setup.folder
        if folder is None:
            return None
        if folder.is_file():
            return folder if folder.name in names else None
        return next((folder / name for name in names if (folder / name).is_file()), None)


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split()]


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > LIMIT:
            raise RequestError(f"{file} has more than {LIMIT >> 20} MiB", "give a smaller file")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {file}: {error}", f"give --data: {WANTED}") from None


def _parsed(file: Path, text: str, read: Any) -> Any:
    """What `read` makes of a file's JSON."""
    try:
        return read(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            f"{file} is not as RULER's file of that name is: {error!r}", f"give --data: {WANTED}"
        ) from None


def _squad_requests(rows: Sequence[dict[str, Any]]) -> Corpus:
    inquiries = []
    for row in rows:
        passage, _, question = (
            row["query"].partition("\nBackground: ")[2].rpartition("\nQuestion: ")
        )
        inquiries.append(
            Inquiry(
                question=question.removesuffix("\nAnswer:"),
                answers=tuple(dict.fromkeys(row["answers_text"])),
                passages=(passage,),
                topic=row["title"],
            )
        )
    return Corpus(inquiries)


def _squad_file(file: Path) -> Corpus:
    def read(table: Any) -> Corpus:
        return Corpus(
            [
                Inquiry(
                    question=str(asked["question"]),
                    answers=tuple(dict.fromkeys(str(a["text"]) for a in asked["answers"])),
                    passages=(str(paragraph["context"]),),
                    topic=str(article["title"]),
                )
                for article in table["data"]
                for paragraph in article["paragraphs"]
                for asked in paragraph["qas"]
                if asked["answers"]
            ]
        )

    corpus: Corpus = _parsed(file, _read(file), read)
    return _not_empty(file, corpus)


def _hotpot_file(file: Path) -> Corpus:
    def read(table: Any) -> Corpus:
        return Corpus(
            [
                Inquiry(
                    question=str(row["question"]),
                    answers=(str(row["answer"]),),
                    passages=tuple(f"{title}\n{''.join(text)}" for title, text in row["context"]),
                )
                for row in table
            ]
        )

    corpus: Corpus = _parsed(file, _read(file), read)
    return _not_empty(file, corpus)


def _not_empty(file: Path, corpus: Corpus) -> Corpus:
    if not corpus.inquiries:
        raise RequestError(f"{file} holds no question", f"give --data: {WANTED}")
    return corpus
