"""Which lines are headings, and what role a section plays (English and Chinese)."""

import re

from deepseek.apps.documents.document import SectionRole
from deepseek.apps.documents.lines import Line

NUMBERED = re.compile(
    r"(?P<number>(\d{1,2}(\.\d{1,2}){0,3}|[A-Z](\.\d{1,2}){1,3}|[A-H](?=\.?\s+[A-Z])|[IVX]{1,5}(?=\.)))"
    r"\.?\s+(?P<title>\S.*)"
)
CHINESE_NUMBERED = re.compile(
    r"(?P<number>第[一二三四五六七八九十百\d]+[章节部分]+|[一二三四五六七八九十]+、|\d{1,2}(\.\d{1,2}){0,3}\.?)"
    r"\s*(?P<title>[\u4e00-\u9fff].*)"
)
CAPTION = re.compile(
    r"(figure|fig\.?|table|tab\.|algorithm|listing|图|表)\s*"
    r"([A-Z]?\d{1,3}|[IVX]{1,5}\b)([.:：|]|\s|$)",
    re.IGNORECASE,
)
# The first pattern that is found in a title decides. Order matters: "experimental results"
# are results, "related work" is no work of ours.
ROLES: tuple[tuple[SectionRole, str], ...] = (
    ("abstract", r"^abstract|^summary$|^摘要|^内容提要"),
    ("references", r"^references?$|^bibliography|^literature cited|^works cited|^参考文献"),
    ("appendix", r"^appendi|^supplement|^附录"),
    ("limitations", r"limitation|threats to validity|broader impact|局限|不足"),
    (
        "related",
        r"related work|previous work|prior work|background|literature|相关工作|研究现状|背景",
    ),
    ("ablation", r"ablation|消融"),
    ("introduction", r"^introduction|^motivation|^引言|^绪论|^前言|^介绍|^概述|^简介"),
    ("results", r"result|analys[ie]s|discussion|comparison|error|findings|结果|分析|讨论"),
    (
        "experiments",
        r"experiment|evaluation|setup|set-up|training|dataset|data set|^data\b|corpus|\bcorpora"
        r"|implementation|hyper-?parameter|baseline|metric|benchmark|settings|实验|数据|评测|评估",
    ),
    ("conclusion", r"conclu|future work|outlook|结论|总结|展望"),
    (
        "method",
        r"method|model|approach|architecture|algorithm|framework|network|system|proposed"
        r"|encoder|decoder|attention|layer|objective|inference|embedding|learning|theory|formulation"
        r"|方法|模型|算法|架构|系统|设计",
    ),
)  # fmt: skip
KNOWN = re.compile(
    r"(abstract|summary|introduction|related work|background|method(s|ology)?|model|approach"
    r"|experiments?|experimental (setup|results)|results( and discussion)?|discussion|analysis"
    r"|conclusions?( and future work)?|future work|limitations|references|bibliography"
    r"|acknowledge?ments?|appendix( [a-z])?"
    r"|摘\s*要|引\s*言|参考文献|结\s*论|致\s*谢|附\s*录)[.:：]?",
    re.IGNORECASE,
)


def heading_level(line: Line, body_size: float, gap_above: float) -> int:
    """Depth of a heading (1 is the top), or 0 for a line that is none.

    Args:
        line: The line.
        body_size: The document's commonest font size.
        gap_above: White space above it, in font sizes of the body.
    """
    text = line.text.strip()
    letters = sum(c.isalpha() for c in text)
    if not 2 <= len(text) <= 140 or letters < 0.5 * len(text.replace(" ", "")):
        return 0
    if CAPTION.match(text) or len(line.runs) > 3:
        return 0
    larger = line.size >= body_size + 0.9
    strong = larger or line.bold or (text.isupper() and letters >= 4)
    match = NUMBERED.fullmatch(text) or CHINESE_NUMBERED.fullmatch(text)
    known = KNOWN.fullmatch(match["title"].strip() if match else text) is not None
    if match:
        title, number = match["title"], match["number"]
        if not re.match(r"[^\W\d_]|[“\"‘']", title):
            return 0
        level = number.rstrip(".").count(".") + 1
        if strong or (known and gap_above > 0.3):
            ends_like_prose = title.rstrip().endswith((".", ",", ";")) and len(title) > 60
            return 0 if ends_like_prose else level
        if re.fullmatch(r"[A-Z]", number) and re.match(r".\.\s", text):
            level = 2  # "B. Data", as in IEEE's style
            if "," in title:
                return 0
        plain = level > 1 and title[0].isupper() and len(title) < 90 and not title.endswith(".")
        return level if plain and gap_above > 0.2 and len(line.runs) <= 2 else 0
    if known and (strong or gap_above > 0.3):
        return 1
    if text.endswith((".", ",", ";", "。", "，")) or len(line.runs) > 1:
        return 0
    if letters < 0.7 * len(text.replace(" ", "")) or not re.match(r"[A-Z\u4e00-\u9fff]", text):
        return 0
    if larger and gap_above > 0.2:
        return 1 if line.size >= body_size + 2.5 else 2
    return 2 if line.bold and gap_above > 0.35 and len(text) <= 80 else 0


def role_of(title: str, parent: SectionRole) -> SectionRole:
    """The canonical role of a section by its title; a subsection inherits what it does not say."""
    match = NUMBERED.fullmatch(title.strip()) or CHINESE_NUMBERED.fullmatch(title.strip())
    name = (match["title"] if match else title).strip().lower()
    name = re.sub(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])", "", name)
    keeps = ("related", "references", "appendix", "ablation", "limitations")
    for role, pattern in ROLES:
        if re.search(pattern, name):
            inherits = parent in ("experiments", "results") and role == "method"
            if inherits or (parent in keeps and role in ("method", "results", "experiments")):
                return parent
            return role
    return parent if parent not in ("front", "abstract") else "other"
