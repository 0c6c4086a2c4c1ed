"""Shares of the machine's ceilings: of whole passes, of attention alone and of each matrix."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from ceilings import Ceilings
from deepseek.model.linear import Linear
from deepseek.model.transformer import Transformer
from deepseek.ops.linear import QuantisedWeight, quantised_linear
from report import Row

PASSES = 5


def product_times(model: Transformer, n_rows: int) -> dict[str, dict[str, float]]:
    """Median seconds, bytes and operations of each kind of matrix, summed over the layers.

    The model is gone through in its order, so that a matrix comes from memory, not from a cache.
    """
    weights = [
        (name.rpartition(".")[2], module.packed)
        for name, module in model.named_modules()
        if isinstance(module, Linear) and isinstance(module.packed, QuantisedWeight)
    ]
    generator = torch.Generator().manual_seed(0)
    widths = {weight.shape[1] for _, weight in weights}
    inputs = {n_in: torch.randn(n_rows, n_in, generator=generator) for n_in in widths}
    passes: list[dict[str, float]] = []
    for _ in range(PASSES + 1):
        seconds = dict.fromkeys((name for name, _ in weights), 0.0)
        for name, weight in weights:
            start = time.perf_counter()
            quantised_linear(inputs[weight.shape[1]], weight)
            seconds[name] += time.perf_counter() - start
        passes.append(seconds)
    return {
        wanted: {
            "seconds": median(one[wanted] for one in passes[1:]),
            "bytes": float(sum(w.n_bytes for name, w in weights if name == wanted)),
            "operations": 2.0
            * n_rows
            * sum(w.shape[0] * w.shape[1] for name, w in weights if name == wanted),
        }
        for wanted in passes[0]
    }


def read_row(name: str, bytes_each: float, rate: float, ceilings: Ceilings) -> Row:
    """Bytes read a second against what the memory gives."""
    return Row(
        name=name,
        value=bytes_each * rate / 1e9,
        unit="GB/s",
        peer=f"ceiling: {ceilings.reading}",
        peer_value=ceilings.read,
    )


def product_row(name: str, operations_each: float, rate: float, ceilings: Ceilings) -> Row:
    """8-bit operations a second against what the processor does on registers alone."""
    peer, value = "ceiling: byte dot products on registers alone", ceilings.int8
    if not value:
        peer, value = "torch's product of two bfloat16 matrices", ceilings.bf16
    return Row(
        name=name,
        value=operations_each * rate / 1e9,
        unit="Gop/s",
        peer=peer,
        peer_value=value,
    )


def matrix_rows(
    model: str, times: Mapping[int, Mapping[str, Any]], ceilings: Ceilings
) -> list[Row]:
    """Every matrix: by bytes for a few rows of activations, by operations for many."""
    rows = []
    for n_rows, of_matrix in times.items():
        for matrix, took in of_matrix.items():
            name = f"{model} roofline: {matrix} of all layers, {n_rows} rows"
            rate = 1 / took["seconds"]
            if n_rows <= 16:
                rows.append(read_row(name, took["bytes"], rate, ceilings))
            else:
                rows.append(product_row(name, took["operations"], rate, ceilings))
    return rows


def pass_rows(
    model: str,
    rates: Mapping[tuple[str, int], float],
    facts: Mapping[str, int],
    ceilings: Ceilings,
) -> list[Row]:
    """Whole passes, and what attention costs beyond a short context.

    Args:
        model: Its name.
        rates: Tokens a second by kind of job (`prefill`, `decode`, `streams`) and by tokens
            read, tokens cached, or number of streams.
        facts: Of the model, see `Ours.facts`.
        ceilings: What the machine can do.
    """
    rows = []
    layers = facts["weights"] - facts["head_weights"]  # a prompt needs the head only once
    for (kind, size), rate in rates.items():
        if kind == "prefill":
            name = f"{model} roofline: prefill {size}, matrices only"
            rows.append(product_row(name, 2 * layers, rate, ceilings))
        elif kind == "decode":
            name = f"{model} roofline: decode at {size}"
            read = facts["weight_bytes"] + size * facts["cache_bytes"]
            rows.append(read_row(name, read, rate, ceilings))
        else:
            name = f"{model} roofline: weights read by {size} streams"
            rows.append(read_row(name, facts["weight_bytes"], rate / size, ceilings))
    return rows + _attention_rows(model, rates, facts, ceilings)


def _attention_rows(
    model: str,
    rates: Mapping[tuple[str, int], float],
    facts: Mapping[str, int],
    ceilings: Ceilings,
) -> list[Row]:
    """From the difference between a long and a short context, all of which is attention's."""
    rows = []
    for kind in ("prefill", "decode"):
        sizes = sorted(size for k, size in rates if k == kind)
        if len(sizes) < 2:
            continue
        short, long = sizes[0], sizes[-1]
        seconds = 1 / rates[kind, long] - 1 / rates[kind, short]
        if seconds <= 0:
            continue  # too short to be told apart
        name = f"{model} roofline: attention, {kind} {long} beyond {short}"
        if kind == "decode":
            read = (long - short) * facts["cache_bytes"]
            rows.append(read_row(name, read, 1 / seconds, ceilings))
        else:
            operations = 4 * facts["attention_width"] * (long - short) / 2
            rows.append(
                Row(
                    name=name,
                    value=operations / seconds / 1e9,
                    unit="GFLOP/s",
                    peer="torch's product of two bfloat16 matrices",
                    peer_value=ceilings.bf16,
                )
            )
    return rows
