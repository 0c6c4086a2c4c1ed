"""What a sentence looks like from outside: place, cue words, numbers. No vocabulary is learned.

The features are the same for a parsed PDF and for plain text with headings, so that weights
fitted on one hold for the other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.apps.documents.document import Document, SectionRole

ROLES: tuple[SectionRole, ...] = (
    "front", "abstract", "introduction", "related", "method", "experiments", "results",
    "ablation", "limitations", "conclusion", "appendix", "other",
)  # fmt: skip

# Cue -> pattern. Each is a family of phrases that authors use in one situation.
CUES = {
    "propose": r"\bwe (propose|present|introduce|develop|describe|design|devise|put forward|build)\b"
    r"|\b(is|are) (proposed|introduced)\b|本文提出|提出了|我们提出",
    "this_paper": r"\bin this (paper|work|article|study)\b|\bthis (paper|work|article) |本文|本研究",
    "contribution": r"\bcontributions?\b|\bnovel\b|\bnew (method|model|approach|architecture|framework"
    r"|dataset|algorithm|task)\b|\bfirst (to|work|attempt|time)\b|贡献|首次|创新",
    "our_system": r"\bour (\w+ ){0,3}(model|method|approach|system|framework|network|architecture"
    r"|algorithm|parser|work)s?\b|我们的(模型|方法|系统)",
    "problem": r"\b(task|problem) of\b|\baims? (to|at)\b|\bgoal\b|\bchallenging\b|\bproblem\b|任务|问题",
    "however": r"\b(however|despite|although|unfortunately|lack|limited|fail|suffer)\b|然而|不足",
    "based_on": r"\b(based on|consists? of|composed of|built (on|upon)|extends?|employs?|incorporat\w+"
    r"|combin\w+|leverag\w+|integrat\w+|utiliz\w+)\b|基于|由.{1,20}组成",
    "first_then": r"\b(first(ly)?|second(ly)?|then|finally|next)\b *,|首先|其次|最后",
    "outperform": r"\b(outperform\w*|surpass\w*|exceed\w*|beats?|superior|better than|best"
    r"|higher than|worse than|comparable|competitive|on par)\b|优于|超过|最佳",
    "state_of_art": r"\bstate[ -]+of[ -]+the[ -]+art\b|\bsota\b|最先进|最新水平",
    "achieve": r"\b(achiev\w+|obtain\w*|reach\w*|attain\w*|yield\w*|gain\w*)\b|达到|取得",
    "improve": r"\b(improv\w+|increas\w+|boost\w*|reduc\w+|decreas\w+|drop\w*|degrad\w+|hurt\w*"
    r"|margin|significant\w*|substantial\w*|contribut\w+)\b|提高|提升|降低|显著",
    "observe": r"\bwe (observe|find|see|notice|note|conclude)\b|\b(shows?|indicat\w+|demonstrat\w+"
    r"|suggest\w*|reveals?|confirms?) that\b|\bcan be seen\b|表明|发现|可以看出",
    "results_of": r"\bresults?\b|\bperformance\b|\bf1\b|\baccuracy\b|\bbleu\b|\bscores?\b|结果|准确率",
    "table": r"\b(table|tab|figure|fig)\b\.? *\d|表 *\d|图 *\d",
    "ablation": r"\bablation\b|\bwithout\b|\bremov\w+\b|\bw/o\b|消融|去掉",
    "baseline": r"\bbaselines?\b|\bcompar(e|ed|ing|ison)\b|基线|对比",
    "setup": r"\bwe (use|used|set|train|trained|apply|applied|adopt|adopted|employ|initialize|tune"
    r"|tuned|implement|implemented|choose|optimi[sz]e|select|fine-tune|pre-?train|run)\b|我们使用|采用",
    "passive_setup": r"\b(is|are|was|were) (set|trained|initiali[sz]ed|used|applied|tuned|optimi[sz]ed"
    r"|fixed|chosen|selected|implemented|updated|clipped|pre-?trained|fine-tuned)\b",
    "optimizer": r"\b(adam|adamw|adagrad|adadelta|sgd|rmsprop|stochastic gradient|optimizer"
    r"|back-?propagation)\b|优化器",
    "hyper": r"\b(learning rates?|batch size|mini-?batch\w*|dropout|epochs?|hidden (size|units?|layers?"
    r"|dimensions?|states?)|dimension\w*|weight decay|regulari[sz]ation|momentum|hyper-?parameters?"
    r"|early stopping|warm-?up|beam)\b|学习率|超参数",
    "pretrained": r"\b(glove|word2vec|elmo|bert|roberta|fasttext|pre-?trained|embeddings?)\b|预训练",
    "hardware": r"\b(gpus?|tpus?|titan|nvidia|tensorflow|pytorch|keras|theano|toolkit|library)\b",
    "dataset": r"\b(datasets?|corpus|corpora|benchmarks?|treebank|test set|training set|dev(elopment)?"
    r" set|annotated)\b|数据集|语料",
    "code": r"\b(code|source|available|github|release\w*)\b|代码|开源",
    "future": r"\bfuture work\b|\bin the future\b|\bplan to\b|\bleave\b|未来",
    "limitation": r"\blimitations?\b|\bdrawback\b|\bshortcoming\b|局限|缺点",
    "example": r"\b(for example|for instance|e\.? ?g\.?|such as)\b|例如",
    "others": r"\bet al\b|\b(previous|prior|existing|recent|traditional|they|their)\b|已有|以往",
    "definition": r"\b(denote\w*|defined? as|formally|let|where|i\.? ?e\.?|namely|computed? (as|by))\b",
    "section_ref": r"\b(section|appendix|following|remainder|rest of)\b|节",
    "question": r"\?|？",
}  # fmt: skip
PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in CUES.items()}
# Cues whose meeting in one sentence says more than either alone.
PAIRED = (
    "propose", "this_paper", "contribution", "our_system", "problem", "however", "outperform",
    "state_of_art", "achieve", "improve", "observe", "results_of", "table", "ablation", "baseline",
    "setup", "hyper", "dataset", "others",
)  # fmt: skip
HEADING_CUES = ("outperform", "improve", "setup", "hyper", "observe", "our_system", "achieve")
HEADINGS = {
    "main": re.compile(r"result|performance|comparison|overall|main"),
    "analysis": re.compile(r"analy|effect|impact|discussion|study|error|case"),
    "data": re.compile(r"data|corpus|corpora|task"),
    "system": re.compile(r"baseline|model|system|method"),
    "evaluation": re.compile(r"metric|evaluation|experiment"),
}
STARTS = re.compile(
    r"(we|our|the|this|these|in|on|as|for|to|table|figure|however|it|when|by|with|all|while|then"
    r"|finally|first|moreover|furthermore|specifically|compared|results|a)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
DECIMAL = re.compile(r"\d+\.\d+|\d+ ?%")
CITATION = re.compile(r"\[\s*\d+|\(\s*[A-Z]\w+[^()]{0,60}\d{4}|\bet al\b")
WORD = re.compile(r"[a-z]{4,}|[\u4e00-\u9fff]{2}")


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence or heading with its place."""

    text: str
    role: SectionRole
    heading: str
    """Title of its section."""
    index: int
    """Place in its section, from 0."""
    of: int
    """Sentences in its section."""
    is_heading: bool = False


def items_of(document: Document) -> list[Item]:
    """The document's sentences as items, in order; one for each sentence."""
    sections = [document.blocks[s.block].section for s in document.sentences]
    sizes = {i: sections.count(i) for i in set(sections)}
    seen: dict[int, int] = {}
    items = []
    for sentence, index in zip(document.sentences, sections, strict=True):
        section = document.sections[index]
        place = seen.get(index, 0)
        seen[index] = place + 1
        items.append(
            Item(document.text_of(sentence), section.role, section.title, place, sizes[index])
        )
    return items


def features(items: Sequence[Item], title: str = "") -> list[dict[str, float]]:
    """Named features of each item, with those of its neighbours for context."""
    own = [_own(item, i / max(len(items) - 1, 1), _words(title)) for i, item in enumerate(items)]
    rows = []
    for i, row in enumerate(own):
        joined = dict(row)
        for offset, side in ((-1, "before"), (1, "after")):
            near = own[i + offset] if 0 <= i + offset < len(own) else {}
            for name in (
                "propose",
                "contribution",
                "outperform",
                "hyper",
                "setup",
                "observe",
                "is_heading",
            ):
                if near.get(name):
                    joined[f"{side}:{name}"] = 1.0
        rows.append(joined)
    return rows


def _own(item: Item, position: float, title_words: set[str]) -> dict[str, float]:
    text, role = item.text, item.role
    row: dict[str, float] = {"bias": 1.0, f"role:{role}": 1.0}
    words = text.split()
    hits = [name for name, pattern in PATTERNS.items() if pattern.search(text)]
    for i, name in enumerate(hits):
        row[name] = 1.0
        row[f"{name}@{_zone(role)}"] = 1.0
        if name in PAIRED:
            row |= {f"{name}+{other}": 1.0 for other in hits[i + 1 :] if other in PAIRED}
    start = STARTS.match(text)
    if start:
        row[f"start:{start[0].lower()}"] = 1.0
        row[f"start:{start[0].lower()}@{_zone(role)}"] = 1.0
    if item.is_heading:
        row["is_heading"] = 1.0
    row["position"] = position
    row["early"] = float(position < 0.15)
    row["first"] = float(item.index == 0)
    row["last"] = float(item.index == item.of - 1)
    row[f"first@{_zone(role)}"] = row["first"]
    row["place"] = item.index / max(item.of, 1)
    row[f"place@{_zone(role)}"] = row["place"]
    numbers, decimals = len(NUMBER.findall(text)), len(DECIMAL.findall(text))
    row["numbers"] = min(numbers, 5) / 5
    row["decimals"] = min(decimals, 4) / 4
    row[f"decimals@{_zone(role)}"] = row["decimals"]
    zone = _zone(role)
    if decimals:
        row |= {f"decimal+{n}": 1.0 for n in hits if n in ("outperform", "improve", "achieve")}
    row[f"position@{zone}"] = position
    row["citations"] = float(bool(CITATION.search(text)))
    row[f"citations@{_zone(role)}"] = row["citations"]
    row["short"] = float(len(words) < 7)
    row["long"] = float(len(words) > 40)
    row["medium"] = float(12 <= len(words) <= 30)
    overlap = len(_words(text) & title_words)
    row["title_overlap"] = row[f"title_overlap@{zone}"] = min(overlap, 4) / 4
    heading = item.heading.lower()
    for name in ("hyper", "setup", "ablation", "results_of", "dataset", "baseline", "contribution"):
        if PATTERNS[name].search(heading):
            row[f"heading:{name}"] = 1.0
    for name, pattern in HEADINGS.items():
        if pattern.search(heading):
            row[f"heading:{name}"] = 1.0
            row |= {f"heading:{name}+{n}": 1.0 for n in hits if n in HEADING_CUES}
    if re.search(r"implementation|training|detail|setting|configuration|setup", heading):
        row["heading:training"] = 1.0
    return row


def _zone(role: SectionRole) -> str:
    """Roles grouped to where the same cue means the same."""
    if role in ("abstract", "introduction", "front"):
        return "opening"
    if role in ("experiments", "results", "ablation", "limitations"):
        return "evaluation"
    return "method" if role in ("method", "other") else "rest"


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))
