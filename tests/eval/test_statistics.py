"""Intervals against known values, coverage by simulation, and errors that count."""

import math

import numpy as np
import pytest

from deepseek.eval.record import Record
from deepseek.eval.statistics import (
    Measurements,
    estimate,
    mcnemar,
    measure,
    metric_names,
    paired_bootstrap,
    replicates,
    summarise,
    summarise_groups,
    wilson,
)


def record(i, group="", error="", **grades):
    return Record(
        id=str(i),
        group=group,
        prompt="",
        prompt_sha256="",
        expected=None,
        error=error,
        grades={name.replace("__", "/"): value for name, value in grades.items()},
    )


def measured(values, weights=None, groups=None):
    n = len(values)
    return Measurements(
        values=np.asarray(values, dtype=np.float64),
        weights=np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64),
        groups=np.zeros(n, dtype=np.int64) if groups is None else np.asarray(groups),
    )


def test_wilson_gives_the_published_values():
    # Newcombe 1998, table I, method 3.
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0


def test_a_proportion_gets_wilson_and_other_means_the_bootstrap():
    records = [record(i, acc=float(i < 81), f1=i / 263) for i in range(263)]
    summary = summarise(records)
    assert (summary["acc"].low, summary["acc"].high) == wilson(81, 263)
    values = np.arange(263) / 263
    half = 1.96 * values.std(ddof=1) / math.sqrt(263)
    f1 = summary["f1"]
    assert f1.value == pytest.approx(values.mean())
    assert (f1.low, f1.high) == pytest.approx((f1.value - half, f1.value + half), abs=0.1 * half)
    assert summarise(records) == summary  # the same draws every time


def test_a_weighted_mean_is_the_quotient_of_the_sums():
    rows = [(1.0, 10.0), (3.0, 30.0), (2.0, 5.0)]
    records = [record(i, bpb=x, bpb__weight=w) for i, (x, w) in enumerate(rows)]
    summary = summarise(records)
    assert list(summary) == ["bpb"]
    assert summary["bpb"].value == pytest.approx((10 + 90 + 10) / 45)
    assert 1.0 <= summary["bpb"].low < summary["bpb"].value < summary["bpb"].high <= 3.0


def test_the_interval_of_a_weighted_mean_follows_the_delta_method():
    generator = np.random.default_rng(3)
    weights = generator.integers(1, 50, 400).astype(float)
    values = generator.gamma(2.0, 1.0, 400)
    found = estimate(measured(values, weights))
    mean = (values * weights).sum() / weights.sum()
    spread = math.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum()
    assert found.value == pytest.approx(mean)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_an_error_counts_as_wrong_but_not_as_a_perfect_likelihood():
    records = [
        record(0, acc=1.0, bpb=2.0, bpb__weight=4.0),
        record(1, acc=1.0, bpb=4.0, bpb__weight=4.0),
        record(2, error="too long"),
        record(3, error="too long", acc=1.0, bpb=0.0, bpb__weight=4.0),
    ]
    summary = summarise(records)
    assert (summary["acc"].value, summary["acc"].n) == (0.5, 4)
    assert (summary["bpb"].value, summary["bpb"].n) == (3.0, 2)


def test_an_error_counts_for_what_its_group_measures():
    records = [
        record(0, group="qa", f1=1.0),
        record(1, group="qa", error="too long"),
        record(2, group="sum", rouge=0.5),
        record(3, group="lost", error="too long"),
    ]
    summary = summarise(records)
    assert (summary["f1"].value, summary["f1"].n) == (pytest.approx(1 / 3), 3)
    assert (summary["rouge"].value, summary["rouge"].n) == (0.25, 2)
    groups = summarise_groups(records, "f1")
    assert {name: (e.value, e.n) for name, e in groups.items()} == {"qa": (0.5, 2), "lost": (0, 1)}


def test_a_group_of_errors_is_no_perfect_likelihood():
    records = [
        record(0, group="read", bpb=2.0, bpb__weight=4.0),
        record(1, group="lost", error="too long"),
    ]
    assert list(summarise_groups(records, "bpb")) == ["read"]


def test_a_run_of_errors_alone_scores_zero_where_the_metric_is_named():
    records = [record(i, error="server gone") for i in range(10)]
    assert metric_names(records) == []
    assert summarise(records) == {}
    found = summarise(records, ["acc"])["acc"]
    assert (found.value, found.n) == (0.0, 10)
    assert found.high == pytest.approx(wilson(0, 10)[1])


def test_a_mean_over_groups_gives_each_group_the_same_weight():
    records = [record(i, group="large", acc=1.0) for i in range(90)]
    records += [record(100 + i, group="small", acc=float(i < 2)) for i in range(10)]
    assert summarise(records)["acc"].value == pytest.approx(0.92)
    macro = summarise(records, by_group=True)["acc"]
    assert macro.value == pytest.approx((1.0 + 0.2) / 2)
    # All of the spread comes from the small group: half of its standard error.
    half = 1.96 * math.sqrt(0.2 * 0.8 / 9) / 2
    assert (macro.high - macro.low) / 2 == pytest.approx(half, rel=0.15)


def test_one_item_a_group_does_not_give_an_interval_without_width():
    values = [1.0, 0.0, 0.0, 1.0] * 15
    macro = estimate(measured(values, groups=range(60)), by_group=True)
    assert macro.value == 0.5
    assert macro.high - macro.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 60), rel=0.1)


def test_extremes_keep_an_interval():
    everything = estimate(measured([1.0] * 40, groups=[0] * 20 + [1] * 20), by_group=True)
    assert (everything.low, everything.high) == wilson(40, 40)
    assert estimate(measured([0.7])).low == 0.0
    assert estimate(measured([3.5])).high == 3.5


@pytest.mark.parametrize("by_group", [False, True])
def test_about_95_of_100_intervals_hold_the_truth(by_group):
    generator = np.random.default_rng(11)
    shares, sizes = np.array([0.2, 0.5, 0.9]), np.array([60, 30, 12])
    truth = shares.mean() if by_group else (shares * sizes).sum() / sizes.sum()
    held = 0
    for _ in range(250):
        # A mean over groups is about samples of each group, any other about samples of all.
        groups = np.repeat(np.arange(3), sizes)
        if not by_group:
            groups = generator.choice(3, size=len(groups), p=sizes / sizes.sum())
        # Scores between the extremes, so that the bootstrap is what is tested.
        right = generator.random(len(groups)) < shares[groups]
        values = 0.8 * right + 0.2 * shares[groups] + generator.normal(0, 0.01, len(groups))
        found = estimate(measured(values, groups=groups), by_group=by_group)
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 250 <= 0.985


def test_few_kinds_of_items_and_many_are_drawn_from_the_same_law():
    generator = np.random.default_rng(5)
    values = (generator.random((300, 1)) < 0.3).astype(float)
    ones, groups = np.ones_like(values), np.zeros(300, dtype=np.int64)
    counted = replicates(values, ones, groups)[:, 0]
    # A weight that differs by nothing that matters makes every row a kind of its own.
    drawn = replicates(values, ones + np.arange(300)[:, None] * 1e-12, groups)[:, 0]
    assert counted.mean() == pytest.approx(drawn.mean(), abs=0.003)
    assert counted.std() == pytest.approx(drawn.std(), rel=0.08)


def test_pairs_cancel_what_is_hard_for_both():
    generator = np.random.default_rng(2)
    hardness = generator.random(500)
    a = measured(hardness)
    b = measured(hardness + 0.01)
    difference = paired_bootstrap(a, b)
    assert difference.value == pytest.approx(0.01)
    assert (difference.low, difference.high) == pytest.approx((0.01, 0.01))
    assert difference.p < 0.01
    assert difference.p_exact is None
    shuffled = paired_bootstrap(a, measured(generator.permutation(hardness)))
    assert shuffled.p > 0.2
    assert shuffled.low < 0 < shuffled.high


def test_equal_runs_do_not_differ():
    a = measured([1.0, 0.0, 1.0, 1.0])
    same = paired_bootstrap(a, a)
    assert (same.value, same.low, same.high, same.p, same.p_exact) == (0, 0, 0, 1.0, 1.0)


def test_p_is_uniform_enough_where_nothing_differs():
    generator = np.random.default_rng(7)
    ps = []
    for _ in range(200):
        a, b = (generator.random((2, 120)) < 0.4).astype(float)
        ps.append(paired_bootstrap(measured(a), measured(b)).p)
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.09


def test_mcnemar_gives_the_binomial_tail():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(400, 600) == pytest.approx(2.728464156e-10, rel=1e-8)


def test_measurements_keep_the_order_of_the_items():
    records = [record(i, group="ab"[i % 2], acc=float(i == 2)) for i in range(4)]
    found = measure(records, "acc")
    assert found.values.tolist() == [0, 0, 1, 0]
    assert found.groups.tolist() == [0, 1, 0, 1]
