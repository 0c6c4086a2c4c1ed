"""R0 to R1: a dense checkpoint becomes a mixture of experts that computes the same.

Layer by layer: each is read, converted, compared and written before the next, so that memory
holds one layer and the calibration text's hidden states.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from deepseek.adapt.calibration import WINDOW, Calibration
from deepseek.adapt.conversion import CHECKED, Sample, convert, largest_difference
from deepseek.core.errors import ConfigError
from deepseek.model.block import Block
from deepseek.model.checkpoint import (
    block_tensors,
    end_tensors,
    hf_tensors,
    load_block,
    write_config,
)
from deepseek.model.config import ModelConfig
from deepseek.model.feed_forward import FeedForward
from deepseek.model.moe.config import MoEConfig
from deepseek.model.transformer import Transformer
from deepseek.ops.rope import rope_table
from deepseek.weights.source import WeightSource
from deepseek.weights.tensor_file import Layout, write_tensor_file

Progress = Callable[[int, int], None]
"""Called with layers done and layers in all."""
TOGETHER = 4
"""Windows that go through a layer at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcycleReport:
    """What a conversion did."""

    form: str
    n_experts: int
    n_parameters: int
    n_dense_parameters: int
    n_active_parameters: int
    """That a token's pass reads, with experts of mean size."""
    calibration: str
    """What the gate started by."""
    n_calibration_tokens: int
    largest_difference: float | None
    """Between a converted layer's output and the dense layer's, as a share of the latter's largest
    number, over all layers. 0: no bit differs. None: not compared, for want of a text."""
    dtype: str
    seconds: float


def upcycle(
    source: WeightSource,
    moe: MoEConfig,
    out: Path,
    *,
    calibration: Calibration | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> UpcycleReport:
    """Write a mixture's checkpoint: `config.json`, `model.safetensors`, `upcycle.json`.

    Args:
        source: A dense checkpoint.
        moe: The experts, which fit its layers.
        out: The folder.
        calibration: Text that gates start by; None: their rows are random.
        dtype: Of the matrices, and of the comparison.
        seed: Of all that is random.
        on_progress: Told after each layer.

    Raises:
        ConfigError: The checkpoint is a mixture already, or of an unsupported architecture.
        CheckpointError: It is damaged, or the folder cannot be written.
    """
    start = time.perf_counter()
    dense = ModelConfig.from_checkpoint(source.config())
    if dense.moe is not None:
        raise ConfigError("the checkpoint is a mixture already", "name a dense one")
    config = replace(dense, moe=moe)
    conversion = _Conversion(source, dense, config, calibration, dtype, seed, on_progress)
    write_tensor_file(out / "model.safetensors", layout_of(config, dtype), conversion.tensors())
    write_config(config, dtype, out)
    report = UpcycleReport(
        form=moe.form,
        n_experts=moe.n_experts,
        n_parameters=config.n_parameters,
        n_dense_parameters=dense.n_parameters,
        n_active_parameters=active_parameters(config),
        calibration=calibration.origin if calibration else "none: the gate's rows are random",
        n_calibration_tokens=calibration.n_tokens if calibration else 0,
        largest_difference=conversion.largest,
        dtype=str(dtype).removeprefix("torch."),
        seconds=round(time.perf_counter() - start, 2),
    )
    text = json.dumps(asdict(report), indent=2) + "\n"
    (out / "upcycle.json").write_text(text, encoding="utf-8")
    return report


def layout_of(config: ModelConfig, dtype: torch.dtype) -> Layout:
    """Formats and shapes of all tensors of a checkpoint: norms and gates in float32."""
    with torch.device("meta"):
        model = Transformer(config)
    return {
        name: (torch.float32 if is_wide(name) else dtype, tuple(tensor.shape))
        for name, tensor in hf_tensors(model)
    }


def is_wide(name: str) -> bool:
    """Whether a tensor stays in float32."""
    return "norm" in name or ".gate." in name


def active_parameters(config: ModelConfig) -> int:
    """Weights that a token's pass reads, taking its experts to be of mean size."""
    moe = config.moe
    if moe is None:
        return config.n_parameters
    per_unit = moe.unit_parameters(config.d_model, config.d_ff)
    stacked = config.n_layers * per_unit * sum(moe.sizes)
    idle = 1 - moe.n_active_experts / moe.n_experts
    return config.n_parameters - round(stacked * idle)


class _Conversion:
    """One pass over a checkpoint."""

    def __init__(
        self,
        source: WeightSource,
        dense: ModelConfig,
        config: ModelConfig,
        calibration: Calibration | None,
        dtype: torch.dtype,
        seed: int,
        on_progress: Progress | None,
    ) -> None:
        self._source, self._dense, self._config = source, dense, config
        self._calibration, self._dtype = calibration, dtype
        self._generator = torch.Generator().manual_seed(seed)
        self._on_progress = on_progress
        self.largest: float | None = None

    @torch.no_grad()
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors of the mixture, in the order of `hf_tensors`."""
        n_layers = self._dense.n_layers
        yield from end_tensors(self._source, self._dense, self._dtype)
        states = self._first_states()
        for layer in range(n_layers):
            block = load_block(self._source, self._dense, layer, self._dtype)
            feed_forward = block.feed_forward
            assert isinstance(feed_forward, FeedForward)
            sample = None if states is None else self._read(block, states)
            assert self._config.moe is not None
            mixture = convert(feed_forward, self._config.moe, sample, self._generator)
            if sample is not None:
                x = sample.inputs[:CHECKED].to(self._dtype)
                difference = largest_difference(mixture, feed_forward, x)
                self.largest = max(self.largest or 0.0, difference)
            block.feed_forward = mixture
            yield from block_tensors(self._config, layer, block)
            self._source.release()
            if self._on_progress:
                self._on_progress(layer + 1, n_layers)

    def _first_states(self) -> Tensor | None:
        if self._calibration is None:
            return None
        ids = self._calibration.token_ids
        rows = self._source.rows("model.embed_tokens.weight", ids.flatten(), self._dtype)
        return rows.view(*ids.shape, -1)

    def _read(self, block: Block, states: Tensor) -> Sample:
        """Move hidden states through a dense block in place; keep what its second half reads."""
        assert self._calibration is not None
        inputs: list[Tensor] = []
        hook = block.feed_forward_norm.register_forward_hook(
            lambda _module, _arguments, y: inputs.append(y.flatten(0, 1))
        )
        positions = torch.arange(states.shape[1])
        config = self._dense
        rope = rope_table(positions, config.d_head, config.rope_theta, self._dtype)
        for some in torch.split(states, TOGETHER):
            some.copy_(block(some, rope, None))
        hook.remove()
        domains = self._calibration.domains.repeat_interleave(WINDOW)
        return Sample(torch.cat(inputs).float(), domains)
