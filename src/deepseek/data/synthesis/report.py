"""What a run of synthesis has made, for people and as plain data."""

from collections import Counter
from dataclasses import asdict
from importlib import resources
from statistics import mean
from typing import Any

import jinja2

from deepseek.data.entropy.auroc import compare_aurocs
from deepseek.data.entropy.signals import SIGNS
from deepseek.data.synthesis.config import SynthesisConfig
from deepseek.data.synthesis.run import Cell, Outcome
from deepseek.data.synthesis.selection import KINDS, kind_of


def summary(outcome: Outcome, config: SynthesisConfig) -> dict[str, Any]:
    """Counts, a row for each family and level, and what the signals are worth."""
    return {
        **outcome.about,
        "counts": asdict(outcome.counts) | {"hard": outcome.n_hard, "pairs": outcome.n_pairs},
        "rows": [_row(cell, outcome, config) for cell in outcome.cells if cell.attempts],
        "signals": _signals(outcome),
    }


def render_summary(found: dict[str, Any]) -> str:
    """The page: self-contained HTML."""
    template = resources.files("deepseek.data.synthesis").joinpath("report.html.jinja")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template.read_text(encoding="utf-8"))
    return page.render(**found, kinds=KINDS)


def summary_text(found: dict[str, Any]) -> str:
    """A table for the terminal."""
    rows = found["rows"]
    width = max([len(row["family"]) for row in rows] + [6])
    head = f"{'family':<{width}}  level  problems  right  entropy  samples"
    lines = [head + "".join(f"  {kind}" for kind in KINDS)]
    for row in rows:
        mark = " (held out)" if row["is_held_out"] else ""
        counts = "".join(f"  {row['kinds'][kind]:>{len(kind)}}" for kind in KINDS)
        lines.append(
            f"{row['family']:<{width}}  {row['level']:>5}  {row['problems']:>8}  "
            f"{row['pass_rate']:>5.0%}  {row['entropy']:>7.2f}  {row['samples']:>7.1f}"
            f"{counts}{mark}"
        )
    counts = found["counts"]
    lines.append(
        f"{counts['generated']:,} generated, {counts['repeated']:,} repeated, "
        f"{counts['contaminated']:,} with evaluation texts, {counts['attempted']:,} attempted, "
        f"{counts['held_out']:,} held out; {counts['hard']:,} hard cases, {counts['pairs']:,} pairs"
    )
    for name, value in found["signals"].items():
        interval = f"[{value['low']:.3f}, {value['high']:.3f}]"
        lines.append(f"wrong answers told by {name}: AUROC {value['value']:.3f} {interval}")
    return "\n".join(lines)


def _row(cell: Cell, outcome: Outcome, config: SynthesisConfig) -> dict[str, Any]:
    kinds = Counter(kind_of(attempt, config.selection) for attempt in cell.attempts)
    return {
        "family": cell.family,
        "level": cell.level,
        "problems": len(cell.attempts),
        "pass_rate": round(cell.pass_rate, 6),
        "greedy": round(mean(a.greedy.is_right for a in cell.attempts), 6),
        "solved_once": round(mean(a.pass_rate > 0 for a in cell.attempts), 6),
        "entropy": round(mean(a.signals["entropy"] for a in cell.attempts), 6),
        "samples": round(mean(len(a.samples) for a in cell.attempts), 6),
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "is_held_out": all(a.id in outcome.held_out for a in cell.attempts),
    }


def _signals(outcome: Outcome) -> dict[str, Any]:
    """AUROC of each signal that all problems have, for wrong greedy answers."""
    attempts = [attempt for cell in outcome.cells for attempt in cell.attempts]
    known = {
        name: [sign * float(a.signals[name]) for a in attempts]
        for name, sign in SIGNS.items()
        if all(a.signals[name] is not None for a in attempts)
    }
    found = compare_aurocs(dict(known), [not a.greedy.is_right for a in attempts])
    return {name: asdict(value) for name, value in found.items()}
