"""Tokens are those of the English tokenizer by which the thresholds count; decisions, too."""

from pathlib import Path

import numpy as np
import pytest
from quality_corpus import made, operator, prose

from deepseek.data.quality.tokens import folded, split_chunk
from deepseek.data.quality.words import sentence_count, words_of

ROOT = Path(__file__).parents[2]
# What spaCy 3.8.18's `blank("en")` makes of each.
CHUNKS = {
    "word": "word",
    "word,": "word ,",
    '"Well,': '" Well ,',
    "(here).": "( here ) .",
    "don't": "do n't",
    "it's": "it 's",
    "We'll": "We 'll",
    "Anna's": "Anna 's",
    "U.S.": "U.S.",
    "e.g.": "e.g.",
    "Mr.": "Mr.",
    "well-known": "well - known",
    "3.14": "3.14",
    "10km": "10 km",
    "$5.00": "$ 5.00",
    "50%": "50 %",
    "end...": "end ...",
    "and/or": "and/or",
    "his/her": "his / her",
    "https://a.org/b?c=d": "https://a.org/b?c=d",
    "name@mail.org": "name@mail.org",
    "f(x)": "f(x )",
    "self.name": "self.name",
    "x=1;": "x=1 ;",
    "a_b": "a_b",
    "**bold**": "* * bold * *",
    "``code``": "` ` code ` `",
    "cannot": "can not",
    "--": "--",
    "-": "-",
    "1,000": "1,000",
    "red,green": "red , green",
    "中文。": "中文 。",
}


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunks_are_cut_as_the_tokenizer_does(chunk):
    assert split_chunk(chunk) == CHUNKS[chunk].split()


def test_words_are_those_of_each_text():
    texts = ["One, two.", "", "(three)", "one two"]
    words = words_of(texts)
    assert words.counts.tolist() == [4, 0, 3, 2]
    assert words.lengths.tolist() == [3, 1, 3, 1, 1, 5, 1, 3, 3]
    assert words.sums(words.lengths).tolist() == [8, 0, 7, 6]
    assert words.hashes[0] == words.hashes[7]
    assert words.hashes[1] == 0
    assert words.ids[2] == words.ids[8]
    np.testing.assert_array_equal(words_of([texts[3]]).hashes, words.hashes[7:])


def test_folding_and_sentences():
    assert [folded(t) for t in ("Café", "1999", "x2-B", "...")] == ["cafe", "0", "x0b", ""]
    assert sentence_count('He said "Go." Then he left. It was 3.14 e.g. late!') == 3
    assert sentence_count("no end") == 1
    assert sentence_count("") == 0


@pytest.mark.parametrize("name", ["gopher", "repetition", "fineweb", "c4"])
def test_decisions_are_datatroves(name):
    """On this repository's texts and on prose; where datatrove and spaCy are installed."""
    filters = pytest.importorskip("datatrove.pipeline.filters")
    pytest.importorskip("spacy")
    from datatrove.data import Document

    kind = {
        "gopher": filters.GopherQualityFilter,
        "repetition": filters.GopherRepetitionFilter,
        "fineweb": filters.FineWebQualityFilter,
        "c4": filters.C4QualityFilter,
    }[name]
    files = [*sorted(ROOT.rglob("docs/**/*.md")), *sorted((ROOT / "src").rglob("*.py"))[::6]]
    texts = [path.read_text(encoding="utf-8")[:6_000] for path in files]
    texts = [text for text in texts if text.strip()] + [prose(s, 12 + s) for s in range(40)]
    theirs, found = kind(), operator(name)
    documents = made(*texts)
    decisions = found.decide(documents, found.score(documents))
    n_equal = 0
    for text, decision in zip(texts, decisions, strict=True):
        document = Document(text=text, id="")
        is_kept = theirs.filter(document) is True
        n_equal += is_kept == (not decision.reason)
        if is_kept and not decision.reason:
            assert (decision.text or text) == document.text
    assert n_equal >= 0.995 * len(texts)
