"""The shape of a model. `configs/*.toml` and Hugging Face's `config.json` both end here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError
from deepseek.model.moe.config import MoEConfig
from deepseek.ops.memory import PARTS, MemoryConfig

Family = Literal["llama", "qwen2"]

# Ours -> Hugging Face's name. What both families share.
HF_NAMES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
MIXTURE = "deepseek_mixture"
"""The model type of our own format: Hugging Face's names for what is dense, and a `moe` table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    family: Family
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    context_window: int
    """Tokens the weights were trained for."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    attention_bias: bool = False
    """Whether the query, key and value projections have biases (Qwen2: yes)."""
    tied_embeddings: bool = True
    """Whether the output head is the embedding matrix."""
    attention: Literal["dense", "hierarchical"] = "dense"
    """What the weights were made for; hierarchical ones have a learned memory."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """What hierarchical attention sees."""
    moe: MoEConfig | None = None
    """Experts in place of dense feed-forward layers; `d_ff` is the width of what they came from."""

    def __post_init__(self) -> None:
        limits = {
            "vocab_size": 2_000_000,
            "d_model": 65_536,
            "n_layers": 1_000,
            "n_heads": 1_024,
            "n_kv_heads": 1_024,
            "d_head": 1_024,
            "d_ff": 1_000_000,
            "context_window": 100_000_000,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 1 <= value <= limit:
                raise ConfigError(f"model.{name} is {value}", f"it must be 1 to {limit:,}")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"model.n_heads is {self.n_heads} and n_kv_heads {self.n_kv_heads}",
                "n_heads must be a multiple of n_kv_heads",
            )
        if self.d_head % 2:
            raise ConfigError(f"model.d_head is {self.d_head}", "rotary positions need it even")
        if not (self.rope_theta > 0 and 0 < self.norm_eps < 1):
            raise ConfigError(
                f"model.rope_theta is {self.rope_theta}, norm_eps {self.norm_eps}",
                "rope_theta must be positive and norm_eps between 0 and 1",
            )
        if self.moe is not None and self.moe.form == "slices":
            width = self.moe.shared + sum(self.moe.sizes)
            if width != self.d_ff:
                raise ConfigError(
                    f"moe.shared and the slices have {width} neurons, model.d_ff is {self.d_ff}",
                    "they are the dense layer's, each once: both must be equal",
                )

    @property
    def n_parameters(self) -> int:
        """Weights in all, the tied head counted once."""
        d_q, d_kv = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        attention = self.d_model * (2 * d_q + 2 * d_kv)
        if self.attention_bias:
            attention += d_q + 2 * d_kv
        layer = attention + 2 * self.d_model
        if self.moe is None:
            layer += 3 * self.d_model * self.d_ff
        else:
            layer += self.moe.n_parameters(self.d_model, self.d_ff)
        if self.attention == "hierarchical":
            pooling = 2 * self.n_kv_heads * (self.d_head + self.memory.node)
            layer += pooling + PARTS * self.n_heads * (self.d_model + 1)
            fusion = (self.n_layers - 1) * (2 * self.n_kv_heads + self.n_heads)
        else:
            fusion = 0
        embeddings = self.vocab_size * self.d_model * (1 if self.tied_embeddings else 2)
        return embeddings + self.n_layers * layer + fusion + self.d_model

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read the fields of a Hugging Face `config.json`.

        Raises:
            ConfigError: The architecture or a feature of it is not supported, or a field is bad.
        """
        family = config.get("model_type")
        if family not in ARCHITECTURES:
            raise ConfigError(f"model type is {family!r}", f"supported: {', '.join(ARCHITECTURES)}")
        rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", None):
            raise ConfigError(
                f"rotary scaling {kind!r} is not supported", "use a checkpoint without rope_scaling"
            )
        if config.get("use_sliding_window"):
            raise ConfigError(
                "sliding-window attention is not supported", "use a checkpoint without it"
            )
        if config.get("hidden_act", "silu") != "silu" or config.get("mlp_bias"):
            raise ConfigError(
                "this feed-forward layer is not supported", "use a SwiGLU model without MLP bias"
            )
        try:
            values: dict[str, Any] = {ours: config[theirs] for ours, theirs in HF_NAMES.items()}
            values["context_window"] = config["max_position_embeddings"]
        except KeyError as error:
            raise ConfigError(f"the model's config has no {error}", "is it complete?") from None
        for name in ("n_heads", "d_model"):
            if not isinstance(values[name], int) or values[name] < 1:
                raise ConfigError(f"{HF_NAMES[name]} is {values[name]!r}", "it must be 1 or more")
        heads = values["n_heads"]
        theta = config.get("rope_theta", rope.get("rope_theta", 10_000.0))
        values |= {
            "family": family,
            "n_kv_heads": config.get("num_key_value_heads") or heads,
            "d_head": config.get("head_dim") or values["d_model"] // heads,
            "rope_theta": theta,
            "norm_eps": config.get("rms_norm_eps", 1e-6),
            "attention_bias": bool(config.get("attention_bias", family == "qwen2")),
            "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
        }
        return build(cls, values, where="model.")

    def to_hf(self) -> dict[str, Any]:
        """The same shape as a Hugging Face `config.json`.

        Raises:
            ConfigError: It has a learned memory or experts, which no architecture there knows.
        """
        if self.moe is not None:
            raise ConfigError(
                f"a mixture of experts of form {self.moe.form} has no Hugging Face architecture",
                "`deepseek experts export` writes experts of low rank as PEFT adapters of the base",
            )
        if self.attention == "hierarchical":
            raise ConfigError(
                "a model with a learned memory has no Hugging Face architecture",
                "keep its state_dict as safetensors",
            )
        return {theirs: getattr(self, ours) for ours, theirs in HF_NAMES.items()} | {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.d_head,
            "max_position_embeddings": self.context_window,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "attention_bias": self.attention_bias,
            "tie_word_embeddings": self.tied_embeddings,
            "hidden_act": "silu",
        }

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read a `config.json`: Hugging Face's, or that of our own mixtures.

        Raises:
            ConfigError: The architecture or a feature of it is not supported, or a field is bad.
        """
        if config.get("model_type") != MIXTURE:
            return cls.from_hf(config)
        table = config.get("moe")
        if not isinstance(table, dict):
            raise ConfigError("the config of a mixture has no moe part", "is it complete?")
        base = dict(config) | {"model_type": config.get("base_model_type")}
        return replace(cls.from_hf(base), moe=MoEConfig.from_table(table))

    def to_checkpoint(self) -> dict[str, Any]:
        """What `config.json` says beside saved weights.

        Raises:
            ConfigError: It has a learned memory.
        """
        if self.moe is None:
            return self.to_hf()
        return replace(self, moe=None).to_hf() | {
            "architectures": ["DeepSeekMixture"],
            "model_type": MIXTURE,
            "base_model_type": self.family,
            "moe": self.moe.to_table(),
        }


def load_preset(path: Path, overrides: tuple[str, ...] = ()) -> ModelConfig:
    """Read the `[model]` section of a preset, `[memory]` for hierarchical attention, and `[moe]`.

    Raises:
        ConfigError: The file, a key or a value is wrong.
    """
    table = load_table(path, overrides)
    for key in table:
        known = ["model", "memory", "moe"]
        if key not in known:
            raise ConfigError(f"unknown section [{key}] in {path}", suggest(key, known))
    memory = build(MemoryConfig, table.get("memory", {}), where="memory.")
    moe = MoEConfig.from_table(table["moe"]) if "moe" in table else None
    parts = {"memory": memory, "moe": moe}
    return build(ModelConfig, table.get("model", {}) | parts, where="model.")
