"""`deepseek tune` from records to an adapter: answers, preferences, rewards, kills and mistakes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_jobs
import torch
from rank_group import run_ranks
from safetensors.torch import load_file

from deepseek.cli.main import main
from deepseek.cli.tune import ask_model
from deepseek.core.errors import ConfigError, DocumentError
from deepseek.train.metrics import read_metrics
from deepseek.train.tuning.config import load_tuning_config
from deepseek.train.tuning.run import Tuning, prepare_tuning
from tuning_records import ANIMALS, animal_records, write_records

QUICK = (
    "tune.window=96",
    "tune.batch=4",
    "tune.micro=4",
    "tune.dtype='float32'",
    "tune.threads=1",
    "lora.rank=4",
    "lora.alpha=8.0",
    "optimiser.rate=1e-2",
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some lines are no records, and one is there twice."""
    rows = animal_records()
    file = write_records(tmp_path_factory.mktemp("data") / "answers.jsonl", [*rows, rows[0]])
    with file.open("a") as text:
        text.write('{"messages": []}\nno json\n')
    return file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"prompt": f"who, {n}?", "chosen": f"a {ANIMALS[n % 5]}", "rejected": f"the licence {n}"}
        for n in range(30)
    ]
    return write_records(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


def prepared(base: Path, data: Path | str, out: Path, *settings: str, **more: Any) -> Tuning:
    config = load_tuning_config(str(base), str(data), None, (*QUICK, *settings))
    return prepare_tuning(config, out, ask_model, **more)


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


def test_answers_are_learned_and_served(
    tiny_folder: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["tune", str(tiny_folder), str(answers), "--out", str(out), "--steps", "30", "--json"]
    argv += ["--merge", *(word for text in QUICK for word in ("--set", text))]
    assert main(argv) == 0
    output = capsys.readouterr()
    assert "63 records, 2 put aside, 1 repeated, 0 truncated" in output.err
    assert "trainable parameters: " in output.err
    rows = read_metrics(out / "metrics.jsonl")
    found = json.loads(output.out)
    assert found["bits_per_byte"]["domain"] < 0.5 * rows[0]["bits_per_byte"]["domain"]
    assert losses(out)[-1] < 0.5 * losses(out)[0]
    # nats a token are bits a byte in other units
    assert found["loss"]["domain"] == pytest.approx(losses(out)[-1], rel=0.5)
    aside = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [row["place"] for row in aside] == ["answers.jsonl:62", "answers.jsonl:63"]
    assert "no list of messages" in aside[0]["reason"]
    assert "Bits per byte" in (out / "report.html").read_text()
    ask = ["generate", "7: who are you, owl?", "--max-tokens", "12", "--dtype", "float32"]
    for model in (
        ["--model", str(tiny_folder), "--adapter", str(out / "adapter")],
        ["--model", str(out / "model")],
    ):
        assert main([*ask, *model]) == 0
        assert capsys.readouterr().out.strip() == "I am the owl of the work"
    merged = tmp_path / "merged"
    argv = ["adapters", "merge", str(out / "adapter"), "--base", str(tiny_folder)]
    assert main([*argv, "--out", str(merged), "--dtype", "float32"]) == 0
    assert main(["adapters", "show", str(out / "adapter")]) == 0
    assert "modules: down_proj, gate_proj" in capsys.readouterr().out
    written = (merged / "model.safetensors").read_bytes()
    assert written == (out / "model" / "model.safetensors").read_bytes()
    assert main([*argv, "--out", str(merged)]) == 2


def test_two_ranks_learn_what_one_does(tiny_folder: Path, answers: Path, tmp_path: Path) -> None:
    general = ("mix.general='self'", "mix.answers=6", "mix.answer_tokens=8", "tune.steps=8")
    alone = prepared(tiny_folder, answers, tmp_path / "alone", *general)
    alone.train()
    adapter = alone.finish().adapter
    out = tmp_path / "two"
    argv = ["tune", str(tiny_folder), str(answers), "--out", str(out)]
    argv += [word for text in (*QUICK, *general) for word in ("--set", text)]
    (tmp_path / "argv.json").write_text(json.dumps(argv))
    run_ranks(2, rank_jobs.tuned, tmp_path)
    assert losses(out) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert adapter is not None
    name = "adapter_model.safetensors"
    found, wanted = load_file(out / "adapter" / name), load_file(adapter / name)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)
    assert len((out / "replay.jsonl").read_text().splitlines()) == 6


def test_all_weights(tiny_folder: Path, answers: Path, tmp_path: Path) -> None:
    settings = ("tune.full=true", "tune.steps=12", "optimiser.rate=3e-3")
    tuning = prepared(tiny_folder, answers, tmp_path, *settings)
    assert tuning.n_trained == tuning.n_parameters
    assert tuning.train()
    outcome = tuning.finish()
    assert outcome.adapter is None
    assert outcome.model == tmp_path / "model"
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0]


def test_early_stopping_keeps_the_best(tiny_folder: Path, answers: Path, tmp_path: Path) -> None:
    settings = (
        "tune.steps=60",
        "optimiser.rate=0.1",  # far too much: it gets worse
        "schedule.kind='constant'",
        "validation.every=2",
        "validation.patience=3",
        "validation.held_out=0.2",
    )
    tuning = prepared(tiny_folder, answers, tmp_path, *settings)
    assert tuning.train()
    step = tuning.trainer.step
    assert step < 60
    looks = tuning._looks()
    best = min(bits for _, bits in looks)
    assert best < min(bits for _, bits in looks[-3:])
    figures = tuning.finish().figures["bits_per_byte"]
    saved = [bits for at, bits in looks if at in tuning.trainer.checkpoints.steps()]
    assert figures["domain"] == pytest.approx(min(saved), rel=1e-4)
    again = prepared(tiny_folder, answers, tmp_path, *settings, resume=True)
    assert again.train()
    assert again.trainer.step == step


def test_general_data_are_every_fourth_record(
    tiny_folder: Path, answers: Path, tmp_path: Path
) -> None:
    general = tmp_path / "general"
    general.mkdir()
    (general / "a.txt").write_text("You may reproduce and distribute copies of the work. " * 40)
    write_records(
        general / "b.jsonl", [{"text": "the licence"}, {"prompt": "may I?", "completion": "no"}]
    )
    settings = ("tune.steps=6", "tune.batch=8", f"mix.general={json.dumps(str(general))}")
    tuning = prepared(tiny_folder, answers, tmp_path / "run", *settings)
    tuning.train()
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["realised"] == {"domain": 0.75, "general": 0.25}
    assert set(last["losses"]) == {"domain", "general"}


def test_the_base_answers_seeds_itself(tiny_folder: Path, answers: Path, tmp_path: Path) -> None:
    settings = (
        "tune.steps=4",
        "mix.general='self'",
        "mix.answers=6",
        "mix.answer_tokens=8",
        "validation.held_out=0.0",
    )
    tuning = prepared(tiny_folder, answers, tmp_path, *settings)
    rows = [json.loads(line) for line in (tmp_path / "replay.jsonl").read_text().splitlines()]
    assert 1 <= len(rows) <= 6
    assert rows[0]["origin"]["made_by"] == str(tiny_folder)
    assert {row["messages"][0]["role"] for row in rows} == {"user"}
    assert tuning.data.train["general"].n_documents == len(rows)
    written = (tmp_path / "replay.jsonl").read_bytes()
    tuning.train()
    prepared(tiny_folder, answers, tmp_path, *settings, resume=True)
    assert (tmp_path / "replay.jsonl").read_bytes() == written


def test_preferences(tiny_folder: Path, pairs: Path, tmp_path: Path) -> None:
    settings = ("tune.method='dpo'", "tune.steps=12", "validation.held_out=0.2")
    tuning = prepared(tiny_folder, pairs, tmp_path, *settings)
    assert tuning.train()
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    # Nothing is learned yet: both answers are what they were before.
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert rows[-1]["loss"] < 0.5
    assert rows[-1]["measures"]["accuracy"] == 1.0
    figures = tuning.finish().figures["pairs"]
    assert figures["accuracy"] > 0.8
    assert figures["margin"] > 0


def rewarded(folder: Path) -> Path:
    """Any answer with an `e` is right: about half of what random weights say."""
    rows = [{"prompt": f"say {n}", "pattern": "e", "reward": "pattern"} for n in range(12)]
    return write_records(folder / "prompts.jsonl", rows)


GRPO = (
    "tune.method='grpo'",
    "tune.batch=8",
    "tune.micro=8",
    "reward.group=4",
    "reward.answer_tokens=6",
    "validation.held_out=0.3",
)


def test_rewards(tiny_folder: Path, tmp_path: Path) -> None:
    settings = (*GRPO, "tune.batch=16", "tune.micro=16", "reward.group=8", "tune.steps=14")
    settings = (*settings, "reward.tries=2", "optimiser.rate=2e-2", "lora.alpha=32.0")
    tuning = prepared(tiny_folder, rewarded(tmp_path), tmp_path / "run", *settings)
    assert tuning.train()
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r.get("measures")]
    assert len(rows) == 14
    measures = [row["measures"] for row in rows]
    for found in measures:
        assert {"reward", "pass_rate", "frac_zero_std", "answer_tokens", "cut_answers"} < set(found)
        assert 0 <= found["frac_zero_std"] <= 1
        assert found["reward"] == pytest.approx(found["pass_rate"])
    assert sum(found["pass_rate"] for found in measures[:3]) < 1.8
    assert sum(found["pass_rate"] for found in measures[-3:]) > 2.4
    assert tuning.finish().figures["held_out"]["pass_rate"] >= 0.75


def test_rounds_of_several_steps_go_on_after_a_stop(tiny_folder: Path, tmp_path: Path) -> None:
    """Answers that are left of a round are part of the state."""
    settings = (*GRPO, "tune.steps=6", "reward.steps=3", "policy.divergence=0.1")
    data = rewarded(tmp_path)
    whole = prepared(tiny_folder, data, tmp_path / "whole", *settings)
    whole.train()
    out = tmp_path / "stopped"
    first = prepared(tiny_folder, data, out, *settings)

    def stop(row: dict[str, Any]) -> None:
        first.trainer.stop_requested = row["step"] == 4

    assert not first.train(stop) or first.trainer.step == 5
    second = prepared(tiny_folder, data, out, *settings, resume=True)
    assert 4 <= second.trainer.step <= 5
    second.train()
    last = "step-00000006.safetensors"
    written = [(folder / "checkpoints" / last).read_bytes() for folder in (tmp_path / "whole", out)]
    assert written[0] == written[1]


def test_a_killed_run_ends_in_the_same_bytes(
    tiny_folder: Path, answers: Path, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys\n"
        "from deepseek.cli.main import main\n"
        "from deepseek.train import objective\n"
        "inner, calls, most = objective.backward_from_logits, [], int(sys.argv[1])\n"
        "def counted(*args, **more):\n"
        "    calls.append(1)\n"
        "    if len(calls) == most:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return inner(*args, **more)\n"
        "objective.backward_from_logits = counted\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )

    def run(out: Path, dying: int, *more: str) -> int:
        argv = ["tune", str(tiny_folder), str(answers), "--out", str(out), "--steps", "8", *more]
        argv += [w for text in (*QUICK, "checkpoint.every=3") for w in ("--set", text)]
        return subprocess.run(
            [sys.executable, "-c", program, str(dying), *argv],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=300,
            check=False,
        ).returncode

    out, whole = tmp_path / "killed", tmp_path / "whole"
    assert run(out, 6) == -signal.SIGKILL
    assert run(out, 0) == 2  # there is a run already
    assert run(out, 0, "--resume") == 0
    assert run(whole, 0) == 0
    for name in ("checkpoints/step-00000008.safetensors", "adapter/adapter_model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert losses(out) == losses(whole)


def test_a_dry_run_shows_what_would_be_trained(
    tiny_folder: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dry"
    argv = ["tune", str(tiny_folder), str(answers), "--out", str(out), "--dry-run"]
    argv += ["--targets", "q_proj,v_proj", "--window", "128"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    for wanted in (
        "lora.targets = ['q_proj', 'v_proj']",
        "blocks.*.attention.qkv.down: 32 x ",
        "answers.jsonl:62: messages is no list of messages",
        "source domain: ",
        "trainable parameters: ",
        "steps: ",
    ):
        assert wanted in shown, wanted
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["share"] < 0.05
    assert found["sources"]["domain"]["learned"] < 0.7 * found["sources"]["domain"]["tokens"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("tune.method='sff'",), "one of 'sft'"),
        (("tune.rate=1",), "unknown setting tune.rate"),
        (("tun.batch=1",), "unknown section"),
        (("tune.full=true", "tune.quantised=true"), "to stay quantised"),
        (("tune.window=100000",), "the base reads"),
        (("tune.quantised=true",), "cannot stay quantised"),
        (("tune.method='grpo'", "tune.batch=6", "reward.group=4"), "multiple of group"),
        (("tune.method='dpo'", "mix.general='self'"), "general data are for sft"),
        (("preference.beta=0.0",), "beta"),
        (("lora.targets=['q']",), "q_proj"),
        (("validation.patience=1", "validation.held_out=0.0"), "needs something held out"),
    ],
)
def test_mistakes_say_what_to_do(
    tiny_folder: Path, answers: Path, tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        prepared(tiny_folder, answers, tmp_path, *settings)
    assert said in f"{error.value.message} {error.value.hint}"


def test_records_of_another_method_are_no_use(
    tiny_folder: Path, answers: Path, tmp_path: Path
) -> None:
    with pytest.raises(DocumentError, match="no record can be trained on"):
        prepared(tiny_folder, answers, tmp_path, "tune.method='dpo'")
    with pytest.raises(DocumentError, match="does not exist"):
        prepared(tiny_folder, tmp_path / "nothing.jsonl", tmp_path)
    with pytest.raises(ConfigError, match="has verifiers"):
        prepared(tiny_folder, "gym:leg_counting", tmp_path)


def test_another_base_is_not_gone_on_with(tiny_folder: Path, answers: Path, tmp_path: Path) -> None:
    from deepseek.core.errors import CheckpointError

    tuning = prepared(tiny_folder, answers, tmp_path, "tune.steps=1")
    tuning.train()
    with pytest.raises(CheckpointError, match=r"lora\.alpha was 8"):
        prepared(tiny_folder, answers, tmp_path, "tune.steps=1", "lora.alpha=9.0", resume=True)
    assert torch.is_grad_enabled()
