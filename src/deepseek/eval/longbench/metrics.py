"""LongBench's metrics: each gives a share from 0 to 1 for one answer against one gold answer.

They follow the official `metrics.py` to the digit, its oddities included; see
`benchmarks/longbench_scorer.py` for the comparison.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache

from deepseek.core.errors import MissingDependencyError
from deepseek.eval.longbench.rouge import STEPS, rouge_l

Metric = Callable[[str, str, Sequence[str]], float]
"""Takes the answer, one gold answer, and the classes of the dataset if it has any."""

PUNCTUATION = frozenset(string.punctuation)
CHINESE_PUNCTUATION = PUNCTUATION | frozenset(
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟"
    "〰〾〿–—‘’‛“”„‟…‧﹏."
)


def qa_f1(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """F1 over words, without case, punctuation and articles."""
    return _f1(_english_words(prediction), _english_words(truth))


def qa_f1_zh(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """F1 over Chinese words as jieba divides them, without punctuation."""
    return _f1(_chinese_words(prediction), _chinese_words(truth))


def rouge(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L over words."""
    return rouge_l(prediction, truth)


def rouge_zh(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L over Chinese words as jieba divides them."""
    # The official function stands one call deeper, so its recursion ends one word earlier.
    return rouge_l(" ".join(_divide(prediction)), " ".join(_divide(truth)), STEPS - 1)


def classification(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """1 over the number of classes that the answer names, if the right one is among them."""
    named = [name for name in classes if name in prediction]
    # As in the official scorer, names are removed from the list that is walked: the one that
    # follows a removed name is passed over.
    for name in named:
        if name in truth and name != truth:
            named.remove(name)
    return 1.0 / len(named) if truth in named else 0.0


def retrieval(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """Share of the numbers in the answer that are the number of the paragraph."""
    return _share_of_numbers(prediction, _number_after("Paragraph ", truth))


def retrieval_zh(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """Share of the numbers in the answer that are the number of the Chinese paragraph."""
    return _share_of_numbers(prediction, _number_after("段落", truth))


def count(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """Share of the numbers in the answer that are the gold number."""
    return _share_of_numbers(prediction, truth)


def code_sim(prediction: str, truth: str, classes: Sequence[str] = ()) -> float:
    """Similarity of the first line that is no comment and no fence, in whole percent.

    The official requirements bring the pure form of the similarity: matching blocks as `difflib`
    finds them, not an edit distance, which gives other numbers.
    """
    lines = prediction.lstrip("\n").split("\n")
    marks = ("`", "#", "//")
    line = next((text for text in lines if not any(mark in text for mark in marks)), "")
    return round(100 * SequenceMatcher(None, line, truth).ratio()) / 100


def _f1(prediction: Sequence[str], truth: Sequence[str]) -> float:
    same = sum((Counter(prediction) & Counter(truth)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(truth)
    return (2 * precision * recall) / (precision + recall)


def _english_words(text: str) -> list[str]:
    bare = "".join(char for char in text.lower() if char not in PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _chinese_words(text: str) -> list[str]:
    words = [
        "".join("".join(c for c in word.lower() if c not in CHINESE_PUNCTUATION).split())
        for word in _divide(text)
    ]
    return [word for word in words if word]


def _number_after(mark: str, truth: str) -> str:
    """The gold number; none in a damaged file, which no answer can match."""
    found = re.search(rf"{mark}(\d+)", truth)
    return found.group(1) if found else ""


def _share_of_numbers(prediction: str, truth: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(truth) / len(numbers) if numbers else 0.0


def _divide(text: str) -> list[str]:
    """Chinese text in words."""
    return list(_dictionary()(text))


@cache
def _dictionary() -> Callable[[str], Sequence[str]]:
    """jieba with its own dictionary, read without a message and without its cache file.

    The cache would be loaded by `marshal` from a folder that every user of the machine can write.

    Raises:
        MissingDependencyError: jieba is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It imports the deprecated pkg_resources where that is installed.
            warnings.simplefilter("ignore")
            import jieba
    except ImportError:
        raise MissingDependencyError(
            "LongBench's Chinese metrics need jieba",
            "install it with: pip install 'deepseek[eval]'",
        ) from None
    tokenizer = jieba.Tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True

    def divide(text: str) -> Sequence[str]:
        return list(tokenizer.cut(text, cut_all=False))

    return divide
