"""GGUF files of the Llama and Qwen2 families as a `WeightSource`."""

import math
import re
from pathlib import Path
from reprlib import repr as brief  # a hostile value may be megabytes long
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.core.codes import Codes
from deepseek.core.errors import CheckpointError
from deepseek.weights.blocks import dequantise
from deepseek.weights.codes import DECODERS, decode_rows
from deepseek.weights.gguf_header import TensorInfo, damaged, read_header
from deepseek.weights.mapping import MappedFile
from deepseek.weights.source import largest_first

FAMILIES = ("llama", "qwen2")
ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Hugging Face's name -> GGUF's key and the largest value that makes sense.
INTEGERS = {
    "hidden_size": ("embedding_length", 1 << 16),
    "num_hidden_layers": ("block_count", 1_000),
    "intermediate_size": ("feed_forward_length", 1_000_000),
    "num_attention_heads": ("attention.head_count", 1_024),
    "num_key_value_heads": ("attention.head_count_kv", 1_024),
    "max_position_embeddings": ("context_length", 100_000_000),
}
PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFFile:
    """An open GGUF file. Construction reads and checks the header only."""

    def __init__(self, path: Path) -> None:
        """Open and check a file.

        Raises:
            CheckpointError: It is damaged, truncated, hostile or of an unsupported kind.
        """
        self._file = MappedFile(path)
        header = read_header(self._file)
        self._metadata = header.metadata
        self._family = self._metadata.get("general.architecture")
        if self._family not in FAMILIES:
            raise CheckpointError(
                f"{path} has the architecture {brief(self._family)}",
                f"supported: {', '.join(FAMILIES)}",
            )
        if "rope_freqs.weight" in header.tensors:
            raise CheckpointError(
                f"{path} scales its rotary positions", "that is not supported yet: use another file"
            )
        self._tensors = {_hf_name(path, t.name): t for t in header.tensors.values()}
        if len(self._tensors) != len(header.tensors):
            raise damaged(path, "two of its tensors have the same place in the model")
        self._config = self._read_config(path)
        check_shapes(path, self._config, {n: t.shape for n, t in self._tensors.items()})

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's key-value pairs."""
        return self._metadata

    @property
    def folder(self) -> Path | None:
        """None: the tokenizer is in the metadata."""
        return None

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self._file.size

    def formats(self) -> dict[str, int]:
        """Bytes by block format."""
        return largest_first((t.format.name, t.n_bytes) for t in self._tensors.values())

    def config(self) -> dict[str, Any]:
        """The model's shape under the names of Hugging Face's `config.json`."""
        return dict(self._config)

    def names(self) -> list[str]:
        """Tensor names in Hugging Face's form."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, row-major."""
        return self._info(name).shape

    def has_codes(self, name: str) -> bool:
        """Whether a matrix is stored as whole numbers with scales."""
        return self._info(name).format.name in DECODERS

    def codes(self, name: str, first: int, n_rows: int) -> Codes:
        """Some rows of a matrix as whole numbers with scales, in Hugging Face's order."""
        info = self._info(name)
        order = torch.arange(info.shape[0])
        if heads := self._interleaved_heads(name):
            order = _half_rotation(order[:, None], heads)[:, 0]
        stored = self._raw(info).view(info.shape[0], -1)[order[first : first + n_rows]]
        form = info.format
        return decode_rows(stored.view(-1), form.name, form.n_bytes, info.shape[1])

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A whole tensor as numbers, its rows in Hugging Face's order.

        Raises:
            CheckpointError: There is no such tensor, or it holds infinities.
        """
        info = self._info(name)
        numbers = dequantise(self._raw(info), info.format, info.shape, dtype, name)
        heads = self._interleaved_heads(name)
        return _half_rotation(numbers, heads) if heads else numbers

    def rows(self, name: str, ids: Int[Tensor, " N"], dtype: torch.dtype) -> Float[Tensor, "N D"]:
        """Some rows of a matrix, dequantised alone."""
        info = self._info(name)
        stored = self._raw(info).view(info.shape[0], -1)[ids]
        return dequantise(stored.view(-1), info.format, (len(ids), info.shape[1]), dtype, name)

    def release(self) -> None:
        """Give back the memory of file pages read so far."""
        self._file.release()

    def _info(self, name: str) -> TensorInfo:
        if name not in self._tensors:
            raise CheckpointError(f"{self._file.path} has no tensor {name}", "fetch it again")
        return self._tensors[name]

    def _raw(self, info: TensorInfo) -> Tensor:
        return self._file.bytes[info.start : info.start + info.n_bytes]

    def _interleaved_heads(self, name: str) -> int:
        """Heads whose rows llama.cpp reordered for its rotary form; 0 for most tensors."""
        if self._family == "llama":
            if ".q_proj." in name:
                return int(self._config["num_attention_heads"])
            if ".k_proj." in name:
                return int(self._config["num_key_value_heads"])
        return 0

    def _read_integers(self, path: Path) -> dict[str, int]:
        config: dict[str, int] = {}
        for theirs, (key, largest) in INTEGERS.items():
            value = self._metadata.get(f"{self._family}.{key}")
            if value is None and theirs == "num_key_value_heads":
                value = config["num_attention_heads"]
            if type(value) is not int or not 1 <= value <= largest:
                raise damaged(path, f"{self._family}.{key} is {brief(value)}")
            config[theirs] = value
        return config

    def _read_config(self, path: Path) -> dict[str, Any]:
        family = self._family
        config = self._read_integers(path)
        theta = self._metadata.get(f"{family}.rope.freq_base", 10_000.0)
        eps = self._metadata.get(f"{family}.attention.layer_norm_rms_epsilon")
        for value, low, high in ((theta, 1.0, 1e12), (eps, 1e-12, 0.1)):
            if not isinstance(value, float) or not (math.isfinite(value) and low <= value <= high):
                raise damaged(
                    path, f"rotary base {brief(theta)} or norm epsilon {brief(eps)} is out of range"
                )
        head_dim = self._metadata.get(
            f"{family}.attention.key_length", config["hidden_size"] // config["num_attention_heads"]
        )
        if not isinstance(head_dim, int) or not 2 <= head_dim <= 1_024 or head_dim % 2:
            raise damaged(path, f"its heads have the width {brief(head_dim)}")
        if config["num_attention_heads"] % config["num_key_value_heads"]:
            raise damaged(path, "its heads cannot share keys and values evenly")
        scaling = self._metadata.get(f"{family}.rope.scaling.type", "none")
        if not isinstance(scaling, str):
            raise damaged(path, f"its rotary scaling is {brief(scaling)}")
        return config | {
            "model_type": family,
            "rope_theta": float(theta),
            # Stored in single precision: 1e-5 must not become 9.999999747378752e-06.
            "rms_norm_eps": float(f"{eps:.6g}"),
            "rope_scaling": None if scaling == "none" else {"rope_type": scaling},
            "head_dim": head_dim,
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
            "vocab_size": self._tensors["model.embed_tokens.weight"].shape[0]
            if "model.embed_tokens.weight" in self._tensors
            else 0,
        }


def check_shapes(path: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Compare every tensor's shape with what the config says it must be.

    Raises:
        CheckpointError: One differs, or one is missing.
    """
    d, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    expected = {
        "self_attn.q_proj.weight": (q, d),
        "self_attn.k_proj.weight": (kv, d),
        "self_attn.v_proj.weight": (kv, d),
        "self_attn.o_proj.weight": (d, q),
        "mlp.gate_proj.weight": (f, d),
        "mlp.up_proj.weight": (f, d),
        "mlp.down_proj.weight": (d, f),
        "input_layernorm.weight": (d,),
        "post_attention_layernorm.weight": (d,),
    }
    n_layers = config["num_hidden_layers"]
    if n_layers * len(expected) > len(shapes):
        raise damaged(path, f"it has too few tensors for {n_layers} layers")
    wanted: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.{part}": shape
        for layer in range(n_layers)
        for part, shape in expected.items()
    }
    wanted["model.embed_tokens.weight"] = (config["vocab_size"], d)
    wanted["model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        wanted["lm_head.weight"] = (config["vocab_size"], d)
    # A bias is optional, and as wide as its matrix has rows.
    for name in shapes:
        matrix = wanted.get(f"{name.removesuffix('.bias')}.weight")
        if name.endswith(".bias") and matrix is not None and len(matrix) == 2:
            wanted[name] = matrix[:1]
    for name in wanted.keys() | shapes.keys():
        if shapes.get(name) != wanted.get(name):
            raise damaged(
                path, f"{name} has shape {shapes.get(name)}, the model needs {wanted.get(name)}"
            )


def _hf_name(path: Path, name: str) -> str:
    if name in ENDS:
        return ENDS[name]
    match = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z_]+)\.(weight|bias)", name)
    if not match or match[2] not in PARTS:
        raise CheckpointError(
            f"{path} holds a tensor {name!r} that this architecture does not know",
            "supported are dense Llama and Qwen2 models",
        )
    return f"model.layers.{int(match[1])}.{PARTS[match[2]]}.{match[3]}"


def _half_rotation(weight: Tensor, n_heads: int) -> Tensor:
    """Undo llama.cpp's pairing of neighbouring rows: (0, 1), (2, 3) … to (0, K/2), (1, K/2+1) …"""
    shape = weight.shape
    return weight.view(n_heads, shape[0] // n_heads // 2, 2, -1).transpose(1, 2).reshape(shape)
