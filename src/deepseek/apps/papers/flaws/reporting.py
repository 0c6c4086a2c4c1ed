"""What a reader needs to repeat and to judge the work: limitations, code, settings.

There is no test set for these: their confidence is a judgement, and below the rest on purpose.
"""

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.paper import EVALUATION, PaperView

LIMITS = (
    r"limitation|shortcoming|drawback|weakness|caveat|threats? to validity|future (work|research"
    r"|direction|stud)|in the future|we leave|left for|remains? (an )?(open|challeng|difficult"
    r"|to be)"
    r"|error analysis|fail(s|ed|ure)? (to|case|mode)|does not (handle|capture)|局限|不足|未来"
)
CODE = (
    r"github|gitlab|bitbucket|\bour (code|implementation|source)|(code|implementation|models?"
    r"|scripts?)"
    r" (\w+ ){0,4}(available|released|public|open)|open[- ]sourc|release (\w+ ){0,3}code|开源|代码"
)
SETTINGS = (
    r"learning rate|batch size|mini-?batch|drop-?out|\bepochs?\b|\badam|\bsgd\b|adagrad|adadelta"
    r"|rmsprop"
    r"|hidden (size|dim|unit|layer|state)|hyper-?parameter|embedding (size|dim)"
    r"|regulari[sz]ation|学习率"
)


@detector("missing_limitations")
def missing_limitations(view: PaperView) -> list[Flaw]:
    """Not one sentence on what the method cannot do."""
    if len(view.prose) < 40 or any(s.role == "limitations" for s in view.document.sections):
        return []
    own = [line for line in view.lines if line.role not in ("related", "introduction", "method")]
    if not own or any(view.matching(LIMITS, own)):
        return []
    last = [line for line in view.prose if line.role == "conclusion"][-1:]
    return [
        Flaw(
            kind="missing_limitations",
            severity="minor",
            statement="Where does the method fail, and what does the evaluation not cover? No "
            "sentence speaks of a limitation.",
            confidence=0.45,
            evidence=tuple(line.sentence.spans for line in last),
            searched="limitation, drawback, future work, fails to, error analysis … in "
            f"{len(own)} sentences after the method",
            question="Do the paper's conclusions leave out where the method fails?",
        )
    ]


@detector("no_code_or_hyperparameters")
def no_code_or_hyperparameters(view: PaperView) -> list[Flaw]:
    """Neither code nor settings: nobody could repeat the experiments."""
    evaluation = [line for line in view.lines if line.role in EVALUATION]
    if len(view.prose) < 40 or not evaluation or not view.grids:
        return []
    has_code = any(view.matching(CODE))
    has_settings = any(view.matching(SETTINGS, [x for x in view.lines if x.role != "related"]))
    if has_code or has_settings:
        return []
    return [
        Flaw(
            kind="no_code_or_hyperparameters",
            severity="minor",
            statement="How could a reader repeat the experiments? Neither code nor "
            "hyper-parameters are given.",
            confidence=0.45,
            evidence=(evaluation[0].sentence.spans,),
            searched="github, code available, learning rate, batch size, dropout, epochs … in all "
            f"{len(view.lines)} sentences and captions",
            question="Does the paper leave out both its code and its settings?",
        )
    ]
