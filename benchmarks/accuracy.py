"""What 8-bit products cost in accuracy, beside llama.cpp on the same file.

    python benchmarks/accuracy.py [--models smollm2-135m qwen2.5-coder-1.5b] [--tokens 25000]

The reference are the dequantised weights in float32. Papers and code are read in windows of
1,024 tokens, every token but a window's first is predicted, and all three engines get the same
token ids. A finished window is written down (in the cache folder, under the state of the code),
so that a run that was stopped goes on. Writes benchmarks/results/accuracy.json and .md after
each model, unless fewer tokens of a kind are asked for. Memory: about 5 bytes a weight, and
3 GB for the logits of a model of 150,000 tokens.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import deepseek
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.ops import native
from deepseek.weights.cache import home
from deepseek.weights.pull import ensure
from held_out import describe, documents, windows
from report import Row, write_results

FORMATS = {"smollm2-135m": "Q4_1", "qwen2.5-coder-1.5b": "Q4_K_M"}
WINDOW = 1_024
ENOUGH = 25_000
ROWS = 128  # positions compared at a time: bounds the memory of the comparison
RESAMPLES = 2_000
MUST = 1.005


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine's predictions of a window against the reference's, token by token."""

    nats: list[float]
    divergence: list[float]
    """Kullback-Leibler, in nats, of the engine's distribution from the reference's."""
    agrees: list[bool]
    """Whether the likeliest token is the same."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was found out about one window."""

    reference: list[float]
    """Nats a token."""
    ours: Comparison
    theirs: Comparison


class LlamaLogits:
    """llama.cpp with the logits of all positions."""

    def __init__(self, path: Path, n_threads: int) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=WINDOW,
            n_batch=512,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            logits_all=True,
            verbose=False,
        )

    def tokens(self, text: str) -> list[int]:
        """Its own token ids."""
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=False)
        return ids

    def logits(self, ids: Sequence[int]) -> Float[Tensor, "T V"]:
        """After each token; overwritten by the next call."""
        self._llama.reset()
        self._llama.eval(ids)
        return torch.from_numpy(np.asarray(self._llama.scores[: len(ids)]))


class Trio:
    """The reference, ours and llama.cpp on one checkpoint; loaded when first asked."""

    def __init__(self, model: str) -> None:
        self._path, (n_threads, _) = ensure(model).path, thread_count()
        self.peer = LlamaLogits(self._path, n_threads)
        self._ours = self._engine("int8", n_threads)
        self._reference = self._engine("float32", n_threads)
        self.encode = self._ours.tokenizer.encode

    def compare(self, ids: list[int]) -> Window:
        """All three on one window."""
        wanted = torch.tensor(ids[1:])
        exact = all_logits(self._reference, ids)
        ours = compare(exact, all_logits(self._ours, ids)[:-1], wanted)
        theirs = compare(exact, self.peer.logits(ids)[:-1], wanted)
        return Window(nats_of(exact, wanted), ours, theirs)

    def _engine(self, dtype: str, n_threads: int) -> Engine:
        engine, _ = load_engine(str(self._path), threads=n_threads, dtype=dtype)
        return engine


def all_logits(engine: Engine, ids: list[int]) -> Float[Tensor, "T V"]:
    """Logits after each token of a window that is read from scratch."""
    engine.forget()
    return engine.runner.extend(ids)


def compare(
    exact: Float[Tensor, "T V"], other: Float[Tensor, "N V"], wanted: Int[Tensor, " N"]
) -> Comparison:
    """Token by token, some rows at a time."""
    divergence: list[float] = []
    agrees: list[bool] = []
    for start in range(0, len(wanted), ROWS):
        rows = slice(start, min(start + ROWS, len(wanted)))
        p = torch.log_softmax(exact[rows].double(), dim=1)
        q = torch.log_softmax(other[rows].double(), dim=1)
        divergence += (p.exp() * (p - q)).sum(dim=1).tolist()
        agrees += (p.argmax(dim=1) == q.argmax(dim=1)).tolist()
    return Comparison(nats_of(other, wanted), divergence, agrees)


def nats_of(logits: Float[Tensor, "T V"], wanted: Int[Tensor, " N"]) -> list[float]:
    """Negative log-probability of each wanted token."""
    nats: list[float] = []
    for start in range(0, len(wanted), ROWS):
        rows = slice(start, min(start + ROWS, len(wanted)))
        found = torch.nn.functional.cross_entropy(
            logits[rows].double(), wanted[rows], reduction="none"
        )
        nats += found.tolist()
    return nats


@torch.inference_mode()
def run_windows(model: str, kind: str, trio: Trio, chosen: list[list[int]]) -> Iterator[Window]:
    """The windows in order; those that are written down are not run again."""
    journal = home() / "benchmarks" / f"accuracy-{model}-{kind}-{fingerprint()}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    known = dict(_read(journal))
    for number, ids in enumerate(chosen):
        key = hashlib.sha256(str(ids).encode()).hexdigest()[:16]
        if key not in known:
            known[key] = trio.compare(ids)
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, asdict(known[key])]) + "\n")
        say_progress(model, kind, number, len(chosen), known[key])
        yield known[key]


def _read(journal: Path) -> Iterator[tuple[str, Window]]:
    """What a journal holds; a line that was cut off is left out."""
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        try:
            key, window = json.loads(line)
        except ValueError:
            continue
        ours, theirs = (Comparison(**window[name]) for name in ("ours", "theirs"))
        yield key, Window(window["reference"], ours, theirs)


def fingerprint() -> str:
    """Of everything that decides what our engine computes."""
    digest = hashlib.sha256(native.level().encode())
    for file in sorted(Path(deepseek.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    if found := native.library():
        digest.update(Path(found._name).read_bytes())
    digest.update(version("llama-cpp-python").encode())
    return digest.hexdigest()[:12]


def rows_of(model: str, kind: str, found: Sequence[Window]) -> list[Row]:
    """Perplexity, divergence and agreement; ranges are 95 % over resampled windows."""
    n_tokens = sum(len(window.reference) for window in found)
    name = f"{model} {kind}"
    peer = f"llama-cpp-python {version('llama-cpp-python')}, {FORMATS[model]}"
    source = f"{n_tokens:,} tokens of {describe(kind)}"
    exact = [sum(window.reference) for window in found]
    ours = [sum(window.ours.nats) for window in found]
    theirs = [sum(window.theirs.nats) for window in found]
    low, high = _range_of_ratio(ours, exact, found)
    beside = _range_of_ratio(ours, theirs, found)
    divergence = [np.array([d for w in found for d in w.ours.divergence])]
    divergence.append(np.array([d for w in found for d in w.theirs.divergence]))
    shares = [np.mean([a for w in found for a in w.ours.agrees])]
    shares.append(np.mean([a for w in found for a in w.theirs.agrees]))
    rest: dict[str, Any] = {"peer": peer, "better": "lower"}
    return [
        Row(f"{name} perplexity in float32, {source}", float(np.exp(sum(exact) / n_tokens)), ""),
        Row(
            f"{name} perplexity int8 / float32",
            float(np.exp((sum(ours) - sum(exact)) / n_tokens)),
            "times",
            peer_value=float(np.exp((sum(theirs) - sum(exact)) / n_tokens)),
            low=low,
            high=high,
            must=MUST,
            **rest,
        ),
        Row(
            f"{name} perplexity int8",
            float(np.exp(sum(ours) / n_tokens)),
            "",
            peer_value=float(np.exp(sum(theirs) / n_tokens)),
            low=beside[0],
            high=beside[1],
            must=1.0,
            judge="ratio",
            **rest,
        ),
        *(
            Row(
                f"{name} {which} KL to float32",
                float(of(divergence[0])),
                "nats",
                peer_value=float(of(divergence[1])),
                **rest,
            )
            for which, of in (("mean", np.mean), ("median", np.median))
        ),
        Row(
            f"{name} same likeliest token as float32",
            float(shares[0]),
            "share",
            peer=peer,
            peer_value=float(shares[1]),
        ),
    ]


def _range_of_ratio(
    ours: Sequence[float], theirs: Sequence[float], found: Sequence[Window]
) -> tuple[float, float]:
    """95 % of the perplexity ratios of windows drawn with replacement."""
    draw, numbers = random.Random(0), range(len(found))
    ratios = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(numbers, k=len(found))
        n_tokens = sum(len(found[i].reference) for i in chosen)
        ratios.append(np.exp(sum(ours[i] - theirs[i] for i in chosen) / n_tokens))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def tokenisation_row(model: str, kind: str, trio: Trio, texts: list[str]) -> Row:
    """How many documents both engines cut alike."""
    alike = sum(trio.encode(text) == trio.peer.tokens(text) for text in texts)
    return Row(
        f"{model} {kind} documents of {len(texts)} that llama.cpp cuts into the same tokens",
        alike / len(texts),
        "share",
        must=1.0,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--kinds", nargs="+", default=["text", "code"], choices=["text", "code"])
    parser.add_argument("--tokens", type=int, default=ENOUGH, help="predicted, of each kind")
    args = parser.parse_args(arguments)
    n_windows = -(-args.tokens // (WINDOW - 1))
    rows: list[Row] = []
    for model in args.models:
        trio = Trio(model)
        for kind in args.kinds:
            texts = documents(kind)
            chosen = windows(texts, trio.encode, WINDOW, n_windows)
            found = list(run_windows(model, kind, trio, chosen))
            rows += rows_of(model, kind, found)
            rows.append(tokenisation_row(model, kind, trio, texts[:50]))
            for row in rows[-7:]:
                peer = "" if row.peer_value is None else f", llama.cpp {row.peer_value:.5g}"
                spread = "" if row.low is None else f" ({row.low:.5g} – {row.high:.5g})"
                say(f"{row.name}: {row.value:.5g} {row.unit}{peer}{spread}")
        del trio
        if args.tokens >= ENOUGH:
            write_results("accuracy", rows, [sys.argv[0], *(arguments or sys.argv[1:])])


def say_progress(model: str, kind: str, number: int, count: int, window: Window) -> None:
    """One line a window."""
    per = [np.mean(x) for x in (window.reference, window.ours.nats, window.theirs.nats)]
    kl = [np.mean(window.ours.divergence), np.mean(window.theirs.divergence)]
    say(
        f"{model} {kind} {number + 1}/{count}: nats {per[0]:.4f}, ours {per[1]:.4f}, "
        f"llama.cpp {per[2]:.4f}; KL {kl[0]:.5f}, {kl[1]:.5f}"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
