"""Is there any experiment that takes the method apart?"""

import re

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.paper import EVALUATION, Line, PaperView

NAMED = r"\bablat|\bw/o\b|消融"
TITLES = re.compile(
    r"ablat|component|(effect|impact|influence|contribution|importance|role|usefulness"
    r"|benefit)s? of"
    r"|what (matters|helps)|model variations?|variants|sensitivity|消融|影响|作用",
    re.IGNORECASE,
)
REMOVES = re.compile(
    r"\b(without|remov(e|es|ed|ing)|exclud(e|ed|ing)|disabl(e|ed|ing)|leav(e|ing) out|dropping"
    r"|turn(ed|ing) off|replac(e|ed|es|ing)|degenerates? to|omit(ted|ting)?"
    r"|(when|by|after) adding|variants? of (our|the))\b|去掉|移除|替换",
    re.IGNORECASE,
)
EFFECT = re.compile(
    r"\b(decreas|degrad|drops?\b|declin|hurts?\b|worse|lower|improves?\b|improved|gain|contribut"
    r"|boost|crucial)|\d\.\d|性能|下降|提升",
    re.IGNORECASE,
)
STUDIES = re.compile(
    r"\b(effect|impact|influence|importance|contribution|benefit|role|effectiveness)s? of (each"
    r"|using|different|individual|adding|removing|these|various|every|the (?!proposed|model|method)"
    r"|our (?!proposed|model|method|approach|system))"
    r"|\bvariants? of (our|the) (model|method|system|approach)",
    re.IGNORECASE,
)
# Sentences that say outright that parts were varied to see what each brings.
SAYS_SO = re.compile(
    r"\b(importance|effect(iveness)?|impact|contribution|influence|role|benefit)s? of (the )?"
    r"(different|individual|each|various|several|single|our) (\w+ )?"
    r"(components?|parts?|techniques?|modules?|features?|choices|elements|of (the|our))",
    re.IGNORECASE,
)
NO_STUDY = re.compile(
    r"drop-?out|hidden|stop ?words|preprocess|pre-process|token|vocabulary|learning rate|epoch",
    re.IGNORECASE,
)
ABLATED = re.compile(r"\s*(w/o\b|without\b|no\b|[-–−][A-Za-z(]{3}|\([-–−]\)|remov|all but)", re.I)
PROPOSES = (
    r"\b(we|this paper|this work) (\w+ )?(propose|present|introduce|develop)|本文提出|我们提出"
)
ENOUGH = 2.5  # weight of evidence from which an ablation is taken to be there


def weigh(view: PaperView) -> tuple[float, Line | None]:
    """How much speaks for an ablation in the paper, and the sentence that comes closest to one."""
    weight = 0.0
    closest: Line | None = None
    if any(view.matching(NAMED, [x for x in view.lines if x.role != "related"])):
        weight += 3
    for section in view.document.sections:
        if section.role == "ablation":
            weight += 3
        elif section.role in EVALUATION and TITLES.search(section.title):
            weight += 2
    rows = [row for _, row, _ in view.entries if ABLATED.match(row.label)]
    weight += min(3, 1.5 * len({row.span for row in rows}))
    for line in view.prose:
        if line.role not in EVALUATION or NO_STUDY.search(line.text):
            continue
        if SAYS_SO.search(line.text):
            weight += 2
        removes = bool(REMOVES.search(line.text) and EFFECT.search(line.text))
        studies = bool(STUDIES.search(line.text))
        if removes or studies:
            closest = line if closest is None or (removes and studies) else closest
            weight += 0.5 * removes + 0.5 * studies
    return weight, closest


@detector("no_ablation")
def no_ablation(view: PaperView) -> list[Flaw]:
    """The paper proposes a method with parts and tests none of them alone."""
    proposals = [
        line
        for line in view.matching(PROPOSES, view.prose)
        if line.role in ("abstract", "introduction", "conclusion", "method")
    ]
    is_empirical = any("." in e.number.text for _, _, e in view.entries)
    if not proposals or not is_empirical or len(view.prose) < 25:
        return []
    weight, closest = weigh(view)
    if weight >= ENOUGH:
        return []
    roles = sum(section.role in EVALUATION for section in view.document.sections)
    near = f'; closest: "{closest.text[:160]}" ({closest.sentence.id})' if closest else ""
    return [
        Flaw(
            kind="no_ablation",
            severity="major",
            statement="Which part of the proposed method brings the gain? No experiment removes "
            "or replaces a part of it and shows the result.",
            confidence=round(0.85 - 0.15 * weight, 2),
            evidence=tuple(
                line.sentence.spans for line in (proposals[0], closest) if line is not None
            ),
            searched="ablation, w/o, without, remove, replace, effect/impact/contribution of, "
            f"variant of; in {len(view.lines)} sentences and captions ({roles} evaluation "
            f"sections), and in the row labels of {len(view.grids)} tables{near}",
            question="Do these sentences leave open what each part of the proposed method "
            "contributes on its own?",
        )
    ]
