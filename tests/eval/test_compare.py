"""Comparing two runs: pairs by id, flips, refusals."""

import json
from dataclasses import replace

import pytest

from deepseek.core.errors import RequestError
from deepseek.eval.compare import compare_reports, comparison_text
from deepseek.eval.record import Estimate, Record, Report, TaskRun
from deepseek.eval.statistics import summarise


def record(name, acc=None, **fields):
    grades = {} if acc is None else {"acc": acc, "bpb": 2.0 - acc, "bpb/weight": 3.0}
    values = {
        "id": name,
        "group": "",
        "prompt": name,
        "prompt_sha256": f"hash of {name}",
        "expected": 1,
        "grades": grades,
    }
    return Record(**values | fields)


def run(*records, task="made_up", **fields):
    values = {
        "task": task,
        "protocol": "p",
        "metric": "acc",
        "shots": 0,
        "chat": False,
        "limit": None,
        "seed": 0,
        "n_available": len(records),
        "n_errors": 0,
        "seconds": 1.0,
        "summary": summarise(records),
        "groups": {},
        "records": records,
    }
    return TaskRun(**values | fields)


def report(*runs, model="m"):
    return Report(
        model=model, weights="Q4_1", compute="float32", date="2026", package="0", runs=runs
    )


A = report(run(*(record(f"{i}", float(i % 2)) for i in range(8)), record("only in a", 1.0)))
B = report(run(*(record(f"{i}", float(i in (0, 1, 3, 5))) for i in range(8))), model="other")


def test_only_common_items_are_compared_and_flips_are_named():
    found = compare_reports(A, B)
    task = found.tasks[0]
    assert (task.n_common, task.n_only_a, task.n_only_b) == (8, 1, 0)
    assert (task.rose, task.fell) == (("0",), ("7",))
    accuracy, bits = task.metrics
    assert (accuracy.metric, accuracy.a.value, accuracy.b.value) == ("acc", 0.5, 0.5)
    assert accuracy.difference.value == 0.0
    assert accuracy.difference.p_exact == 1.0
    assert (bits.metric, bits.difference.p_exact) == ("bpb", None)
    assert accuracy.a.n == 8


def test_the_sign_says_what_b_is_above_a():
    better = report(run(*(record(f"{i}", 1.0) for i in range(8))))
    difference = compare_reports(A, better).tasks[0].metrics[0].difference
    assert difference.value == 0.5
    assert 0 < difference.low < 0.5 < difference.high <= 1
    assert difference.p_exact == pytest.approx(0.125)  # four flips of four: 2 / 2^4
    assert compare_reports(better, A).tasks[0].metrics[0].difference.value == -0.5


def test_an_error_is_a_wrong_answer_in_the_pair():
    failed = run(*(record(f"{i}", error="too long") for i in range(8)))
    task = compare_reports(A, report(failed)).tasks[0]
    assert task.metrics[0].b.value == 0.0
    assert task.fell == ("1", "3", "5", "7")
    assert [m.metric for m in task.metrics] == ["acc"]  # no likelihood is left to compare


def test_two_runs_of_errors_have_nothing_to_compare():
    failed = report(run(*(record(f"{i}", error="too long") for i in range(8))))
    assert compare_reports(failed, failed).tasks[0].metrics == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "q"}, "protocol 'p' and 'q'"),
        ({"shots": 5}, "shots 0 and 5"),
        ({"chat": True}, "chat False and True"),
        ({"metric": "bpb"}, "metric 'acc' and 'bpb'"),
    ],
)
def test_runs_that_were_asked_differently_are_refused(change, said):
    other = report(replace(A.runs[0], **change))
    with pytest.raises(RequestError, match="not asked the same way") as caught:
        compare_reports(A, other)
    assert said in caught.value.message
    assert "--allow-differences" in caught.value.hint
    allowed = compare_reports(A, other, allow_differences=True)
    assert allowed.tasks[0].differences == (said,)
    assert said in comparison_text(allowed)


def test_other_prompts_or_other_answers_are_refused():
    changed = [replace(A.runs[0].records[0], prompt_sha256="x"), *A.runs[0].records[1:]]
    with pytest.raises(RequestError, match="other prompts for 1 of 9 items"):
        compare_reports(A, report(run(*changed)))
    changed = [replace(one, expected=2) for one in A.runs[0].records]
    with pytest.raises(RequestError, match="other expected answers for 9 of 9 items"):
        compare_reports(A, report(run(*changed)))


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(RequestError, match="no task in common"):
        compare_reports(A, report(run(record("0", 1.0), task="another")))
    with pytest.raises(RequestError, match="no item in common"):
        compare_reports(A, report(run(record("z", 1.0))))
    with pytest.raises(RequestError, match="same id"):
        compare_reports(report(run(record("0", 1.0), record("0", 0.0))), A)
    with pytest.raises(RequestError, match="same task twice"):
        compare_reports(report(A.runs[0], A.runs[0]), A)


def test_tasks_of_one_run_are_named():
    more = report(A.runs[0], run(record("0", 1.0), task="another"))
    found = compare_reports(more, B)
    assert (found.only_a, found.only_b) == (("another",), ())
    assert "only in a: another" in comparison_text(found)


def test_the_text_is_plain_and_the_dictionary_is_json():
    found = compare_reports(A, B)
    text = comparison_text(found)
    assert text.splitlines()[:2] == ["a: m (Q4_1, 2026)", "b: other (Q4_1, 2026)"]
    assert "made_up: 8 items in both, 1 only in a" in text
    assert "acc rose for 1: 0" in text
    assert "acc fell for 1: 7" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("acc "))
    assert row.split()[1:4] == ["0.5000", "0.5000", "+0.0000"]
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["tasks"][0]["metrics"][0]["difference"]["n"] == 8
    assert plain["tasks"][0]["rose"] == ["0"]


def test_long_lists_of_flips_are_cut_in_the_text_only():
    a = report(run(*(record(f"{i}", 0.0) for i in range(40))))
    b = report(run(*(record(f"{i}", 1.0) for i in range(40))))
    found = compare_reports(a, b)
    assert "acc rose for 40: 0, 1, 2, 3, 4, …" in comparison_text(found)
    assert len(found.tasks[0].rose) == 40
    assert found.tasks[0].metrics[0].difference.p_exact == 2 / 2**40


def test_whole_runs_show_the_values_of_their_summaries():
    found = compare_reports(B, B).tasks[0].metrics
    assert {m.metric: m.a for m in found} == B.runs[0].summary
    assert all(isinstance(m.b, Estimate) for m in found)
