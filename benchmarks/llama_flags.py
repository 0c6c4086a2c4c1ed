"""llama.cpp's fastest settings on this machine, for each kind of job."""

import itertools
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import DECODE_PROMPT, Worker

CONTEXT = 2_048
"""Stands for a long context when settings are chosen."""
VARIANTS: tuple[dict[str, Any], ...] = tuple(
    {"n_batch": size, "n_ubatch": size, "flash_attn": flash}
    for size, flash in itertools.product((512, 2_048), (False, True))
)
Settings = dict[str, Any]


@dataclass(slots=True)
class Flags:
    """Settings by kind of job; what is given here was the fastest where it was tried first."""

    prefill: Settings = field(default_factory=lambda: VARIANTS[1])
    decode: Settings = field(default_factory=lambda: VARIANTS[1])
    far: Settings = field(default_factory=lambda: VARIANTS[1])
    """To decode at a long context."""
    streams: Settings = field(default_factory=lambda: VARIANTS[1])
    unified: bool = True
    """One buffer for the caches of all streams."""

    def of(self, kind: str, size: int) -> Settings:
        """The settings for a job."""
        if kind == "decode" and size > DECODE_PROMPT:
            return self.far
        settings: Settings = getattr(self, kind)
        return settings


def fastest_flags(model: str, path: Path, n_threads: int) -> Flags:
    """Try all variants: a prompt once, which is long enough, and the rest twice."""
    found: dict[str, list[tuple[float, Settings, bool]]] = {}

    def take(kind: str, rate: float, variant: Settings, unified: bool = True) -> None:
        found.setdefault(kind, []).append((rate, variant, unified))
        layout = f", {cache_layout(unified)}" if kind == "streams" else ""
        say(f"{model} {kind}: llama.cpp {variant}{layout} {rate:.1f} tokens/s")

    for variant in VARIANTS:
        worker = Worker("llama.cpp", path, n_threads, **variant)
        take("prefill", worker.rate("prefill", CONTEXT), variant)
        take("far", max(worker.rate("decode", 16, CONTEXT) for _ in range(2)), variant)
        take("decode", max(worker.rate("decode", 32) for _ in range(2)), variant)
        if variant["n_batch"] == VARIANTS[0]["n_batch"]:  # a step of eight tokens fits in any
            for unified in (False, True):
                rate = max(worker.rate("streams", 8, 8, int(unified)) for _ in range(2))
                take("streams", rate, variant, unified)
        worker.close()
    best = {kind: max(tried, key=lambda one: one[0]) for kind, tried in found.items()}
    return Flags(
        **{kind: settings for kind, (_, settings, _) in best.items()}, unified=best["streams"][2]
    )


def llama_name(what: str, flags: Settings) -> str:
    """llama.cpp with what it reads and how, for a results file."""
    settings = ", ".join(f"{name}={value}" for name, value in flags.items())
    return f"llama-cpp-python {version('llama-cpp-python')}, {what}, {settings}"


def cache_layout(unified: bool) -> str:
    """For people."""
    return f"kv_unified={unified}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
