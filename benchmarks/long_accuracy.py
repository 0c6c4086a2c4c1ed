"""What hierarchical attention keeps of the accuracy of dense attention, on the same questions.

    python benchmarks/long_accuracy.py [--contexts 3] [--tasks needles passages …] [--settings …]

Within the trained length, where dense attention is known to work, a model reads long contexts
densely and sparsely everywhere: no dense beginning, and the questions are read sparsely, too.
`oracle` recalls the best pages there are, at the same budget (through torch: minutes a context).
Questions are scored by what is written or chosen, and by the likelihood of the right answer.

Answers are kept in out/long_accuracy: an interrupted run goes on where it was, and those of other
attention code or other questions are asked anew. Results go to benchmarks/results/long_accuracy.*;
`benchmarks/long_context.py` takes them in.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import islice

from chart import draw_ratios
from deepseek.core.llm import SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.eval.journal import Journal, fingerprint
from deepseek.eval.record import Record
from deepseek.eval.ruler.needles import Needles
from deepseek.eval.ruler.scoring import string_match_all, string_match_part
from deepseek.eval.ruler.sources import Sources
from deepseek.eval.task import Setup
from deepseek.ops.hierarchical import Hierarchy
from long_items import Asked, Context, code, needles, papers, passages, variables
from long_scores import Scores, results
from oracle import OracleRunner
from report import RESULTS, ROOT, write_results

KEPT = ROOT / "out" / "long_accuracy"
SOURCES = (
    "src/deepseek/ops/hierarchical.py",
    *("native/src/hierarchy.h", "native/src/hierarchy.cpp", "native/src/memory_nodes.h"),
    *("native/src/reading.cpp", "native/src/asking.cpp"),
)
"""Code that decides what is recalled: answers under other code are other answers."""
SETTINGS = ("dense", "sparse 2,048", "sparse 1,024", "oracle 2,048", "oracle 1,024")
Contexts = Callable[[Engine, int], Iterator[Context]]


def _each(make: Callable[[int, Engine, int], Context]) -> Contexts:
    """Contexts without end, made when they are asked for."""

    def contexts(engine: Engine, length: int) -> Iterator[Context]:
        index = 0
        while True:
            yield make(length, engine, index)
            index += 1

    return contexts


@cache
def _sources() -> Sources:
    return Sources(Setup(shots=0))


TASKS: dict[str, Contexts] = {
    "one needle in noise": _each(lambda n, e, i: needles(Needles(haystack="noise"), n, 1, e, i)),
    "needles in noise": _each(
        lambda n, e, i: needles(Needles(haystack="noise", n_keys=4), n, 4, e, i)
    ),
    "needles in essays": _each(
        lambda n, e, i: needles(Needles(haystack="essay", n_keys=4), n, 4, e, i)
    ),
    "needles among needles": _each(lambda n, e, i: needles(Needles(haystack="needle"), n, 8, e, i)),
    "variables": _each(lambda n, e, i: variables(n, 6, e, i)),
    "passages": _each(lambda n, e, i: passages(_sources().squad, n, 10, e, i)),
    "papers": lambda e, n: papers(n, e),
    "code": lambda e, n: code(n, 12, e),
}
"""RULER's niah_single_1, the same with four keys, niah_multikey_1, niah_multikey_2, vt with six
shorter chains, qa_1 with ten questions; Qasper; next lines."""


def engine_of(base: Engine, setting: str) -> Engine:
    """The same weights under another attention."""
    kind, _, recall = setting.partition(" ")
    trained = base.runner.model.config.context_window
    hierarchy = None
    if kind != "dense":
        # Everything is sparse: before the window is full there is nothing to leave out.
        recalled = int(recall.replace(",", ""))
        hierarchy = Hierarchy(recall=recalled, dense=0, reach=trained)
    ours, runner = base.runner, None
    if kind == "oracle":
        assert hierarchy is not None
        runner = OracleRunner(ours.model, dtype=ours.dtype, device=ours.device, hierarchy=hierarchy)
    return Engine(
        ours.model,
        base.tokenizer,
        name=base.name,
        dtype=ours.dtype,
        device=ours.device,
        context_window=trained,
        hierarchy=hierarchy,
        runner=runner,
    )


def ask(engine: Engine, context: Context, asked: Asked, name: str) -> Record:
    """One question: the likelihood of the right answer, what is chosen, and what is written."""
    start = time.perf_counter()
    prompt = context.text + asked.question
    gold, *others = engine.score(prompt, [asked.gold, *asked.others])
    grades = {"nats": -gold.logprob, "tokens": float(gold.n_tokens)}
    if others:
        sizes = [len(text) for text in (asked.gold, *asked.others)]
        scored = [s.logprob / n for s, n in zip((gold, *others), sizes, strict=True)]
        grades["chosen"] = float(scored[0] > max(scored[1:]))
        grades["chance"] = 1 / len(scored)
    output = ""
    if asked.room:
        output = engine.generate(prompt, SamplingParams(max_tokens=asked.room)).text
        match = string_match_part if asked.any_of else string_match_all
        grades["written"] = match(output, asked.answers) / 100
    elif not others:
        grades["written"] = float(gold.is_greedy)
    return Record(
        id=name,
        group=name.partition("/")[0],
        prompt=asked.question,
        prompt_sha256=_digest(prompt, asked),
        expected=[asked.gold, *asked.answers],
        output=output,
        scores=((gold.logprob, gold.n_tokens, gold.is_greedy),),
        grades=grades,
        seconds=time.perf_counter() - start,
    )


def answer_all(engine: Engine, context: Context, journal: Journal, name: str) -> list[Record]:
    """All questions about a context, from the journal or asked now."""
    records = []
    for number, asked in enumerate(context.asked):
        key = f"{name}/{number}"
        record = journal.records.get(key)
        digest = _digest(context.text + asked.question, asked)
        if record is None or record.prompt_sha256 != digest:
            record = ask(engine, context, asked, key)
            journal.add(record)
        records.append(record)
    return records


def _digest(prompt: str, asked: Asked) -> str:
    return hashlib.sha256(repr((prompt, asked)).encode("utf-8", "surrogatepass")).hexdigest()


def run_of(engine: Engine, weights: str, setting: str) -> str:
    """What answers depend on beside the questions."""
    code = [(ROOT / name).read_bytes() for name in SOURCES] if setting != "dense" else []
    code += [(ROOT / "benchmarks" / "oracle.py").read_bytes()] if "oracle" in setting else []
    digests = [hashlib.sha256(part).hexdigest() for part in code]
    return fingerprint(engine.name, weights, setting, engine.runner.hierarchy, *digests)


def measure(args: argparse.Namespace) -> Scores:
    """Ask what has not been asked yet, all settings about one context after the other."""
    base, report = load_engine(args.model)
    folder = KEPT / f"{args.model} {args.length}".replace(" ", "-")
    scores = Scores()
    with ExitStack() as stack:
        engines, journals = {}, {}
        for setting in args.settings:
            engines[setting] = engine_of(base, setting)
            run = run_of(engines[setting], report.weights, setting)
            path = folder / f"{setting.replace(' ', '-').replace(',', '')}.jsonl"
            journals[setting] = stack.enter_context(Journal(path, run))
        made = {task: TASKS[task](base, args.length) for task in args.tasks}
        for index in range(args.contexts):
            for task in args.tasks:
                for context in islice(made[task], 1):
                    for setting in args.settings:
                        name = f"{task}/{index}"
                        for record in answer_all(
                            engines[setting], context, journals[setting], name
                        ):
                            scores.add(setting, task, index, record)
                        print(scores.line(setting, task, index), flush=True)
    return scores


def main() -> None:
    """Measure and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--length", type=int, default=8_000, help="tokens with question and answer")
    parser.add_argument("--contexts", type=int, default=3, help="of each task")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS[:3]), choices=SETTINGS)
    args = parser.parse_args()
    rows = results(measure(args), f"{args.model}, {args.length:,} tokens")
    write_results("long_accuracy", rows, sys.argv)
    draw_ratios(rows, RESULTS / "long_accuracy.svg", "dense attention on the same questions")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f} of dense"
        print(f"{row.name:<100} {row.value:8.4g} {row.unit} {ratio}")


if __name__ == "__main__":
    main()
