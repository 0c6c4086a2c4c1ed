"""Questions answered with the whole paper in view, and the passages that carry the answers.

The model answers in its own words; code looks for the sentences of the paper that say all that the
answer says, and the model is asked once more whether they do. An answer without such sentences is
left out: here too a model never writes a quote. What single sentences told comes first: where both
were measured, its quotes were right more often.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from deepseek.apps.papers.analysis import Finding
from deepseek.apps.papers.candidates import KINDS, Outlook, bm25, content_words
from deepseek.apps.papers.extraction import IsOver, Tick
from deepseek.apps.papers.grounding import META, evidence_at, is_grounded
from deepseek.apps.papers.judge import NEUTRAL, Judge
from deepseek.apps.papers.reading import Reading
from deepseek.apps.papers.tasks import Facet, Task
from deepseek.apps.papers.writer import plain_statement
from deepseek.core.llm import Attended, LanguageModel, SamplingParams

ASK = {
    "en": "Question: {question}\nAnswer in one full sentence of at most 25 words. "
    "Keep names, numbers and words as in the paper.",
    "zh": "问题：{question}\n请用一句不超过40字的中文完整回答，名称、数字和用词与论文保持一致。",
}
SUPPORTS = {
    "en": 'Do these passages say the following? "{statement}"',
    "zh": "这些段落是否说明了以下内容？“{statement}”",
}
MAX_TOKENS = 64
MAX_PASSAGES = 3
N_NEAREST = 8
"""Sentences, nearest in words to an answer, among which its passages are looked for."""
MIN_SUPPORT = 0.0
"""Nats above a neutral sentence below which passages do not support an answer."""
N_CALLS = 3
"""Calls of the model for a question at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A sentence of the model, and the sentences of the paper that carry it."""

    statement: str
    passages: tuple[int, ...]
    """Indices of the sentences, in the order of the paper."""
    confidence: float


@dataclass(slots=True)
class Answers:
    """Answers questions about one paper that is in the model's view."""

    outlook: Outlook
    model: LanguageModel
    reading: Reading
    seed: int = 0
    attended: Attended | None = None
    """What the last answer's last token saw; None before the first, or if the model cannot say."""
    _n_asked: int = 0

    @property
    def has_asked(self) -> bool:
        """Whether the paper was read."""
        return self._n_asked > 0

    def findings(self, task: Task, tick: Tick, is_over: IsOver) -> Iterator[Finding]:
        """What answers the questions of a task's facets, as far as passages carry it.

        Args:
            task: What is asked.
            tick: Told of calls of the model.
            is_over: Whether to stop.
        """
        for facet in task.facets:
            if is_over():
                return
            applies = self.outlook.has_evaluation or not facet.evaluation
            finding = self.finding(task, facet) if applies else None
            tick(N_CALLS)
            if finding is not None:
                yield finding

    def finding(self, task: Task, facet: Facet) -> Finding | None:
        """What answers a facet's question; None if no passages carry the model's answer."""
        document = self.outlook.document
        answer = self.answer(facet.ask[document.language])
        if answer is None:
            return None
        sentences = [document.sentences[i] for i in answer.passages]
        return Finding(
            task=task.name,
            kind=facet.kind,
            title=facet.title[document.language],
            statement=answer.statement,
            confidence=answer.confidence,
            evidence=tuple(
                evidence_at(document, s.spans, document.section_of(s).title) for s in sentences
            ),
            in_view="paper",
        )

    def answer(self, question: str) -> Answer | None:
        """An answer that passages of the paper carry; None if there is none."""
        language = self.outlook.document.language
        completion = self.model.generate(
            self.reading.followed_by(ASK[language].format(question=question)),
            SamplingParams(max_tokens=MAX_TOKENS, stop=("\n",), seed=self.seed),
        )
        self._n_asked += 1
        self.attended = completion.attended
        statement = plain_statement(completion)
        if not adds_to(question, statement):
            return None
        passages = self._passages(question, statement)
        if not passages:
            return None
        support = self._support(statement, passages)
        if support < MIN_SUPPORT:
            return None
        return Answer(statement, passages, round(1 / (1 + math.exp(-support)), 2))

    def _passages(self, question: str, statement: str) -> tuple[int, ...]:
        """The fewest sentences near to an answer that together say all that it says."""
        outlook = self.outlook
        relevance = bm25(outlook.words, content_words(f"{question} {statement}"))
        rows = [
            i
            for i, sentence in enumerate(outlook.document.sentences)
            if relevance[i] > 0
            and outlook.document.kind_of(sentence) in KINDS
            and outlook.document.section_of(sentence).role not in ("front", "references")
        ]
        nearest = sorted(rows, key=lambda i: (-relevance[i], i))[:N_NEAREST]
        for size in range(1, MAX_PASSAGES + 1):
            for chosen in combinations(nearest, size):
                quotes = " ".join(outlook.texts[i] for i in sorted(chosen))
                if is_grounded(statement, quotes, outlook.document.title):
                    return tuple(sorted(chosen))
        return ()

    def _support(self, statement: str, passages: tuple[int, ...]) -> float:
        """Nats by which the model leans more to Yes than for a sentence that says nothing."""
        document = self.outlook.document
        judge = Judge(self.model, document.title, document.language, self.reading)
        question = SUPPORTS[document.language].format(statement=statement)
        quotes = "\n".join(f"- {self.outlook.texts[i]}" for i in passages)
        neutral = f"- {NEUTRAL[document.language]}"
        return judge.confirms(question, quotes) - judge.confirms(question, neutral)


def adds_to(question: str, statement: str) -> bool:
    """Whether a statement says something that its question does not.

    Small models agree by repeating the question, and some sentence always has its words.
    """
    return not set(content_words(statement)) <= set(content_words(question)) | META
