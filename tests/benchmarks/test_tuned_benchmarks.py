"""Figures of the benchmarks of training are what their names say, on items made up here."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import conversations
import forgetting
import hard_cases
import report
import tuned
from forgetting_chart import forgetting_chart


def measures(gold: float, domain: float) -> dict[str, forgetting.Measure]:
    """Twelve items of three groups, each so many bits per byte on average, and not all the same."""
    rng = np.random.default_rng(int(1_000 * gold))
    other = np.random.default_rng(3)
    sizes = other.integers(5, 60, 12).astype(np.float64)
    groups = np.repeat([0, 1, 2], 4)
    spread = rng.normal(0, 0.05, 12)
    spread -= sum(np.average(spread[groups == g], weights=sizes[groups == g]) for g in range(3)) / 3
    parts = {"gold": gold, "conversations": gold, "own": gold, "domain": domain}
    return {name: forgetting.Measure(v + spread, sizes, groups) for name, v in parts.items()}


def test_the_share_of_forgetting_that_is_removed() -> None:
    arms = {
        "no general data": [measures(1.4, 0.500), measures(1.6, 0.500)],
        "real conversations": [measures(1.3, 0.505)] * 2,
        "own answers": [measures(1.1, 0.490)] * 2,
    }
    rows = {row.name: row for row in forgetting.rows_of(measures(1.0, 2.0), arms)}
    title = "right answers of ARC, HellaSwag, MMLU"
    assert rows[f"forgetting, no general data: {title}"].value == pytest.approx(0.5)
    real = rows[f"forgetting removed by real conversations: {title}"]
    own = rows[f"forgetting removed by own answers: {title}"]
    assert (real.value, own.value) == (pytest.approx(40), pytest.approx(80))
    assert (real.is_met, own.is_met) == (False, True)
    assert own.low is not None
    assert own.low < own.value
    given = "bits per byte more than with no general data"
    assert rows[f"domain given up for real conversations: {given}"].value == pytest.approx(1.0)
    assert rows[f"domain given up for own answers: {given}"].is_met
    page = forgetting_chart(list(rows.values()))
    assert page.count("<rect fill=") == 9
    assert "+0.5000" in page


def test_gains_are_paired_points_of_the_mean_of_seeds() -> None:
    before = np.array([0.0] * 8 + [1.0] * 2)
    after = np.array([[1.0] * 5 + [0.0] * 3 + [1.0] * 2, [1.0] * 3 + [0.0] * 5 + [1.0] * 2])
    right, gain = hard_cases.gain_rows("hard", before, after)
    assert (right.value, right.peer_value) == (pytest.approx(60), pytest.approx(20))
    assert (right.low, right.high) == (pytest.approx(50), pytest.approx(70))
    assert gain.value == pytest.approx(40)
    assert gain.low is not None
    assert 0 < gain.low < 40


def test_problems_that_choose_the_rate_are_not_judged() -> None:
    held = [
        {"question": f"{n} + 1 =", "provenance": {"family": family}}
        for n in range(60)
        for family in (hard_cases.FAMILIES[0], hard_cases.OTHERS[0])
    ]
    judged, rates = hard_cases.split(held)
    assert len(judged) + len(rates) == len(held)
    assert rates
    assert not {r["question"] for r in rates} & {
        r["question"] for r in judged if r["provenance"]["family"] in hard_cases.FAMILIES
    }
    assert all(hard_cases.family_of(row) in hard_cases.FAMILIES for row in rates)


def test_an_arm_is_another_one_with_other_data_or_settings(tmp_path: Path) -> None:
    data, general = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    data.write_text("one")
    general.write_text("two")

    def folder(**changes: object) -> Path:
        settings = {"rate": 1e-3, "epochs": 1.0, "seed": 0, "general": None} | changes
        return tuned.Arm(name="x", base="b", data=data, **settings).folder  # type: ignore[arg-type]

    known = {folder(), folder(seed=1), folder(general=tuned.SELF), folder(general=general)}
    data.write_text("other")
    known |= {folder()}
    general.write_text("other")
    assert len(known | {folder(general=general)}) == 6


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    made: list[float] = []

    def make() -> list[float]:
        made.append(1.5)
        return made

    for _ in range(2):
        found = report.kept(tmp_path / "x" / "y.json", make)
    assert found == made == [1.5]


def test_questions_of_a_faq_have_the_first_paragraphs_behind_them() -> None:
    page = """
Why is it so?
-------------

Because of :ref:`history <old>`, see
`the page <https://x.org>`_ and ``code``.

Second paragraph.

   >>> an_example()

Behind the example.

Is this answered by code alone?
===============================

.. code-block:: python

   print()

No question
-----------

Text that is long enough to be an answer to something.
"""
    (pair,) = conversations.faq_entries(page)
    assert pair[0] == "Why is it so?"
    assert pair[1] == "Because of history, see the page and `code`.\n\nSecond paragraph."
