"""The first token of a follow-up: beside reading everything anew, and after a restart."""

import inspect
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from copying import paper
from deepseek.core.llm import Message, SamplingParams
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.tokenizer.prompt import encode_prompt
from llama_server import LlamaServer
from report import Row, paired_row, say, say_row

HISTORY = (2_000, 8_000)
"""Tokens of a whole conversation."""
ROOM = 150
"""Of these, tokens of everything but the text that is talked about, at most."""
ANSWER = 24
FOLLOW_UP, RESTARTED, WARM_PEER = (20.0, 50.0), (5.0, 40.0), (1.0, 2.0)
PREFIX_OPTION = "prefixes"
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


def restart_rows(model: str, *, rounds: int, history: Sequence[int] = HISTORY) -> list[Row]:
    """With the conversation so far in a folder, in a new process; loading is not counted."""
    if not has_prefixes():
        say("restart: prefixes in a folder are not there yet, its rows are left out")
        return []
    return [restart_row(model, session, n_tokens, rounds) for n_tokens in history]


def restart_row(model: str, run: "Session", n_tokens: int, rounds: int) -> Row:
    """One length; each round has folders of its own."""
    cold, warm = list[float](), list[float]()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
            answer = run(model, folder, n_tokens, None)["answer"]
            for place, found in ((folder, warm), (empty, cold)):
                found.append(run(model, place, n_tokens, answer)["seconds"])
    name = f"{model} first token of a follow-up after a restart, {n_tokens:,} tokens so far"
    row = faster_row(name, warm, cold, "own, everything read anew", RESTARTED)
    say_row(row)
    return row


Session = Callable[[str, str, int, str | None], dict[str, Any]]
"""Runs `serve` in a process of its own."""


def session(model: str, folder: str, n_tokens: int, answer: str | None) -> dict[str, Any]:
    """What a process says: see `serve`."""
    job = json.dumps([model, folder, n_tokens, answer])
    command = [sys.executable, __file__, job]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def serve(model: str, folder: str, n_tokens: int, answer: str | None) -> dict[str, Any]:
    """Answer the first turn of a conversation, or, given that answer, time the next one.

    The folder keeps beginnings of prompts.
    """
    from deepseek.engine.prefix_folder import choose_prefixes  # type: ignore[import-not-found]

    settings = {PREFIX_OPTION: choose_prefixes(folder)}
    engine, _ = load_engine(model, threads=thread_count()[0], **settings)
    turns = conversation(engine, n_tokens)
    if answer is None:
        return {"answer": engine.generate(turns, SamplingParams(max_tokens=ANSWER)).text}
    engine.generate("Hello", SamplingParams(max_tokens=2))  # warm
    return {"seconds": first_token(engine, followed(turns, answer))}


def faster_row(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    peer: str,
    musts: tuple[float, float],
) -> Row:
    """Milliseconds; the ratio says how many times as long the other takes."""
    pairs = [(a * 1e3, b * 1e3) for a, b in zip(ours, theirs, strict=True)]
    return paired_row(name, "ms", peer, pairs, [b / a for a, b in pairs], musts)


if __name__ == "__main__":
    print(json.dumps(serve(*json.loads(sys.argv[1]))))
