"""Tuning against PEFT on transformers' own model: the same losses, and the same adapter.

The peer reads padded batches; ours stand behind each other in one row. Both begin with the same
numbers and take AdamW's steps by themselves.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from deepseek.cli.tune import ask_model
from deepseek.data.packed import Window
from deepseek.data.sampler import Sampler
from deepseek.train.metrics import read_metrics
from deepseek.train.tuning.config import load_tuning_config
from deepseek.train.tuning.run import Tuning, prepare_tuning
from deepseek.weights.adapter import read_adapter
from tuning_records import write_records

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
STEPS, RATE = 40, 3e-3


def tuned(base: Path, folder: Path) -> tuple[Tuning, list[list[Window]]]:
    """A run, and the records of each of its steps."""
    data = write_records(folder / "data.jsonl")
    settings = (
        "tune.dtype='float32'",
        "tune.threads=1",
        "tune.batch=4",
        "tune.micro=2",
        "tune.window=80",
        f"tune.steps={STEPS}",
        "lora.rank=4",
        "lora.alpha=8.0",
        f"optimiser.rate={RATE}",
        "validation.held_out=0.0",
    )
    config = load_tuning_config(str(base), str(data), None, settings)
    run = prepare_tuning(config, folder / "run", ask_model)
    sampler = Sampler(run.data.train, 80, 0, whole=True)
    sampler.begin(run.trainer.plan.stages[0].mix)
    return run, [[sampler.draw() for _ in range(4)] for _ in range(STEPS)]


def peer_of(base: Path, start: Path) -> Any:
    """PEFT's model with the numbers that our adapter begins with."""
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, start, is_trainable=True)


def padded(windows: list[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels, the labels at the places that they follow."""
    pieces = [window.pieces[0] for window in windows]
    width = max(len(piece.ids) for piece in pieces)
    ids = torch.zeros(len(pieces), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, piece in enumerate(pieces):
        n = len(piece.ids)
        ids[row, :n] = torch.from_numpy(piece.ids)
        labels[row, :n] = torch.from_numpy(piece.labels)
        mask[row, :n] = 1
    return ids, mask, labels


def peer_losses(model: Any, run: Tuning, steps: list[list[Window]]) -> list[float]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    model.train()
    for number, windows in enumerate(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * run.trainer.plan.rate_factor(number)
        ids, mask, labels = padded(windows)
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_losses_and_the_adapter_are_those_of_peft(tiny_folder: Path, tmp_path: Path) -> None:
    from deepseek.adapt.adapter_file import save_adapter

    run, steps = tuned(tiny_folder, tmp_path)
    save_adapter(run.trainer.model, run.config.lora, tmp_path / "start", "base")
    peer = peer_of(tiny_folder, tmp_path / "start")
    wanted = peer_losses(peer, run, steps)
    assert run.train()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    found = [row["loss"] for row in rows if "loss" in row]
    assert found[-1] < 0.6 * found[0]
    assert found == pytest.approx(wanted, abs=1e-4)
    adapter = run.finish().adapter
    assert adapter is not None
    # What PEFT learned, as far as rounding lets two ways to sum be the same after so many steps.
    peer.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    theirs = read_adapter(tmp_path / "theirs")
    for name, part in read_adapter(adapter).parts.items():
        assert (part.up - theirs.parts[name].up).abs().max() < 2e-3, name


def test_peft_loads_what_was_written(tiny_folder: Path, tmp_path: Path) -> None:
    run, steps = tuned(tiny_folder, tmp_path)
    run.train()
    outcome = run.finish(merged=True)
    assert outcome.adapter is not None
    model = peer_of(tiny_folder, outcome.adapter).eval()
    ids, mask, _ = padded(steps[0])
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).logits
        ours = run.trainer.model(ids[:1, : int(mask[0].sum())])[0]
        with model.disable_adapter():
            base = model(input_ids=ids, attention_mask=mask).logits
        merged = AutoModelForCausalLM.from_pretrained(outcome.model, dtype=torch.float32)
        theirs_merged = merged(input_ids=ids, attention_mask=mask).logits
    n = len(ours)
    assert (base[0, :n] - ours).abs().max() > 0.3
    assert (theirs[0, :n] - ours).abs().max() < 1e-3
    assert (theirs_merged[0, :n] - ours).abs().max() < 1e-3
