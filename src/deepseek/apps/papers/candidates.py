"""The cheap first look: which sentences could say what a facet is about.

Place, cue phrases and the contribution score choose a handful of sentences; only those are
shown to a model, since reading is what costs time on a CPU.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from deepseek.apps.documents.document import BlockKind, Document, Sentence
from deepseek.apps.papers.features import items_of
from deepseek.apps.papers.scorer import contribution_scores
from deepseek.apps.papers.tasks import Facet

KINDS: tuple[BlockKind, ...] = ("paragraph", "list", "caption", "footnote")
WORD = re.compile(r"[a-z][a-z0-9]+|\d+(?:\.\d+)?|[\u4e00-\u9fff]")
ENDINGS = re.compile(r"(?<=[a-z]{3})(ings?|ed|es|e|s)$")
STOP_WORDS = frozenset(
    "the a an of to in on for and or is are was were be been it its this that these those with as "
    "by from at which what how who whom whose where when why do does did has have had can could "
    "we our they their not no there than then also such used use using paper authors".split()
)
OWN = re.compile(
    r"\b(we|our|ours|this (paper|work|model|method|package|article))\b|本文|我们", re.IGNORECASE
)
OWN_ROLES = ("abstract", "introduction", "conclusion")
NAMED = re.compile(
    r"(?i:\b(?:we|(?:this|our) (?:paper|work|article)) (?:\w+ )?"
    r"(?:propose|present|introduce|describe|develop|release|call|name|dub)[sd]?\b)"
    r"[^.;:]{0,60}?\s\(?(?!Section|Table|Figure|Appendix)"
    r"([A-Z][A-Za-z0-9]*[a-zA-Z0-9-]+)(?! et al| and [A-Z]\w+ [\[(])"
)
EVALUATION_ROLES = ("experiments", "results", "ablation")
DECIMAL = re.compile(r"\d\.\d")
FEW_NUMBERS = 6  # decimals that make a table one of results
FEW_SECTIONS = 4  # with fewer, their titles say nothing about what is missing
MIN_NAMED = 3  # times that a system's name occurs in its paper
BM25_K1, BM25_B = 1.2, 0.6
MAX_CUES = 3
MIN_WORDS, MANY_WORDS = 6, 60


@dataclass(frozen=True)
class Outlook:
    """A document with what is computed once for all facets."""

    document: Document

    @cached_property
    def texts(self) -> list[str]:
        """The text of each sentence."""
        return [self.document.text_of(s) for s in self.document.sentences]

    @cached_property
    def words(self) -> list[list[str]]:
        """The content words of each sentence."""
        return [content_words(text) for text in self.texts]

    @cached_property
    def contribution(self) -> list[float]:
        """The contribution score of each sentence."""
        return contribution_scores(items_of(self.document), self.document.title)

    @cached_property
    def is_paper(self) -> bool:
        """Whether it looks like a research paper: it has an abstract or references.

        A text with hardly any headings gets the benefit of the doubt.
        """
        titled = [section for section in self.document.sections if section.title]
        roles = {section.role for section in titled}
        return len(titled) < FEW_SECTIONS or not roles.isdisjoint(("abstract", "references"))

    @cached_property
    def has_evaluation(self) -> bool:
        """Whether there are experiments, as far as sections and tables tell."""
        titled = [section for section in self.document.sections if section.title]
        roles = {section.role for section in titled}
        few = len(titled) < FEW_SECTIONS
        return self.is_paper and (
            few or not roles.isdisjoint(EVALUATION_ROLES) or self._has_results_table
        )

    @property
    def _has_results_table(self) -> bool:
        return any(
            sum(bool(DECIMAL.search(cell.text)) for row in table.rows for cell in row)
            >= FEW_NUMBERS
            for table in self.document.tables
        )

    @cached_property
    def own_name(self) -> str:
        """The name that the paper gives its own system or method; empty if there is none."""
        names: Counter[str] = Counter()
        for sentence, text in zip(self.document.sentences, self.texts, strict=True):
            if self.document.section_of(sentence).role in OWN_ROLES:
                names.update(NAMED.findall(text))
        everything = " ".join(self.texts)
        likely = [
            (n, everything.count(name), name)
            for name, n in names.items()
            if everything.count(name) >= MIN_NAMED
        ]
        return max(likely)[2] if likely else ""

    def is_own(self, index: int) -> bool:
        """Whether a sentence speaks of the paper's own work."""
        text = self.texts[index]
        return bool(OWN.search(text)) or bool(self.own_name and self.own_name in text)

    @cached_property
    def title_words(self) -> frozenset[str]:
        """The content words of the title."""
        return frozenset(content_words(self.document.title))


def content_words(text: str) -> list[str]:
    """Lower-case words without endings and stop words; for Chinese, pairs of characters."""
    words = []
    tokens = WORD.findall(text.lower())
    for token, following in pairwise([*tokens, ""]):
        if "\u4e00" <= token <= "\u9fff":
            if "\u4e00" <= following <= "\u9fff":
                words.append(token + following)
        elif token not in STOP_WORDS:
            words.append(ENDINGS.sub("", token))
    return words


def rank_candidates(outlook: Outlook, facet: Facet, question: str) -> list[tuple[int, float]]:
    """Indices of the sentences worth showing to a model, best first, with their scores.

    Args:
        outlook: The document.
        facet: What is looked for.
        question: Its question in the document's language, for facets that search by words.
    """
    if facet.evaluation and not outlook.has_evaluation:
        return []
    rows = [i for i, s in enumerate(outlook.document.sentences) if _is_eligible(outlook, s, facet)]
    if facet.search:
        relevance = bm25(outlook.words, content_words(question))
        scored = [(i, relevance[i]) for i in rows if relevance[i] > 0]
    else:
        patterns = [re.compile(p) for p in facet.cues], [re.compile(p) for p in facet.avoid]
        scored = [(i, _score(outlook, i, facet, *patterns)) for i in rows]
        scored = [(i, score) for i, score in scored if score > 0]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[: facet.max_candidates]


def bm25(documents: Sequence[Sequence[str]], query: Sequence[str]) -> list[float]:
    """Okapi BM25 (Robertson & Zaragoza 2009) of each document for a query."""
    n = len(documents)
    mean = sum(map(len, documents)) / n if n else 1.0
    counts = [Counter(words) for words in documents]
    scores = [0.0] * n
    for word in set(query):
        holders = [i for i, count in enumerate(counts) if count[word]]
        idf = math.log(1 + (n - len(holders) + 0.5) / (len(holders) + 0.5))
        for i in holders:
            frequency = counts[i][word]
            length = 1 - BM25_B + BM25_B * len(documents[i]) / mean
            scores[i] += idf * frequency * (BM25_K1 + 1) / (frequency + BM25_K1 * length)
    return scores


def _is_eligible(outlook: Outlook, sentence: Sentence, facet: Facet) -> bool:
    section = outlook.document.section_of(sentence)
    return section.role in facet.roles and outlook.document.kind_of(sentence) in KINDS


def _score(
    outlook: Outlook,
    index: int,
    facet: Facet,
    cues: Sequence[re.Pattern[str]],
    avoid: Sequence[re.Pattern[str]],
) -> float:
    text, sentence = outlook.texts[index], outlook.document.sentences[index]
    n_cues = sum(1 for pattern in cues if pattern.search(text))
    if not n_cues:
        return 0.0
    score = facet.roles[outlook.document.section_of(sentence).role] + min(n_cues, MAX_CUES)
    score -= 1.2 * sum(1 for pattern in avoid if pattern.search(text))
    score += facet.contribution * outlook.contribution[index]
    score += facet.own * outlook.is_own(index)
    words = outlook.words[index]
    score += 0.5 * min(len(outlook.title_words.intersection(words)), 2) / 2
    if len(words) < MIN_WORDS or outlook.document.kind_of(sentence) == "footnote":
        score -= 1.0
    return score - (0.5 if len(words) > MANY_WORDS else 0.0)
