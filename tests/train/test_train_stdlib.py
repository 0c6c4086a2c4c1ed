"""A real run from texts to a model: 1.0 M parameters, Python's standard library, 20 steps."""

import json
import sysconfig
from pathlib import Path
from statistics import mean

import pytest

from deepseek.train.config import load_training_config
from deepseek.train.metrics import read_metrics
from deepseek.train.run import prepare_run

ROOT = Path(__file__).parents[2]
CONFIG = """
[run]
window = 128
batch = 4
[model]
preset = "{root}/configs/r1-tiny.toml"
[tokenizer]
vocab_size = 1024
sample = 200_000
[sources.library]
paths = ["{library}/json", "{library}/email", "{library}/concurrent"]
[optimiser]
rate = 5e-3
[[stages]]
name = "only"
tokens = 10_240
weights = {{ library = 1 }}
[evaluation]
every = 20
held_out = 0.1
tokens = 3_000
[checkpoint]
every = 10
[decontamination]
index = "{index}"
"""
ITEM = "Return a nonempty string that names the JSON type of this value, in lower case."


def test_the_standard_library_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepseek.data.contamination import ContaminationIndex

    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    library = Path(sysconfig.get_paths()["stdlib"])
    scanner = (library / "json/scanner.py").read_text()
    assert "JSON token scanner" in scanner
    ContaminationIndex.build([("quiz", ITEM), ("code", scanner)]).save(tmp_path / "index.npz")
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.format(root=ROOT, library=library, index=tmp_path / "index.npz"))
    run = prepare_run(load_training_config(file), tmp_path / "out")
    funnel = run.corpora["library"].funnel
    assert funnel.contaminated == 1
    assert funnel.held_out >= 1
    assert funnel.kept >= 20
    assert run.train()
    outcome = run.finish()
    rows = [row for row in read_metrics(tmp_path / "out/metrics.jsonl") if "loss" in row]
    assert len(rows) == 20
    losses = [row["loss"] for row in rows]
    assert mean(losses[-5:]) < mean(losses[:3]) - 0.2
    begun = read_metrics(tmp_path / "out/metrics.jsonl")[0]["bits_per_byte"]
    assert outcome.bits_per_byte["library"] < 0.96 * begun["library"]
    assert outcome.model is not None
    config = json.loads((outcome.model / "config.json").read_text())
    assert config["vocab_size"] == 1024
    # The same texts and settings are not encoded again.
    again = prepare_run(load_training_config(file), tmp_path / "other")
    assert again.corpora["library"].train.path == run.corpora["library"].train.path
