"""Long contexts: what is asked is hidden once, fits the length, and is the same in each run."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from deepseek.core.llm import SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.eval.journal import Journal
from deepseek.eval.record import Record
from deepseek.eval.ruler.documents import Corpus, Inquiry
from deepseek.eval.ruler.needles import Needles
from deepseek.ops import native
from long_accuracy import answer_all, engine_of
from long_items import Context, needles, passages, variables
from long_scores import Scores, results

LENGTH = 1_500


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Engine:
    return load_engine(str(smollm2_path))[0]


def fits(context: Context, engine: Engine) -> bool:
    longest = max(context.asked, key=lambda asked: len(asked.question + asked.gold))
    text = context.text + longest.question + longest.gold
    return LENGTH - 400 <= engine.count_tokens(text) <= LENGTH


@pytest.mark.weights
@pytest.mark.parametrize("kinds", [Needles(haystack="noise", n_keys=4), Needles(haystack="needle")])
def test_needles(kinds: Needles, engine: Engine) -> None:
    context = needles(kinds, LENGTH, 4, engine, 0)
    assert fits(context, engine)
    for asked in context.asked:
        (key,) = re.findall(r"number for (\S+) mentioned in the provided text\?", asked.question)
        assert context.text.count(f" for {key} is: {asked.answers[0]}.") == 1
        assert len(asked.others) == 3
        assert asked.gold not in asked.others
    assert len({asked.question for asked in context.asked}) == 4
    assert needles(kinds, LENGTH, 4, engine, 0) == context
    assert needles(kinds, LENGTH, 4, engine, 1) != context


@pytest.mark.weights
def test_variables(engine: Engine) -> None:
    context = variables(LENGTH, 3, engine, 0)
    assert fits(context, engine)
    for asked in context.asked:
        (value,) = re.findall(
            r"Find all variables that are assigned the value (\d+)", asked.question
        )
        found = [value]
        for name in asked.answers:
            before = found[-1] if found[-1] == value else f"VAR {found[-1]}"
            assert context.text.count(f"VAR {name} = {before} ") == 1
            found.append(name)


@pytest.mark.weights
def test_passages(engine: Engine) -> None:
    corpus = Corpus(
        [
            Inquiry(question=f"What is {i}?", answers=(f"n{i}",), passages=(f"It is n{i}. " * 9,))
            for i in range(60)
        ]
    )
    context = passages(corpus, LENGTH, 5, engine, 0)
    assert fits(context, engine)
    for asked in context.asked:
        assert f"It is {asked.answers[0]}." in context.text
        assert asked.question.split("What is ")[1].split("?")[0] == asked.answers[0][1:]
        assert asked.gold not in asked.others


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_where_everything_is_seen_all_settings_answer_alike(engine: Engine, tmp_path: Path) -> None:
    """In 1,500 tokens the budgets hold everything: sparse attention and the oracle are dense."""
    context = needles(Needles(haystack="noise"), LENGTH, 1, engine, 0)
    nats = []
    for setting in ("dense", "sparse 2,048", "oracle 2,048"):
        with Journal(tmp_path / f"{setting}.jsonl", "run") as journal:
            records = answer_all(engine_of(engine, setting), context, journal, "task/0")
            kept = answer_all(engine_of(engine, setting), context, journal, "task/0")
        assert kept[0] is records[0]
        nats.append(records[0].grades["nats"])
    assert nats[1:] == pytest.approx([nats[0]] * 2, abs=0.25)  # rounding, in eight tokens


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_the_oracle_answers_itself(engine: Engine) -> None:
    oracle = engine_of(engine, "oracle 2,048")
    oracle.generate("The sky is", SamplingParams(max_tokens=2))
    assert oracle.runner.tokens, "not by the scheduler, which knows nothing of it"


def record(task: str, right: float, nats: float, chance: float | None = None) -> Record:
    grades = {"nats": nats, "tokens": 2.0, "written": right}
    if chance is not None:
        grades |= {"chosen": 1.0, "chance": chance}
    return Record(id=task, group="", prompt="", prompt_sha256="", expected=None, grades=grades)


def test_kept_is_a_ratio_of_means_and_only_counts_what_dense_attention_can_do() -> None:
    scores = Scores()
    for context in range(4):
        for right in (1.0, 0.5):
            scores.add("dense", "able", context, record("able", 1.0, 2.0))
            scores.add("sparse 2,048", "able", context, record("able", right, 4.0))
        scores.add("dense", "weak", context, record("weak", 0.0, 2.0))
        scores.add("sparse 2,048", "weak", context, record("weak", 1.0, 2.0))
        scores.add("dense", "choice", context, record("choice", 0.0, 2.0, chance=0.25))
        scores.add("sparse 2,048", "choice", context, record("choice", 1.0, 2.0, chance=0.25))
    assert scores.answer("able") == ("written", True)
    assert scores.answer("weak") == ("written", False)
    assert scores.answer("choice") == ("chosen", True)
    rows = {
        row.name.split(":")[0]: row for row in results(scores, "x") if "perplexity" not in row.name
    }
    macro = rows["sparse 2,048, mean over 2 tasks"]
    assert macro.value == pytest.approx((0.75 + 1) / 2)
    assert (macro.low, macro.high) == (macro.value, macro.value)  # contexts are alike
    able = rows["sparse 2,048, able"]
    assert (able.value, able.peer_value, able.ratio, able.is_met) == (75.0, 100.0, 0.75, False)
    assert rows["sparse 2,048, weak"].must is None
    likely = next(row for row in results(scores, "x") if "able: perplexity" in row.name)
    assert likely.ratio == pytest.approx(2.718281828 ** (1 - 2))


def test_the_gap_is_in_points_over_what_both_were_asked() -> None:
    scores = Scores()
    for context in range(3):
        scores.add("dense", "able", context, record("able", 1.0, 2.0))
        scores.add("sparse 2,048", "able", context, record("able", 0.5, 2.0))
        if context < 2:
            scores.add("oracle 2,048", "able", context, record("able", 1.0, 2.0))
    gap = next(row for row in results(scores, "x") if "before the router, mean" in row.name)
    assert (gap.value, gap.rounds, gap.is_met) == (50.0, 2, False)
