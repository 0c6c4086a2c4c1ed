"""A real paper: "Attention Is All You Need"."""

from pathlib import Path

import pytest

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document


@pytest.fixture(scope="module")
def document(attention_paper: Path) -> Document:
    return read_document(attention_paper)


def test_outline(document: Document) -> None:
    assert document.title == "Attention Is All You Need"
    assert document.language == "en"
    assert len(document.pages) == 15
    top = [(s.title, s.role) for s in document.sections if s.level == 1]
    assert top[1:] == [
        ("Abstract", "abstract"),
        ("1 Introduction", "introduction"),
        ("2 Background", "related"),
        ("3 Model Architecture", "method"),
        ("4 Why Self-Attention", "method"),
        ("5 Training", "experiments"),
        ("6 Results", "results"),
        ("7 Conclusion", "conclusion"),
        ("References", "references"),
    ]
    assert sum(block.kind == "reference" for block in document.blocks) == 40


def test_sentences(document: Document) -> None:
    found = {" ".join(document.text_of(s).split()): s for s in document.sentences}
    claim = (
        "Our model achieves 28.4 BLEU on the WMT 2014 English-to-German translation task, "
        "improving over the existing best results, including ensembles, by over 2 BLEU."
    )
    assert document.section_of(found[claim]).role == "abstract"
    assert found[claim].spans[0].page == 1
    goes_on = "The output is computed as a weighted sum of the values, where the weight assigned to"
    across = [s for text, s in found.items() if text.startswith(goes_on)]
    assert [span.page for span in across[0].spans] == [3, 4]


def test_tables(document: Document) -> None:
    tables = {
        document.text_of(document.blocks[t.caption])[:7]: t
        for t in document.tables
        if t.caption is not None
    }
    assert sorted(tables) == ["Table 1", "Table 2", "Table 3", "Table 4"]
    rows = [[cell.text for cell in row] for row in tables["Table 4"].rows]
    assert rows[0] == ["Parser", "Training", "WSJ 23 F1"]
    assert ["Transformer (4 layers)", "semi-supervised", "92.7"] in rows
    big = next(row for row in tables["Table 2"].rows if row[0].text == "Transformer (big)")
    english_french = next(c.column for c in big if c.text == "41.8")
    ensemble = next(r for r in tables["Table 2"].rows if r[0].text == "ConvS2S Ensemble [9]")
    assert next(c.text for c in ensemble if c.column == english_french) == "41.29"
