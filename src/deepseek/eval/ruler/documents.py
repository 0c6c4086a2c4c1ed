"""Questions among documents: RULER's `qa_1` and `qa_2`, the passage of the answer among others."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from deepseek.eval.ruler.filled import Filled, Recipe

ASK = (
    "Answer the question based on the given documents. Only give me the answer and do not output"
    " any other words."
)
TEMPLATE = (
    f"{ASK}\n\nThe following are given documents.\n\n{{context}}\n\n{ASK}\n\n"
    "Question: {question} Answer:"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A question, its answers, and the passages that it needs."""

    question: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    topic: str = ""
    """Passages of the same topic make the first distractors."""


class Corpus:
    """Questions and the passages of all of them."""

    def __init__(self, inquiries: Sequence[Inquiry]) -> None:
        self.inquiries = inquiries
        self.documents = sorted({text for asked in inquiries for text in asked.passages})
        self._by_topic: dict[str, dict[str, None]] = defaultdict(dict)
        for asked in inquiries:
            if asked.topic:
                self._by_topic[asked.topic].update(dict.fromkeys(asked.passages))

    def related(self, asked: Inquiry) -> list[str]:
        """Other passages of the topic."""
        return [text for text in self._by_topic.get(asked.topic, ()) if text not in asked.passages]


def document_recipe(corpus: Corpus, index: int) -> Recipe:
    """One question among documents.

    Args:
        corpus: The questions; they come in an order of their own for each seed.
        index: Which question.
    """
    asked = corpus.inquiries[index % len(corpus.inquiries)]

    def build(generator: Random, n_pieces: int) -> Filled:
        chosen = _documents(corpus, asked, generator, n_pieces)
        context = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(chosen, start=1))
        return Filled(TEMPLATE.format(context=context, question=asked.question), asked.answers)

    return Recipe(build=build, least=len(asked.passages), max_tokens=32, match="part")


def _documents(corpus: Corpus, asked: Inquiry, generator: Random, n_documents: int) -> list[str]:
    """The passages that are needed, then those of the topic, then others, in random order.

    More documents have fewer among them, so that their tokens grow with their number.
    """
    if n_documents >= len(corpus.documents):
        repeats = -(-n_documents // len(corpus.documents))
        chosen = (corpus.documents * repeats)[:n_documents]
    else:
        related = corpus.related(asked)
        taken = {*asked.passages, *related}
        others = [text for text in corpus.documents if text not in taken]
        generator.shuffle(related)
        generator.shuffle(others)
        chosen = [*asked.passages, *related, *others][:n_documents]
    generator.shuffle(chosen)
    return chosen
