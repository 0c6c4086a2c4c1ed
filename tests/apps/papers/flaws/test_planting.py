"""Edits of a document keep every other span verbatim; plants change what they say they change."""

import sys
from pathlib import Path

import pytest
from paper_text import paper

from deepseek.apps.documents.document import Document, Span

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks"))
from planting import Edit, edited, place, without_sentence
from plants import PLANTS, misprint, plants


def check(document: Document) -> None:
    """Every span lies in its page, every cell is its span's text, every index is in range."""
    for table in document.tables:
        assert document.blocks[table.block].kind == "table"
        assert all(c.text == document.quote((c.span,)) for row in table.rows for c in row)
    for i, sentence in enumerate(document.sentences, start=1):
        assert sentence.id == f"S{i}"
        assert document.text_of(sentence).strip()
        assert document.section_of(sentence) in document.sections
    for block in document.blocks:
        assert all(
            0 <= s.start < s.end <= len(document.pages[s.page - 1].text) for s in block.spans
        )


def test_what_is_not_edited_reads_the_same(tmp_path: Path) -> None:
    document = paper(tmp_path)
    target = document.sentences[5]
    span = target.spans[0]
    found = edited(document, [Edit(Span(1, span.start, span.start + 3), "Something longer")])
    check(found)
    before = [document.text_of(s) for s in document.sentences]
    after = [found.text_of(s) for s in found.sentences]
    assert after[5] == "Something longer" + before[5][3:]
    assert after[:5] + after[6:] == before[:5] + before[6:]
    assert [[c.text for c in row] for t in found.tables for row in t.rows] == [
        [c.text for c in row] for t in document.tables for row in t.rows
    ]


def test_a_removed_sentence_is_gone(tmp_path: Path) -> None:
    document = paper(tmp_path)
    target = document.sentences[7]
    found = edited(document, without_sentence(document, target))
    check(found)
    assert len(found.sentences) == len(document.sentences) - 1
    assert document.text_of(target) not in found.pages[0].text


def test_the_place_of_an_edit_is_found_again(tmp_path: Path) -> None:
    document = paper(tmp_path)
    edits = [Edit(Span(1, 2, 8), "X"), Edit(Span(1, 40, 42), "longer than before")]
    found = edited(document, edits)
    assert [found.quote((span,)) for span in place(document, edits)] == ["X", "longer than before"]


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_every_plant_leaves_a_sound_document(tmp_path: Path, seed: str) -> None:
    document = paper(tmp_path)
    found = {plant.kind: plant for plant in plants(document, seed)}
    assert set(found) == set(PLANTS)
    for plant in found.values():
        check(plant.document)
        assert plant.document.pages[0].text != document.pages[0].text
    text = found["no_ablation"].document.pages[0].text
    assert "blation" not in text
    assert "w/o" not in text
    assert "StackTwo (Roy" not in found["few_baselines"].document.pages[0].text
    assert "seeds" not in found["no_variance"].document.pages[0].text
    changed = found["number"].detail.split(" -> ")[1].split()[0]
    quoted = " ".join(found["number"].document.quote((s,)) for s in found["number"].spans)
    assert changed in quoted


def test_a_misprint_is_another_number_of_the_same_form() -> None:
    import random

    for seed in range(200):
        false = misprint("88.25", random.Random(seed))
        assert false != "88.25"
        assert len(false.partition(".")[2]) == 2
