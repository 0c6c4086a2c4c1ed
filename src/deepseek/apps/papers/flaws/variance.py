"""Is there any word on how far the results vary, or whether differences are significant?"""

import re

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.paper import EVALUATION, PaperView

SPREAD = (
    r"±|\+/-|standard (deviation|error)|\bstd\b|\bstdev|(statistical(ly)?|significance) (test"
    r"|level)"
    r"|statistical(ly)? significan|significantly (different|better|worse)[^.]{0,40}\bp\b"
    r"|\bp ?[<≤] ?0?\.\d|\bp ?= ?0?\.0|\bp-values?|\bt-?test|wilcoxon|mcnemar|bootstrap"
    r"|permutation test|sign test"
    r"|randomi[sz]ation test|\banova\b|(random|different|multiple|several|\d+|three|five"
    r"|ten) (random )?seeds?\b"
    r"|random (restart|initiali[sz]ation)s|confidence (interval|level)|significance"
    r"|(different|independent|multiple|several|random|\d+|three|five|ten) runs\b"
    r"|averaged? (over|across|of|from) (\w+ ){0,3}(runs|trials|repetitions|times|seeds|folds)"
    r"|(runs?|ran|repeat\w*|experiments?|train(ed)?) (\w+ ){0,4}(\d+|several|multiple|three|five"
    r"|ten)"
    r" (times|repetitions)\b"
    r"|variance (of|in|across|over) (the |our )?(result|perform|score|run|accuracy)"
    r"|标准差|方差|显著性|随机种子|置信区间|次实验"
)
NOISE = (
    r"(standard deviation|variance|std) (of|=|to|is)? ?(0?\.\d|σ|1\b)|weight|N ?\(0|Gaussian"
    r"|initiali[sz]ed (from|with|by|to)|batch norm"
)


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
    for line in view.matching(SPREAD):
        if line.role != "related" and not re.search(NOISE, line.text, re.IGNORECASE):
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
