"""The reports' own words, by language."""

from deepseek.apps.papers.analysis import WholeReading

LABELS = {
    "en": {
        "page": "page",
        "pages": "pages",
        "confidence": "confidence",
        "unverified": "not verified",
        "nearest": "nearest passage",
        "searched": "searched",
        "evidence": "Evidence",
        "findings": "findings",
        "quotes": "verified quotes",
        "model": "model",
        "source": "source",
        "warnings": "Notes on reading",
        "sections": "Sections",
        "seconds": "s",
        "in_paper": "answered with the whole paper in view",
        "whole": "Read as a whole: {n_tokens:,} tokens in a context window of {window:,}",
        "body": "Read as a whole without its references: {n_tokens:,} tokens in a context window "
        "of {window:,}",
        "seen_dense": "each answer saw all of them",
        "seen": "each answer saw the {window:,} tokens before it, the first {sinks:,}, and "
        "{recalled:,} recalled of {between:,} between",
        "no_pages": "The paper's file is not at hand: pages are shown as text.",
        "about": "Quotes are the paper's own characters, looked up again at the place named. "
        "Statements are worded by the model from the quotes; read the quotes before relying on "
        "them. Flaws are questions to the authors, not verdicts.",
        "info": "note",
        "minor": "minor",
        "major": "major",
    },
    "zh": {
        "page": "第",
        "pages": "页",
        "confidence": "置信度",
        "unverified": "未核实",
        "nearest": "最接近的段落",
        "searched": "检索范围",
        "evidence": "证据",
        "findings": "条发现",
        "quotes": "条已核实引文",
        "model": "模型",
        "source": "来源",
        "warnings": "阅读提示",
        "sections": "章节",
        "seconds": "秒",
        "in_paper": "基于全文回答",
        "whole": "整体阅读：{n_tokens:,} 个词元，上下文窗口 {window:,}",
        "body": "整体阅读（不含参考文献）：{n_tokens:,} 个词元，上下文窗口 {window:,}",
        "seen_dense": "每次回答可见全部内容",
        "seen": "每次回答可见其前 {window:,} 个词元、开头 {sinks:,} 个，"
        "以及从其间 {between:,} 个中回忆的 {recalled:,} 个",
        "no_pages": "原文件不可用，页面以文本显示。",
        "about": "引文均为论文原文，并已在所标位置逐字核对。陈述由模型根据引文写成，"
        "使用前请先阅读引文。所列问题是向作者的提问，并非定论。",
        "info": "提示",
        "minor": "次要",
        "major": "重要",
    },
}


def page_label(page: int, language: str) -> str:
    """ "page 3" or "第 3 页"."""
    return f"第 {page} 页" if language == "zh" else f"page {page}"


def reading_label(reading: WholeReading, language: str) -> str:
    """How the paper as a whole was before the model, in one line."""
    words = LABELS[language]
    line = words[reading.extent].format(n_tokens=reading.n_tokens, window=reading.context_window)
    attended = reading.attended
    if attended is None:
        return line
    between = attended.n_tokens - attended.window - attended.sinks
    seen = words["seen" if between else "seen_dense"].format(
        window=attended.window, sinks=attended.sinks, recalled=attended.recalled, between=between
    )
    return f"{line}; {seen}"
