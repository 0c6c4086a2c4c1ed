"""Text and Markdown files."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document

MARKDOWN = """# A Small Model of Language

Abstract. We present a small model. It reads very long documents, and it answers from them.

## 1 Introduction

Models are large. See `x.y` and Fig. 3 for
more on this.

- They are slow. They are dear.
- They forget.

```python
x = 1.  # No sentence. At all.
```

Results
-------

Table 1: Scores on the test set.

| Model  | BLEU | F1   |
|--------|-----:|------|
| ours   | 28.4 | 91.3 |
| theirs |      | 90.4 |

## References

[1] A. Author. A title. 2020.
"""


def test_markdown(read_text: Callable[..., Document]) -> None:
    document = read_text(MARKDOWN)
    assert document.kind == "markdown"
    assert document.title == "A Small Model of Language"
    assert [(s.title, s.role) for s in document.sections] == [
        ("", "front"),
        ("Abstract", "abstract"),
        ("1 Introduction", "introduction"),
        ("Results", "results"),
        ("References", "references"),
    ]
    sentences = [document.text_of(s) for s in document.sentences]
    assert "See `x.y` and Fig. 3 for\nmore on this." in sentences
    assert "- They are slow." in sentences
    assert not any("No sentence" in sentence for sentence in sentences)
    assert document.blocks[-1].kind == "reference"


def test_a_markdown_table(read_text: Callable[..., Document]) -> None:
    document = read_text(MARKDOWN)
    (table,) = document.tables
    assert [[(c.text, c.column) for c in row] for row in table.rows] == [
        [("Model", 0), ("BLEU", 1), ("F1", 2)],
        [("ours", 0), ("28.4", 1), ("91.3", 2)],
        [("theirs", 0), ("90.4", 2)],
    ]
    assert all(document.quote((c.span,)) == c.text for row in table.rows for c in row)
    assert table.caption is not None
    assert document.text_of(document.blocks[table.caption]).startswith("Table 1")


def test_chinese_text(read_text: Callable[..., Document]) -> None:
    parts = (
        "摘要",
        "本文提出一种新方法。实验表明有效。",
        "一、引言",
        "大模型很慢。",
        "参考文献",
        "[1] 张三。",
    )
    text = "\n\n".join(parts)
    document = read_text(text, "paper.txt")
    assert document.kind == "text"
    assert document.language == "zh"
    assert [s.role for s in document.sections][1:] == ["abstract", "introduction", "references"]
    assert [document.text_of(s) for s in document.sentences] == [
        "本文提出一种新方法。",
        "实验表明有效。",
        "大模型很慢。",
    ]


def test_text_without_headings_is_body_and_not_front_matter(
    read_text: Callable[..., Document],
) -> None:
    document = read_text("A note. It has no heading.\n\nIt goes on.", "note.txt")
    assert [s.role for s in document.sections] == ["other"]
    assert len(document.sentences) == 3


def test_windows_line_ends_and_byte_order_mark(read_text: Callable[..., Document]) -> None:
    document = read_text("\ufeff# T\r\n\r\nOne line.\r\nTwo lines.\r\n")
    assert document.pages[0].text == "# T\n\nOne line.\nTwo lines.\n"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.sampled_from("aB .\n#|-`*1=[中。~"), min_size=1, max_size=120))
@pytest.mark.parametrize("name", ["x.md", "x.txt"])
def test_any_text_is_read_and_every_span_lies_in_it(
    read_text: Callable[..., Document], name: str, text: str
) -> None:
    if not text.strip():
        return
    document = read_text(text, name)
    for item in [*document.blocks, *document.sentences]:
        for span in item.spans:
            assert 0 <= span.start < span.end <= len(document.pages[0].text)
    assert all(
        document.quote((c.span,)) == c.text for t in document.tables for r in t.rows for c in r
    )


def test_markdown_headings_are_sections_whatever_they_say(tmp_path):
    file = tmp_path / "manual.md"
    file.write_text(
        "# Title of it\n\n## Installing\n\nOne.\n\n## Running\n\nTwo.\n", encoding="utf-8"
    )
    titles = [section.title for section in read_document(file).sections if section.title]
    assert titles == ["Installing", "Running"]
