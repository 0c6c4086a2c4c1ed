"""FP8 in the trainer: which products, by whom, and what becomes of the loss."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rank_jobs import FULL, LOW_RANK
from tiny_run import SHAPE, tiny_plan, tiny_trainer

from deepseek.model.linear import Linear
from deepseek.model.moe.experts import NeuronExperts
from deepseek.model.transformer import Transformer
from deepseek.ops.float8 import float8_linear
from deepseek.train.precision import native_product, use_precision, why_not_native


def model(shape: object = SHAPE) -> Transformer:
    made = Transformer(shape)
    made.initialise(0)
    return made


def test_products_of_blocks_are_in_fp8_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for shape, n_experts in ((SHAPE, 0), (FULL, 2), (replace(SHAPE, moe=LOW_RANK), 0)):
        made = model(shape)
        use_precision(made, "plain")
        assert all(m.product is None for m in made.modules() if isinstance(m, Linear))
        use_precision(made, "fp8")
        linears = [m for m in made.blocks.modules() if isinstance(m, Linear)]
        assert all(m.product is float8_linear for m in linears)
        assert len(linears) == 2 * 4
        wide = [m for m in made.modules() if isinstance(m, NeuronExperts)]
        assert [m.product is float8_linear for m in wide] == [True] * n_experts
        assert made.head.product is None
    assert "emulated" in caplog.text
    assert "the cpu multiplies no FP8" in caplog.text


def test_a_run_in_fp8_learns_what_a_plain_one_does(tmp_path: Path) -> None:
    found = {}
    for kind in ("plain", "fp8"):
        made = model(FULL)
        use_precision(made, kind)
        trainer = tiny_trainer(
            tmp_path / kind, model=made, plan=tiny_plan(16), evaluate_every=99, save_every=99
        )
        rows: list[float] = []
        trainer.run(lambda row, rows=rows: rows.append(row["loss"]))
        found[kind] = torch.tensor(rows)
    assert not torch.equal(found["plain"], found["fp8"])
    last = {kind: float(losses[-4:].mean()) for kind, losses in found.items()}
    assert last["fp8"] == pytest.approx(last["plain"], rel=0.02)
    assert last["fp8"] < 0.95 * float(found["fp8"][0])


def test_a_gpu_is_asked_before_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert why_not_native(cpu) == "the cpu multiplies no FP8"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert why_not_native(gpu) == "the GPU multiplies no FP8"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    assert "torchao is not installed" in str(why_not_native(gpu))


def test_torchaos_product_in_its_own_emulation_is_near_the_plain_one() -> None:
    product = native_product(emulate=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 32, 64, generator=generator, requires_grad=True)
    weight = torch.randn(48, 64, generator=generator, requires_grad=True)
    bias = torch.randn(48, generator=generator)
    out = product(x, weight, bias)
    plain = torch.nn.functional.linear(x, weight, bias)
    assert float(((out - plain).norm() / plain.norm()).detach()) < 0.05
    assert not torch.equal(out, plain)
    out.square().sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
