"""Lets a model put evidence into one short sentence; falls back to the evidence itself."""

import re
from dataclasses import dataclass

from deepseek.apps.papers.grounding import is_grounded
from deepseek.core.llm import Completion, LanguageModel, Message, SamplingParams

SYSTEM = {
    "en": "You write one short factual sentence about a scientific paper. "
    "You use only what the quoted evidence says.",
    "zh": "你用一句简短的话陈述科学论文的内容，只使用所引证据中的信息。",
}
TEMPLATE = {
    "en": "Paper: {title}\n\nEvidence:\n{evidence}\n\nQuestion: {question}\n"
    "Answer in one sentence of at most 25 words. Keep names and numbers as in the evidence.",
    "zh": "论文：{title}\n\n证据：\n{evidence}\n\n问题：{question}\n"
    "请用一句不超过40字的中文回答，名称和数字与证据保持一致。",
}
MAX_TOKENS = 64
MAX_EVIDENCE_CHARACTERS = 1_500
MAX_QUOTED_CHARACTERS = 240  # of a sentence that stands in for a statement
LEAD = re.compile(
    r"^((yes|是的?)[,，]|answer|evidence|the (paper|authors|evidence) (states?|says?) that|回答|答)"
    r"\s*[:：]?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes statements about one paper."""

    model: LanguageModel
    title: str
    language: str
    seed: int = 0

    def statement(self, question: str, quote: str) -> tuple[str, bool]:
        """One sentence that answers the question from a quote.

        Returns:
            The sentence, and whether the model wrote it: if its own says more than the
            quote does, the quote takes its place.
        """
        text = TEMPLATE[self.language].format(
            title=self.title, evidence=quote[:MAX_EVIDENCE_CHARACTERS], question=question
        )
        answer = self.model.generate(
            [Message("system", SYSTEM[self.language]), Message("user", text)],
            SamplingParams(max_tokens=MAX_TOKENS, stop=("\n",), seed=self.seed),
        )
        written = plain_statement(answer)
        if written and is_grounded(written, quote, self.title):
            return written, True
        return shortened(quote), False


def plain_statement(answer: Completion) -> str:
    """An answer's sentence without what leads to it; empty if the answer is not whole."""
    written = LEAD.sub("", answer.text.strip()).strip('"“” -')
    if answer.finish_reason != "stop" or written[-1:] in (":", "：", ""):
        return ""
    return written[0].upper() + written[1:]


def shortened(quote: str) -> str:
    """A quote cut at a word so that it serves as a statement."""
    if len(quote) <= MAX_QUOTED_CHARACTERS:
        return quote
    return quote[:MAX_QUOTED_CHARACTERS].rsplit(" ", 1)[0].rstrip(",;: ") + " …"
