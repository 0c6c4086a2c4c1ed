import json

import pytest

from deepseek.apps.documents.reader import read_document
from deepseek.apps.papers.analyse import analyse_paper
from deepseek.apps.papers.tasks import builtin_tasks
from deepseek.core.errors import ConfigError


def test_every_task_yields_findings_with_verified_quotes(paper, rules):
    analysis = analyse_paper(paper, rules, list(builtin_tasks()))
    assert [t.task for t in analysis.tasks] == list(builtin_tasks())
    text = paper.pages[0].text
    for finding in analysis.findings:
        assert finding.statement
        assert 0 <= finding.confidence <= 1
        for evidence in finding.evidence:
            assert evidence.verified
            assert evidence.quote in text
    assert len(analysis["contributions"].findings) >= 3


def test_similar_sentences_become_one_finding(paper, rules):
    findings = analyse_paper(paper, rules, ["method_innovation"])["method_innovation"].findings
    idea = next(f for f in findings if f.kind == "idea")
    assert len(idea.evidence) >= 2
    main = [f.evidence[0].quote for f in findings]
    assert len(set(main)) == len(main)


def test_what_is_not_there_is_said_with_where_was_looked(paper, rules):
    class No(type(rules)):
        def score(self, prompt, continuations):
            return super().score(prompt, continuations)[::-1]

    found = analyse_paper(paper, No(), ["limitations"])["limitations"].findings
    assert [f.kind for f in found] == ["no_stated_limitation"]
    assert found[0].is_missing
    assert "Conclusion" in found[0].searched


def test_a_task_without_findings_has_a_note(paper, rules):
    result = analyse_paper(paper, rules, ["Zyxwv qwerty?"])["Zyxwv qwerty?"]
    assert result.findings == ()
    assert result.note


def test_progress_reaches_the_end_and_findings_arrive(paper, rules):
    seen, found = [], []
    analysis = analyse_paper(
        paper, rules, ["summary"], on_progress=seen.append, on_finding=found.append
    )
    assert all(p.done <= p.total for p in seen)
    assert seen[-1].done >= 0.6 * seen[-1].total
    assert tuple(found) == analysis.findings


def test_a_time_limit_returns_what_there_is(paper, rules):
    analysis = analyse_paper(paper, rules, ["summary"], time_limit=1e-9)
    assert analysis.findings == ()
    assert "time limit" in analysis["summary"].note
    with pytest.raises(ConfigError):
        analyse_paper(paper, rules, ["summary"], time_limit=0.0)


def test_an_unknown_task_is_refused_before_anything_runs(paper, rules):
    with pytest.raises(ConfigError):
        analyse_paper(paper, rules, ["sumary"])
    assert rules.prompts == []


def test_same_input_same_report(paper, rules):
    def report():
        values = json.loads(analyse_paper(paper, rules, ["summary", "limitations"]).to_json())
        del values["timings"]
        return values

    assert report() == report()


MANUAL = """# A manual

## Installing

We install the program with one command. It needs a compiler and an hour of time on one GPU.

## Running

The batch size is 16 and the learning rate 0.001 by default. We evaluate nothing here.

## Options

Each option of the program is described below in one sentence that is long enough.

## Files

Files are read from the current folder, and results are written beside them in a table.

## Results of a run

The program prints its results, with 95.3 % accuracy on the data set that comes with it.
"""


def test_a_manual_is_called_one_and_not_asked_about_experiments(tmp_path, rules):
    file = tmp_path / "manual.md"
    file.write_text(MANUAL, encoding="utf-8")
    analysis = analyse_paper(
        read_document(file), rules, ["experiment_flaws", "datasets_and_metrics"]
    )
    assert any("research paper" in warning for warning in analysis.warnings)
    assert analysis.findings == ()
    assert all("No section with experiments" in t.note for t in analysis.tasks)


def test_a_paper_is_no_manual(paper, rules):
    analysis = analyse_paper(paper, rules, ["datasets_and_metrics"])
    assert analysis.warnings == ()
    assert any("LongQA dataset" in prompt for prompt in rules.prompts)
