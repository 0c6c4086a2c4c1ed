"""The whole paper as the beginning of prompts: it is read once, and questions follow it."""

from dataclasses import dataclass
from typing import Literal, get_args

from deepseek.apps.documents.document import Document
from deepseek.core.llm import LanguageModel, Message, Prompt

Extent = Literal["whole", "body"]
ReadMode = Literal["auto", "whole", "sentences"]
READ_MODES: tuple[ReadMode, ...] = get_args(ReadMode)

SYSTEM = {
    "en": "You answer questions about a scientific paper. You use only what the paper says.",
    "zh": "你回答关于一篇科学论文的问题，只使用论文中的信息。",
}
BETWEEN = {"en": "\n\n(End of the paper.)\n\n", "zh": "\n\n（论文到此结束。）\n\n"}
ROOM = 1_536
"""Tokens kept free behind the paper for a question with its evidence, and for the answer."""
TOO_LONG = {
    "en": "The paper was read sentence by sentence, not as a whole: its {n_tokens:,} tokens and "
    "{room:,} for questions exceed the context window of {window:,}.",
    "zh": "本文只逐句阅读，未作为整体阅读：全文 {n_tokens:,} 个词元加上问题所需的 {room:,} 个，"
    "超过了 {window:,} 的上下文窗口。",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A paper's text before every question, so that a model's cache holds it for all of them."""

    text: str
    n_tokens: int
    extent: Extent
    """`whole`, or `body`: without the list of references."""
    language: str

    def followed_by(self, question: str) -> Prompt:
        """The prompt that asks a question about the paper."""
        content = self.text + BETWEEN[self.language] + question
        return [Message("system", SYSTEM[self.language]), Message("user", content)]


def read_whole(document: Document, model: LanguageModel) -> tuple[Reading | None, str]:
    """As much of a paper as the model can have in view: all of it, or all but its references.

    Returns:
        None if the context window holds neither, and then why, in the paper's language.
    """
    language, room = document.language, model.context_window - ROOM
    n_tokens = 0
    for extent, text in (("whole", _text(document)), ("body", _body(document))):
        n_tokens = model.count_tokens(text)
        if n_tokens <= room:
            return Reading(text, n_tokens, "whole" if extent == "whole" else "body", language), ""
    words = {"n_tokens": n_tokens, "room": ROOM, "window": model.context_window}
    return None, TOO_LONG[language].format(**words)


def _text(document: Document) -> str:
    return "\n".join(page.text for page in document.pages)


def _body(document: Document) -> str:
    return "\n".join(
        document.text_of(block)
        for block in document.blocks
        if block.kind != "reference" and document.sections[block.section].role != "references"
    )
