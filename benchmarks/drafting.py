"""Speculation beside plain decoding, and beside llama.cpp's server with its best speculation.

Every round starts anew on all sides: a drafter that remembers the last round's answers would write
them down. What is timed is writing, from the first token to the last; prompts are read before.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from copying import COPIES, KINDS, Work, works_of
from deepseek.core.constraint import Constraint
from deepseek.core.llm import Completion, SamplingParams
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.tokenizer.prompt import encode_prompt
from deepseek.tokenizer.tokenizer import Tokenizer
from llama_server import SPECULATIONS, LlamaServer
from report import Row, paired_row, say, say_row

AGAINST_PLAIN = dict.fromkeys(COPIES, (3.0, 5.0)) | {"open chat": (0.98, 1.4)}
AGAINST_LLAMA = dict.fromkeys(COPIES, (1.0, 1.7))
WARM_TOKENS = 8

Load = Callable[[str], Engine]
"""Gives an engine with speculation `off` or `auto` that has answered nothing yet."""


@dataclass(slots=True)
class Written:
    """What one side wrote in one round of one kind of work."""

    n_tokens: int = 0
    """Without the first of each answer, which comes from reading the prompt."""
    seconds: float = 0.0
    n_drafted: int = 0
    n_accepted: int = 0
    answers: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.n_tokens / self.seconds

    def add(
        self, token_ids: tuple[int, ...], seconds: float, n_drafted: int, n_accepted: int
    ) -> None:
        """Count an answer."""
        self.n_tokens += max(0, len(token_ids) - 1)
        self.seconds += seconds
        self.n_drafted += n_drafted
        self.n_accepted += n_accepted
        self.answers.append(token_ids)


def can_speculate() -> bool:
    """Whether the engine has such an option."""
    return "speculation" in inspect.signature(load_engine).parameters


def loader(model: str) -> Load:
    """Loads a checkpoint."""
    return lambda speculation: load_engine(  # type: ignore[call-arg]
        model, threads=thread_count()[0], speculation=speculation
    )[0]


def speculation_rows(
    model: str, path: Path, program: Path | None, *, rounds: int, most: int, quick: bool
) -> list[Row]:
    """All rows of one checkpoint.

    Args:
        model: Its name.
        path: Its file.
        program: llama.cpp's server; None: without.
        rounds: In which all take turns.
        most: Tokens of an answer.
        quick: One request of each kind only, and few variants of llama.cpp.
    """
    if not can_speculate():
        say("speculation: not there yet, its rows are left out")
        return []
    works = {kind: works_of(kind)[: 1 if quick else None] for kind in KINDS}
    works = {kind: [work.shortened(most) for work in some] for kind, some in works.items()}
    flags = {}
    if program is not None:
        variants = list(SPECULATIONS)[:2] if quick else list(SPECULATIONS)
        flags = best_speculations(loader(model)("off").tokenizer, works, (program, path), variants)
    return compare(model, works, loader(model), (program, path), flags, rounds)


def best_speculations(
    tokenizer: Tokenizer,
    works: Mapping[str, Sequence[Work]],
    server: tuple[Path, Path],
    variants: Sequence[str],
) -> dict[str, str]:
    """llama.cpp's fastest way for each kind of work, tried on the first request of each."""
    rates: dict[str, dict[str, float]] = {kind: {} for kind in works}
    for variant in variants:
        for kind, some in works.items():
            with started(server, variant) as peer:
                rates[kind][variant] = ask_llama(peer, tokenizer, some[:1]).rate
            say(f"{kind}: llama.cpp with {variant} {rates[kind][variant]:.1f} tokens/s")
    return {kind: max(found, key=lambda v: found[v]) for kind, found in rates.items()}


def compare(
    model: str,
    works: Mapping[str, Sequence[Work]],
    load: Load,
    server: tuple[Path | None, Path],
    flags: Mapping[str, str],
    rounds: int,
) -> list[Row]:
    """All kinds of work on all sides, taking turns."""
    program, path = server
    rows, tokenizer = list[Row](), load("off").tokenizer
    for kind, some in works.items():
        plain, drafted, theirs = list[Written](), list[Written](), list[Written]()
        peer_name = ""
        for number in range(rounds):
            sides = [("off", plain), ("auto", drafted)]
            for speculation, found in sides if number % 2 == 0 else reversed(sides):
                found.append(ask_ours(load(speculation), some))
            if program is not None:
                with started((program, path), flags[kind]) as peer:
                    theirs.append(ask_llama(peer, tokenizer, some))
                    peer_name = f"llama-server {peer.build}, {flags[kind]}: {peer.flags}"
        name, new = f"{model} speculation: {kind}", list[Row]()
        new += own_rows(name, plain, drafted, AGAINST_PLAIN[kind])
        if theirs:
            musts = AGAINST_LLAMA.get(kind, (None, None))
            new.append(ratio_row(name, drafted, theirs, peer_name, musts))
        for row in new:
            say_row(row)
        rows += new
    return rows


def own_rows(
    name: str,
    plain: Sequence[Written],
    drafted: Sequence[Written],
    musts: tuple[float | None, float | None],
) -> list[Row]:
    """Speculation against none: how much faster, whether the answers are the same, what was kept
    of the drafts."""
    pairs = [
        (mine, other)
        for a, b in zip(plain, drafted, strict=True)
        for mine, other in zip(a.answers, b.answers, strict=True)
    ]
    same = sum(a == b for a, b in pairs) / len(pairs)
    rows = [
        ratio_row(name, drafted, plain, "own plain decoding", musts),
        Row(f"{name}, same answers", same, "share", rounds=len(plain), must=1.0, moonshot=1.0),
    ]
    n_drafted = sum(written.n_drafted for written in drafted)
    if n_drafted:
        kept = sum(written.n_accepted for written in drafted) / n_drafted
        rows.append(Row(f"{name}, accepted of drafted tokens", kept, "share", rounds=len(drafted)))
    return rows


def ratio_row(
    name: str,
    ours: Sequence[Written],
    theirs: Sequence[Written],
    peer: str,
    musts: tuple[float | None, float | None],
) -> Row:
    """Medians of both, and the ratio's range over the rounds."""
    pairs = [(a.rate, b.rate) for a, b in zip(ours, theirs, strict=True)]
    return paired_row(name, "tokens/s", peer, pairs, [a / b for a, b in pairs], musts)


def ask_ours(engine: Engine, works: Sequence[Work]) -> Written:
    """Answer some requests, one after the other."""
    engine.generate("Hello", SamplingParams(max_tokens=WARM_TOKENS))
    written = Written()
    for work in works:
        constraint = None if work.schema is None else Constraint.json_schema(work.schema)
        params = SamplingParams(max_tokens=work.max_tokens, stop=work.stop, constraint=constraint)
        end = engine.generate(work.prompt, params)
        written.add(end.token_ids, end.decode_seconds, *drafts_of(end))
    return written


def drafts_of(end: Completion) -> tuple[int, int]:
    """Drafted and accepted tokens, where the engine tells."""
    return getattr(end, "n_drafted", 0), getattr(end, "n_accepted", 0)


def ask_llama(peer: LlamaServer, tokenizer: Tokenizer, works: Sequence[Work]) -> Written:
    """The same requests, as the same token ids."""
    peer.answer(encode_prompt(tokenizer, "Hello"), WARM_TOKENS)
    written = Written()
    for work in works:
        ids = encode_prompt(tokenizer, work.prompt)
        found = peer.answer(ids, work.max_tokens, stop=work.stop, schema=work.schema)
        written.add(found.token_ids, found.seconds, found.n_drafted, found.n_accepted)
    return written


@contextmanager
def started(server: tuple[Path, Path], variant: str) -> Iterator[LlamaServer]:
    """llama.cpp's server with a way to speculate."""
    program, path = server
    with LlamaServer(program, path, thread_count()[0], SPECULATIONS[variant]) as peer:
        yield peer
