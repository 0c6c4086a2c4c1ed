"""Real questions and answers: Python's FAQ (the manual's), and an English corpus of conversations.

Both are fetched once: a Debian package (benchmarks/arms.py) and one of PyPI (BSD).
"""

import itertools
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from deepseek.weights.cache import home
from report import say
from texts import MANUAL, package

CORPUS = "chatterbot-corpus==1.3.3"
LEFT_OUT = ("coding",)
"""Of its topics: it is code."""
LONGEST = 600
"""Characters of an answer; it ends with a paragraph."""
_HEADING = re.compile(r"^(?P<words>[^\n]+)\n(?P<line>[-=~^*])(?P=line){2,}\n", re.MULTILINE)
_ROLE = re.compile(r":[\w:+-]+:`(?:!|~)?([^`<]+?)(?:\s*<[^`]*>)?`|`([^`<]+?)\s*<[^`]*>`__?")


def conversations() -> list[dict[str, str]]:
    """As many pairs of the FAQ as of the corpus, in a fixed order without meaning."""
    asked, chatted = list(faq_pairs()), list(corpus_pairs())
    chooser = random.Random(0)
    chooser.shuffle(asked)
    chooser.shuffle(chatted)
    pairs = itertools.chain.from_iterable(zip(asked, chatted, strict=False))
    return [{"prompt": question, "completion": answer} for question, answer in pairs]


def faq_pairs() -> Iterator[tuple[str, str]]:
    """Questions that are headings, and the first paragraphs behind each."""
    for page in sorted(package(MANUAL).glob("*.rst.txt")):
        text = page.read_text(encoding="utf-8")
        if " FAQ\n" in text[:400] or "Frequently Asked" in text[:400]:
            yield from faq_entries(text)


def faq_entries(text: str) -> Iterator[tuple[str, str]]:
    """Of one page; entries that begin with code or a list of links have no answer in words."""
    found = list(_HEADING.finditer(text))
    for number, match in enumerate(found):
        if not match["words"].endswith("?"):
            continue
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        answer = ""
        for paragraph in re.split(r"\n\s*\n", text[match.end() : end]):
            words = " ".join(_ROLE.sub(r"\1\2", paragraph).split()).replace("``", "`")
            if not words or words.startswith((".. ", ">>>")) or paragraph.startswith((" ", "\t")):
                if answer:
                    break
                continue
            if answer and len(answer) + len(words) > LONGEST:
                break
            answer = f"{answer}\n\n{words}".strip()
        if 40 <= len(answer) <= LONGEST:
            yield " ".join(match["words"].replace("``", "`").split()), answer


def corpus_pairs() -> Iterator[tuple[str, str]]:
    """Different questions of the corpus, each with its first answer."""
    seen: set[str] = set()
    for file in sorted(_corpus().glob("*.yml")):
        if file.stem in LEFT_OUT:
            continue
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            said = [str(turn).strip() for turn in turns[:2]]
            if len(said) == 2 and all(said) and said[0].lower() not in seen:
                seen.add(said[0].lower())
                yield said[0], said[1]


def _corpus() -> Path:
    """The folder of its English files."""
    folder = home() / "texts" / CORPUS.replace("==", "-")
    if not folder.exists():
        say(f"fetching {CORPUS}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name]
            subprocess.run([*command, CORPUS], check=True)
            with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
                wheel.extractall(name)
            Path(name, "chatterbot_corpus", "data", "english").rename(folder)
    return folder
