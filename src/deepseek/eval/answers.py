"""Generated answers against gold ones: the rules of SQuAD's and lm-eval's scorers."""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLE = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

STATED_NUMBER = re.compile(r"The answer is (\-?[0-9\.\,]+).")
"""lm-eval's `strict-match` of GSM8K with worked examples; the dot stands for any character."""
ANY_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
"""lm-eval's `flexible-extract`: what looks like a number, of which the last one counts."""
INVALID = "[invalid]"
NOT_COMPARED = (re.compile(r","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


def normalised(text: str) -> str:
    """A text as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the answer equals one of the gold answers after normalisation."""
    return float(any(normalised(answer) == normalised(one) for one in gold))


def best_f1(answer: str, gold: Sequence[str]) -> float:
    """The largest overlap of words with a gold answer, as SQuAD v1.1 computes it."""
    return max(f1(answer, one) for one in gold)


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the words of two texts."""
    said, wanted = normalised(answer).split(), normalised(gold).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def stated_number(text: str) -> str:
    """The number after the first "The answer is", or `[invalid]`."""
    found = STATED_NUMBER.search(text)
    return found.group(1).strip() if found else INVALID


def last_number(text: str) -> str:
    """The last thing in a text that looks like a number, or `[invalid]`."""
    found = list(ANY_NUMBER.finditer(text))
    return found[-1].group().strip() if found else INVALID


def same_number(answer: str, gold: str) -> float:
    """1 if two numbers are written alike, apart from commas, dollar signs and a final stop."""
    for pattern in NOT_COMPARED:
        answer, gold = pattern.sub("", answer), pattern.sub("", gold)
    return float(answer.lower() == gold.lower())
