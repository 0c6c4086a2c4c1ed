"""Asks a model yes or no about sentences, and reads the answer from its probabilities.

A small model says Yes too readily, and to each question by another margin. What counts is
therefore how much more it leans to Yes than for a sentence that says nothing (contextual
calibration, Zhao et al. 2021, arXiv:2102.09690).
"""

from dataclasses import dataclass

from deepseek.apps.papers.reading import Reading
from deepseek.core.llm import LanguageModel, Message, Prompt

NEUTRAL = {
    "en": "The rest of this paper is organised as follows.",
    "zh": "本文其余部分的结构安排如下。",
}
ANSWERS = {"en": ("Yes", "No"), "zh": ("是", "否")}
SYSTEM = {
    "en": "You check what sentences of a scientific paper say. Answer Yes or No.",
    "zh": "你负责核对科学论文中的句子说了什么。只回答是或否。",
}
TEMPLATE = {
    "en": "Paper: {title}\nDoes the sentence below state {claim}?\n\n"
    "Section: {section}\nSentence: {sentence}\n\nAnswer Yes or No.",
    "zh": "论文：{title}\n下面的句子是否说明了{claim}？\n\n"
    "章节：{section}\n句子：{sentence}\n\n只回答是或否。",
}
CONFIRM = {
    "en": "Paper: {title}\n\nEvidence from the paper:\n{evidence}\n\n{question}\nAnswer Yes or No.",
    "zh": "论文：{title}\n\n论文中的证据：\n{evidence}\n\n{question}\n只回答是或否。",
}
MAX_CHARACTERS = 1_200  # of a sentence or of evidence: a prompt stays short


@dataclass(frozen=True, slots=True)
class Judge:
    """One model's yes-or-no view of one paper."""

    model: LanguageModel
    title: str
    language: str
    reading: Reading | None = None
    """What the model has in view beside the sentence; None: nothing."""

    def baseline(self, claim: str) -> float:
        """How far the model leans to Yes for a sentence that says nothing, in nats."""
        return self._lean(self._about(claim, NEUTRAL[self.language], ""))

    def states(self, claim: str, sentence: str, section: str) -> float:
        """How far it leans to "the sentence states the claim", in nats, not yet calibrated."""
        return self._lean(self._about(claim, sentence, section))

    def confirms(self, question: str, evidence: str) -> float:
        """How far it leans to Yes on a question about evidence, in nats."""
        text = CONFIRM[self.language].format(
            title=self.title, evidence=evidence[:MAX_CHARACTERS], question=question
        )
        return self._lean(text)

    def _about(self, claim: str, sentence: str, section: str) -> str:
        # The sentence comes last: what stands before it is read once for all candidates.
        return TEMPLATE[self.language].format(
            title=self.title, claim=claim, section=section, sentence=sentence[:MAX_CHARACTERS]
        )

    def _lean(self, question: str) -> float:
        prompt: Prompt = [Message("system", SYSTEM[self.language]), Message("user", question)]
        if self.reading is not None:
            prompt = self.reading.followed_by(question)
        yes, no = self.model.score(prompt, ANSWERS[self.language])
        return yes.logprob - no.logprob
