"""Names of evaluation metrics, and which of them mean the same."""

import re
from collections.abc import Iterator

# Canonical name, and how it is written. Order matters: longer names first.
METRICS: tuple[tuple[str, str], ...] = (
    ("exact match", r"\bexact[- ]match\b|\bEM\b"),
    ("micro-F1", r"\bmicro[- ]?(?:averaged? )?F-?1\b"),
    ("macro-F1", r"\bmacro[- ]?(?:averaged? )?F-?1\b"),
    ("F1", r"\bF-?1\b|\bF-?(?:score|measure)s?\b|\bF ?β ?= ?1\b|F值"),
    ("accuracy", r"\baccurac(?:y|ies)\b|\bAcc\b\.?|准确率|正确率"),
    ("precision", r"\bprecision\b|精确率"),
    ("recall", r"\brecall\b|召回率"),
    ("BLEU", r"\bBLEU(?:-?\d)?\b"),
    ("ROUGE", r"\bROUGE(?:-[\w*]+)?\b|\bR(?:G)?-[12L]\b"),
    ("METEOR", r"\bMETEOR\b"),
    ("CIDEr", r"\bCIDEr(?:-D)?\b"),
    ("MAP", r"\bMAP\b|\bmean average precision\b"),
    ("MRR", r"\bMRR(?:@\d+)?\b|\b(?:mean )?reciprocal rank\b"),
    ("NDCG", r"\bn?DCG(?:@\d+)?\b"),
    ("Hits", r"\bhits?@\d+\b"),
    ("perplexity", r"\bperplexit(?:y|ies)\b|\bPPL\b|困惑度"),
    ("LAS", r"\bLAS\b|\blabell?ed attachment\b"),
    ("UAS", r"\bUAS\b|\bunlabell?ed attachment\b"),
    ("AUC", r"\bAUC\b|\barea under\b"),
    ("error rate", r"\berror rates?\b|\bWER\b|\bCER\b|错误率"),
    ("RMSE", r"\bR?MSE\b|\bmean squared error\b"),
    ("correlation", r"\b(?:pearson|spearman)\b"),
    ("MOS", r"\bMOS\b|\bmean opinion\b"),
)
PATTERN = re.compile(
    "|".join(f"(?P<m{i}>{pattern})" for i, (_, pattern) in enumerate(METRICS)), re.IGNORECASE
)
# Abbreviations that are words in lower case: "map", "em", "las".
UPPER_ONLY = re.compile(r"(?:EM|MAP|LAS|UAS|MOS|MSE|CER|AUC|PPL|Acc)\.?")


def metrics_in(text: str) -> Iterator[tuple[str, int, int]]:
    """Canonical name, start and end of each metric that a text names."""
    for match in PATTERN.finditer(text):
        written = match.group()
        is_short = UPPER_ONLY.fullmatch(written.upper()) is not None
        if is_short and not written[:2].isupper() and not written.startswith("Acc"):
            continue
        index = int((match.lastgroup or "m0")[1:])
        yield METRICS[index][0], match.start(), match.end()


def family(metric: str) -> str:
    """Metrics that papers call by each other's name without meaning a difference."""
    return "F1" if metric.endswith("F1") else metric
