"""`make train-tiny`: from nothing to a model that one can chat with, in steps that can be killed.

Each step is a command that is shown, timed, and left out when its result is there. In the end the
model is asked a few things, and a report is written beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek.weights.cache import write_atomically

HERE = Path(__file__).parent
ROOT = HERE.parent
OUT = ROOT / "out" / "train-tiny"
SOURCES = "prose reference code maths logic"
"""What is cleaned; conversations are short and made for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command, and what is there when it is done."""

    name: str
    command: Sequence[str]
    result: Path | None = None
    """Without one it is always run: it finds out itself what is left to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, help="of training; default: as many as there are")
    parser.add_argument("--fresh", action="store_true", help="begin anew, with fresh texts")
    args = parser.parse_args()
    if args.fresh:
        import shutil

        shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    for step in steps(args.threads):
        if step.result is None or not step.result.exists():
            run(step)
    say(f"\nreport with curves: {OUT / 'run' / 'report.html'}")
    say(f"the same in short:  {OUT / 'train-tiny.md'}")
    say(f"next: deepseek chat --model {OUT / 'run' / 'model'} --temperature 0")
    say(f"next: deepseek tune {OUT / 'run' / 'model'} your-answers.jsonl --full --out runs/mine")


def steps(threads: int | None) -> Iterator[Step]:
    """All of them, in order."""
    python, deepseek = sys.executable, (sys.executable, "-m", "deepseek")
    for name in ("django-docs", "chatterbot-corpus", "evaluation-data"):
        yield Step(name=f"pull {name}", command=(*deepseek, "pull", name))
    yield Step(
        name="make texts",
        command=(python, str(HERE / "tiny_texts.py"), str(OUT / "texts")),
        result=OUT / "texts" / "talk.jsonl",  # written last
    )
    index = OUT / "index.npz"
    yield Step(
        name="index evaluation texts",
        command=(*deepseek, "eval", "index", "--out", str(index)),
        result=index,
    )
    config = ROOT / "configs" / "data" / "train-tiny.toml"
    yield Step(
        name="clean",
        command=(*deepseek, "data", "clean", str(config), "--out", str(OUT / "cleaned")),
        result=OUT / "cleaned" / "clean.json",
    )
    yield Step(
        name="split by source",
        command=(python, str(HERE / "tiny_split.py"), str(OUT / "cleaned"), str(OUT / "corpus")),
        result=OUT / "corpus" / f"{SOURCES.split()[-1]}.jsonl",
    )
    config = ROOT / "configs" / "train-r1-tiny.toml"
    options = () if threads is None else ("--set", f"run.threads={threads}")
    yield Step(
        name="train",
        command=(*deepseek, "train", str(config), "--out", str(OUT / "run"), "--resume", *options),
    )
    yield Step(name="chat", command=(python, str(HERE / "tiny_chat.py"), str(OUT)))
    yield Step(name="report", command=(python, str(HERE / "tiny_report.py"), str(OUT)))


def run(step: Step) -> None:
    """Run a command and remember what it took, also of parts that were killed."""
    words = [Path(word).name if word == sys.executable else word for word in step.command]
    say(f"\n[{step.name}] {' '.join(word.replace(f'{ROOT}/', '') for word in words)}")
    begun = time.perf_counter()
    process = subprocess.Popen(step.command, cwd=ROOT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:  # the child got it, too, and saves its state
        _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    remember(step.name, time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage)
    if code:
        say(f"[{step.name}] ended with {code}; `make train-tiny` goes on from here")
        raise SystemExit(code if code > 0 else 128 - code)


def remember(name: str, seconds: float, work: float, usage: Any) -> None:
    """Add to what a step has taken: seconds by the clock and of processors, peak of memory."""
    file = OUT / "steps.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    before = known.get(name, {"seconds": 0.0, "work": 0.0, "memory": 0})
    known[name] = asdict(
        Taken(
            seconds=before["seconds"] + seconds,
            work=before["work"] + work,
            memory=max(before["memory"], usage.ru_maxrss * 1024),
        )
    )
    write_atomically(file, json.dumps(known, indent=1).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a step took."""

    seconds: float
    work: float
    """Seconds of processors."""
    memory: int
    """Bytes at its peak."""


def say(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
