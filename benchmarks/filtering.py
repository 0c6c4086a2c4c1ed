"""Texts that were cleaned and weighted beside the same texts raw, at equal tokens and at half.

The raw corpus is pieces of PostgreSQL's manual with as many pieces of junk among them: lines with
their words shuffled, boilerplate, five copies of some pieces (three exact, two with a footer), and
items of GSM8K and BoolQ. `deepseek data clean` decides with the operators of
benchmarks/data_pipeline.py, the thresholds for documentation of configs/data/clean-tiny.toml (both
chosen on other texts) and an index of the two sets. What it keeps is trained on as two sources: the
half that a trigram model of other pages finds least surprising counts twice. Each seed plants other
junk among other pieces.

Measured on whole pages that nothing was made of: bits per byte by document.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from chart import Panels
from data_pipeline import JUNK_CONFIG, spoiled
from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.pipeline import Pipeline
from deepseek.eval.contamination import build_index
from deepseek.eval.data import REQUESTS, read_requests
from deepseek.eval.task import Setup
from deepseek.tokenizer.training import train_tokenizer
from followed import (
    VOCABULARY,
    Material,
    Scale,
    follow,
    mean_curve,
    skipped_row,
    write_held_out,
    write_texts,
)
from paired import compare, difference_rows
from report import ROOT, Row, say
from texts import DATABASE, cut, is_held_out, package, read, shuffled

PIECE = 3_000
HELD_OUT, REFERENCE = 0.1, 0.25
"""Pages by their digests: held out, and up to the second number read by the trigram model."""
NO_PROSE = tuple(
    "app- bookindex catalog- ecpg-sql- errcodes features functions- index infoschema- release "
    "runtime-config- spi-spi- sql- unsupported view-".split()
)
"""How names of pages begin that are lists, tables and entries of a reference."""
GOOD = 350
"""Pieces of a corpus, and as many of junk."""
JUNK = {"words": 0.3, "menu": 0.1, "advertisement": 0.1, "again": 0.1, "copies": 0.25, "leak": 0.15}
"""Shares of the junk."""
COPIES, EXACT = 5, 3
LEAKED = {"gsm8k/gold_bpb_5shot": ("question", "answer"), "boolq/rc_0shot": ("query",)}
TECHNICAL = {
    "min_alpha_words = 0.7": "min_alpha_words = 0.5",
    'use = "fineweb"': 'use = "fineweb"\nmin_ended_lines = 0.05\nmax_repeated = 0.1',
    'keep = ["en"]': 'keep = ["en", "code"]',
    'use = "repetition"': 'use = "repetition"\nlines = 0.5\n'
    + "".join(f"repeated_{n} = {0.4 - n / 50:g}\n" for n in range(5, 11)),
    "most = 1500.0": "least_order = 0.1",
}
"""For documentation, in place of thresholds for prose: those of configs/data/clean-tiny.toml, code
as a language, twice the repetition, and order of words instead of a perplexity that fits one
subject. Chosen on seed 100."""
DECONTAMINATION = """
[[operators]]
use = "decontamination"
index = "index.npz"
"""
SCHEDULE = 'kind = "cosine"\nwarm_up = 0.1\nfinal = 0.1'
STAGE = """
[[stages]]
name = "only"
tokens = {tokens}
weights = {weights}
"""
WEIGHTS = {"raw": "{ raw = 1 }", "filtered": "{ near = 2, far = 1 }"}
Result = Mapping[str, Any]


@lru_cache(maxsize=1)
def pieces(quick: bool) -> dict[str, list[str]]:
    """`clean`, `reference` and `held_out`, each of pages of its own, in an order without plan."""
    found: dict[str, list[str]] = {"clean": [], "reference": [], "held_out": []}
    pages = [package(DATABASE)] if not quick else [ROOT / "docs", ROOT / "src"]
    parts = [
        (f"{name}-{i}", name, part)
        for name, text in read(pages)
        for i, part in enumerate(cut(text, PIECE if not quick else 800))
    ]
    parts = [row for row in parts if not _page(row[1]).startswith(NO_PROSE)]
    names = {number: (name, part) for number, name, part in parts}
    for number, _ in shuffled(((number, "") for number, _, _ in parts), len(parts)):
        name, part = names[number]
        side = "reference" if is_held_out(name, REFERENCE) else "clean"
        found["held_out" if is_held_out(name, HELD_OUT) else side].append(part)
    return found


def _page(name: str) -> str:
    """A page's name without the folder and the number before it."""
    return Path(name).name.partition("-")[2]


@lru_cache(maxsize=1)
def items() -> list[str]:
    """What leaks, item by item."""
    found = [
        "\n".join(row[part] for part in parts)
        for name, parts in LEAKED.items()
        for row in read_requests(Setup(shots=0), name)
    ]
    random.Random(0).shuffle(found)
    return found


def corpus(seed: int, quick: bool) -> list[tuple[str, str]]:
    """Kinds (empty: good) and texts; junk behind what it may be a copy of."""
    generator = random.Random(f"junk {seed}")
    n = 30 if quick else GOOD
    chosen = generator.sample(pieces(quick)["clean"], 2 * n)
    good, other = chosen[:n], iter(chosen[n:])
    found = [("", text) for text in good]
    for kind, share in JUNK.items():
        count = round(share * n)
        if kind == "copies":
            originals = generator.sample(good, count // COPIES)
            for number, text in enumerate(originals):
                footer = f"\nPosted by visitor {number}; all rights reserved."
                found += [("copy", text)] * EXACT
                found += [("near copy", f"{text}{footer}{i}") for i in range(COPIES - EXACT)]
        elif kind == "leak":
            found += [("leak", _leak(generator, quick)) for _ in range(count)]
        else:
            found += [(kind, spoiled(kind, next(other), generator)) for _ in range(count)]
    return found


def _leak(generator: random.Random, quick: bool) -> str:
    leaked = (
        items() if not quick else [f"What is {i} times {i + 1}? {i * i + i}" for i in range(99)]
    )
    text = ""
    while len(text) < (PIECE if not quick else 300):
        text += generator.choice(leaked) + "\n\n"
    return text.strip()


def cleaned(seed: int, quick: bool) -> tuple[Path, dict[str, float]]:
    """A folder with `raw.jsonl`, `near.jsonl` and `far.jsonl`, and how well junk was told."""
    folder = ROOT / "out" / "training" / f"filtering-{seed}{'-quick' if quick else ''}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "reference").mkdir(parents=True)
    planted = corpus(seed, quick)
    for number, text in enumerate(pieces(quick)["reference"]):
        (folder / "reference" / f"{number:04}.txt").write_text(text, encoding="utf-8")
    write_texts(folder / "raw.jsonl", [text for _, text in planted])
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number, (kind, text) in enumerate(planted):
            file.write(json.dumps({"id": f"{number} {kind}", "text": text}) + "\n")
    config = JUNK_CONFIG
    for prose, technical in TECHNICAL.items():
        config = config.replace(prose, technical)
    if not quick:
        config += DECONTAMINATION
        build_index(sets=[f"{REQUESTS}/{name}" for name in LEAKED]).save(folder / "index.npz")
    (folder / "clean.toml").write_text(config)
    Pipeline(load_clean_config(folder / "clean.toml"), folder / "cleaned", n_workers=1).run()
    kept = [
        json.loads(line)
        for file in sorted((folder / "cleaned" / "kept").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    kept.sort(key=lambda row: row["scores"]["perplexity.perplexity"])
    middle = len(kept) // 2
    write_texts(folder / "near.jsonl", [row["text"] for row in kept[:middle]])
    write_texts(folder / "far.jsonl", [row["text"] for row in kept[middle:]])
    return folder, scores(planted, {row["id"] for row in kept})


def scores(planted: Iterable[tuple[str, str]], kept: set[str]) -> dict[str, float]:
    """Precision, recall and F1 of junk, and the share of each kind that was found."""
    kinds = {f"{number} {kind}": kind for number, (kind, _) in enumerate(planted)}
    dropped = kinds.keys() - kept
    junk = {number for number, kind in kinds.items() if kind}
    right = len(dropped & junk)
    precision, recall = right / max(1, len(dropped)), right / len(junk)
    every, found = Counter(kinds.values()), Counter(kinds[number] for number in dropped)
    by_kind = {f"{kind or 'good'} dropped": found[kind] / n for kind, n in every.items()}
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"precision": precision, "recall": recall, "F1": f1} | by_kind


@lru_cache(maxsize=64)
def train(seed: int, scale: Scale, quick: bool) -> dict[str, Result]:
    """The arms of a seed: `raw`, `filtered`, `half` (filtered, half of the tokens)."""
    folder, told = cleaned(seed, quick)
    say(f"filtering, seed {seed}: {told}")
    raw = [json.loads(line)["text"] for line in (folder / "raw.jsonl").open(encoding="utf-8")]
    tokenizer = train_tokenizer(raw, 512 if quick else VOCABULARY)
    tokenizer.save(folder / "tokenizer")
    held_out = {"clean": write_held_out(folder / "clean.tokens", tokenizer, _asked(quick))}
    shared = Material(sources={}, held_out=held_out, tokenizer=folder / "tokenizer")
    found = dict[str, Result]()
    for arm, kind, tokens in (
        ("raw", "raw", scale.tokens),
        ("filtered", "filtered", scale.tokens),
        ("half", "filtered", scale.tokens // 2),
    ):
        names = ("raw",) if kind == "raw" else ("near", "far")
        own = replace(shared, sources={name: folder / f"{name}.jsonl" for name in names})
        stages = STAGE.format(tokens=tokens, weights=WEIGHTS[kind])
        found[arm] = follow(
            f"filtering, {arm}", seed, replace(scale, tokens=tokens), own,
            stages=stages, schedule=SCHEDULE, quick=quick,
        ) | {"told": told}  # fmt: skip
    return found


def _asked(quick: bool) -> list[tuple[str, str]]:
    return [("", text) for text in pieces(quick)["held_out"]]


def rows(seeds: Sequence[int], scale: Scale, quick: bool) -> tuple[list[Row], Panels]:
    """What is judged, and what is drawn, of these seeds."""
    arms = list[dict[str, Result]]()
    for seed in seeds:
        with suppress(LookupError):
            arms.append(train(seed, scale, quick))
    if not arms:
        return [], {}
    raw, filtered, half = ([one[name] for one in arms] for name in ("raw", "filtered", "half"))
    found = list[Row]()
    for name in filtered[0]["told"]:
        told = [one["told"][name] for one in filtered]
        row = Row(f"planted junk: {name}", fmean(told), "share", rounds=len(told))
        row.low, row.high, row.must = min(told), max(told), 0.9 if name == "F1" else None
        found.append(row)
    titles = ("filtered and weighted", "filtered and weighted, half of the tokens")
    for name, ours in zip(titles, (filtered, half), strict=True):
        values = [fmean(one["bits_per_byte"]["clean"] for one in side) for side in (ours, raw)]
        row = Row(name, values[0], "bits/byte", "raw", values[1], rounds=len(arms))
        row.better, row.judge = "lower", "ratio"
        losses = [[one["losses"] for one in side] for side in (ours, raw)]
        apart = compare(losses[0], losses[1], raw[0]["bytes"], ["clean"])
        is_all = ours is filtered
        title = f"{name}, less raw with all"
        found += [row, *difference_rows(title, apart, must=is_all, moonshot=not is_all)]
    sides = {"raw": raw, "filtered": filtered, "filtered, half": half}
    panel = {name: mean_curve(results) for name, results in sides.items()}
    panels = {f"filtering: bits per byte of clean text, first {scale.along:,} tokens": panel}
    return [*found, skipped_row("filtering", [*raw, *filtered, *half])], panels
