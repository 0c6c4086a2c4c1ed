"""Our harness beside lm-eval with transformers: same weights, same items, item by item.

    python benchmarks/lm_eval_parity.py --peer PYTHON [--model smollm2-135m] [--limit 200]

PYTHON is one that has lm-eval[hf] 0.4.13 and torch. Both sides compute in float32 for the
comparison; 5-shot MMLU is then timed with each at its fastest settings, taking turns. Writes
benchmarks/results/lm_eval_parity.json and .md, and the items that differ to
lm_eval_differences.json.
"""

import argparse
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from deepseek.core.llm import ScoreRequest
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.eval.harness import run_task
from deepseek.eval.task import Choice, Item, Setup, grade_choice, sample_items
from deepseek.eval.tasks.mmlu import SUBJECTS
from deepseek.eval.tasks.table import find_task
from deepseek.model.checkpoint import load_model, save_model
from deepseek.tokenizer.vocabulary import vocabulary_of_gguf
from deepseek.weights.pull import ensure
from deepseek.weights.source import open_weights
from lm_eval_tasks.comparison import Comparison, compare_choices, compare_texts
from lm_eval_tasks.documents import places, write_documents
from report import RESULTS, Row, write_results

TASKS = (
    "mmlu,hellaswag,arc_easy,arc_challenge,piqa,boolq,gsm8k,humaneval_completion,mbpp_completion"
)
SCORED_TOGETHER, GENERATED_TOGETHER = 4, 16
"""lm-eval's batch sizes: it holds the logits of all tokens of a batch, in float32 gigabytes."""
BATCHES = (1, 4, 8)
PER_SUBJECT = 20


class Peer:
    """A process that runs lm-eval."""

    def __init__(self, python: str, model: Path, documents: Path, dtype: str) -> None:
        script = Path(__file__).parent / "lm_eval_tasks" / "peer.py"
        command = [python, str(script), str(model), str(documents), str(thread_count()[0]), dtype]
        self.documents = documents
        documents.mkdir(exist_ok=True)
        self.log = documents / f"{dtype}.log"
        pipe = subprocess.PIPE
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=log, text=True
            )

    def ask(
        self, items: dict[str, list[int]], shots: int, batch: int
    ) -> tuple[float, dict[str, list[dict[str, Any]]]]:
        """Seconds from requests to results, and what lm-eval logged of each item."""
        out = self.documents / "out.json"
        job = {"items": items, "shots": shots, "batch": batch, "out": str(out)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:  # lm-eval prints to it as well
            if line.startswith("seconds "):
                return float(line.split()[1]), json.loads(out.read_text(encoding="utf-8"))
        raise RuntimeError(f"lm-eval ended:\n{self.log.read_text()[-2_000:]}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", required=True, help="a Python that has lm-eval[hf]")
    parser.add_argument("--model", default="smollm2-135m", help="a GGUF checkpoint")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--limit", type=int, default=200, help="items of each task")
    parser.add_argument("--rounds", type=int, default=5, help="of timing; 0: none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(thread_count()[0])
    with tempfile.TemporaryDirectory(prefix="deepseek-parity-") as scratch:
        folder = Path(scratch)
        export(ensure(args.model).path, folder / "model")
        rows: list[Row] = []
        # Written after each task: the whole takes long.
        for part in compare(args, [name for name in args.tasks.split(",") if name], folder):
            rows += part
            write_results("lm_eval_parity", rows, sys.argv, args.out)
        if args.rounds:
            rows += race(args, folder)
            write_results("lm_eval_parity", rows, sys.argv, args.out)


def export(path: Path, folder: Path) -> None:
    """A GGUF file as a folder that transformers loads, with the values that we compute with."""
    source = open_weights(path)
    save_model(load_model(source, dtype=torch.float32, pack=False), folder)
    vocabulary = vocabulary_of_gguf(source.metadata)
    backend = vocabulary.backend
    backend.save(str(folder / "tokenizer.json"))
    end = source.metadata["tokenizer.ggml.eos_token_id"]
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": backend.id_to_token(end),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    ends = {"eos_token_id": sorted(vocabulary.eos_ids)}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")


def compare(args: argparse.Namespace, names: Sequence[str], folder: Path) -> Iterator[list[Row]]:
    """Every task on both sides."""
    if not names:
        return
    engine, _ = load_engine(args.model, dtype="float32")
    peer = Peer(args.peer, folder / "model", folder / "documents", "float32")
    differences = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        words = compare_prompts(peer, name)
        comparison = compare_task(engine, peer, name, args.limit, folder)
        differences[name] = comparison.differences
        for line in comparison.lines():
            say(line)
        text = json.dumps(differences, indent=1, ensure_ascii=False)
        (args.out / "lm_eval_differences.json").write_text(text + "\n", encoding="utf-8")
        yield [words, *comparison.rows()]
    peer.close()


def compare_prompts(peer: Peer, name: str) -> Row:
    """What is asked in all items of a task, without asking it."""
    task = find_task(name)
    items = list(task.items(Setup(shots=task.shots)))
    where = places(name, items, items)
    for their_name in where:
        write_documents(their_name, peer.documents)
    _, logged = peer.ask({k: list(v) for k, v in where.items()}, task.shots, batch=0)
    theirs = {
        where[their_name][sample["doc_id"]]: sample["sha256"]
        for their_name, samples in logged.items()
        for sample in samples
    }
    same = sum(theirs[item.id] == asked_hash(item) for item in items)
    say(f"{name}: {same} of {len(items)} items are asked in the same words")
    label = f"{name}: asked in the same words, of all {len(items):,} items"
    return Row(label, same / len(items), "share of items", must=1.0)


def asked_hash(item: Item) -> str:
    """As the peer hashes what it asks."""
    choices = item.choices if isinstance(item, Choice) else None
    texts = [[item.prompt, c] for c in choices] if choices else [[item.prompt]]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def compare_task(engine: Engine, peer: Peer, name: str, limit: int, folder: Path) -> Comparison:
    """One task on both sides."""
    task = find_task(name)
    setup = Setup(shots=task.shots, model=engine)
    items = list(task.items(setup))
    asked = sample_items(items, limit, setup.seed)
    where = places(name, items, asked)
    start = time.perf_counter()
    run = run_task(engine, task, setup, journal=folder / f"{name}.jsonl", limit=limit)
    ours = time.perf_counter() - start
    batch = SCORED_TOGETHER if isinstance(asked[0], Choice) else GENERATED_TOGETHER
    seconds, logged = peer.ask({k: list(v) for k, v in where.items()}, task.shots, batch)
    say(f"{name}: {len(asked)} items, ours {ours:.1f} s, lm-eval {seconds:.1f} s (float32)")
    theirs: dict[str, list[dict[str, Any]]] = {}
    for their_name, samples in logged.items():
        for sample in samples:
            theirs.setdefault(where[their_name][sample["doc_id"]], []).append(sample)
    records = {record.id: record for record in run.records}
    triples = [(item, records[item.id], theirs[item.id]) for item in asked]
    if isinstance(asked[0], Choice):
        return compare_choices(name, triples, engine.tokenizer)
    return compare_texts(name, triples, engine)


def race(args: argparse.Namespace, folder: Path) -> list[Row]:
    """5-shot MMLU against the clock, from requests to scores, each side at its fastest."""
    task = find_task("mmlu")
    items = list(task.items(Setup(shots=5)))
    asked = [
        item
        for subject in SUBJECTS[::12]
        for item in [item for item in items if item.group == subject][:PER_SUBJECT]
    ]
    where = {k: list(v) for k, v in places("mmlu", items, asked).items()}
    for name in where:
        write_documents(name, folder / "documents")
    peer, batch, settings = fastest(args, folder, where)
    engine, _ = load_engine(args.model)
    ours_seconds(engine, asked[:PER_SUBJECT])  # warm
    ours, theirs = [], []
    for _ in range(args.rounds):
        theirs.append(peer.ask(where, 5, batch)[0])
        ours.append(ours_seconds(engine, asked))
        say(f"MMLU, {len(asked)} questions: ours {ours[-1]:.1f} s, lm-eval {theirs[-1]:.1f} s")
    peer.close()
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return [
        Row(
            name=f"{args.model}: 5-shot MMLU, {len(asked)} questions of {len(where)} subjects",
            value=len(asked) / median(ours),
            unit="questions/s",
            peer=f"lm-eval 0.4.13, transformers, {settings}",
            peer_value=len(asked) / median(theirs),
            ratio=median(ratios),
            rounds=args.rounds,
            low=min(ratios),
            high=max(ratios),
            must=3.0,
            moonshot=5.0,
            judge="ratio",
        )
    ]


def fastest(
    args: argparse.Namespace, folder: Path, where: dict[str, list[int]]
) -> tuple[Peer, int, str]:
    """lm-eval with the number format and batch size that are fastest on some of the items."""
    some = {name: of_subject[:4] for name, of_subject in where.items()}
    peers = {
        dtype: Peer(args.peer, folder / "model", folder / "documents", dtype)
        for dtype in ("bfloat16", "float32")
    }
    variants = list(itertools.product(peers, BATCHES))
    # In turns, so that what else the machine does hits all of them.
    rounds = [{one: peers[one[0]].ask(some, 5, one[1])[0] for one in variants} for _ in range(3)]
    best = {one: min(seconds[one] for seconds in rounds) for one in variants}
    for (dtype, batch), seconds in best.items():
        say(f"lm-eval in {dtype}, batch size {batch}: {seconds:.1f} s")
    dtype, batch = min(best, key=best.__getitem__)
    for name, peer in peers.items():
        if name != dtype:
            peer.close()
    return peers[dtype], batch, f"{dtype}, batch size {batch}"


def ours_seconds(engine: Engine, items: Sequence[Item]) -> float:
    """From requests to graded scores, with nothing left in the cache from before."""
    engine.forget()
    choices = [item for item in items if isinstance(item, Choice)]
    start = time.perf_counter()
    requests = [ScoreRequest(item.prompt, item.choices) for item in choices]
    for item, scores in zip(choices, engine.score_many(requests), strict=True):
        grade_choice(item, scores)
    return time.perf_counter() - start


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
