"""A small paper, and a model that follows rules instead of weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document
from deepseek.core.llm import Completion, Delta, Prompt, SamplingParams, Score

PAPER = Path(__file__).with_name("paper.md")


class RuleModel:
    """Leans to Yes by the sentence's length; answers with a text that a test chooses."""

    name = "rules"
    context_window = 4_096

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.prompts: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        self.prompts.append(_text(prompt))
        return Completion(text=self.answer, token_ids=(1,), finish_reason="stop", n_prompt_tokens=1)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        yield Delta(self.answer, self.generate(prompt, params))

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        text = _text(prompt)
        self.prompts.append(text)
        lean = len(text.rsplit("Sentence: ", 1)[-1]) / 50
        return [Score(lean, 1, True), Score(0.0, 1, False)]


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(m.content for m in prompt)


@pytest.fixture(scope="session")
def paper() -> Document:
    return read_document(PAPER)


@pytest.fixture
def rules() -> RuleModel:
    return RuleModel()
