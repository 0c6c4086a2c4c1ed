"""Sessions with a common beginning: what pages they save. And the same prompt a thousand times."""

from random import Random

from copying import paper
from deepseek.core.llm import SamplingParams
from deepseek.core.threads import thread_count
from deepseek.engine.answer import Answer
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.request import Request
from deepseek.engine.scheduler import Limits, Scheduler
from report import Row, read_rows, say, say_row

SESSIONS, COMMON, OWN, ANSWER = 16, 2_000, 24, 16
"""Sessions, and tokens of each: common ones, own ones, and those of the answer."""
SAVED = (8.0, 14.0)
RUNS, MOST = 1_000, 12
"""Runs of one prompt, and most requests of a batch."""
COST = (10.0, 3.0)
"""Most that equal bits may cost, in percent of time."""


def shared_rows(model: str) -> list[Row]:
    """Bytes of keys and values while all sessions run, and if each had its own: both counted."""
    engine, _ = load_engine(model, threads=thread_count()[0])
    assert isinstance(engine.runner, NativeRunner)
    pool = engine.runner.decoder.pool
    together = most_pages(engine, SESSIONS)
    alone = SESSIONS * most_pages(engine, 1)
    row = Row(
        f"{model} keys and values of {SESSIONS} sessions, {COMMON:,} of {COMMON + OWN + ANSWER:,} "
        "tokens in common",
        together * pool.page_bytes / 2**20,
        "MiB",
        "each with pages of its own",
        alone * pool.page_bytes / 2**20,
        ratio=alone / together,
        must=SAVED[0],
        moonshot=SAVED[1],
        judge="ratio",
    )
    say_row(row)
    return [row]


def most_pages(engine: Engine, n_sessions: int) -> int:
    """Pages in use at most while so many sessions are answered side by side, from nothing."""
    runner = engine.runner
    assert isinstance(runner, NativeRunner)
    engine.forget()
    limits = Limits(n_pages=1 << 20, n_kept=1 << 20)
    scheduler = Scheduler(runner.decoder, limits, runner.hierarchy)
    text = engine.encode("\n".join(page.text for page in paper().pages))
    params = SamplingParams(
        max_tokens=ANSWER, logit_bias=dict.fromkeys(engine.tokenizer.eos_ids, -100.0)
    )
    for number in range(n_sessions):
        start = COMMON + number * OWN
        ids = [*text[:COMMON], *text[start : start + OWN]]
        scheduler.add(Request(ids, Answer(engine.tokenizer, params, ids), ANSWER))
    most, n_running = 0, 0
    while not scheduler.is_idle:
        scheduler.step()
        most = max(most, runner.decoder.pool.n_used)
        n_running = max(n_running, len(scheduler.running))
    assert n_running == n_sessions, "all run side by side"
    scheduler.tree.clear()
    assert not runner.decoder.pool.n_used, "no page is lost"
    return most


def sameness_rows(model: str, *, runs: int = RUNS, seed: int = 0) -> list[Row]:
    """Distinct greedy answers to one prompt among ever other requests, cached or not."""
    engine, _ = load_engine(model, threads=thread_count()[0])
    generator, words = Random(seed), "\n".join(page.text for page in paper().pages).split()

    def words_of(most: int) -> str:
        start = generator.randrange(len(words) - most)
        return " ".join(words[start : start + generator.randrange(1, most)])

    prompt = f"{' '.join(words[200:330])}\n\nIn other words,"
    params = SamplingParams(max_tokens=24)
    answers, n_runs = set[tuple[int, ...]](), 0
    while n_runs < runs:
        n_mine = min(generator.randrange(1, 5), runs - n_runs)
        beside = [words_of(150) for _ in range(generator.randrange(MOST - n_mine))]
        batch = [(prompt, params)] * n_mine
        batch += [
            (text, SamplingParams(max_tokens=generator.randrange(1, 24), temperature=1.0))
            for text in beside
        ]
        generator.shuffle(batch)
        if generator.random() < 0.5:
            engine.forget()
        elif generator.random() < 0.5:  # a beginning of it is there, and goes on differently
            engine.generate(prompt[: generator.randrange(1, len(prompt))], params)
        prompts, each = [text for text, _ in batch], [one for _, one in batch]
        for index, end in engine.generate_many(prompts, each):
            if prompts[index] is prompt:
                answers.add(end.token_ids)
        n_runs += n_mine
    name = f"{model} distinct greedy answers of {runs:,} runs in random batches"
    rows = [Row(name, len(answers), "answers", rounds=runs, must=1.0, moonshot=1.0, better="lower")]
    rows += cost_rows(model)
    for row in rows:
        say_row(row)
    return rows


def cost_rows(model: str) -> list[Row]:
    """What equal bits cost eight streams, if `make bench-invariance` has measured it."""
    found = [
        row
        for row in read_rows("invariance")
        if row.name.startswith(f"{model} 8 streams") and row.name.endswith("cost of invariance")
    ]
    for row in found:
        row.must, row.moonshot = COST
    if not found:
        say(f"{model}: what equal bits cost is not known; make bench-invariance measures it")
    return found
