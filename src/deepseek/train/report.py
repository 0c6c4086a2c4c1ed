"""A run as one self-contained HTML page: result, curves, data, settings."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from deepseek.train.curve import line_chart

Row = Mapping[str, Any]


def render_report(
    stages: Sequence[str],
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    funnels: Mapping[str, str],
) -> str:
    """The page.

    Args:
        stages: Their names.
        settings: All that the result depends on.
        rows: What `metrics.jsonl` says.
        funnels: By source: what became of its documents.
    """
    steps = [row for row in rows if row.get("loss") is not None]
    result = next((row for row in reversed(rows) if "result" in row), {})
    evaluated = (row["bits_per_byte"] for row in rows if row.get("bits_per_byte"))
    begun: dict[str, float] = next(evaluated, {})
    seconds = sum(row["seconds"] for row in steps)
    tokens = steps[-1]["tokens"] if steps else 0
    template = resources.files("deepseek.train").joinpath("report.html.jinja")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        stages=stages,
        n_steps=len(steps),
        tokens=tokens,
        seconds=seconds,
        speed=tokens / seconds if seconds else 0.0,
        skipped=[row for row in steps if row.get("skipped")],
        result=[
            (name, begun.get(name), value) for name, value in (result.get("result") or {}).items()
        ],
        averaged=result.get("averaged") or [],
        charts=[(title, Markup(chart)) for title, chart in _charts(rows, steps) if chart],
        funnels=funnels,
        settings=settings,
    )


def _charts(rows: Sequence[Row], steps: Sequence[Row]) -> list[tuple[str, str]]:
    """Titles and drawings; the drawings escape their names."""
    evaluated = [row for row in rows if row.get("bits_per_byte")]
    charts: list[tuple[str, dict[str, list[tuple[float, float]]]]] = [
        ("Bits per byte on held-out texts", _by_name(evaluated, "bits_per_byte")),
        ("Loss, nats per token", {"all": _points(steps, "loss"), **_by_name(steps, "losses")}),
        ("Weights of the sources", _by_name(steps, "weights")),
        ("Learning rate", {"rate": _points(steps, "rate")}),
        ("Length of the gradient", {"norm": _points(steps, "norm")}),
        ("Tokens a second", {"speed": _points(steps, "tokens_per_second")}),
    ]
    if any(row.get("experts") for row in steps):
        charts += _expert_charts(steps, evaluated)
    if any(row.get("auxiliary") for row in steps):
        charts.append(("Auxiliary loss of experts", {"auxiliary": _points(steps, "auxiliary")}))
    for name, points in _by_name(steps, "measures").items():
        charts.append((name.replace("_", " ").capitalize(), {name: points}))
    return [(title, line_chart(series, title)) for title, series in charts]


def _expert_charts(
    steps: Sequence[Row], evaluated: Sequence[Row]
) -> list[tuple[str, dict[str, list[tuple[float, float]]]]]:
    """How many experts tokens have, and how evenly: in training and on held-out texts."""

    def lines(*names: str) -> dict[str, list[tuple[float, float]]]:
        found = dict[str, list[tuple[float, float]]]()
        for kind, key, rows in (
            ("training", "experts", steps),
            ("held out", "experts_held_out", evaluated),
        ):
            own = [{"step": row["step"], **row[key]} for row in rows if row.get(key)]
            found.update({f"{name}, {kind}": _points(own, name) for name in names})
        return found

    return [
        ("Experts of a token, mean of layers", lines("per_token")),
        ("Mean load of experts by the largest", lines("u_busy", "u_busy_worst")),
    ]


def _points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]


def _by_name(rows: Sequence[Row], key: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in (row.get(key) or {}).items():
            if value is not None:
                found.setdefault(name, []).append((float(row["step"]), float(value)))
    return found
