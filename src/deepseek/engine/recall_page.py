"""What was recalled, as one self-contained HTML page: no script, nothing fetched."""

from importlib import resources

import jinja2

from deepseek.engine.recall import Recall

MAX_CELLS = 240
"""Columns of the pictures; where there are more pages, each shows the most of several."""
N_SHOWN = 12
"""Pages whose text is shown."""


def render_recall(recall: Recall) -> str:
    """The page: a strip of all pages, the text of the most recalled, and a map by layer.

    Everything that comes from the prompt or the model is escaped.
    """
    shares = recall.shares
    step = -(-len(shares) // MAX_CELLS)
    starts = range(0, len(shares), step)
    first_seen = len(shares) - recall.n_window
    top = max(shares) or 1.0
    strip = [
        {
            "first": start,
            "last": min(start + step, len(shares)) - 1,
            "share": max(shares[start : start + step]),
            "kind": _kind(start, step, recall.n_sinks, first_seen),
        }
        for start in starts
    ]
    layers = [[max(row[start : start + step]) for start in starts] for row in recall.layer_shares]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("deepseek.engine").joinpath("recall.html.jinja")
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        recall=recall,
        n_groups=recall.counts.shape[1],
        strip=strip,
        layers=layers,
        top=top,
        layer_top=max(map(max, layers)) or 1.0,
        most=recall.most(N_SHOWN),
        step=step,
    )
    return text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written


def _kind(start: int, step: int, n_sinks: int, first_seen: int) -> str:
    """What a column stands for: pages at the beginning, of the window, or those between."""
    if start < n_sinks:
        return "sink"
    return "window" if start + step > first_seen else "page"
