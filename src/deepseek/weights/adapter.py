"""Low-rank adapters in PEFT's format, read strictly: what is not understood is refused.

A folder has `adapter_config.json` and `adapter_model.safetensors`. A setting that changes what the
tensors mean (DoRA, trained biases, a changed base) would give wrong answers if it were passed over.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from deepseek.core.errors import CheckpointError
from deepseek.core.low_rank import LowRank
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import Entry, read_entries, read_json

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a block that may be adapted."""
MAX_RANK = 1_024
MAX_NUMBERS = 1 << 31
"""Of all tensors together: more than any adapter of a model that fits a machine."""
LARGEST = 128.0
"""Of numbers: trained ones are far below, and nothing that a model computes overflows."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MERGE = "merge it into its base with PEFT's merge_and_unload, and load the result"

# Settings of training, or for people.
_PASSED_OVER = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
}
_READ = {
    "alpha_pattern",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_rslora",
    "bias",
}
# Others begin by changing the base: "pissa", "olora", "loftq", "corda" and such.
_INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")
_TENSOR = re.compile(
    r"base_model\.model\.(model\.layers\.(0|[1-9]\d{0,3})\.(?:self_attn|mlp)\.(\w+))"
    r"\.lora_([AB])\.weight"
)
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """What a folder holds."""

    path: Path
    base: str
    """The model that it was trained on, for people."""
    parts: Mapping[str, LowRank]
    """By module, e.g. `model.layers.0.self_attn.q_proj`; in float32."""
    layers: tuple[int, ...] | None
    """That were adapted; None: all."""
    is_partial: bool
    """Whether some modules of these layers may be missing."""
    fingerprint: str
    """Of what it adds."""


def read_adapter(folder: Path) -> AdapterFile:
    """Read an adapter; whether it fits a model is checked there.

    Raises:
        CheckpointError: The folder holds none, or it is damaged, hostile or of an unsupported kind.
    """
    entries = _tensors_of(folder)
    config = read_json(folder / "adapter_config.json")
    settings = _Settings(folder, config)
    pairs = _paired(folder, entries)
    settings.check_modules(list(pairs))
    parts = {name: settings.part(name, *pair) for name, pair in sorted(pairs.items())}
    return AdapterFile(
        path=folder,
        base=str(config.get("base_model_name_or_path") or "an unnamed model")[:200],
        parts=parts,
        layers=settings.layers,
        is_partial=settings.is_partial,
        fingerprint=_fingerprint(parts),
    )


def _tensors_of(folder: Path) -> dict[str, Entry]:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is no folder", "name the folder with adapter_config.json inside"
        )
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        if (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                f"{folder} holds a pickle (adapter_model.bin), which may run programs",
                "save it again with PEFT's save_pretrained, which writes safetensors",
            )
        raise CheckpointError(
            f"{folder} holds no adapter_model.safetensors", "name a folder with a PEFT adapter"
        )
    return read_entries(MappedFile(file))


def _paired(folder: Path, entries: Mapping[str, Entry]) -> dict[str, tuple[Entry, Entry]]:
    """Both tensors of each module."""
    found: dict[str, dict[str, Entry]] = {}
    for name, entry in entries.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[3] not in MODULES:
            raise _unsupported(folder, f"tensor {name[:200]!r}")
        if entry.dtype not in DTYPES or len(entry.shape) != 2 or not all(entry.shape):
            raise CheckpointError(
                f"{folder}: {name} is {entry.dtype} of shape {list(entry.shape)}",
                "it must be a matrix in float32, float16 or bfloat16",
            )
        found.setdefault(match[1], {})[match[4]] = entry
    if not found:
        raise CheckpointError(f"{folder} holds no tensors", "it is incomplete: fetch it again")
    if sum(math.prod(entry.shape) for entry in entries.values()) > MAX_NUMBERS:
        raise CheckpointError(f"{folder} is too large for an adapter", "is it a whole model?")
    for name, pair in found.items():
        if len(pair) != 2:
            raise CheckpointError(
                f"{folder} has only lora_{next(iter(pair))} of {name}",
                "it is incomplete: fetch it again",
            )
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


class _Settings:
    """The settings of `adapter_config.json` that matter, checked."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, config
        for name, value in config.items():
            if name not in _READ | _PASSED_OVER and value not in (None, False, [], {}, ""):
                raise _unsupported(folder, f"{name} = {_brief(value)}")
        allowed = {
            "peft_type": ("LORA",),
            "task_type": (None, "CAUSAL_LM"),
            "bias": (None, "none"),
            "init_lora_weights": _INITIAL,
            "use_rslora": (None, True, False),
            "layers_pattern": (None, "layers", [], ["layers"]),
        }
        for name, values in allowed.items():
            if config.get(name) not in values:
                raise _unsupported(folder, f"{name} = {_brief(config.get(name))}")
        self.rank = self._rank("r", config.get("r"))
        self.alpha = self._alpha("lora_alpha", config.get("lora_alpha"))
        self.ranks = self._patterns("rank_pattern", self._rank)
        self.alphas = self._patterns("alpha_pattern", self._alpha)
        self.layers = self._layers()
        self.targets = self._targets()
        self.is_partial = self.targets is None or bool(config.get("exclude_modules"))

    def part(self, module: str, down: Entry, up: Entry) -> LowRank:
        """The two matrices of a module with their scale."""
        rank = self.ranks.get(_matching(self.ranks, module), self.rank)
        alpha = self.alphas.get(_matching(self.alphas, module), self.alpha)
        if down.shape[0] != rank or up.shape[1] != rank:
            raise CheckpointError(
                f"{self._folder}: {module} has matrices of {list(down.shape)} and "
                f"{list(up.shape)} where its rank is {rank}",
                "tensors and adapter_config.json do not belong together: fetch both again",
            )
        scale = alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
        first, second = (entry.view().to(torch.float32, copy=True) for entry in (down, up))
        # A maximum of what is no number is no number, and no number is below a limit.
        largest = first.abs().amax(), second.abs().amax() * abs(scale)
        if not all(float(size) <= LARGEST for size in largest):
            raise CheckpointError(
                f"{self._folder}: {module} holds numbers above {LARGEST:.0f}, or no numbers",
                "the training failed, or the file is damaged: fetch it again",
            )
        return LowRank(first, second, scale)

    def check_modules(self, modules: list[str]) -> None:
        """Whether the tensors are those that the settings announce."""
        if self.targets is None:
            return
        for module in modules:
            if not any(_is_named(module, target) for target in self.targets):
                raise CheckpointError(
                    f"{self._folder} has tensors of {module}, which is none of its target_modules",
                    "tensors and adapter_config.json do not belong together: fetch both again",
                )
        for target in self.targets:
            if not any(_is_named(module, target) for module in modules):
                known = target.rpartition(".")[2] in MODULES
                if not known:
                    raise _unsupported(self._folder, f"the target module {_brief(target)}")
                raise CheckpointError(
                    f"{self._folder} has no tensors of its target module {_brief(target)}",
                    "it is incomplete: fetch it again",
                )

    def _targets(self) -> tuple[str, ...] | None:
        """Names of modules; None: an expression, or all, so that the tensors decide."""
        value = self._config.get("target_modules")
        if isinstance(value, str) and value:
            return None
        if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise self._wrong("target_modules", value, "names of modules")

    def _layers(self) -> tuple[int, ...] | None:
        value = self._config.get("layers_to_transform")
        if value is None:
            return None
        layers = [value] if type(value) is int else value
        if isinstance(layers, list) and all(type(v) is int and v >= 0 for v in layers):
            return tuple(sorted(set(layers))) or None
        raise self._wrong("layers_to_transform", value, "numbers of layers")

    def _rank(self, name: str, value: Any) -> int:
        if type(value) is int and 1 <= value <= MAX_RANK:
            return value
        raise self._wrong(name, value, f"1 to {MAX_RANK:,}")

    def _alpha(self, name: str, value: Any) -> float:
        if type(value) in (int, float) and abs(value) <= 1e6:
            return float(value)
        raise self._wrong(name, value, "a number up to a million")

    def _patterns(self, name: str, check: Any) -> dict[str, Any]:
        """Values by names of modules. General expressions from a stranger could take for ever."""
        table = self._config.get(name) or {}
        if not isinstance(table, dict):
            raise self._wrong(name, table, "a table by names of modules")
        for key in table:
            if not _PATTERN.fullmatch(key):
                raise self._wrong(name, key, "names of modules instead of other expressions")
        return {key: check(f"{name}[{key}]", value) for key, value in table.items()}

    def _wrong(self, name: str, value: Any, rule: str) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: {name} is {_brief(value)}", f"adapter_config.json needs {rule}"
        )


def _matching(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern for a module, as PEFT chooses it."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), "")


def _is_named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _fingerprint(parts: Mapping[str, LowRank]) -> str:
    digest = sha256()
    for name, part in parts.items():
        digest.update(f"{name} {part.rank} {part.scale!r} ".encode())
        for matrix in (part.down, part.up):
            digest.update(matrix.contiguous().numpy().data)
    return digest.hexdigest()


def _unsupported(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {what} is not supported",
        f"adapters add to the linear layers of blocks ({', '.join(MODULES)}); {MERGE}",
    )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
