"""Keys and values in 8 or 4 bits: how positions behind the window are kept.

A page of 64 positions goes over into its cold form as soon as it is complete. Each number becomes
a code between a least number and a largest: of keys, those of one channel over the page (a bias
that keys of all positions have in common costs nothing); of values, those of one position, for 64
numbers of a head each. Queries see the first pages, their own and those of the window before it as
they are, and all others in their cold form; so what a query sees follows from its position alone.

Axes: G key/value heads, S positions, K head width. The native library does the same in `cold.h`;
this is its reference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import BFloat16, Float, UInt8
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.ops.hierarchical import PAGE

ColdBits = Literal[4, 8]
KVDtype = Literal["auto", "bfloat16", "int8", "int4"]
"""How keys and values behind the window are kept; `auto` is decided before loading."""
BITS: dict[str, ColdBits | None] = {"bfloat16": None, "int8": 8, "int4": 4}
SLICE = 64
"""Numbers of a value that share a range, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdTier:
    """Which positions are seen in how many bits, in tokens."""

    bits: ColdBits
    sinks: int = 128
    """First positions, always seen as they are."""
    window: int = 512
    """Positions before the query's page, likewise."""
    slack: int = 2_048
    """Positions before the window that are kept as they are, too: so far a sequence can be cut
    and goes on as if nothing had happened."""
    folder: Path | None = None
    """Where a file keeps what is in fewer bits; None: memory."""

    def __post_init__(self) -> None:
        for name in ("sinks", "window", "slack"):
            value = getattr(self, name)
            if value % PAGE or not 0 <= value <= 1 << 24:
                raise ConfigError(f"a cold tier's {name} is {value}", f"use a multiple of {PAGE}")

    def describe(self) -> str:
        """For people."""
        exact = f"the first {self.sinks:,} tokens and the {self.window:,} before each"
        return f"int{self.bits} but for {exact}"

    def window_start(self, page: int) -> int:
        """The first page of the window of queries in `page`."""
        return max(0, page - self.window // PAGE)

    def at_once(self, n_pages: int, rows: int) -> int:
        """Most pages that a sequence of some pages has as they are, read in passes of some tokens.

        A pass begins in a page and takes pages for all its tokens before any are given back.
        """
        return min(n_pages, (self.sinks + self.window + self.slack + rows) // PAGE + 1)

    def kept(self, n_pages: int, slack: int) -> list[int]:
        """Which of that many pages are there as they are, with so many tokens before the window."""
        start = max(0, self.window_start(n_pages) - slack // PAGE)
        return [*range(min(self.sinks // PAGE, start)), *range(start, n_pages)]

    def seen(
        self, page: int, exact: Float[Tensor, "... S K"], cold: Float[Tensor, "... C K"]
    ) -> Float[Tensor, "... S K"]:
        """Keys or values as queries in `page` see them.

        Args:
            page: Where the queries stand.
            exact: Of all positions so far.
            cold: The same in their cold form, at least those before the window.
        """
        start = self.window_start(page) * PAGE
        sinks = min(self.sinks, start)
        parts = exact[..., :sinks, :], cold[..., sinks:start, :], exact[..., start:, :]
        return torch.cat(parts, -2)


def choose_tier(kv_dtype: str, kv_disk: str | Path | None = None) -> ColdTier | None:
    """Which positions are kept in fewer bits, and where; None: none.

    Raises:
        ConfigError: There is no such number format, or none that goes to a disk.
    """
    if kv_dtype not in BITS:
        known = ", ".join(("auto", *BITS))
        raise ConfigError(f"keys and values cannot be kept in {kv_dtype}", f"use {known}")
    bits = BITS[kv_dtype]
    if bits is None:
        if kv_disk is not None:
            raise ConfigError(
                f"keys and values in {kv_dtype} are not kept on a disk",
                "use kv_dtype (--kv-dtype) int8 or int4 with it",
            )
        return None
    return ColdTier(bits=bits, folder=None if kv_disk is None else Path(kv_disk))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """Numbers as codes: `least + step * codes`."""

    codes: UInt8[Tensor, "..."]
    least: BFloat16[Tensor, "..."]
    step: BFloat16[Tensor, "..."]

    def numbers(self) -> BFloat16[Tensor, "..."]:
        """What they stand for."""
        return (self.least.float() + self.codes.float() * self.step.float()).bfloat16()


def quantise(x: BFloat16[Tensor, "..."], dim: int, bits: ColdBits) -> Quantised:
    """Codes of numbers that share a range along one axis, which `least` and `step` keep as 1."""
    most = (1 << bits) - 1
    least, largest = x.amin(dim, keepdim=True).float(), x.amax(dim, keepdim=True).float()
    step = _rounded_up((largest - least) / most)
    codes = ((x.float() - least) / step.float()).nan_to_num(0.0).round().clamp(0, most)
    return Quantised(codes=codes.to(torch.uint8), least=least.bfloat16(), step=step)


def quantise_keys(keys: BFloat16[Tensor, "*axes S K"], bits: ColdBits) -> Quantised:
    """Codes [..., pages, 64, K] of whole pages, with ranges [..., pages, 1, K]."""
    return quantise(torch.unflatten(keys, -2, (-1, PAGE)), -2, bits)


def quantise_values(values: BFloat16[Tensor, "*axes S K"], bits: ColdBits) -> list[Quantised]:
    """Codes [..., S, up to 64] of slices of values, with ranges [..., S, 1]."""
    return [quantise(part, -1, bits) for part in torch.split(values, SLICE, -1)]


def cold_keys(keys: BFloat16[Tensor, "*axes S K"], bits: ColdBits) -> BFloat16[Tensor, "*axes S K"]:
    """What the cold form of whole pages of keys stands for."""
    return quantise_keys(keys, bits).numbers().flatten(-3, -2)


def cold_values(
    values: BFloat16[Tensor, "*axes S K"], bits: ColdBits
) -> BFloat16[Tensor, "*axes S K"]:
    """What the cold form of values stands for."""
    return torch.cat([part.numbers() for part in quantise_values(values, bits)], -1)


def page_bytes(bits: ColdBits, width: int) -> int:
    """Bytes of one head's cold page of keys or of values: codes, then least numbers and steps."""
    n_slices = -(-width // SLICE)
    return PAGE * width * bits // 8 + n_slices * PAGE * 4


def key_bytes(bits: ColdBits, width: int) -> int:
    """Those that are used for keys; of heads narrower than a slice it is less."""
    return PAGE * width * bits // 8 + width * 4


def extremes(
    pages: UInt8[Tensor, "*axes N"], bits: ColdBits, width: int
) -> Float[Tensor, "*axes 2 R"]:
    """Between what numbers all lie that cold pages stand for.

    Args:
        pages: Of one head's keys or values each.
        bits: Of a code.
        width: Of a head.

    Returns:
        For each range the number of its first code, and that of its last.
    """
    # Least numbers of two channels, then their steps (cold.h).
    ranges = pages[..., PAGE * width * bits // 8 :].contiguous().view(torch.bfloat16).float()
    least, step = torch.unflatten(ranges, -1, (-1, 2, 2)).unbind(-2)
    ends = least.flatten(-2), (least + step * ((1 << bits) - 1)).flatten(-2)
    return torch.stack(ends, -2)


def _rounded_up(x: Float[Tensor, "..."]) -> BFloat16[Tensor, "..."]:
    """The next bfloat16 of positive numbers."""
    bits = x.float().contiguous().view(torch.int32)
    return (bits + 0xFFFF & -0x10000).view(torch.float32).bfloat16()
