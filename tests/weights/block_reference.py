"""Dequantisation one weight at a time, from the format's description in ggml-quants.h.

Written apart from the package, with scalars only, so that a wrong stride or order shows.
"""

import struct
from collections.abc import Callable

Decode = Callable[[bytes], list[float]]


def _half(block: bytes, start: int) -> float:
    return float(struct.unpack_from("<e", block, start)[0])


def _nibble(block: bytes, start: int, i: int) -> int:
    """Weight i of 32: the first 16 are low nibbles, the others the high ones of the same bytes."""
    byte = block[start + i % 16]
    return byte & 0x0F if i < 16 else byte >> 4


def q4_0(block: bytes) -> list[float]:
    d = _half(block, 0)
    return [(_nibble(block, 2, i) - 8) * d for i in range(32)]


def q4_1(block: bytes) -> list[float]:
    d, m = _half(block, 0), _half(block, 2)
    return [_nibble(block, 4, i) * d + m for i in range(32)]


def q8_0(block: bytes) -> list[float]:
    d = _half(block, 0)
    return [struct.unpack_from("<b", block, 2 + i)[0] * d for i in range(32)]


def _scale_min_k4(j: int, q: bytes) -> tuple[int, int]:
    """`get_scale_min_k4`: the j-th 6-bit scale and minimum of a Q4_K block."""
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (
        (q[j + 4] & 0x0F) | ((q[j - 4] >> 6) << 4),
        (q[j + 4] >> 4) | ((q[j] >> 6) << 4),
    )


def q4_k(block: bytes) -> list[float]:
    d, dmin = _half(block, 0), _half(block, 2)
    scales, quanta = block[4:16], block[16:144]
    out = [0.0] * 256
    for i in range(256):
        group = i // 32
        byte = quanta[(group // 2) * 32 + i % 32]
        nibble = byte & 0x0F if group % 2 == 0 else byte >> 4
        scale, minimum = _scale_min_k4(group, scales)
        out[i] = d * scale * nibble - dmin * minimum
    return out


def q6_k(block: bytes) -> list[float]:
    low, high, d = block[0:128], block[128:192], _half(block, 208)
    scales = struct.unpack_from("<16b", block, 192)
    out = [0.0] * 256
    for half in range(2):
        for i in range(32):
            bits = high[half * 32 + i]
            first, second = low[half * 64 + i], low[half * 64 + 32 + i]
            quanta = (
                (first & 0x0F) | ((bits >> 0) & 3) << 4,
                (second & 0x0F) | ((bits >> 2) & 3) << 4,
                (first >> 4) | ((bits >> 4) & 3) << 4,
                (second >> 4) | ((bits >> 6) & 3) << 4,
            )
            for quarter, q in enumerate(quanta):
                scale = scales[half * 8 + quarter * 2 + i // 16]
                out[half * 128 + quarter * 32 + i] = d * scale * (q - 32)
    return out


REFERENCE: dict[str, Decode] = {
    "F32": lambda block: [struct.unpack("<f", block)[0]],
    "F16": lambda block: [struct.unpack("<e", block)[0]],
    "BF16": lambda block: [struct.unpack("<f", b"\0\0" + block)[0]],
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q8_0": q8_0,
    "Q4_K": q4_k,
    "Q6_K": q6_k,
}
