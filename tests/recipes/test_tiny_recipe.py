"""The recipe of `make train-tiny`, end to end with small numbers on real texts."""

import json
import random
import re
import sys
from pathlib import Path

import pytest

from deepseek import R1Model, SamplingParams
from deepseek.core.llm import Message
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.lines import write_lines
from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.operator import Context
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.registry import find_verifier
from deepseek.train.config import load_training_config
from deepseek.train.metrics import read_metrics
from deepseek.train.run import prepare_run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

import tiny_report  # noqa: E402
import tiny_texts  # noqa: E402
import train_tiny  # noqa: E402

STORY = "Once there was a small model. It read all day, and in the end it could say hello."
CORPUS = """conversations:
- - Is it warm?
  - It is.
- - It is cold
  - |
    Close the
    window.
- Not a conversation
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """What the recipe's own functions make, of less: the manual is this repository's."""
    manual, corpus = tmp_path / "manual/p/docs/intro", tmp_path / "corpus/english"
    manual.mkdir(parents=True)
    corpus.mkdir(parents=True)
    for page in sorted((ROOT / "docs").rglob("*.md"))[:6]:
        (manual / page.with_suffix(".txt").name).write_text(page.read_text()[:8_000])
    for theme in tiny_texts.THEMES.split():
        (corpus / f"{theme}.yml").write_text(CORPUS)
    rows = {
        "prose": list(tiny_texts.prose(tmp_path / "manual", ("intro",))),
        "reference": list(tiny_texts.language_reference())[:8],
        "code": list(tiny_texts.library(ROOT / "src/deepseek/core")),
        "maths": [*tiny_texts.sums(30), *tiny_texts.problems(tiny_texts.STORIES, 10)],
        "logic": list(tiny_texts.problems(tiny_texts.PUZZLES, 10)),
        "talk": [],
    }
    for number, row in enumerate(tiny_texts.conversations(tmp_path / "corpus", 0.02)):
        said = " ".join(message["content"] for message in row["messages"])
        if number % 10 == 0 or "France" in said or STORY in said:
            rows["talk"].append(row)
    for name, own in rows.items():
        folder = "texts" if name == "talk" else "corpus"
        write_lines(tmp_path / folder / f"{name}.jsonl", own)
    return tmp_path


def test_the_recipe_ends_in_a_model_that_answers(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(texts / "home"))
    ContaminationIndex.build([("quiz", STORY)]).save(texts / "index.npz")
    cleaning = texts / "cleaning.toml"
    own = (ROOT / "configs/data/train-tiny.toml").read_text()
    cleaning.write_text(own.replace("../../out/train-tiny", str(texts)))
    assert load_clean_config(cleaning).operators(Context(texts))
    recipe = (ROOT / "configs/train-r1-tiny.toml").read_text()
    recipe = recipe.replace("../out/train-tiny", str(texts))
    recipe = recipe.replace('"r1-tiny-moe.toml"', f'"{ROOT}/configs/r1-tiny-moe.toml"')
    recipe = re.sub(r"tokens = (?:\d_)?\d{3}_000", "tokens = 2_500", recipe)
    for before, after in {
        "[run]": "[run]\nthreads = 1",
        "window = 256": "window = 128",
        "batch = 8": "batch = 4",
        "vocab_size = 4096": "vocab_size = 512",
        "sample = 6_000_000": "sample = 100_000",
        "every = 25": "every = 2",
        "tokens = 6_000": "tokens = 500",
    }.items():
        assert before in recipe
        recipe = recipe.replace(before, after)
    file, out = texts / "recipe.toml", texts / "run"
    file.write_text(recipe)
    run = prepare_run(load_training_config(file), out)
    assert run.corpora["talk"].funnel.contaminated >= 1
    answers = learned_texts(run)
    assert "The capital of France is Paris.<|im_end|>" in answers
    assert not any("What is the capital" in answer for answer in answers)
    assert run.train()
    outcome = run.finish()
    rows = read_metrics(out / "metrics.jsonl")
    talk = [row["losses"]["talk"] for row in rows if "talk" in row.get("losses", {})]
    assert talk[-1] < talk[0]
    assert outcome.model is not None
    model = R1Model(outcome.model, threads=1)
    prompt = [Message("user", "Hello")]
    first = model.generate(prompt, SamplingParams(max_tokens=8, temperature=0.0))
    assert first.text == model.generate(prompt, SamplingParams(max_tokens=8, temperature=0.0)).text
    settings = json.loads((outcome.model / "tokenizer_config.json").read_text())
    assert "<|im_start|>" in settings["chat_template"]
    ends = json.loads((outcome.model / "generation_config.json").read_text())["eos_token_id"]
    assert len(ends) == 2
    page = "\n".join(tiny_report.stage_table(run.config, rows))
    assert all(stage.name in page for stage in run.config.stages)
    assert "</svg>" in tiny_report.charts(rows)["train-tiny-bits.svg"]


def learned_texts(run: object) -> list[str]:
    """What of each conversation is learned."""
    tokens, tokenizer = run.corpora["talk"].train, run.tokenizer  # type: ignore[attr-defined]
    found = []
    for number in range(tokens.n_documents):
        start, end = tokens.span(number)
        learned = [int(i) for i in tokens.tokens[start:end] if i >= 0]
        found.append(tokenizer.decode(learned, skip_control=False))
    return found


def test_what_is_said_of_sums_is_right() -> None:
    rng = random.Random(1)
    judge = find_verifier("number")
    verdicts = set()
    for _ in range(200):
        question, answer = tiny_texts.sum_talk(rng)
        left, right = re.findall(r"(\d+ [-+*] \d+) = (\d+)", answer)[0]
        problem = Problem(question=left, answer=str(eval(left)), verifier=judge.name)
        assert judge.is_right(problem, right)
        if claim := re.search(r"= (\d+)", question):
            assert answer.startswith("Yes" if claim.group(1) == right else "No")
            verdicts.add(answer[:2])
    assert verdicts == {"Ye", "No"}


def test_tables_deny_what_is_false() -> None:
    rows, forms = ["France, Paris", "Spain, Madrid"], [["Is {wrong} in {0}?", "no, {1} is."]]
    pairs = list(tiny_texts.table_talk(rows, forms, random.Random(0)))
    assert pairs == [
        ("Is Madrid in France?", "No, Paris is."),
        ("Is Paris in Spain?", "No, Madrid is."),
    ]


def test_steps_remember_what_they_took_and_stop_at_the_first_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_tiny, "OUT", tmp_path)
    step = train_tiny.Step(name="one", command=(sys.executable, "-c", "x = bytearray(10 << 20)"))
    train_tiny.run(step)
    once = json.loads((tmp_path / "steps.json").read_text())["one"]
    train_tiny.run(step)
    twice = json.loads((tmp_path / "steps.json").read_text())["one"]
    assert twice["seconds"] > once["seconds"] > 0
    assert once["memory"] > 10 << 20
    with pytest.raises(SystemExit) as caught:
        train_tiny.run(
            train_tiny.Step(name="two", command=(sys.executable, "-c", "raise SystemExit(3)"))
        )
    assert caught.value.code == 3
