"""The page's final text: joins, hyphens and boxes."""

from collections import Counter

import numpy as np
import pytest
from glyph_page import line, run

from deepseek.apps.documents.assembly import PageWriter, merge_continued
from deepseek.apps.documents.blocks import RawBlock
from deepseek.apps.documents.document import BlockKind
from deepseek.apps.documents.lines import HYPHEN


def block(*texts: str, kind: BlockKind = "paragraph", top: float = 100) -> RawBlock:
    lines = [line(run(text, 50, top + 12 * i)) for i, text in enumerate(texts)]
    return RawBlock(kind, lines, 1, left=50.0, right=300.0)


def written(*blocks: RawBlock, words: dict[str, int] | None = None) -> str:
    writer = PageWriter(1, Counter(words or {}))
    for each in blocks:
        writer.write(each)
    return writer.page(600.0, 800.0).text


@pytest.mark.parametrize(
    ("lines", "words", "text"),
    [
        (("a transfor" + HYPHEN, "mer model"), {}, "a transformer model"),
        (("a self-", "attention layer"), {"self-attention": 3}, "a self-attention layer"),
        (("state-of-the-", "art results"), {"art": 5, "the": 9}, "state-of-the-art results"),
        (("the BERT-", "Large model"), {}, "the BERT-Large model"),
        (("a well" + HYPHEN, "known fact"), {"well": 4, "known": 3}, "a well-known fact"),
        (("ends with a dash -",), {}, "ends with a dash -"),
        (("soft" + HYPHEN + "ware",), {}, "software"),
        (("本文提出", "一种方法"), {}, "本文提出一种方法"),
        (("使用 BERT", "模型"), {}, "使用 BERT 模型"),
        (("one line", "and the next"), {}, "one line and the next"),
    ],
)
def test_lines_are_joined(lines: tuple[str, ...], words: dict[str, int], text: str) -> None:
    assert written(block(*lines), words=words) == text


def test_tables_and_code_keep_their_lines() -> None:
    assert written(block("a 1", "b 2", kind="table")) == "a 1\nb 2"
    assert written(block("x = f(", "  1)", kind="code")) == "x = f(\n  1)"


def test_each_character_keeps_its_box() -> None:
    writer = PageWriter(1, Counter())
    writer.write(block("cut in mid" + HYPHEN, "dle here"))
    page = writer.page(600.0, 800.0)
    assert page.boxes is not None
    assert len(page.boxes) == len(page.text)
    place = page.text.index("dle")
    assert page.text == "cut in middle here"
    assert page.boxes[place].tolist() == [50, 112, 55, 119]
    assert page.boxes[place - 1].tolist() == [95, 100, 100, 107]
    assert np.isnan(page.boxes[page.text.index(" ")]).all()


def test_a_paragraph_goes_on_after_a_float_and_not_after_a_full_stop() -> None:
    writer = PageWriter(1, Counter())
    parts = [
        block("we show the", top=100),
        block("Table 1: Scores.", kind="caption", top=150),
        block("Results of all systems.", top=200),
        block("Another paragraph begins here", top=250),
    ]
    placed = [writer.write(part) for part in parts]
    page = writer.page(600.0, 800.0)
    merged = merge_continued(placed, {1: page.text})
    texts = [" ".join(page.text[s.start : s.end] for s in b.spans) for b in merged]
    assert texts == [
        "we show the Results of all systems.",
        "Table 1: Scores.",
        "Another paragraph begins here",
    ]
