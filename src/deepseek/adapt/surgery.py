"""Experts in and out of a mixture's checkpoint, tensor by tensor; experts of low rank as adapters.

An expert that leaves takes its row of the gate along, in a file beside the adapter, so that it can
come back, here or into another mixture of the same base, without training the gate again.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek.adapt.upcycle import layout_of
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.core.low_rank import LowRank
from deepseek.model.adapter import fit
from deepseek.model.checkpoint import write_config
from deepseek.model.config import ModelConfig
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.layout import expert_rows, is_stacked
from deepseek.model.router import read_tensors, write_tensors
from deepseek.ops.native_model import Matrix
from deepseek.weights.adapter import AdapterFile, read_adapter
from deepseek.weights.source import WeightSource
from deepseek.weights.tensor_file import write_tensor_file

MATRICES = {"gate": Matrix.GATE, "up": Matrix.UP, "down": Matrix.DOWN}
GATE_FILE = "gate.safetensors"
"""An exported expert's rows and biases of the gates, by layer."""
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
"""Files of a checkpoint that its experts do not matter to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One expert of a mixture, for people."""

    number: int
    group: str
    size: int
    """Its rank, or its neurons."""
    n_parameters: int
    """In all layers, its rows of the gates included."""


def list_experts(config: ModelConfig) -> list[Expert]:
    """All experts, in order.

    Raises:
        ConfigError: The model is dense.
    """
    moe = moe_of(config)
    per_unit = moe.unit_parameters(config.d_model, config.d_ff)
    fixed = config.d_model + (1 if moe.form == "slices" else 0)
    names = [group.name for group in moe.groups for _ in group.sizes]
    return [
        Expert(
            number=number,
            group=name,
            size=size,
            n_parameters=config.n_layers * (per_unit * size + fixed),
        )
        for number, (name, size) in enumerate(zip(names, moe.sizes, strict=True))
    ]


def moe_of(config: ModelConfig) -> MoEConfig:
    """A mixture's experts.

    Raises:
        ConfigError: The model is dense.
    """
    if config.moe is None:
        raise ConfigError("the model has no experts", "make a mixture of it: deepseek upcycle")
    return config.moe


def without(config: ModelConfig, experts: Iterable[int]) -> ModelConfig:
    """The shape of a model when some experts are gone. Groups without experts go, too.

    Raises:
        ConfigError: There are no such experts, or what is left is no mixture.
    """
    moe, gone = moe_of(config), set(experts)
    if unknown := sorted(gone - set(range(moe.n_experts))):
        raise ConfigError(
            f"there is no expert {unknown[0]}", f"they are numbered 0 to {moe.n_experts - 1}"
        )
    groups = []
    for group, (first, end) in zip(moe.groups, moe.bounds, strict=True):
        kept = tuple(moe.sizes[e] for e in range(first, end) if e not in gone)
        if kept:
            groups.append(replace(group, sizes=kept))
    if not groups:
        raise ConfigError("no expert would be left", "use the dense base instead")
    changed = replace(moe, groups=tuple(groups), n_domains=min(moe.n_domains, len(groups)))
    d_ff = config.d_ff
    if moe.form == "slices":
        d_ff = moe.shared + sum(changed.sizes)
    return replace(config, moe=changed, d_ff=d_ff)


def remove_experts(source: WeightSource, experts: Sequence[int], out: Path) -> ModelConfig:
    """Write a checkpoint without some experts; all others keep their bits.

    Raises:
        ConfigError: There are no such experts, or what is left is no mixture.
        CheckpointError: A tensor is missing, or the folder cannot be written.
    """
    config = ModelConfig.from_checkpoint(source.config())
    changed, gone, moe = without(config, experts), set(experts), moe_of(config)

    def taken(name: str, tensor: Tensor) -> Tensor:
        rows = expert_rows(moe, name)
        return torch.cat([tensor[own] for e, own in enumerate(rows) if e not in gone])

    _rewrite(source, changed, out, taken)
    return changed


def export_expert(source: WeightSource, number: int, out: Path, base: str) -> None:
    """Write an expert of low rank as an adapter in PEFT's format, with its rows of the gates.

    As an adapter it adds with weight 1 for all tokens; in its mixture with what the gate says.

    Args:
        source: A mixture.
        number: Of the expert.
        out: The folder.
        base: What it belongs to, for people.

    Raises:
        ConfigError: There is no such expert, or it is none of low rank.
        CheckpointError: A tensor is missing, or the folder cannot be written.
    """
    config = ModelConfig.from_checkpoint(source.config())
    moe = moe_of(config)
    if moe.form != "low_rank":
        raise ConfigError(
            f"experts of form {moe.form} are no adapters", "only those of low rank can be exported"
        )
    if not 0 <= number < moe.n_experts:
        raise ConfigError(
            f"there is no expert {number}", f"they are numbered 0 to {moe.n_experts - 1}"
        )
    dtype, rank = _dtype_of(source), moe.sizes[number]
    tensors: dict[str, Tensor] = {}
    gates: dict[str, Tensor] = {}
    for layer in range(config.n_layers):
        prefix = f"model.layers.{layer}.mlp."
        for name in MATRICES:
            down, up = (
                source.tensor(f"{prefix}experts.{name}_{side}", dtype)[
                    expert_rows(moe, f"experts.{name}_{side}")[number]
                ]
                for side in "ab"
            )
            module = f"base_model.model.{prefix}{name}_proj"
            tensors[f"{module}.lora_A.weight"] = down
            tensors[f"{module}.lora_B.weight"] = up.T
        for name in ("gate.weight", "gate.bias"):
            row = source.tensor(prefix + name, torch.float32)[number : number + 1]
            gates[prefix + name] = row
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": moe.scale * rank,
        "target_modules": [f"{name}_proj" for name in MATRICES],
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    _make(out)
    write_tensors(out / "adapter_model.safetensors", tensors)
    write_tensors(out / GATE_FILE, gates)
    _write_json(out / "adapter_config.json", settings)


def import_expert(source: WeightSource, adapter: Path, group: str, out: Path) -> ModelConfig:
    """Write a checkpoint with one more expert of low rank, the last of a group.

    Its rows of the gates come from the file beside the adapter; without that they are the means of
    the group's, or of all experts' for a new group.

    Args:
        source: A mixture of low rank.
        adapter: A PEFT adapter of its feed-forward layers, of one rank.
        group: Its domain; a name that is new makes a group.
        out: The folder.

    Raises:
        ConfigError: The mixture is of another form.
        CheckpointError: The adapter does not fit, or the folder cannot be written.
    """
    config = ModelConfig.from_checkpoint(source.config())
    moe = moe_of(config)
    if moe.form != "low_rank":
        raise ConfigError(
            f"experts of form {moe.form} are no adapters", "only those of low rank can be imported"
        )
    file = read_adapter(adapter)
    fresh = _Newcomer(file, config)
    gates = read_tensors(adapter / GATE_FILE) if (adapter / GATE_FILE).exists() else {}
    changed, place = _with(moe, group, fresh.rank)
    known = [group.name for group in moe.groups]
    alike = range(*moe.bounds[known.index(group)]) if group in known else range(moe.n_experts)

    def grown(name: str, tensor: Tensor) -> Tensor:
        layer, own = _split(name)
        if own.startswith("gate."):
            row = gates.get(name)
            if row is None:
                row = tensor[alike.start : alike.stop].float().mean(0, keepdim=True)
            if row.shape != tensor[:1].shape or not row.isfinite().all():
                raise CheckpointError(
                    f"{name} in {adapter / GATE_FILE} does not fit", "leave that file out"
                )
        else:
            row = fresh.rows(layer, own, moe.scale)
        rows = expert_rows(moe, own)
        cut = rows[place].start if place < len(rows) else len(tensor)
        return torch.cat((tensor[:cut], row.to(tensor), tensor[cut:]))

    result = replace(config, moe=changed)
    _rewrite(source, result, out, grown, by_full_name=True)
    return result


class _Newcomer:
    """The matrices of an adapter that is to become an expert."""

    def __init__(self, file: AdapterFile, config: ModelConfig) -> None:
        parts = fit(file, config)
        if alien := sorted(which.name for _, which in parts if which not in MATRICES.values()):
            raise CheckpointError(
                f"{file.path} adapts attention ({alien[0]})",
                "an expert has gate_proj, up_proj and down_proj only",
            )
        ranks = {part.rank for part in parts.values()}
        if len(ranks) != 1:
            raise CheckpointError(
                f"{file.path} has matrices of ranks {sorted(ranks)}", "an expert has one rank"
            )
        self.rank = ranks.pop()
        self._parts, self._config = parts, config

    def rows(self, layer: int, name: str, scale: float) -> Tensor:
        """Its rows of a stacked tensor; what the adapter leaves out adds nothing."""
        which, side = name.removeprefix("experts.").split("_")
        part: LowRank | None = self._parts.get((layer, MATRICES[which]))
        d_in, d_out = self._config.d_model, self._config.d_ff
        if which == "down":
            d_in, d_out = d_out, d_in
        if part is None:
            return torch.zeros(self.rank, d_in if side == "a" else d_out)
        return part.down if side == "a" else part.up.T * (part.scale / scale)


def _with(moe: MoEConfig, group: str, rank: int) -> tuple[MoEConfig, int]:
    """A mixture with one more expert, and that expert's number."""
    names = [known.name for known in moe.groups]
    if group not in names:
        added = ExpertGroup(name=group, sizes=(rank,))
        return replace(moe, groups=(*moe.groups, added)), moe.n_experts
    number = names.index(group)
    groups = list(moe.groups)
    groups[number] = replace(groups[number], sizes=(*groups[number].sizes, rank))
    return replace(moe, groups=tuple(groups)), moe.bounds[number][1]


def _rewrite(
    source: WeightSource, config: ModelConfig, out: Path, change: Any, by_full_name: bool = False
) -> None:
    """Write a checkpoint whose stacked tensors are changed one at a time."""
    if source.folder is not None and out.resolve() == source.folder.resolve():
        raise ConfigError(f"{out} is the model itself", "choose another folder with --out")
    _make(out)
    layout = layout_of(config, _dtype_of(source))

    def tensors() -> Iterator[tuple[str, Tensor]]:
        known = set(source.names())
        for name, (dtype, _) in layout.items():
            if name not in known:
                raise CheckpointError(f"the checkpoint has no tensor {name}", "convert it again")
            tensor = source.tensor(name, dtype)
            own = _split(name)[1]
            if is_stacked(own):
                tensor = change(name if by_full_name else own, tensor)
            yield name, tensor
            source.release()

    write_tensor_file(out / "model.safetensors", layout, tensors())
    write_config(config, _dtype_of(source), out)
    for name in BESIDE:
        if source.folder is not None and (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, out / name)


def _split(name: str) -> tuple[int, str]:
    """The layer of a tensor, and its name in the mixture; -1 and "" for all others."""
    head, found, own = name.partition(".mlp.")
    return (int(head.rpartition(".")[2]), own) if found else (-1, "")


def _dtype_of(source: WeightSource) -> torch.dtype:
    """Of the matrices, as the checkpoint's own config says it."""
    name = source.config().get("torch_dtype", "float32")
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtype:
        raise CheckpointError(f"torch_dtype is {name!r}", "the config is damaged: convert again")
    return dtype[name]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder}: {error.strerror}", "choose another folder"
        ) from None


def _write_json(path: Path, value: Any) -> None:
    from deepseek.weights.cache import write_atomically

    try:
        write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", "choose another folder"
        ) from None
