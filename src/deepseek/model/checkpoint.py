"""Weights in and out under Hugging Face's names, whatever the file format.

Our model fuses projections that read the same input; this file is the only place that knows.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.model.block import Block
from deepseek.model.config import ModelConfig
from deepseek.model.linear import Embedding, Linear
from deepseek.model.moe.layer import LowRankMixture, MoELayer
from deepseek.model.norm import RMSNorm
from deepseek.model.transformer import Transformer
from deepseek.ops.linear import QuantisedWeight
from deepseek.ops.native import BLOCK, NativeMatrix, is_available, packed_bytes
from deepseek.weights.cache import write_atomically
from deepseek.weights.safetensors import SafetensorsFolder
from deepseek.weights.source import WeightSource

PORTION = 1 << 22  # weights put in order at a time: bounds the scratch memory
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
BIASES = ("gate.bias", "gate.null_bias")
"""Of a mixture's gate: no parameters."""
MIXTURE = re.compile(r"\.mlp\.(gate|experts)\.")
"""In the names of what a mixture has beside dense matrices."""

Progress = Callable[[int, int], None]
"""Called with layers done and layers in all."""


def load_model(
    source: WeightSource,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    pack: bool = True,
    quantised: bool = False,
    on_progress: Progress | None = None,
) -> Transformer:
    """Build the model that a checkpoint holds.

    Args:
        source: An open GGUF file or safetensors folder.
        dtype: Number format of the matrices; norms stay float32.
        device: Where they go.
        pack: Reorder matrices for fast inference and leave the embedding table in the file.
            A packed model cannot be trained.
        quantised: Keep quantised matrices as they are stored, for the native kernels.
        on_progress: Told after each layer.

    Raises:
        CheckpointError: A tensor is missing or has the wrong shape.
        ConfigError: The architecture is not supported, or a mixture without a dense layer was
            asked for quantised.
    """
    config = ModelConfig.from_checkpoint(source.config())
    if quantised:
        if config.moe is not None and config.moe.form != "low_rank":
            raise ConfigError(
                f"experts of form {config.moe.form} are computed through torch, not in int8",
                "use --dtype auto, bfloat16 or float32",
            )
        source = for_kernels(source)
    with torch.device("meta"):
        model = Transformer(config)
    place = _Placement(source, dtype, torch.device(device), pack, quantised)
    total = config.n_layers + 1
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        place.layer(block, f"model.layers.{layer}.")
        source.release()  # the file's pages were copied and need not stay in memory
        if on_progress:
            on_progress(layer + 1, total)
    place.norm(model.norm, NORM)
    place.ends(model)
    source.release()
    if on_progress:
        on_progress(total, total)
    return model.eval()


def load_block(source: WeightSource, config: ModelConfig, layer: int, dtype: torch.dtype) -> Block:
    """One block of a checkpoint, not packed, on the CPU.

    Raises:
        CheckpointError: A tensor is missing or has the wrong shape.
    """
    with torch.device("meta"):
        block = Block(config, layer)
    place = _Placement(source, dtype, torch.device("cpu"), pack=False, quantised=False)
    place.layer(block, f"model.layers.{layer}.")
    return block.requires_grad_(False).eval()


def end_tensors(
    source: WeightSource, config: ModelConfig, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint has beside its blocks, in the order of `hf_tensors`.

    Raises:
        CheckpointError: A tensor is missing.
    """
    place = _Placement(source, dtype, torch.device("cpu"), pack=False, quantised=False)
    yield EMBEDDING, place.tensor(EMBEDDING)
    if not config.tied_embeddings:
        yield HEAD, place.tensor(HEAD)
    yield NORM, place.tensor(NORM, dtype=torch.float32)


def for_kernels(source: WeightSource) -> WeightSource:
    """Plain matrices as codes of 8 bits, to which they are rounded while they are read; those of
    experts stay as they are. A source with codes of its own is returned as it is."""
    if not isinstance(source, SafetensorsFolder):
        return source
    if ModelConfig.from_checkpoint(source.config()).attention != "dense":
        return source  # learned memory is computed through torch
    return source.rounded(lambda name: MIXTURE.search(name) is None)


def is_quantised(source: WeightSource) -> bool:
    """Whether the kernels can take all matrices as they are stored, but for those of experts."""
    shapes = {name: source.shape(name) for name in source.names() if not MIXTURE.search(name)}
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    return bool(matrices) and all(
        shapes[name][1] % BLOCK == 0 and source.has_codes(name) for name in matrices
    )


def quantised_bytes(source: WeightSource) -> int:
    """Bytes that the kernels will take for matrices as they are stored, and for experts beside
    them in single precision; norms are left out.

    An embedding that is not the head as well stays in the file.
    """
    total = 0
    has_head = HEAD in source.names()
    for name in source.names():
        shape = source.shape(name)
        if MIXTURE.search(name):
            total += 4 * math.prod(shape)
        elif len(shape) == 2 and not (name == EMBEDDING and has_head):
            sample = source.codes(name, 0, 1)
            total += packed_bytes(sample.bits, *shape, has_units=sample.units is not None)
    return total


class _Placement:
    """Puts tensors of one source into modules, one at a time, so that peak memory stays low."""

    def __init__(
        self,
        source: WeightSource,
        dtype: torch.dtype,
        device: torch.device,
        pack: bool,
        quantised: bool,
    ) -> None:
        self.source, self.dtype, self.device, self.pack = source, dtype, device, pack
        self.quantised = quantised and pack and is_available()
        self.names = set(source.names())

    def layer(self, block: Block, prefix: str) -> None:
        """Fill one transformer block."""
        for name, linear, parts in linears_of(block):
            self.linear(linear, [f"{prefix}{part}" for part in parts], f"{prefix}{name}")
        self.norm(block.attention_norm, f"{prefix}input_layernorm.weight")
        self.norm(block.feed_forward_norm, f"{prefix}post_attention_layernorm.weight")
        if isinstance(block.feed_forward, MoELayer):
            self.mixture(block.feed_forward, f"{prefix}mlp.")

    def mixture(self, layer: MoELayer, prefix: str) -> None:
        """Fill gate and experts; the gate stays in float32."""
        for name, own in mixture_tensors(layer).items():
            wide = torch.promote_types(self.dtype, torch.float32)
            tensor = self.tensor(prefix + name, own, wide if name.startswith("gate.") else None)
            module, _, attribute = name.rpartition(".")
            owner = layer.get_submodule(module)
            if name in BIASES:
                owner.register_buffer(attribute, tensor)
            else:
                setattr(owner, attribute, nn.Parameter(tensor, requires_grad=not self.pack))
        if self.pack:
            layer.experts.pack()
        layer.gate.load = torch.zeros(layer.gate.load.shape, dtype=torch.int64, device=self.device)

    def ends(self, model: Transformer) -> None:
        """Fill embedding and head, which may be one matrix."""
        tied = model.config.tied_embeddings
        head_name = EMBEDDING if tied else HEAD
        if not self.pack:
            embedding = nn.Parameter(self.tensor(EMBEDDING, model.embedding.weight))
            model.embedding.weight = embedding
            model.head.weight = (
                embedding if tied else nn.Parameter(self.tensor(HEAD, model.head.weight))
            )
            return
        self.linear(model.head, [head_name.removesuffix(".weight")], "head")
        self.embedding(model.embedding)

    def linear(self, linear: Linear, names: list[str], where: str) -> None:
        """Fill a linear layer from one or several matrices stacked."""
        if self.quantised and all(self._has_codes(f"{name}.weight") for name in names):
            self._quantised_linear(linear, names, where)
            return
        parts = [self.tensor(f"{name}.weight") for name in names]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        assert linear.weight is not None
        _check_shape(where, weight, linear.weight)
        linear.weight = nn.Parameter(weight, requires_grad=not self.pack)
        if linear.bias is not None:
            bias = torch.cat([self.tensor(f"{name}.bias") for name in names])
            _check_shape(f"{where}.bias", bias, linear.bias)
            linear.bias = nn.Parameter(bias, requires_grad=not self.pack)
        if self.pack:
            linear.pack()

    def _quantised_linear(self, linear: Linear, names: list[str], where: str) -> None:
        assert linear.weight is not None
        weight = QuantisedWeight(tuple(self._matrix(f"{name}.weight") for name in names))
        if weight.shape != tuple(linear.weight.shape):
            raise _shape_error(where, weight.shape, tuple(linear.weight.shape))
        if linear.bias is not None:
            bias = torch.cat([self.tensor(f"{name}.bias") for name in names])
            _check_shape(f"{where}.bias", bias, linear.bias)
            linear.bias = nn.Parameter(bias, requires_grad=False)
        linear.use_quantised(weight)

    def _matrix(self, name: str) -> NativeMatrix:
        n_out, n_in = self.source.shape(name)
        sample = self.source.codes(name, 0, 1)
        matrix = NativeMatrix(sample.bits, n_out, n_in, has_units=sample.units is not None)
        step = max(16, PORTION // n_in // 16 * 16)
        for first in range(0, n_out, step):
            matrix.put(first, self.source.codes(name, first, min(step, n_out - first)))
        return matrix

    def _has_codes(self, name: str) -> bool:
        return (
            name in self.names
            and len(self.source.shape(name)) == 2
            and self.source.shape(name)[1] % BLOCK == 0
            and self.source.has_codes(name)
        )

    def norm(self, norm: RMSNorm, name: str) -> None:
        """Fill a norm, in float32 unless the model computes in float64."""
        wide = torch.float64 if self.dtype is torch.float64 else torch.float32
        weight = self.tensor(name, dtype=wide)
        _check_shape(name, weight, norm.weight)
        norm.weight = nn.Parameter(weight, requires_grad=not self.pack)

    def embedding(self, embedding: Embedding) -> None:
        """Leave the table in the file; only the rows that a prompt needs are ever read."""
        source, dtype, device = self.source, self.dtype, self.device

        def lookup(token_ids: Tensor) -> Tensor:
            return source.rows(EMBEDDING, token_ids.cpu(), dtype).to(device)

        assert embedding.weight is not None
        shape = source.shape(EMBEDDING)
        if tuple(shape) != tuple(embedding.weight.shape):
            raise _shape_error(EMBEDDING, tuple(shape), tuple(embedding.weight.shape))
        embedding.use_lookup(lookup)

    def tensor(
        self, name: str, like: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Read one tensor by its Hugging Face name."""
        if name not in self.names:
            raise CheckpointError(
                f"the checkpoint has no tensor {name}", "it is incomplete: pull or convert it again"
            )
        tensor = self.source.tensor(name, dtype or self.dtype).to(self.device)
        if like is not None:
            _check_shape(name, tensor, like)
        return tensor


def hf_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """All weights under Hugging Face's names, projections split again, one at a time."""
    head = model.head.dense_weight()
    if model.embedding.weight is not None:
        yield EMBEDDING, model.embedding.weight.detach()
    elif model.config.tied_embeddings:
        yield EMBEDDING, head
    else:
        ids = torch.arange(model.config.vocab_size)
        yield EMBEDDING, model.embedding(ids[None])[0].detach()
    if not model.config.tied_embeddings:
        yield HEAD, head
    yield NORM, model.norm.weight.detach()
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        yield from block_tensors(model.config, layer, block)


def block_tensors(config: ModelConfig, layer: int, block: Block) -> Iterator[tuple[str, Tensor]]:
    """The weights of one block under their names in a checkpoint, projections split again."""
    prefix = f"model.layers.{layer}."
    yield f"{prefix}input_layernorm.weight", block.attention_norm.weight.detach()
    yield f"{prefix}post_attention_layernorm.weight", block.feed_forward_norm.weight.detach()
    for _, linear, parts in linears_of(block):
        weight = linear.dense_weight()
        sizes = part_sizes(config, parts, weight.shape[0])
        for part, piece in zip(parts, torch.split(weight, sizes), strict=True):
            yield f"{prefix}{part}.weight", piece
        if linear.bias is not None:
            for part, piece in zip(parts, torch.split(linear.bias.detach(), sizes), strict=True):
                yield f"{prefix}{part}.bias", piece
    if isinstance(block.feed_forward, MoELayer):
        for name, tensor in mixture_tensors(block.feed_forward).items():
            yield f"{prefix}mlp.{name}", tensor.detach()


def mixture_tensors(layer: MoELayer) -> dict[str, Tensor]:
    """What a mixture has beside its dense part, by name: gate, biases, stacked experts."""
    tensors = {BIASES[0]: layer.gate.bias}
    if layer.gate.null_bias is not None:
        tensors[BIASES[1]] = layer.gate.null_bias
    for name, parameter in layer.named_parameters():
        if not name.startswith(("dense.", "experts.")):
            tensors[name] = parameter
    experts = layer.experts.tensors()
    return tensors | {f"experts.{name}": tensor for name, tensor in experts.items()}


def save_model(model: Transformer, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`, so that transformers loads them unchanged.

    Mixtures of experts, which it does not know, have a format of their own. Each file appears
    whole or not at all.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in hf_tensors(model)}
    model.config.to_checkpoint()  # refuses before anything is written
    weights = folder / ".model.safetensors.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, weights, metadata={"format": "pt"})
        os.replace(weights, folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            weights.unlink()
        raise _cannot_write(folder, error) from None
    write_config(model.config, model.head.dense_weight().dtype, folder)


def write_config(config: ModelConfig, dtype: torch.dtype, folder: Path) -> None:
    """Write `config.json` of weights whose matrices are in some number format.

    Raises:
        CheckpointError: The folder cannot be written.
        ConfigError: The model has no format for files.
    """
    name = str(dtype).removeprefix("torch.")
    text = json.dumps(config.to_checkpoint() | {"torch_dtype": name}, indent=2) + "\n"
    try:
        write_atomically(folder / "config.json", text.encode())
        (folder / "config.json").chmod(0o644)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"cannot write {folder}: {error}", "free some space or choose another folder"
    )


def linears_of(block: Block) -> Iterator[tuple[str, Linear, list[str]]]:
    """Each linear layer of a block with the checkpoint's names for its parts."""
    attention, feed_forward = block.attention, block.feed_forward
    qkv = [f"self_attn.{p}_proj" for p in "qkv"]
    yield "attention.qkv", attention.qkv, qkv
    yield "attention.output", attention.output, ["self_attn.o_proj"]
    prefix = "mlp."
    if isinstance(feed_forward, MoELayer):
        # A whole dense layer keeps its names, so that its checkpoint is the base's and more.
        prefix = "mlp." if isinstance(feed_forward, LowRankMixture) else "mlp.shared_expert."
        dense = feed_forward.dense
    else:
        dense = feed_forward
    if dense is not None:
        halves = [f"{prefix}gate_proj", f"{prefix}up_proj"]
        yield "feed_forward.gate_up", dense.gate_up, halves
        yield "feed_forward.down", dense.down, [f"{prefix}down_proj"]


def part_sizes(config: ModelConfig, parts: list[str], n_rows: int) -> list[int]:
    """Rows of each part: gate and up are halves, queries are more than keys and values."""
    if len(parts) < 3:
        return [n_rows // len(parts)] * len(parts)
    d_kv = config.n_kv_heads * config.d_head
    return [n_rows - 2 * d_kv, d_kv, d_kv]


def _check_shape(name: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape:
        raise _shape_error(name, tuple(tensor.shape), tuple(expected.shape))


def _shape_error(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(
        f"{name} has shape {list(found)}, the model needs {list(expected)}",
        "the checkpoint does not fit its own config: pull it again",
    )
