"""A tiny Llama or Qwen2 checkpoint with every tensor format, made of seeded random blocks."""

import random
import struct
from functools import cache
from typing import Any

from gguf_writer import BLOCKS, GGUFImage, RawTensor, write_gguf

D_MODEL, D_FF, N_HEADS, N_KV_HEADS, D_HEAD, VOCABULARY = 32, 256, 4, 2, 8, 64
# Byte offsets of the half-precision scales in a block of each format.
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}


def random_blocks(form: str, n_weights: int, rng: random.Random) -> bytes:
    """Any bits in the quanta; scales that are small numbers of both signs."""
    _, width, n_bytes = BLOCKS[form]
    assert n_weights % width == 0
    if form in ("F32", "F16", "BF16"):
        values = [rng.uniform(-2, 2) for _ in range(n_weights)]
        if form == "BF16":
            return b"".join(struct.pack("<f", value)[2:] for value in values)
        return struct.pack(f"<{n_weights}{'f' if form == 'F32' else 'e'}", *values)
    out = bytearray(rng.randbytes(n_weights // width * n_bytes))
    for start in range(0, len(out), n_bytes):
        for offset in SCALES[form]:
            struct.pack_into("<e", out, start + offset, rng.uniform(-0.1, 0.1))
    return bytes(out)


def layer_tensors(layer: int, family: str) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and format of one layer's tensors: the formats are spread over both layers."""
    even = layer % 2 == 0
    q, kv = N_HEADS * D_HEAD, N_KV_HEADS * D_HEAD
    tensors: list[tuple[str, tuple[int, ...], str]] = [
        ("attn_norm.weight", (D_MODEL,), "F32"),
        ("ffn_norm.weight", (D_MODEL,), "F32"),
        ("attn_q.weight", (q, D_MODEL), "Q4_0" if even else "F16"),
        ("attn_k.weight", (kv, D_MODEL), "Q4_1"),
        ("attn_v.weight", (kv, D_MODEL), "Q8_0"),
        ("attn_output.weight", (D_MODEL, q), "BF16" if even else "Q4_0"),
        ("ffn_gate.weight", (D_FF, D_MODEL), "Q4_0"),
        ("ffn_up.weight", (D_FF, D_MODEL), "Q4_1"),
        ("ffn_down.weight", (D_MODEL, D_FF), "Q4_K" if even else "Q6_K"),
    ]
    if family == "qwen2":
        tensors += [(f"attn_{p}.bias", (n,), "F32") for p, n in (("q", q), ("k", kv), ("v", kv))]
    return [(f"blk.{layer}.{name}", shape, form) for name, shape, form in tensors]


def tiny_metadata(family: str = "llama") -> dict[str, Any]:
    """Header pairs of the tiny model, with values of every kind among them."""
    return {
        "general.architecture": family,
        "general.name": "tiny",
        "general.quantised": True,
        f"{family}.embedding_length": D_MODEL,
        f"{family}.block_count": 2,
        f"{family}.feed_forward_length": D_FF,
        f"{family}.attention.head_count": N_HEADS,
        f"{family}.attention.head_count_kv": N_KV_HEADS,
        f"{family}.context_length": 512,
        f"{family}.rope.freq_base": 10_000.0,
        f"{family}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [chr(0x100 + i) for i in range(VOCABULARY)],
        "tokenizer.ggml.token_type": [1] * VOCABULARY,
        "tokenizer.ggml.scores": [0.5, -1.5],
        "tokenizer.ggml.flags": [True, False, True],
    }


@cache
def tiny_tensors(family: str = "llama", seed: int = 0) -> tuple[RawTensor, ...]:
    rng = random.Random(seed)
    rows: list[tuple[str, tuple[int, ...], str]] = [
        ("token_embd.weight", (VOCABULARY, D_MODEL), "Q8_0"),
        ("output_norm.weight", (D_MODEL,), "F32"),
    ]
    if family == "qwen2":
        rows.append(("output.weight", (VOCABULARY, D_MODEL), "F16"))
    for layer in range(2):
        rows += layer_tensors(layer, family)
    tensors = []
    for name, shape, form in rows:
        n_weights = shape[0] * shape[1] if len(shape) == 2 else shape[0]
        tensors.append(RawTensor(name, shape, form, random_blocks(form, n_weights, rng)))
    return tuple(tensors)


def tiny_gguf(family: str = "llama", seed: int = 0) -> GGUFImage:
    """A whole file, about 50 KB."""
    return write_gguf(tiny_metadata(family), tiny_tensors(family, seed))
