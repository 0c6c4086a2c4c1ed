"""What ranks do in tests of sharding; each job checks what only ranks can see."""

import copy
import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_run import SHAPE, tiny_plan, tiny_trainer, tiny_transformer

from deepseek.adapt.conversion import convert
from deepseek.cli.main import main
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.ops.moe.exchange import Exchange, neurons_exchanged, shared_out
from deepseek.ops.moe.gate import Choice
from deepseek.ops.moe.neurons import neurons_reference
from deepseek.train import shards
from deepseek.train.loop import Trainer
from deepseek.train.outline import fill_outline, outline
from deepseek.train.parallel import ParallelSettings, distribute
from deepseek.train.pieces import pieces_of
from deepseek.train.ranks import Ranks

N_STEPS = 8
CPU = torch.device("cpu")
GROUPS = (
    ExpertGroup(name="text", sizes=(8, 24, 16)),
    ExpertGroup(name="code", sizes=(40, 8)),
)
FULL = replace(SHAPE, moe=MoEConfig(form="full", groups=GROUPS, shared=16, n_active_experts=2))
LOW_RANK = MoEConfig(form="low_rank", groups=GROUPS)
SHARDED = ParallelSettings(data="sharded")
EXPERTS = ParallelSettings(data="sharded", expert=2)


def mixture() -> Transformer:
    model = Transformer(FULL)
    model.initialise(5)
    return model


def trainer_of(
    kind: str, folder: Path, out: Path, ranks: Ranks, settings: ParallelSettings
) -> Trainer:
    """A trainer of the dense model or of the mixture, with its rank's share of the weights."""
    model = tiny_transformer() if kind == "dense" else mixture()
    more: dict[str, Any] = {}
    if kind == "mixture":
        model.recompute, more = True, {"domains": [0, -1]}
    distribute(model, settings, ranks, CPU)
    data = folder / f"data-{ranks.rank}-of-{ranks.size}"
    return tiny_trainer(
        data,
        model=model,
        plan=tiny_plan(N_STEPS),
        out=out,
        ranks=ranks,
        optimiser={"kind": "muon"},
        micro=1,
        keep=9,
        **more,
    )


def train(trainer: Trainer, until: int = N_STEPS) -> None:
    """Go on from what is there, up to a step."""
    trainer.resume()

    def on_step(row: dict[str, Any]) -> None:
        trainer.stop_requested = row["step"] == until - 1

    trainer.run(on_step)
    assert trainer.step == until


def two(ranks: Ranks, folder: Path) -> None:
    exchanged(ranks)
    upcycled_logits(ranks)
    outlined(ranks)
    refusals(ranks)
    for kind, settings in (("dense", SHARDED), ("mixture", EXPERTS)):
        fresh = trainer_of(kind, folder, folder / f"{kind}-2", ranks, settings)
        train(fresh)
        kept_rows(fresh, kind)
        train(trainer_of(kind, folder, folder / f"{kind}-chain", ranks, settings), 4)
    full_disk(ranks, fresh, folder)


def four(ranks: Ranks, folder: Path) -> None:
    for kind, settings in (("dense", SHARDED), ("mixture", EXPERTS)):
        train(trainer_of(kind, folder, folder / f"{kind}-4", ranks, settings))
        train(trainer_of(kind, folder, folder / f"{kind}-chain", ranks, settings), 6)


def tuned(ranks: Ranks, folder: Path) -> None:
    """The command of a file; rewards are refused."""
    argv = json.loads((folder / "argv.json").read_text())
    assert main([*argv, "--method", "grpo"]) == 2
    assert main(argv) == 0


def kept_rows(trainer: Trainer, kind: str) -> None:
    """A rank keeps its half of every weight and of the optimiser's state."""
    pieces = pieces_of(trainer.model)
    whole = sum(torch.Size(piece.shape).numel() for piece in pieces.values())
    own = sum(piece.tensor.numel() for piece in pieces.values())
    assert own < 0.6 * whole
    state = trainer._optimiser.pieces()
    for name, piece in state.items():
        if piece.shape:
            assert piece.tensor.shape == pieces[name.partition(".")[2]].tensor.shape
    if kind == "mixture":
        assert {layer.experts.exchange.rank for layer in mixtures_of(trainer.model)} == {
            dist.get_rank()
        }


def exchanged(ranks: Ranks) -> None:
    """Shared experts say what the definition says, with gradients; one gets no token at all."""
    widths, d_model = (4, 7, 3, 5), 6
    bounds = shared_out(widths, ranks.size)
    exchange = Exchange(dist.group.WORLD, bounds, ranks.rank)
    generator = torch.Generator().manual_seed(0)
    gate_up = torch.randn(2 * sum(widths), d_model, generator=generator)
    down = torch.randn(sum(widths), d_model, generator=generator)
    tokens = torch.randn(ranks.size, 9, d_model, generator=generator)
    experts = torch.randint(0, 3, (ranks.size, 9, 2), generator=generator)
    experts[experts == 2] = 3
    experts[0, 0, 1] = 4  # nobody
    weights = torch.rand(ranks.size, 9, 2, generator=generator)
    aims = torch.randn(ranks.size, 9, d_model, generator=generator)
    first, end = bounds[ranks.rank], bounds[ranks.rank + 1]
    rows = slice(sum(widths[:first]), sum(widths[:end]))
    doubled = slice(2 * rows.start, 2 * rows.stop)

    def leaf(x: torch.Tensor) -> torch.Tensor:
        return x.clone().requires_grad_()

    x, own_weights = leaf(tokens[ranks.rank]), leaf(weights[ranks.rank])
    matrices = leaf(gate_up[doubled]), leaf(down[rows])
    choice = Choice(experts[ranks.rank], own_weights)
    out = neurons_exchanged(x, choice, widths, matrices, exchange)
    (out * aims[ranks.rank]).sum().backward()
    all_x, all_weights, whole = leaf(tokens), leaf(weights), (leaf(gate_up), leaf(down))
    wanted = torch.stack(
        [
            neurons_reference(all_x[n], Choice(experts[n], all_weights[n]), widths, whole)
            for n in range(ranks.size)
        ]
    )
    (wanted * aims).sum().backward()
    near = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out, wanted[ranks.rank], **near)
    torch.testing.assert_close(x.grad, all_x.grad[ranks.rank], **near)
    torch.testing.assert_close(own_weights.grad, all_weights.grad[ranks.rank], **near)
    torch.testing.assert_close(matrices[0].grad, whole[0].grad[doubled], **near)
    torch.testing.assert_close(matrices[1].grad, whole[1].grad[rows], **near)


def upcycled_logits(ranks: Ranks) -> None:
    """A mixture of form A, its weights sharded, says what the dense model says, to the bit."""
    dense = tiny_transformer(3)
    upcycled = copy.deepcopy(dense)
    upcycled.config = replace(SHAPE, moe=LOW_RANK)
    generator = torch.Generator().manual_seed(1)
    for block in upcycled.blocks:
        block.feed_forward = convert(block.feed_forward, LOW_RANK, None, generator)
    ids = torch.arange(40)[None] % SHAPE.vocab_size
    distribute(upcycled, SHARDED, ranks, CPU)
    with torch.no_grad():
        found, wanted = upcycled(ids), dense(ids)
    assert torch.equal(found, wanted)


def outlined(ranks: Ranks) -> None:
    """Weights made tensor by tensor are those of a whole model."""
    for whole, settings in ((tiny_transformer(), SHARDED), (mixture(), EXPERTS)):
        model = outline(whole.config)
        assert all(p.is_meta for p in model.parameters())
        assert not any(b.is_meta for b in model.buffers())
        whole.initialise(7)
        distribute(model, settings, ranks, CPU)
        fill_outline(model, CPU, 7)
        own, pieces = dict(whole.named_parameters()), pieces_of(model)
        assert own.keys() == {name for name, _ in model.named_parameters()}
        for name, value in own.items():
            piece = pieces[name]
            assert piece.shape == tuple(value.shape)
            assert torch.equal(piece.tensor, piece.cut(value.detach())), name
        ids = torch.arange(40)[None] % SHAPE.vocab_size
        with torch.no_grad():
            torch.testing.assert_close(model(ids), whole(ids))


def refusals(ranks: Ranks) -> None:
    low_rank = Transformer(replace(SHAPE, moe=LOW_RANK))
    with pytest.raises(ConfigError, match="form low_rank are not shared out"):
        distribute(low_rank, EXPERTS, ranks, CPU)
    with pytest.raises(ConfigError, match="has no experts"):
        distribute(tiny_transformer(), EXPERTS, ranks, CPU)
    with pytest.raises(ConfigError, match="expert is 3 for 2 processes"):
        distribute(mixture(), replace(EXPERTS, expert=3), ranks, CPU)


def full_disk(ranks: Ranks, trainer: Trainer, folder: Path) -> None:
    """A disk that is full for one rank fails the save on all; what was saved stays."""
    before = sorted(file.name for file in (folder / "mixture-2/checkpoints").iterdir())
    plain = shards.require_free

    def save() -> None:
        trainer.checkpoints.save(N_STEPS + 1, trainer.model, trainer._optimiser, {})

    if ranks.rank == 1:

        def require_free(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "no room")

        shards.require_free = require_free
    with pytest.raises(CheckpointError, match="step-00000009"):
        save()
    shards.require_free = plain
    writer, shards.Writer.write_data = shards.Writer.write_data, _failing(ranks)
    with pytest.raises(CheckpointError, match="No space left"):
        save()
    shards.Writer.write_data = writer
    dist.barrier()
    after = sorted(file.name for file in (folder / "mixture-2/checkpoints").iterdir())
    assert after == before


def _failing(ranks: Ranks) -> Any:
    """Writing fails half-way on one rank."""
    plain = shards.Writer.write_data

    def write_data(*args: Any) -> Any:
        if ranks.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*args)

    return write_data
