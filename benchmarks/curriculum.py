"""A curriculum beside the same windows in random order.

Three stages: prose, simple sums and some of the rest first; then more code and logic; at the end
harder problems, and less of all else. Within the first two stages documents are paced from easy to
hard, and windows are mixed within twentieths of the run. The other run of a pair sees the very same
windows, in an order drawn from all of them: what both read is proved by a digest over sorted
windows. Both have the same first weights, steps, rates and schedule.

Measured on whole pages that nothing is learned from, and on problems of other seeds, of which only
the worked answer counts: bits per byte by document.
"""

import atexit
import random
import shutil
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from arms import PACKAGES
from chart import Panels, Points
from deepseek.data.packed import Window
from deepseek.data.sampler import Sampler
from deepseek.data.synthesis.families import make_problem
from deepseek.data.verifiers.problem import Problem
from deepseek.tokenizer.training import train_tokenizer
from deepseek.train.plan import Plan
from deepseek.train.run import Run
from followed import (
    VOCABULARY,
    Material,
    Scale,
    follow,
    mean_curve,
    share_needed,
    skipped_row,
    write_held_out,
    write_texts,
)
from paired import compare, difference_rows
from report import ROOT, Row
from texts import BOOK, MANUAL, cut, is_held_out, package, read, shuffled

Result = Mapping[str, Any]
Pair = tuple[Result, Result]
"""With the curriculum, and shuffled."""
PIECE = 1_500
"""Characters of a document: pacing wants many of them."""
HELD_OUT = 0.15
"""Share of pages."""
SUMS = ("gym/basic_arithmetic", "gym/chain_sum", "gym/gcd", "gym/leg_counting",
        "words/story", "words/ages", "words/purchase")  # fmt: skip
LOGIC = ("gym/syllogism", "gym/propositional_logic", "gym/aiw",
         "gym/letter_counting", "gym/family_relationships", "gym/knights_knaves")  # fmt: skip
PROBLEMS = {"sums": (SUMS, (0,)), "logic": (LOGIC, (0,)), "problems": (SUMS + LOGIC, (1, 2))}
"""Families and levels."""
MADE = 2_000
"""Problems of a source."""
MOST = 800
"""Pieces of text of a source: more than a run reads."""
ASKED = 300
"""Problems of a source that are held out."""
TRAINED_ON, ASKED_ON = 1, 2
"""Seeds of the problems."""
STAGES = """
[[stages]]
name = "foundation"
tokens = {foundation}
weights = {{ prose = 3, sums = 2, manual = 2, code = 2 }}
pacing = 0.7
[[stages]]
name = "reinforcement"
tokens = {reinforcement}
weights = {{ prose = 2, sums = 1, manual = 2, code = 3, logic = 2 }}
pacing = 0.3
[[stages]]
name = "refinement"
tokens = {refinement}
weights = {{ prose = 1, sums = 1, manual = 1, code = 2, logic = 2, problems = 3 }}
"""
BLOCKS = 20
"""Parts of the run within which a curriculum's windows are mixed."""
SHARES = {"foundation": 0.2, "reinforcement": 0.6, "refinement": 0.2}
"""Of all tokens."""
SCHEDULES = {
    "cosine to 0": ('kind = "cosine"\nwarm_up = 0.1\nfinal = 0.0', 1),
    "cosine to 10 %": ('kind = "cosine"\nwarm_up = 0.1\nfinal = 0.1', 1),
    "WSD, mean of the last 4": ('kind = "wsd"\nwarm_up = 0.1\nfinal = 0.1\ndecay = 0.2', 4),
}
"""Schedule, and how many checkpoints, 2 % of the run apart, make the result."""


class Replay(Sampler):
    """Windows that were drawn before, one after another; the stages make no difference."""

    def __init__(self, sampler: Sampler, windows: Sequence[Window]) -> None:
        """Give these windows, of the sources of `sampler`."""
        self.names = sampler.names
        self._windows, self._next = windows, 0

    def begin(self, stage: Any) -> None:
        """Nothing: what follows was drawn before."""

    def draw(self) -> Window:
        """The next one."""
        self._next += 1
        return self._windows[self._next - 1]

    def observe(self, losses: Mapping[str, float]) -> None:
        """Nothing follows from it."""

    def shares(self) -> dict[str, float]:
        """Not wanted, only realised."""
        return {}

    realised = shares

    def state(self) -> dict[str, Any]:
        """How many were given."""
        return {"next": self._next}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on behind those."""
        self._next = int(state["next"])


def drawn(sampler: Sampler, plan: Plan) -> list[Window]:
    """All windows of a run, in order; nothing is read twice."""
    windows = []
    for stage in plan.stages:
        sampler.begin(stage.mix)
        windows += [sampler.draw() for _ in range((stage.end - stage.start) * plan.batch)]
    assert max(sampler.epochs().values()) < 1, f"texts are too short: {sampler.epochs()}"
    return windows


def mixed(windows: Sequence[Window], seed: str, size: int) -> list[Window]:
    """Windows in a random order within each run of so many: neighbours are parts of one document,
    and what is compared is the order of a whole run.
    """
    order = random.Random(seed)
    blocks = (list(windows[first : first + size]) for first in range(0, len(windows), size))
    return [window for block in blocks for window in order.sample(block, len(block))]


def digest(windows: Sequence[Window]) -> str:
    """Of all windows, whatever their order."""
    found = sorted(
        blake2b(
            b"".join(piece.ids.tobytes() + piece.labels.tobytes() for piece in window.pieces),
            digest_size=16,
        ).digest()
        for window in windows
    )
    return sha256(b"".join(found)).hexdigest()


def text_of(problem: Problem) -> tuple[str, str]:
    """The question with what it is followed by, and the answer."""
    worked = f"{problem.solution}\n" if problem.solution else ""
    return f"Question: {problem.question}\nAnswer: ", f"{worked}{problem.answer}"


def problems(source: str, seed: int, count: int) -> list[tuple[str, str]]:
    """Different problems of a source, its families in turns."""
    families, levels = PROBLEMS[source]
    kinds = [(family, level) for family in families for level in levels]
    found = (
        text_of(make_problem(*kinds[i % len(kinds)], seed, i // len(kinds))) for i in range(count)
    )
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1)
def material(quick: bool) -> Material:
    """Made anew in each process, always the same from the same packages."""
    folder = Path(tempfile.mkdtemp(prefix="curriculum-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    learned, asked = dict[str, list[str]](), dict[str, list[str]]()
    for name, pages in _pages(quick).items():
        parts = [(f"{n}-{i}", part) for n, text in pages for i, part in enumerate(cut(text, PIECE))]
        whole = {n for n, _ in pages if is_held_out(n, HELD_OUT)}
        sides: tuple[list[str], list[str]] = ([], [])
        for number, part in shuffled(parts, len(parts)):
            sides[number.rpartition("-")[0] in whole].append(part)
        learned[name], asked[name] = (side[:MOST] for side in sides)
    reasoning: list[tuple[str, str]] = []
    for name in PROBLEMS:
        # The same question may come of two seeds: then nothing is asked that was learned.
        known = problems(name, TRAINED_ON, MADE // (20 if quick else 1))
        learned[name] = ["".join(pair) for pair in known]
        seen = set(known)
        reasoning += [p for p in problems(name, ASKED_ON, ASKED) if p not in seen]
    random.Random(0).shuffle(reasoning)
    few = (text for parts in learned.values() for text in parts[:300])
    tokenizer = train_tokenizer(few, 512 if quick else VOCABULARY)
    tokenizer.save(folder / "tokenizer")
    sets = {name: [("", text) for text in parts] for name, parts in asked.items()}
    sets["reasoning"] = reasoning
    return Material(
        sources={n: write_texts(folder / f"{n}.jsonl", parts) for n, parts in learned.items()},
        held_out={
            n: write_held_out(folder / f"{n}.tokens", tokenizer, pairs) for n, pairs in sets.items()
        },
        tokenizer=folder / "tokenizer",
    )


def _pages(quick: bool) -> dict[str, list[tuple[str, str]]]:
    """Names and texts by source."""
    library = Path(sysconfig.get_paths()["stdlib"])
    if quick:
        docs = [(p.name, p.read_text()) for p in sorted((ROOT / "docs").rglob("*.md"))]
        code = [(p.name, p.read_text()) for p in sorted((library / "email").glob("*.py"))]
        return {"prose": docs, "manual": docs, "code": code}
    files = sorted(p for p in library.iterdir() if p.suffix == ".py")
    files += sorted(p for name in sorted(PACKAGES) for p in (library / name).rglob("*.py"))
    return {
        "prose": list(read([package(BOOK)])),
        "manual": [(p.name, p.read_text()) for p in sorted(package(MANUAL).glob("*.txt"))],
        "code": [(p.relative_to(library).as_posix().replace("/", "."), p.read_text("utf-8"))
                 for p in files],
    }  # fmt: skip


def train(schedule: str, is_curriculum: bool, seed: int, scale: Scale, quick: bool) -> Result:
    """One arm: what `follow` gives, and the `digest` of its windows."""
    lines, average = SCHEDULES[schedule]
    tokens = {name: round(share * scale.tokens) for name, share in SHARES.items()}

    def change(run: Run) -> dict[str, Any]:
        windows = drawn(run.trainer.sampler, run.trainer.plan)
        size = max(1, len(windows) // BLOCKS) if is_curriculum else len(windows)
        windows = mixed(windows, f"mixed {seed}", size)
        run.trainer.sampler = Replay(run.trainer.sampler, windows)
        return {"digest": digest(windows)}

    return follow(
        f"{schedule}, {'curriculum' if is_curriculum else 'shuffled'}",
        seed,
        scale,
        material(quick),
        stages=STAGES.format(**tokens),
        schedule=lines,
        average=average,
        change=change,
        quick=quick,
    )


def rows(seeds: Sequence[int], scale: Scale, quick: bool) -> tuple[list[Row], Panels]:
    """What is judged, and what is drawn, of these seeds."""
    found, panels, pairs = list[Row](), dict[str, dict[str, Points]](), list[Pair]()
    for schedule in SCHEDULES:
        own = list[Pair]()
        for seed in seeds:
            with suppress(LookupError):
                sides = [train(schedule, is_ours, seed, scale, quick) for is_ours in (True, False)]
                own.append((sides[0], sides[1]))
        if not own:
            continue
        found += _schedule_rows(schedule, own)
        curves = dict(zip(("curriculum", "shuffled"), zip(*own, strict=True), strict=True))
        panels[f"{schedule}: bits per byte, first {scale.along:,} tokens of each set"] = {
            name: mean_curve(results) for name, results in curves.items()
        }
        panels[f"{schedule}: bits per byte of answers to problems"] = {
            name: mean_curve(results, "reasoning") for name, results in curves.items()
        }
        pairs += own
    if not pairs:
        return [], {}
    for seed in sorted({arm["seed"] for pair in pairs for arm in pair}):
        seen = {arm["digest"] for pair in pairs for arm in pair if arm["seed"] == seed}
        name = f"curriculum, seed {seed}: different sets of windows in all arms ({min(seen)[:16]})"
        found.append(Row(name, len(seen), "", must=1.0, better="lower"))
    return [*found, skipped_row("curriculum", [arm for pair in pairs for arm in pair])], panels


def _schedule_rows(schedule: str, pairs: Sequence[Pair]) -> list[Row]:
    ours, theirs = zip(*pairs, strict=True)
    sets = list(ours[0]["losses"])
    found = list[Row]()
    for name in ("mean of the sets", *sets):
        chosen = sets if name not in sets else [name]
        values = [fmean(fmean(arm["bits_per_byte"][one] for one in chosen) for arm in side)
                  for side in (ours, theirs)]  # fmt: skip
        row = Row(f"{schedule}: {name}", values[0], "bits/byte", "shuffled", values[1])
        row.rounds, row.better, row.judge = len(pairs), "lower", "ratio"
        row.must = 1.0 if len(chosen) > 1 else None
        apart = compare(
            [arm["losses"] for arm in ours],
            [arm["losses"] for arm in theirs],
            ours[0]["bytes"],
            chosen,
        )
        title = f"{schedule}: {name}, curriculum less shuffled"
        is_judged = name == "reasoning"
        found += [row, *difference_rows(title, apart, must=is_judged, moonshot=False)]
    saved = [1 - min(1.0, share_needed(a, b)) for a, b in pairs]
    name = f"{schedule}: steps saved to the shuffled run's last loss"
    row = Row(name, fmean(saved), "share", rounds=len(saved), low=min(saved), high=max(saved))
    row.moonshot = 0.18
    return [*found, row]
