"""The engine's benchmark: works are what they say, rows judge what was measured, rows are kept."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import validate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from tiny_native import native_engine

import engine as engine_benchmark
from copying import COPIES, KINDS, SCHEMA, Work, works_of
from deepseek.core.llm import Message, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE
from drafting import Written, ask_ours, compare, own_rows, ratio_row
from report import Row
from saturation import endless, seconds_of, timed_passes
from sessions import ANSWER, COMMON, OWN, most_pages
from turns import conversation, faster_row, first_token, followed, restart_row

needs_kernels = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")


@pytest.fixture(scope="module", autouse=True)
def _one_thread(_threads: None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Engine:
    return native_engine(tiny_folder)


def test_what_is_copied_stands_in_the_prompt(attention_paper: Path) -> None:
    for work in works_of("code edit"):
        asked = work.prompt[0].content
        old, new = asked.split("`")[1:4:2]
        code = asked.split("```python\n")[1].removesuffix("```")
        changed = code.replace(old, new)
        assert changed != code
        compile(changed, "changed", "exec")
    for work in works_of("quote"):
        assert work.prompt[0].content.startswith("[1] ")
        assert len(work.prompt[0].content) > 1_000
    for kind in ("JSON by schema", "JSON freely"):
        for part, work in enumerate(works_of(kind)):
            listed = work.prompt[0].content.split("\n\n")[1]
            numbers = [int(line[1:].split("]")[0]) for line in listed.splitlines()]
            assert numbers == list(range(8 * part + 1, 8 * part + 9))
            assert (work.schema is SCHEMA) == (kind == "JSON by schema")
    one = {"number": 1, "authors": ["A"], "title": "T", "year": 2017}
    validate([one] * 8, SCHEMA)
    assert all(work.kind == kind for kind in KINDS for work in works_of(kind))


def test_answers_that_differ_are_told() -> None:
    plain, drafted = Written(), Written()
    for written, seconds in ((plain, 2.0), (drafted, 0.5)):
        written.add((1, 2, 3), seconds, 0, 0)
    plain.add((4, 5), 2.0, 0, 0)
    drafted.add((4, 6), 0.5, 8, 6)
    speed, same, kept = own_rows("x", [plain], [drafted], (3.0, 5.0))
    assert (speed.value, speed.peer_value, speed.ratio) == (3.0, 0.75, 4.0)
    assert speed.is_met
    assert (same.value, same.is_met) == (0.5, False)
    assert kept.value == 0.75
    assert ratio_row("x", [plain], [drafted], "y", (0.98, 1.4)).is_met is False
    row = faster_row("x", [0.1, 0.2, 0.1], [2.0, 2.0, 3.0], "y", (20.0, 50.0))
    assert (row.value, row.peer_value, row.ratio, row.low, row.high) == (100, 2_000, 20, 10, 30)
    assert row.is_met


@needs_kernels
def test_sides_take_turns_and_start_anew(tiny: Engine, tiny_folder: Path) -> None:
    loaded = list[str]()

    def load(speculation: str) -> Engine:
        loaded.append(speculation)
        return native_engine(tiny_folder)

    choice = {"enum": ["yes", "no"]}
    question = (Message("user", "May I copy it?"),)
    works = {COPIES[0]: [Work(COPIES[0], question, 9), Work(COPIES[0], question, 9, schema=choice)]}
    rows = compare("tiny", works, load, (None, tiny_folder), {}, rounds=3)
    assert loaded == ["off", "off", "auto", "auto", "off", "off", "auto"]
    speed, same = rows
    assert (speed.must, speed.moonshot, speed.rounds, speed.judge) == (3.0, 5.0, 3, "ratio")
    assert same.value == 1.0
    by_schema = Work(COPIES[2], question, 9, schema={"enum": ["yes"]})
    written = ask_ours(tiny, [by_schema])
    assert written.n_tokens == len(written.answers[0]) - 1 > 0
    assert tiny.decode(written.answers[0]) == '"yes"'


@needs_kernels
def test_pages_of_sessions_are_counted_exactly(tiny: Engine, attention_paper: Path) -> None:
    whole = -(-(COMMON + OWN + ANSWER - 1) // PAGE)
    assert most_pages(tiny, 1) == whole
    n_common = COMMON // PAGE
    assert most_pages(tiny, 16) == n_common + 16 * (whole - n_common)


@needs_kernels
def test_time_in_the_model_is_part_of_the_time(tiny: Engine) -> None:
    with timed_passes(tiny) as clock:
        seconds = seconds_of(tiny, ["You may", "copy the Work"], endless(tiny, 20))
    assert 0 < clock.seconds < seconds
    assert isinstance(tiny.runner, NativeRunner)
    assert not {"run", "logits"} & set(vars(tiny.runner.decoder)), "nothing stays behind"
    again = tiny.generate("You may", endless(tiny, 20))
    assert (len(again.token_ids), again.finish_reason) == (20, "length")


@needs_kernels
def test_a_follow_up_begins_like_the_turn_before(tiny: Engine, attention_paper: Path) -> None:
    turns = conversation(tiny, 900)
    answer = tiny.generate(turns, SamplingParams(max_tokens=3)).text
    assert first_token(tiny, followed(turns, answer)) > 0
    later = tiny.generate(followed(turns, answer), SamplingParams(max_tokens=1))
    assert 800 < later.n_prompt_tokens < 1_000
    assert later.n_reused_tokens > 700


def test_a_restart_is_timed_with_the_folder_of_the_session_before_and_without() -> None:
    kept: dict[str, str] = {}

    def run(model: str, folder: str, n_tokens: int, answer: str | None) -> dict[str, Any]:
        assert Path(folder).is_dir()
        if answer is None:
            kept[folder] = f"answer {len(kept)}"
            return {"answer": kept[folder]}
        assert answer == f"answer {len(kept) - 1}"
        return {"seconds": 0.1 if folder in kept else 2.0}

    row = restart_row("x", run, 300, 3)
    assert (row.value, row.peer_value, row.ratio, row.rounds) == (100, 2_000, 20, 3)
    assert (row.must, row.moonshot) == (5.0, 40.0)
    assert len(kept) == 3
    assert not any(Path(folder).exists() for folder in kept)


def test_parts_keep_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_benchmark, "commit", lambda: "aaa")
    engine_benchmark.keep("shared", "smollm2-135m", [Row("old", 1.0, "")], tmp_path)
    monkeypatch.setattr(engine_benchmark, "commit", lambda: "bbb")
    engine_benchmark.keep(
        "inside", "smollm2-135m", [Row("a", 1.0, ""), Row("b", 2.0, "")], tmp_path
    )
    engine_benchmark.keep("inside", "smollm2-135m", [Row("a", 3.0, "")], tmp_path)
    new, old = engine_benchmark.all_kept(tmp_path)
    assert (new.name, new.value, new.measured) == ("a", 3.0, None)
    assert old.name == "old"
    assert old.measured is not None
    assert old.measured.startswith("aaa, ")


def test_a_quick_run_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[Any] = []
    monkeypatch.setattr(engine_benchmark, "write_results", lambda *parts: written.append(parts))
    monkeypatch.setattr(engine_benchmark, "KEPT", tmp_path)
    rows = {"shared": lambda: [Row("a", 1.0, "")]}
    monkeypatch.setattr(engine_benchmark, "parts_of", lambda *_: rows)
    wanted = ["--models", "smollm2-135m", "--parts", "shared"]
    engine_benchmark.main([*wanted, "--quick"])
    assert (written, list(tmp_path.iterdir())) == ([], [])
    monkeypatch.setattr(engine_benchmark, "all_kept", lambda: [Row("a", 1.0, "")])
    monkeypatch.setattr(engine_benchmark.keep, "__defaults__", (tmp_path,))
    engine_benchmark.main(wanted)
    assert written[0][0] == "engine"
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))[0]["name"] == "a"
