"""The page counts as the run did, and text from outside stays text."""

import re

import numpy as np
from quality_corpus import made

from deepseek.data.quality.histogram import BARS, histogram
from deepseek.data.quality.report import render_report
from deepseek.data.quality.tally import Tally, bins_of

HOSTILE = "<script>document.title='evil'</script><img src=x onerror=alert(1)>"


def manifest(tally):
    operators = [{"use": "gopher", "label": "gopher", "domains": ["web"], "min_words": 9}]
    return {"operators": operators, "tally": tally.as_table()}


def test_the_page_shows_the_funnel_and_escapes_texts():
    tally = Tally(read={HOSTILE: 100}, kept={HOSTILE: 90}, flaws={HOSTILE: 3}, read_characters=10)
    counts = tally.operator("gopher")
    counts.seen, counts.dropped, counts.rules = 100, 10, {HOSTILE: 10}
    counts.add_score("words", np.arange(100.0), np.arange(100) >= 10)
    for document in made(*[HOSTILE] * 9):
        counts.add_sample(document, f"words {HOSTILE}", 4)
    page = render_report(manifest(tally))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 8
    assert page.count("<details>") == 4
    assert re.search(r"<td class=\"n\">10</td><td class=\"n\">10.0 %</td>", page)
    assert "min_words = 9" in page
    assert "default-src 'none'" in page


def test_an_empty_run_has_a_page():
    assert "0 documents read" in render_report(manifest(Tally()))


def test_bars_hold_all_values_but_no_outlier_flattens_them():
    values = np.r_[np.linspace(1, 2, 1_000), 1e9]
    bins, counts = np.unique(bins_of(values), return_counts=True)
    table = {str(b): int(c) for b, c in zip(bins, counts, strict=True)}
    drawing = histogram("s", table, {str(bins[-1]): 1})
    assert len(drawing.heights) == len(drawing.dropped) == BARS
    assert drawing.high < 3
    assert max(drawing.heights) == 70
    assert drawing.dropped[-1] > 0
    assert histogram("s", {}, {}) is None
    assert histogram("s", {"0": 5}, {}).heights.count(0.0) == BARS - 1
