"""A model whose tokens are words: lengths can be counted by eye."""

from collections.abc import Iterable

from deepseek.core.llm import LanguageModel


class WordModel(LanguageModel):
    """Counts words; nothing else of a model is asked for."""

    name = "words"

    def __init__(self, context_window: int = 100_000) -> None:
        self.window = context_window
        self.words: list[str] = []
        self.counted = 0

    @property
    def context_window(self) -> int:
        return self.window

    def count_tokens(self, text: str) -> int:
        self.counted += 1
        return len(text.split())


class WordTokenModel(WordModel):
    """Shows its words as tokens, each with the one space before it."""

    def encode(self, text: str) -> list[int]:
        ids = []
        for word in text.split(" "):
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return ids

    def decode(self, token_ids: Iterable[int]) -> str:
        return " ".join(self.words[i] for i in token_ids)

    def count_tokens(self, text: str) -> int:
        return len(self.encode(text))
