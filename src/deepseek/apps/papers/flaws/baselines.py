"""With what, and on what, is the method compared?"""

import re
from collections import Counter

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.paper import CLAIMING, EVALUATION, PaperView

COMPARES = (
    r"baseline|outperform|compar(ed|ing|ison)|state[- ]of[- ]the[- ]art|\bsurpass"
    r"|\b(prior|previous|existing|competing) (work|method|model|approach|system|result|art\b)"
    r"|基线|优于|对比|相比"
)
DATASET = re.compile(
    r"(?P<name>[A-Z][\w-]*[A-Z0-9][\w.-]*|[A-Z][a-z]+[\w-]*(?: [A-Z][\w-]*)*)"
    r"(?: \([^)]{1,60}\))?(?: (?:English|Chinese|test|dev|development|training|full))?"
    r" (?:data ?sets?|corpus|corpora|benchmarks?|treebank|data|test set|dev set|task)\b"
)
NO_NAME = frozenset(
    "the this these our we each all both in on for english chinese training test table".split()
)
PLURAL = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|several|multiple|various|both|many"
    r"|different|\d+)"
    r" (\w+[- ]){0,4}(data ?sets|corpora|benchmarks|languages|domains|tasks)\b|个数据集",
    re.IGNORECASE,
)


@detector("few_baselines")
def few_baselines(view: PaperView) -> list[Flaw]:
    """The result tables list the paper's own system and hardly any other."""
    evaluation = [line for line in view.lines if line.role in EVALUATION]
    if len(evaluation) < 12:
        return []
    own: set[str] = set()
    others: set[str] = set()
    for _, row, entry in view.entries:
        if entry.number.decimals and re.search(r"[A-Za-z]{2}|[\u4e00-\u9fff]", row.label):
            (own if view.is_own(row.label) else others).add(row.label)
    compares = list(view.matching(COMPARES, evaluation))
    rivals = len(others) + 2 * sum(
        bool(re.search(r"et al|\b(19|20)\d\d\b|\[\d", x)) for x in others
    )
    if len(compares) > 3 or (len(compares) > 1 and rivals > 6) or (compares and rivals > 25):
        return []
    listed = f"own rows: {_few(own)}; other rows: {_few(others)}" if own or others else "no rows"
    evidence = [line.sentence.spans for line in compares[:2]]
    evidence += [grid.caption_spans for grid in view.grids if grid.caption_spans][:2]
    return [
        Flaw(
            kind="few_baselines",
            severity="major",
            statement="Against which other systems is the method measured? The evaluation "
            f"compares it with hardly any ({listed}).",
            confidence=round(0.8 - 0.05 * len(compares) - 0.01 * min(rivals, 10), 2),
            evidence=tuple(evidence),
            searched="baseline, outperform, compared, state of the art, previous/existing work in "
            f"{len(evaluation)} sentences of the evaluation ({len(compares)} found), and the row "
            f"labels of {len(view.grids)} tables",
            question="Are the results of the proposed method given without a comparison with "
            "systems of other authors?",
        )
    ]


def _few(labels: set[str]) -> str:
    names = sorted(label[:40] for label in labels)
    return "none" if not names else ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


@detector("single_dataset")
def single_dataset(view: PaperView) -> list[Flaw]:
    """Only one data set is ever named."""
    lines = [line for line in view.lines if line.role in CLAIMING]
    names: Counter[str] = Counter()
    first = None
    for line in lines:
        if PLURAL.search(line.text):
            return []
        for match in DATASET.finditer(line.text):
            words = [w for w in match["name"].split() if w.lower() not in NO_NAME]
            if words:
                names[" ".join(words)] += 1
                first = first or line
    heads = {name.split()[0].split("-")[0].lower() for name in names}
    if len(heads) != 1 or first is None or sum(names.values()) < 2 or not view.grids:
        return []
    name = names.most_common(1)[0][0]
    return [
        Flaw(
            kind="single_dataset",
            severity="minor",
            statement=f"Does the result hold beyond {name}? It is the only data set named.",
            confidence=0.45,
            evidence=(first.sentence.spans,),
            searched=f"names before data set, corpus, benchmark, task in {len(lines)} sentences",
            question=f"Is the method evaluated on {name} only?",
        )
    ]
