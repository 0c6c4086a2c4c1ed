"""The loop: it learns, small passes equal a large one, and what goes wrong is not learned."""

import json
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_plan, tiny_trainer, tiny_transformer
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError, TrainingError
from deepseek.train.metrics import MetricsFile, read_metrics
from deepseek.train.subset import Mask


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_it_learns_and_tells(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, plan=tiny_plan(30))
    trainer.run()
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(31))
    assert rows[-1]["loss"] < 0.8 * rows[1]["loss"]
    assert rows[-1]["bits_per_byte"]["c"] < 0.8 * rows[0]["bits_per_byte"]["c"]
    assert rows[1]["stage"] == "first"
    assert rows[-1]["stage"] == "second"
    assert rows[-1]["realised"]["a"] > 0.5 > rows[-1]["realised"]["b"] > 0.2
    assert trainer.checkpoints.steps() == [28, 30]


def test_many_small_passes_equal_a_large_one(tmp_path: Path) -> None:
    steps = []
    for micro in (1, 32):
        model = tiny_transformer().double()
        trainer = tiny_trainer(
            tmp_path, model=model, micro=micro, plan=tiny_plan(2, batch=32), out=tmp_path / "r"
        )
        windows = [trainer.sampler.draw() for _ in range(32)]
        nats, counts, _ = trainer._passes(windows)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        steps.append((float(nats.sum()), int(counts.sum()), gradients))
    (loss, n, small), (whole_loss, whole_n, large) = steps
    assert n == whole_n
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for name, gradient in small.items():
        assert torch.allclose(gradient, large[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_computed_again_change_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    found = []
    for recompute in (False, True):
        model = tiny_transformer()
        model.recompute = recompute
        tiny_trainer(tmp_path, model=model, dtype=dtype, out=tmp_path / f"{recompute}").run()
        found.append(weights(model))
    for name, p in found[0].items():
        assert p.dtype is torch.float32
        assert torch.equal(p, found[1][name]), name


def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        trainer = tiny_trainer(tmp_path, dtype=dtype, plan=tiny_plan(20), out=tmp_path / str(dtype))
        rows: list[dict] = []
        trainer.run(rows.append)
        losses.append(rows[-1]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_a_spike_is_left_out(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, plan=tiny_plan(20), spike=5.0)
    rows: list[dict] = []

    def on_step(row: dict) -> None:
        rows.append(row)
        if row["step"] == 17:  # a bad batch, as the optimiser sees it
            before.update(weights(trainer.model))
            passes = trainer._passes

            def spiked(windows: list) -> tuple:
                found = passes(windows)
                for p in trainer.model.parameters():
                    p.grad *= 1_000
                trainer._passes = passes
                return found

            trainer._passes = spiked
        if row["step"] == 18:
            for name, p in weights(trainer.model).items():
                assert torch.equal(p, before[name])

    before: dict[str, Tensor] = {}
    trainer.run(on_step)
    assert [row["step"] for row in rows if row["skipped"]] == [18]


def test_gradients_that_stay_long_are_no_spikes(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, plan=tiny_plan(60), spike=5.0)
    rows: list[dict] = []
    passes = trainer._passes

    def longer(windows: list) -> tuple:
        found = passes(windows)
        if trainer.step >= 20:
            for p in trainer.model.parameters():
                p.grad *= 1_000
        return found

    trainer._passes = longer
    trainer.run(rows.append)
    left_out = [row["step"] for row in rows if row["skipped"]]
    # The median of 32 is among the longer ones when they are half.
    assert left_out == list(range(21, 37))


def test_numbers_that_are_not_finite_end_the_run_and_touch_nothing(tmp_path: Path) -> None:
    model = tiny_transformer()
    trainer = tiny_trainer(tmp_path, model=model)
    with torch.no_grad():
        model.norm.weight[3] = float("nan")
    before = weights(model)
    with pytest.raises(TrainingError, match="not finite in 3 steps up to step 3") as error:
        trainer.run()
    assert "rate" in error.value.hint
    for name, p in weights(model).items():
        assert torch.equal(p.nan_to_num(7.0), before[name].nan_to_num(7.0))


class Experts(nn.Module):
    """Stands where a feed-forward layer is, and records what the trainer asks of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.sizes, self.n_slots = (1, 1), 2
        self.inner = inner
        self.gain = nn.Parameter(torch.ones(2))
        self.updates: list[tuple[list[int], float]] = []
        self.register_buffer("bias", torch.zeros(2))
        self._counts = torch.zeros(2, dtype=torch.int64)
        self._loss: Tensor | None = None

    def forward(self, x: Tensor, routing: object = None, additions: object = None) -> Tensor:
        self._counts += torch.tensor([x.shape[1], 1])
        self._loss = (self.gain * self.gain).sum()
        return self.inner(x) * self.gain[0]

    def auxiliary_loss(self) -> Tensor | None:
        return self._loss

    def take_counts(self) -> Tensor:
        counts, self._counts = self._counts, torch.zeros(2, dtype=torch.int64)
        return counts

    def update_balance(self, counts: Tensor, rate: float) -> None:
        self.updates.append((counts.tolist(), rate))
        self.bias += rate * counts


@pytest.mark.parametrize("recompute", [False, True])
def test_experts_are_kept_in_balance(tmp_path: Path, recompute: bool) -> None:
    model = tiny_transformer()
    model.recompute = recompute
    experts = Experts(model.blocks[0].feed_forward)
    model.blocks[0].feed_forward = experts
    trainer = tiny_trainer(tmp_path, model=model, plan=tiny_plan(20))
    trainer._passes([trainer.sampler.draw() for _ in range(4)])
    # The second gain is in the auxiliary loss only: its gradient is the mean over both passes.
    assert torch.allclose(experts.gain.grad[1], torch.tensor(2.0))
    trainer._balance.take()
    trainer._optimiser.clear()
    rows: list[dict] = []
    trainer.run(rows.append)
    assert [counts for counts, _ in experts.updates] == [[4 * 32, 2]] * 19
    assert experts.updates[0][1] == pytest.approx(1e-2)
    assert rows[0]["auxiliary"] == pytest.approx(2.0)
    # The balance is part of the state.
    again = tiny_transformer()
    again.blocks[0].feed_forward = Experts(again.blocks[0].feed_forward)
    resumed = tiny_trainer(tmp_path, model=again, plan=tiny_plan(20))
    assert resumed.resume()
    assert torch.equal(again.blocks[0].feed_forward.bias, experts.bias)


def test_only_what_a_mask_names_changes(tmp_path: Path) -> None:
    model = tiny_transformer()
    before = weights(model)
    mask = Mask.matching(model, ["blocks.1.feed_forward.gate_up.weight[0:64]"])
    tiny_trainer(tmp_path, model=model, mask=mask, optimiser={"decay": 0.5}).run()
    name = "blocks.1.feed_forward.gate_up.weight"
    after = weights(model)
    assert (after[name][:64] != before[name][:64]).all()
    assert torch.equal(after[name][64:], before[name][64:])
    assert all(torch.equal(p, after[n]) for n, p in before.items() if n != name)


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, identity={"run.seed": 0}).run()
    other = tiny_trainer(tmp_path, identity={"run.seed": 1})
    with pytest.raises(CheckpointError, match=r"run\.seed was 0, is 1"):
        other.resume()


@pytest.mark.parametrize("damage", ["cut", "facts", "missing"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    tiny_trainer(tmp_path).run()
    last = tmp_path / "run/checkpoints/step-00000006.safetensors"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-9])
    else:
        tensors = load_file(last)
        facts = json.loads(bytes(tensors["facts"]))
        del facts["sampler"]
        tensors["facts"] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
        if damage == "missing":
            del tensors["model.norm.weight"]
        save_file(tensors, last)
    with pytest.raises(CheckpointError, match="step-00000006") as error:
        tiny_trainer(tmp_path).resume()
    assert error.value.hint
    last.unlink()  # the one before is whole
    resumed = tiny_trainer(tmp_path)
    assert resumed.resume()
    assert resumed.step == 4


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    trainer = tiny_trainer(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    free = iter([usage, usage._replace(free=1_000)])
    monkeypatch.setattr("deepseek.weights.cache.shutil.disk_usage", lambda _: next(free))
    with pytest.raises(CheckpointError, match="space") as error:
        trainer.run()
    assert "--resume" in error.value.hint
    assert [file.name for file in (tmp_path / "run/checkpoints").iterdir()] == [
        "step-00000002.safetensors"
    ]
    monkeypatch.undo()
    resumed = tiny_trainer(tmp_path)
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    unbroken = tiny_trainer(tmp_path, out=tmp_path / "other")
    unbroken.run()
    assert resumed.checkpoints.path(6).read_bytes() == unbroken.checkpoints.path(6).read_bytes()


def test_the_average_of_checkpoints_is_the_mean_of_their_weights(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, keep=3)
    trainer.run()
    wanted = {name: torch.zeros_like(p) for name, p in weights(trainer.model).items()}
    for step in (4, 6):
        saved = trainer.checkpoints.load(step)
        for name in wanted:
            wanted[name] += saved.tensor(f"model.{name}", wanted[name]) / 2
    trainer.checkpoints.average([4, 6], trainer.model)
    for name, p in weights(trainer.model).items():
        assert torch.allclose(p, wanted[name], atol=1e-7)


def test_metrics_are_cut_back_to_a_checkpoint_and_survive_half_a_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m.jsonl")
    for step in range(5):
        file.append({"step": step, "loss": float("inf") if step == 2 else 1.0})
    with file.path.open("a") as text:
        text.write('{"step": 5, "lo')
    file.rewind(3)
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert lines[2]["loss"] is None
