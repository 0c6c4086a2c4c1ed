"""Synthesis: hard cases of a real tiny model, resumed after a kill, sorted, kept apart."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepseek.cli.synthesis import SandboxRunner
from deepseek.core.errors import ConfigError, DocumentError
from deepseek.core.llm import Completion, LanguageModel, Prompt, SamplingParams, TokenLogprob
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.documents import Funnel, documents
from deepseek.data.entropy.attempts import Attempt, Judged
from deepseek.data.synthesis.config import Selection, config_of, load_synthesis_config
from deepseek.data.synthesis.families import make_problem
from deepseek.data.synthesis.records import preference_pair, right_answer, usual_mistake
from deepseek.data.synthesis.report import render_summary, summary, summary_text
from deepseek.data.synthesis.run import (
    HARD,
    HELD_OUT,
    JOURNAL,
    PAIRS,
    ModelIdentity,
    generate,
    is_held_out,
    question_digest,
    synthesize,
)
from deepseek.data.synthesis.selection import hard_cases, kind_of
from deepseek.data.verifiers.registry import find_verifier
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine

ROOT = Path(__file__).parents[2]
WHO = ModelIdentity(name="tiny", fingerprint="f")
RESULTS = (JOURNAL, HARD, PAIRS, HELD_OUT)


def table(**changes: Any) -> dict[str, Any]:
    problems = {
        "families": ["words/story", "programs/texts", "gym/chain_sum"],
        "levels": [0, 1],
        "count": 3,
        "style": "direct",
        "held_out_families": ["words/ages"],
        "held_out": 0.3,
    }
    return {
        "problems": problems | changes.pop("problems", {}),
        "sampling": {"samples": 4, "first": 2, "max_tokens": 6},
        "run": {"portion": 2},
        **changes,
    }


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Iterator[Engine]:
    found, _ = load_engine(str(tiny_folder), threads=1)
    yield found
    found.close()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Solver(LanguageModel):
    """Knows the answers, and gives them or others as the question's number and the seed say."""

    name = "solver"
    context_window = 10_000

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.calls = 0

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        assert params is not None
        assert not isinstance(prompt, str)
        self.calls += 1
        question = prompt[-1].content.split("\n")[0]
        kind = question_digest(question)[0] % 3
        right = self.answers[question]
        draw = params.seed or 0
        said = {0: right, 1: "-5", 2: right if draw % 2 else str(-draw % 97 - 200)}[kind]
        return Completion(
            text=f"Answer: {said}",
            token_ids=(1, 2),
            finish_reason="stop",
            n_prompt_tokens=1,
            logprobs=(TokenLogprob("a", 1, -0.1), TokenLogprob("b", 2, -0.2 - draw % 7)),
        )


def solver_for(config: Any) -> Solver:
    cells, _ = generate(config)
    return Solver({p.question: p.answer for cell in cells for p in cell.problems})


def test_a_run_keeps_what_is_hard_in_order_with_its_origin(tmp_path: Path) -> None:
    config = config_of(table(problems={"families": ["words/story"], "count": 20}))
    out = synthesize(config, solver_for(config), WHO, tmp_path)
    hard, pairs, held = (rows_of(tmp_path / name) for name in (HARD, PAIRS, HELD_OUT))
    assert (len(hard), len(pairs), len(held)) == (out.n_hard, out.n_pairs, out.counts.held_out)
    kinds = [row["kind"] for row in hard]
    assert kinds == sorted(kinds)
    assert set(kinds) == {"confident error", "uncertain"}
    entropies = [r["provenance"]["signals"]["entropy"] for r in hard if r["kind"] == "uncertain"]
    assert entropies == sorted(entropies, reverse=True)
    verifier = find_verifier("number")
    for row in hard:
        origin = row["provenance"]
        made = make_problem(origin["family"], origin["level"], origin["seed"], origin["index"])
        assert row["messages"][0]["content"].startswith(made.question)
        assert row["text"] == "\n".join(turn["content"] for turn in row["messages"])
        assert verifier.is_right(made, row["messages"][1]["content"])
        assert origin["model"] == {"name": "tiny", "weights": "", "fingerprint": "f"}
        assert origin["sampling"]["samples"] == 4
        assert row["target"] == ("model" if any(origin["verdicts"]) else "reference")
    for row in pairs:
        made = make_problem(*(row["provenance"][k] for k in ("family", "level", "seed", "index")))
        assert verifier.is_right(made, row["chosen"][0]["content"])
        assert not verifier.is_right(made, row["rejected"][0]["content"])


def test_what_is_held_out_is_never_trained_on(tmp_path: Path) -> None:
    config = config_of(table(problems={"families": ["words/story", "words/purchase"], "count": 30}))
    synthesize(config, solver_for(config), WHO, tmp_path)
    held = rows_of(tmp_path / HELD_OUT)
    families = {row["provenance"]["family"] for row in held}
    assert "words/ages" in families  # by family
    assert {"words/story", "words/purchase"} & families  # by question
    trained = [row["messages"][0]["content"] for row in rows_of(tmp_path / HARD)]
    trained += [row["prompt"][0]["content"] for row in rows_of(tmp_path / PAIRS)]
    assert trained
    assert not {question_digest(q) for q in trained} & {
        question_digest(r["question"]) for r in held
    }
    assert all("words/ages" not in row["provenance"]["family"] for row in rows_of(tmp_path / HARD))
    # The training verb cannot even read it, and reads the hard cases.
    with pytest.raises(DocumentError, match="no JSON object with a text"):
        list(documents([tmp_path / HELD_OUT], Funnel()))
    funnel = Funnel()
    assert len(list(documents([tmp_path / HARD], funnel))) == funnel.read > 0


def test_a_question_is_on_the_same_side_in_every_run() -> None:
    first = config_of(table(problems={"count": 40, "families": ["words/story"]}))
    other = config_of(table(problems={"count": 40, "families": ["words/story"], "style": "steps"}))
    cells, _ = generate(first)
    sides = [is_held_out(p, first) for cell in cells for p in cell.problems]
    assert sides == [is_held_out(p, other) for cell in cells for p in cell.problems]
    assert 0 < sum(sides) < len(sides)
    shouted = replace(cells[-1].problems[0], question=cells[-1].problems[0].question.upper())
    assert is_held_out(shouted, first) == is_held_out(cells[-1].problems[0], first)


def test_repeated_and_evaluation_questions_are_dropped() -> None:
    config = config_of(table(problems={"families": ["gym/chain_sum"], "count": 100, "levels": [0]}))
    cells, counts = generate(config)
    questions = [p.question for cell in cells for p in cell.problems]
    assert len(set(questions)) == len(questions) == counts.generated - counts.repeated
    stories = config_of(table(problems={"families": ["words/story"], "levels": [1]}))
    cells, _ = generate(stories)
    test_item = cells[-1].problems[0]
    index = ContaminationIndex.build([("quiz", test_item.question)])
    left, counts = generate(stories, index)
    assert counts.contaminated >= 1
    assert test_item not in left[-1].problems


def test_levels_above_a_hopeless_one_are_not_tried(tmp_path: Path) -> None:
    config = config_of(
        table(problems={"families": ["words/story"], "levels": [0, 1, 2], "stop_below": 1.0})
    )
    model = solver_for(config)
    model.answers = dict.fromkeys(model.answers, "0")
    out = synthesize(config, model, WHO, tmp_path)
    assert out.counts.skipped_levels == [
        f"{f}/{n}" for f in ("words/ages", "words/story") for n in (1, 2)
    ]
    assert {cell.level for cell in out.cells} == {0}


def test_a_real_model_is_attacked_and_reported(engine: Engine, tmp_path: Path) -> None:
    problems = {"levels": [0], "count": 1, "held_out": 0.0}
    config = config_of(table(problems=problems, run={"portion": 2, "p_true": True}))
    out = synthesize(config, engine, WHO, tmp_path, runner=SandboxRunner())
    assert out.counts.attempted == len(rows_of(tmp_path / JOURNAL)) - 1 - 4
    found = summary(out, config)
    assert json.loads(json.dumps(found)) == found
    page, text = render_summary(found), summary_text(found)
    for name in ("words/story", "gym/chain_sum", "words/ages"):
        assert name in page
        assert name in text
    assert all(row["kinds"]["solved"] == 0 for row in found["rows"])  # random weights
    # Once more with everything there: nothing is asked again, nothing changes.
    before = {name: (tmp_path / name).read_bytes() for name in RESULTS}
    synthesize(config, Solver({}), WHO, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in RESULTS} == before


def test_a_killed_run_ends_in_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        '[problems]\nfamilies = ["words/story", "words/purchase"]\nlevels = [0]\ncount = 6\n'
        'style = "direct"\n[sampling]\nsamples = 4\nfirst = 2\nmax_tokens = 8\n'
        "[run]\nportion = 2\n"
    )
    argv = [sys.executable, "-m", "deepseek", "data", "synthesize", str(config)]
    argv += ["--model", str(tiny_folder), "--threads", "1", "--out"]
    subprocess.run([*argv, str(tmp_path / "whole")], check=True, capture_output=True)
    killed = tmp_path / "killed"
    child = subprocess.Popen([*argv, str(killed)], stderr=subprocess.DEVNULL, stdout=-3)
    journal = killed / JOURNAL
    while child.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 7):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (killed / HARD).exists()
    with (killed / JOURNAL).open("ab") as file:
        file.write(b'{"id": "words/sto')  # a line that was cut off
    subprocess.run([*argv, str(killed)], check=True, capture_output=True)
    for name in (*RESULTS, "report.json", "report.html"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(killed.glob(".new-*"))


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    config = config_of(table(problems={"families": ["words/story"]}))
    synthesize(config, solver_for(config), WHO, tmp_path)
    other = config_of(table(problems={"families": ["words/story"], "seed": 1}))
    for changed, who in ((other, WHO), (config, replace(WHO, fingerprint="g"))):
        with pytest.raises(ConfigError, match="holds another run"):
            synthesize(changed, solver_for(changed), who, tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / JOURNAL).write_text("something else\n")
    with pytest.raises(ConfigError, match="holds another run"):
        synthesize(config, solver_for(config), WHO, tmp_path / "x")
    assert (tmp_path / "x" / JOURNAL).read_text() == "something else\n"


def judged(text: str, *, right: bool, cluster: int, logprob: float = -1.0) -> Judged:
    return Judged(text=text, n_tokens=1, logprob=logprob, is_right=right, cluster=cluster, seed=1)


def attempted(*samples: Judged, normalised: float, greedy: bool = False) -> Attempt:
    return Attempt(
        id="words/story/0/0/0",
        family="words/story",
        level=0,
        index=0,
        prompt="?",
        greedy=judged("greedy", right=greedy, cluster=-1),
        samples=samples,
        signals={"normalised": normalised, "entropy": normalised},
    )


R, W, V = (
    judged("right", right=True, cluster=0),
    judged("wrong", right=False, cluster=1, logprob=-0.5),
    judged("other", right=False, cluster=2, logprob=-0.1),
)


def test_kinds_of_cases() -> None:
    selection = Selection(confident=0.5)
    kinds = [
        (attempted(W, W, W, V, normalised=0.4), "confident error"),
        (attempted(R, R, R, W, normalised=0.4), "solved"),
        (attempted(R, W, V, W, normalised=0.8), "uncertain"),
        (attempted(W, V, W, V, normalised=0.6), "unsolved"),
        (attempted(R, R, normalised=1.0), "solved"),
    ]
    for one, kind in kinds:
        assert kind_of(one, selection) == kind
    attempts = [one for one, _ in kinds]
    kept = [kind for kind, _ in hard_cases(attempts, selection)]
    assert kept == ["confident error", "uncertain"]
    assert len(hard_cases(attempts, replace(selection, unsolved=True))) == 3
    assert len(hard_cases(attempts, replace(selection, unsolved=True, limit=1))) == 1


def test_the_right_answer_is_the_models_own_if_it_has_one() -> None:
    made = make_problem("words/story", 0, 0, 0)
    likely = judged("likely", right=True, cluster=0, logprob=-0.1)
    assert right_answer(attempted(R, likely, W, normalised=1), made, worked=True) == (
        "model",
        "likely",
    )
    own = right_answer(attempted(R, W, normalised=1, greedy=True), made, worked=True)
    assert own == ("model", "greedy")
    kind, text = right_answer(attempted(W, W, normalised=1), made, worked=True)
    assert (kind, text) == ("reference", f"{made.solution}\nAnswer: {made.answer}")
    assert (
        right_answer(attempted(W, W, normalised=1), made, worked=False)[1]
        == f"Answer: {made.answer}"
    )


def test_the_mistake_is_the_one_that_is_made_most() -> None:
    mistake = usual_mistake(attempted(W, W, V, R, normalised=1))
    assert mistake is not None
    assert mistake.text == "wrong"
    assert usual_mistake(attempted(R, R, normalised=0, greedy=True)) is None
    about = {"model": {}, "config": {"sampling": {}}}
    made = make_problem("words/story", 0, 0, 0)
    none = attempted(R, R, normalised=0, greedy=True)
    assert preference_pair("solved", none, made, about, worked=True) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problems": {"families": ["words/storry"]}}, "no family"),
        ({"problems": {"levels": [9]}}, "no level 9"),
        ({"problems": {"levels": ["a"]}}, "problems.levels"),
        ({"problems": {"count": 0}}, "problems.count is 0"),
        ({"problems": {"stile": "x"}}, "unknown setting problems.stile"),
        ({"sampling": {"samples": 1}}, "samples is 1"),
        ({"selectoin": {}}, r"unknown section \[selectoin\]"),
        ({"selection": {"confident": 2.0}}, "selection.confident is 2.0"),
    ],
)
def test_wrong_settings_are_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(table(**changes))


def test_the_config_that_comes_along_loads() -> None:
    config = load_synthesis_config(ROOT / "configs" / "data" / "synthesis.toml")
    assert config.problems.families
