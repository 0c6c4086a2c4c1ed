"""Work in which much of the answer stands in the prompt, and open talk, in which little does.

The texts are real: files of this repository to be edited, and the sample paper to be quoted from
and to take its references out of.
"""

import ast
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document
from deepseek.core.llm import Message
from deepseek.weights.pull import ensure
from report import ROOT

PAPER = "paper-attention"
COPIES = ("code edit", "quote", "JSON by schema", "JSON freely")
KINDS = (*COPIES, "open chat")
EDITED = ("engine/grouping.py", "core/tools.py", "engine/stopping.py", "core/codes.py")
QUESTIONS = {
    "How is scaled dot-product attention computed?": ("3.2.1", "3.2.2", "3.3"),
    "Which data were the models trained on?": ("5.1", "5.2", "5.3"),
    "How long did training take, and on which hardware?": ("5.2", "5.4", "5.1"),
    "What did the model reach on English constituency parsing?": ("6.3", "6.2", "7"),
}
REFERENCES = 8
"""In one request."""
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": REFERENCES,
    "items": {
        "type": "object",
        "properties": {
            "number": {"type": "integer"},
            "authors": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            "title": {"type": "string"},
            "year": {"type": "integer"},
        },
        "required": ["number", "authors", "title", "year"],
        "additionalProperties": False,
    },
}
TALK = (
    "Explain to a child why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "What should I consider before I adopt a dog?",
    "Compare trains and planes for a journey of 600 kilometres.",
)


@dataclass(frozen=True, slots=True)
class Work:
    """A request of some kind."""

    kind: str
    prompt: tuple[Message, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None

    def shortened(self, max_tokens: int) -> "Work":
        """The same with a shorter answer."""
        return replace(self, max_tokens=min(max_tokens, self.max_tokens))


@cache
def paper() -> Document:
    """The sample paper."""
    return read_document(ensure(PAPER).path)


def works_of(kind: str) -> list[Work]:
    """All requests of a kind."""
    makers = {
        "code edit": lambda: [_edit(name) for name in EDITED],
        "quote": lambda: [_quote(question, parts) for question, parts in QUESTIONS.items()],
        "JSON by schema": lambda: [_extract(part, by_schema=True) for part in range(3)],
        "JSON freely": lambda: [_extract(part, by_schema=False) for part in range(3)],
        "open chat": lambda: [Work(kind, (Message("user", text),), 256) for text in TALK],
    }
    return makers[kind]()


def _edit(name: str) -> Work:
    """Rename the first class or function of a file; the answer is the whole file."""
    code = (ROOT / "src" / "deepseek" / name).read_text(encoding="utf-8")
    named = (ast.ClassDef, ast.FunctionDef)
    old = next(node.name for node in ast.parse(code).body if isinstance(node, named))
    new = f"{old}Now" if old[0].isupper() else f"{old}_now"
    task = f"Rename `{old}` to `{new}` everywhere in this file. Write the whole changed file."
    question = Message("user", f"{task}\n\n```python\n{code}```")
    # The answer's first line is given, so that weak models get to work, too.
    return Work("code edit", (question, Message("assistant", "```python\n")), 1_024, ("```",))


def _quote(question: str, parts: tuple[str, ...]) -> Work:
    """Answer with the words of one of some passages, as after retrieval."""
    passages = [f"[{n}] {section_text(part)}" for n, part in enumerate(parts, 1)]
    task = (
        "Answer the question with the passage that says it, word for word and as a whole, "
        f"then give the passage's number.\n\nQuestion: {question}"
    )
    asked = Message("user", "\n\n".join([*passages, task]))
    return Work("quote", (asked, Message("assistant", 'The passage says: "')), 320)


def section_text(number: str) -> str:
    """The text of the paper's section with a number."""
    (place,) = [i for i, s in enumerate(paper().sections) if s.title.split(" ")[0] == number]
    return "\n".join(paper().text_of(b) for b in paper().blocks if b.section == place)


def _extract(part: int, *, by_schema: bool) -> Work:
    """Some of the paper's references as JSON."""
    (place,) = [i for i, s in enumerate(paper().sections) if s.role == "references"]
    found = [paper().text_of(b) for b in paper().blocks if b.section == place]
    listed = [text for text in found if text.startswith("[")]
    chosen = "\n".join(listed[part * REFERENCES : (part + 1) * REFERENCES])
    task = "Give these references as a JSON array of objects with number, authors, title and year."
    question = Message("user", f"{task}\n\n{chosen}")
    if by_schema:
        return Work("JSON by schema", (question,), 768, schema=SCHEMA)
    begun = Message("assistant", "```json\n[")
    return Work("JSON freely", (question, begun), 768, ("```",))
