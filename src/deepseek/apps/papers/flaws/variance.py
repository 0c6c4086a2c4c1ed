"""Is there any word on how far the results vary, or whether differences are significant?"""

import re

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.paper import EVALUATION, PaperView

SPREAD = (
    r"±|\+/-|standard (deviation|error)|\bstd\b|\bstdev|statistical(ly)? (test|level)"
    r"|statistical(ly)? significan|significantly (different|better|worse)[^.]{0,40}\bp\b"
    r"|\bp ?[<≤] ?0?\.\d|\bp ?= ?0?\.0|\bp-values?|\bt-?test|wilcoxon|mcnemar|bootstrap"
    r"|permutation test|sign test|randomi[sz]ation test|\banova\b|significance"
    r"|(random|different|multiple|several|\d+|three|five|ten) (random )?seeds\b"
    r"|random (restart|initiali[sz]ation)s|confidence (interval|level)|cross[- ]validation"
    r"|(different|independent|multiple|several|random|\d+|three|five|ten) runs\b"
    r"|averaged? (over|across|of|from) (\w+ ){0,3}(runs|trials|repetitions|times|seeds|folds)"
    r"|\b(\d+|three|five|ten|random|independent) trials\b"
    r"|\b(runs?|ran|repeat\w*|experiments?|train(ed)?) (\w+ ){0,4}"
    r"(\d+|several|multiple|three|five|ten) (times|repetitions)\b"
    r"|variance (of|in|across|over) (the |our )?(result|perform|score|run|accuracy)"
    r"|标准差|方差|显著性|随机种子|置信区间|次实验"
)
# "weights are drawn with a standard deviation of 0.1" says nothing about results.
SETTING = re.compile(r"initiali[sz]|gaussian|noise|N ?\(0|batch norm|drawn from", re.IGNORECASE)
OF_SETTING = re.compile(r"standard (deviation|error)s?|\bstd(ev)?\b|variances?", re.IGNORECASE)


def has_spread(text: str) -> bool:
    """Whether a sentence says how results vary, or tests a difference."""
    if SETTING.search(text):
        text = OF_SETTING.sub("", text)
    return re.search(SPREAD, text, re.IGNORECASE) is not None


@detector("no_variance")
def no_variance(view: PaperView) -> list[Flaw]:
    """Results without ±, deviation, seeds, intervals or a test."""
    tables = [
        grid
        for grid in view.grids
        if sum("." in e.number.text for r in grid.rows for e in r.entries) > 2
    ]
    if not tables or len(view.prose) < 25:
        return []
    if any("±" in view.document.pages[g.page - 1].text for g in tables):
        return []
    if any(line.role != "related" and has_spread(line.text) for line in view.lines):
        return []
    claims = [
        line
        for line in view.matching(
            r"outperform|significant|better than|state[- ]of[- ]the[- ]art|优于"
        )
        if line.role in ("abstract", "conclusion", *EVALUATION) and line.is_prose
    ]
    named = ", ".join(grid.name for grid in tables[:4])
    return [
        Flaw(
            kind="no_variance",
            severity="major" if claims else "minor",
            statement=f"How far do the results vary between runs? {named} give single numbers: "
            "no deviation, number of seeds, confidence interval or significance test is stated.",
            confidence=0.85,
            evidence=tuple(line.sentence.spans for line in claims[:2])
            or tuple(g.caption_spans for g in tables[:1] if g.caption_spans),
            searched="±, standard deviation, seeds, runs, confidence interval, significance, "
            f"p-value, names of tests; in all {len(view.lines)} sentences and captions",
            question="Are these results stated without a deviation, several runs or a "
            "significance test?",
        )
    ]
