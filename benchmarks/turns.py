"""The first token of a follow-up: beside reading everything anew, and after a restart."""

import inspect
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from copying import paper
from deepseek.core.llm import Message, SamplingParams
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.tokenizer.prompt import encode_prompt
from llama_server import LlamaServer
from report import Row, say, say_row

HISTORY = (2_000, 8_000)
"""Tokens of a whole conversation."""
ROOM = 150
"""Of these, tokens of everything but the text that is talked about, at most."""
ANSWER = 24
FOLLOW_UP, RESTARTED, WARM_PEER = (20.0, 50.0), (5.0, 40.0), (1.0, 2.0)
PREFIX_OPTION = "kv_prefixes"
"""Of `load_engine`: a folder in which beginnings of prompts outlive the process."""


def conversation(engine: Engine, n_tokens: int) -> tuple[Message, ...]:
    """A question about a text of about so many tokens, to be answered and followed up."""
    text = "\n".join(page.text for page in paper().pages)
    ids = engine.encode(text)[: n_tokens - ROOM]
    asked = f"{engine.decode(ids)}\n\nWhat is this text about? Answer in one sentence."
    return (Message("user", asked),)


def followed(turns: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """The same conversation a turn later."""
    return (*turns, Message("assistant", answer), Message("user", "Who are its authors?"))


def first_token(engine: Engine, turns: Sequence[Message]) -> float:
    """Seconds from asking to the first piece of the answer."""
    start = time.perf_counter()
    stream = engine.stream(turns, SamplingParams(max_tokens=1))
    next(stream)
    return time.perf_counter() - start


def follow_up_rows(
    model: str, path: Path, program: Path | None, *, rounds: int, history: Sequence[int] = HISTORY
) -> list[Row]:
    """With the conversation so far in memory."""
    engine, _ = load_engine(model, threads=thread_count()[0])
    peer = None if program is None else LlamaServer(program, path, thread_count()[0])
    try:
        rows = []
        for n_tokens in history:
            rows += _follow_up(model, engine, peer, n_tokens, rounds)
    finally:
        if peer is not None:
            peer.close()
    return rows


def _follow_up(
    model: str, engine: Engine, peer: LlamaServer | None, n_tokens: int, rounds: int
) -> list[Row]:
    turns = conversation(engine, n_tokens)
    cold, warm, theirs = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        engine.forget()
        answer = engine.generate(turns, SamplingParams(max_tokens=ANSWER)).text
        later = followed(turns, answer)
        warm.append(first_token(engine, later))
        engine.forget()
        cold.append(first_token(engine, later))
        if peer is not None:
            peer.answer(encode_prompt(engine.tokenizer, turns), ANSWER, reuses=True)
            ids = encode_prompt(engine.tokenizer, later)
            theirs.append(peer.answer(ids, 1, reuses=True).latency)
    name = f"{model} first token of a follow-up, {n_tokens:,} tokens so far"
    rows = [faster_row(name, warm, cold, "own, everything read anew", FOLLOW_UP)]
    if peer is not None:
        name_of_peer = f"llama-server {peer.build}, its cache: {peer.flags}"
        rows.append(faster_row(name, warm, theirs, name_of_peer, WARM_PEER))
    for row in rows:
        say_row(row)
    return rows


def has_prefixes() -> bool:
    """Whether beginnings of prompts can outlive the process."""
    return PREFIX_OPTION in inspect.signature(load_engine).parameters


def restart_rows(
    model: str, *, rounds: int, history: Sequence[int] = HISTORY, option: str = PREFIX_OPTION
) -> list[Row]:
    """With the conversation so far in a folder, after loading anew; loading is not counted."""
    if not has_prefixes():
        say("restart: prefixes in a folder are not there yet, its rows are left out")
        return []

    def load(folder: str) -> Engine:
        settings = {option: folder}
        return load_engine(model, threads=thread_count()[0], **settings)[0]  # type: ignore[arg-type]

    return [restart_row(model, load, n_tokens, rounds) for n_tokens in history]


def restart_row(model: str, load: Callable[[str], Engine], n_tokens: int, rounds: int) -> Row:
    """One length; each round has folders of its own."""
    cold, warm = list[float](), list[float]()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
            before = load(folder)
            turns = conversation(before, n_tokens)
            answer = before.generate(turns, SamplingParams(max_tokens=ANSWER)).text
            before.forget()
            del before
            later = followed(turns, answer)
            for place, found in ((folder, warm), (empty, cold)):
                engine = load(place)
                engine.generate("Hello", SamplingParams(max_tokens=2))
                found.append(first_token(engine, later))
                del engine
    name = f"{model} first token of a follow-up after a restart, {n_tokens:,} tokens so far"
    row = faster_row(name, warm, cold, "own, everything read anew", RESTARTED)
    say_row(row)
    return row


def faster_row(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    peer: str,
    musts: tuple[float, float],
) -> Row:
    """Milliseconds; the ratio says how many times as long the other takes."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Row(
        name=name,
        value=median(ours) * 1e3,
        unit="ms",
        peer=peer,
        peer_value=median(theirs) * 1e3,
        ratio=median(ratios),
        rounds=len(ratios),
        low=min(ratios),
        high=max(ratios),
        must=musts[0],
        moonshot=musts[1],
        judge="ratio",
    )
