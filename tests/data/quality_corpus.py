"""Texts for the tests of the data pipeline: prose that passes every rule, and ways to spoil it."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import Context, Operator, build_operator
from deepseek.data.quality.registry import operator_class

NOUNS = """river mountain engine garden letter kitchen teacher window market bridge forest harbour
journey library village weather captain machine painter morning station country island valley
doctor answer summer winter shadow ladder carpet candle mirror pocket saddle temple thunder
""".split()
VERBS = """follows carries remembers crosses paints repairs watches describes opens builds visits
measures praises forgets collects protects explains gathers studies delivers""".split()
ADJECTIVES = """quiet ancient narrow bright hollow gentle distant crowded wooden silver hidden
patient broken clever heavy curious empty golden humble steady""".split()


def sentence(generator: random.Random) -> str:
    """One of very many."""
    a, b, c = (generator.choice(NOUNS) for _ in range(3))
    x, y = (generator.choice(ADJECTIVES) for _ in range(2))
    verb, second = (generator.choice(VERBS) for _ in range(2))
    forms = (
        f"The {x} {a} {verb} the {y} {b} with a {c}.",
        f"Of all that have seen the {a}, the {x} {b} {verb} it and the {c} {second} what is {y}.",
        f"It is the {x} {a} that {verb} to the {b}, and to be {y} the {c} {second} it.",
    )
    return generator.choice(forms)


def prose(seed: int, n_sentences: int = 24) -> str:
    """A text of long lines."""
    generator = random.Random(seed)
    sentences = [sentence(generator) for _ in range(n_sentences)]
    lines = [" ".join(sentences[i : i + 4]) for i in range(0, n_sentences, 4)]
    return "\n".join(lines)


def made(*texts: str, domain: str = "web") -> list[Document]:
    """Documents of texts."""
    return [
        Document(id=f"d{i}", source="web", domain=domain, text=text, number=i)
        for i, text in enumerate(texts)
    ]


def operator(name: str, folder: Path | None = None, **settings: Any) -> Operator:
    """One with these settings."""
    return build_operator(operator_class(name), settings, Context(folder or Path(".")))


def reasons(found: Operator, documents: Sequence[Document]) -> list[str]:
    """Why each is dropped, by an operator that judges documents alone."""
    return [d.reason for d in found.decide(documents, found.score(documents))]


def write_lines(path: Path, texts: Sequence[str]) -> None:
    """A file of records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
