"""Eight answers at once beside llama.cpp, and how much of the time and of the machine is used."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from ceilings import Ceilings, measure
from copying import paper
from deepseek.core.llm import SamplingParams
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.tokenizer.prompt import encode_prompt
from engines import sizes_of
from llama_flags import VARIANTS, llama_name
from llama_server import LlamaServer
from peers import DECODE_PROMPT, Worker
from report import Row, paired_row, say_row
from roofline import product_row, read_row

STREAMS = 8
BATCHES: tuple[tuple[str, ...], ...] = ((), ("-ub", "1024", "-b", "2048"), ("-no-kvu",), ("-kvu",))
"""Flags of llama.cpp's server that are tried for many requests at once."""
AGAINST_LLAMA = (2.0, 3.0)
INSIDE = (0.85, 0.95)
"""Share of wall time in the model's passes."""
PREFILL, DECODE = (0.6, 0.85), (0.8, 0.85)
"""Shares of the measured ceilings."""
READ, WRITTEN = 512, 64
"""Tokens of the passes that are held against the ceilings."""


def texts_of(engine: Engine, n_texts: int, n_tokens: int) -> list[str]:
    """Different parts of the sample paper, each of about so many tokens."""
    ids = engine.encode("\n".join(page.text for page in paper().pages))
    step = (len(ids) - n_tokens) // max(1, n_texts - 1)
    return [engine.decode(ids[i * step : i * step + n_tokens]) for i in range(n_texts)]


def endless(engine: Engine, n_tokens: int) -> SamplingParams:
    """Exactly so many tokens, greedily."""
    never = dict.fromkeys(engine.tokenizer.eos_ids, -100.0)
    return SamplingParams(max_tokens=n_tokens, logit_bias=never)


def stream_rows(
    model: str,
    path: Path,
    program: Path | None,
    what: str,
    *,
    rounds: int,
    n_tokens: int,
    batches: Sequence[tuple[str, ...]] = BATCHES,
) -> list[Row]:
    """Whole requests, read and written, against the same of llama.cpp's server, and against the
    writing alone of its library, whose batches are made without any server."""
    n_threads = thread_count()[0]
    engine, _ = load_engine(model, threads=n_threads)
    texts = texts_of(engine, STREAMS, DECODE_PROMPT)
    library = Worker("llama.cpp", path, n_threads, **VARIANTS[1])
    server = None
    if program is not None:
        flags = fastest_batches((program, path), engine, texts, batches)
        server = LlamaServer(program, path, n_threads, flags, n_slots=STREAMS, context=1_024)
    ours, served, batched = list[float](), list[float](), list[float]()
    ids = [encode_prompt(engine.tokenizer, text) for text in texts]
    try:
        for _ in range(rounds):
            ours.append(STREAMS * n_tokens / seconds_of(engine, texts, endless(engine, n_tokens)))
            if server is not None:
                served.append(STREAMS * n_tokens / server.answer_all(ids, n_tokens)[0])
            batched.append(library.rate("streams", min(n_tokens, 100), STREAMS, 0))
    finally:
        library.close()
        if server is not None:
            server.close()
    name = f"{model} {STREAMS} requests at once, {DECODE_PROMPT} tokens read, {n_tokens} written"
    peer = f"{llama_name(what, VARIANTS[1])}, no server, writing only"
    rows = [rate_row(name, ours, batched, peer)]
    if server is not None:
        peer = f"llama-server {server.build}, {what}: {server.flags}"
        rows.insert(0, rate_row(name, ours, served, peer))
    for row in rows:
        say_row(row)
    return rows


def fastest_batches(
    server: tuple[Path, Path],
    engine: Engine,
    texts: Sequence[str],
    batches: Sequence[tuple[str, ...]],
) -> tuple[str, ...]:
    """llama.cpp's fastest flags for these, tried once each after a warm-up."""
    if len(batches) == 1:
        return batches[0]
    ids = [encode_prompt(engine.tokenizer, text) for text in texts]
    seconds = {}
    for flags in batches:
        program, path = server
        with LlamaServer(
            program, path, thread_count()[0], flags, n_slots=STREAMS, context=1_024
        ) as peer:
            peer.answer_all(ids, 2)
            seconds[flags] = peer.answer_all(ids, 32)[0]
    return min(seconds, key=lambda flags: seconds[flags])


def rate_row(name: str, ours: Sequence[float], theirs: Sequence[float], peer: str) -> Row:
    """Written tokens a second."""
    pairs = list(zip(ours, theirs, strict=True))
    return paired_row(name, "tokens/s", peer, pairs, [a / b for a, b in pairs], AGAINST_LLAMA)


def seconds_of(engine: Engine, texts: Sequence[str], params: SamplingParams) -> float:
    """To answer some prompts at once, of which nothing was read before."""
    engine.forget()
    start = time.perf_counter()
    for _ in engine.generate_many(texts, params):
        pass
    return time.perf_counter() - start


@dataclass(slots=True)
class Clock:
    """Seconds spent in calls."""

    seconds: float = 0.0


@contextmanager
def timed_passes(engine: Engine) -> Iterator[Clock]:
    """Counts the time in the decoder's two calls: the layers and the head."""
    assert isinstance(engine.runner, NativeRunner)
    decoder, clock = engine.runner.decoder, Clock()

    def timed(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def inner(*parts: object) -> torch.Tensor:
            start = time.perf_counter()
            try:
                return call(*parts)
            finally:
                clock.seconds += time.perf_counter() - start

        return inner

    with_time = {"run": timed(decoder.run), "logits": timed(decoder.logits)}
    vars(decoder).update(with_time)
    try:
        yield clock
    finally:
        for name in with_time:
            del vars(decoder)[name]


def inside_rows(model: str, *, rounds: int, n_tokens: int) -> list[Row]:
    """The share of wall time in the model's passes, greedily and with sampling."""
    engine, _ = load_engine(model, threads=thread_count()[0])
    greedy = endless(engine, n_tokens)
    drawn = replace(greedy, temperature=0.8, top_p=0.95, seed=1)
    rows = []
    for n_streams, params, how in (
        (STREAMS, greedy, "greedily"),
        (4 * STREAMS, greedy, "greedily"),
        (STREAMS, drawn, "drawn (0.8, top-p 0.95)"),
    ):
        texts, shares = texts_of(engine, n_streams, DECODE_PROMPT), []
        for _ in range(rounds):
            with timed_passes(engine) as clock:
                seconds = seconds_of(engine, texts, params)
            shares.append(clock.seconds / seconds)
        rows.append(
            Row(
                f"{model} time inside the model, {n_streams} requests {how}",
                median(shares),
                "share",
                rounds=rounds,
                low=min(shares),
                high=max(shares),
                must=INSIDE[0],
                moonshot=INSIDE[1],
            )
        )
        say_row(rows[-1])
    return rows


def roofline_rows(model: str, *, rounds: int) -> list[Row]:
    """What whole requests reach of the machine's ceilings, which are measured before and after."""
    n_threads = thread_count()[0]
    ceilings = measure(n_threads)
    engine, _ = load_engine(model, threads=n_threads)
    sizes = sizes_of(engine)
    (text,) = texts_of(engine, 1, READ)
    read, written = list[float](), list[float]()
    for _ in range(rounds):
        engine.forget()
        end = engine.generate(text, endless(engine, WRITTEN))
        read.append(end.n_prompt_tokens / end.prefill_seconds)
        written.append((WRITTEN - 1) / end.decode_seconds)
    ceilings = ceilings.or_better(measure(n_threads))
    layers = 2 * (sizes["weights"] - sizes["head_weights"])
    each = sizes["weight_bytes"] + (READ + WRITTEN // 2) * sizes["cache_bytes"]
    rows = [
        _share(product_row, f"{model} reading {READ} tokens", layers, read, ceilings, PREFILL),
        _share(read_row, f"{model} writing after {READ}", each, written, ceilings, DECODE),
    ]
    for row in rows:
        say_row(row)
    return rows


def _share(
    make: Callable[[str, float, float, Ceilings], Row],
    name: str,
    size: float,
    rates: Sequence[float],
    ceilings: Ceilings,
    musts: tuple[float, float],
) -> Row:
    row = make(f"{name}, through the engine", size, median(rates), ceilings)
    assert row.peer_value is not None
    shares = [size * rate / 1e9 / row.peer_value for rate in rates]
    return replace(
        row,
        rounds=len(rates),
        low=min(shares),
        high=max(shares),
        must=musts[0],
        moonshot=musts[1],
        judge="ratio",
    )
