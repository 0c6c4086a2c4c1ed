"""Long contexts with keys and values in 8 and 4 bits, beside bfloat16 and llama.cpp.

A part of kernels.py. llama.cpp keeps all positions in q8_0 or q4_0 with flash attention, without
which it does not quantise values; this package keeps the first positions and a window exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deepseek.core.threads import thread_count
from deepseek.weights.pull import ensure
from llama_flags import VARIANTS, llama_name
from peers import Worker
from report import Row, say_row

N_DECODED = 32
FLASH = VARIANTS[1]
"""Small batches with flash attention."""


@dataclass(frozen=True, slots=True)
class Width:
    """One width of codes."""

    kv_dtype: str
    theirs: str
    number: int
    """Of that type in ggml."""


WIDTHS = (Width("int8", "q8_0", 8), Width("int4", "q4_0", 2))
EXACT = "keys and values in bfloat16"


def is_of_cache(row: Row) -> bool:
    """Whether a row of the results is one of these."""
    return " cache, " in row.name


def compare_caches(
    model: str, file_format: str, context: int, *, rounds: int, long_rounds: int
) -> list[Row]:
    """Reading a long context and going on behind it, all caches in turns.

    Args:
        model: Its name.
        file_format: Of its file.
        context: Tokens to read, and in the cache before others are decoded.
        rounds: Of decoding.
        long_rounds: Of reading.
    """
    path, (n_threads, _) = ensure(model).path, thread_count()
    workers = _workers(path, n_threads, file_format)
    rows = []
    try:
        jobs: tuple[tuple[str, int, Callable[[Worker], float]], ...] = (
            (f"prefill {context}", long_rounds, lambda worker: worker.rate("prefill", context)),
            (
                f"decode {N_DECODED} at {context}",
                rounds,
                lambda worker: worker.rate("decode", N_DECODED, context),
            ),
        )
        for name, n_rounds, rate in jobs:
            rates = _take_turns(workers, n_rounds, rate)
            rows += [
                _row(f"{model} {width.kv_dtype} cache, {name}", rates[width.kv_dtype], peer, rates)
                for width in WIDTHS
                for peer in (EXACT, _name_of(width, file_format))
            ]
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def _workers(path: Path, n_threads: int, file_format: str) -> dict[str, Worker]:
    workers = {EXACT: Worker("ours", path, n_threads, dtype="int8")}
    for width in WIDTHS:
        workers[width.kv_dtype] = Worker(
            "ours", path, n_threads, dtype="int8", kv_dtype=width.kv_dtype
        )
        types = {"type_k": width.number, "type_v": width.number}
        workers[_name_of(width, file_format)] = Worker(
            "llama.cpp", path, n_threads, **FLASH, **types
        )
    return workers


def _name_of(width: Width, file_format: str) -> str:
    """llama.cpp with such a cache."""
    return llama_name(file_format, FLASH | {"type_k": width.theirs, "type_v": width.theirs})


def _take_turns(
    workers: Mapping[str, Worker], n_rounds: int, rate: Callable[[Worker], float]
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(n_rounds):
        for name in list(workers) if number % 2 == 0 else reversed(list(workers)):
            rates[name].append(rate(workers[name]))
    return rates


def _row(name: str, ours: list[float], peer: str, rates: Mapping[str, list[float]]) -> Row:
    ratios = [a / b for a, b in zip(ours, rates[peer], strict=True)]
    row = Row(
        name=name,
        value=median(ours),
        unit="tokens/s",
        peer=peer,
        peer_value=median(rates[peer]),
        rounds=len(ours),
        low=min(ratios),
        high=max(ratios),
        judge="ratio",
    )
    say_row(row)
    return row
