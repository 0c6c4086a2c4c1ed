"""What became of a corpus as one self-contained HTML page: the funnel, scores, samples.

All texts come from anywhere and are escaped; the page fetches nothing and runs no script.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from deepseek.data.quality.histogram import Histogram, histogram
from deepseek.data.quality.tally import OperatorTally, Tally

MAX_RULES = 12


@dataclass(frozen=True, slots=True)
class Stage:
    """One operator in the page."""

    label: str
    use: str
    settings: Mapping[str, Any]
    tally: OperatorTally
    n_in: int
    """Documents that reach it, also those of domains that it is not for."""
    n_out: int
    rules: list[tuple[str, int]]
    histograms: list[Histogram]

    @property
    def share(self) -> float:
        """Of what it saw, dropped."""
        return self.tally.dropped / max(1, self.tally.seen)


def render_report(manifest: Mapping[str, Any]) -> str:
    """The page of a run's manifest."""
    tally = Tally.from_table(manifest["tally"])
    template = resources.files("deepseek.data.quality").joinpath("report.html.jinja")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    n_read = sum(tally.read.values())
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        tally=tally,
        n_read=n_read,
        n_flaws=sum(tally.flaws.values()),
        n_kept=sum(tally.kept.values()),
        sources=list(tally.read),
        flaws=sorted(tally.flaws.items(), key=lambda pair: (-pair[1], pair[0])),
        stages=_stages(manifest["operators"], tally, n_read),
        svg=lambda drawing: Markup(drawing.svg),  # numbers alone
        percent=_percent,
    )


def _stages(operators: list[dict[str, Any]], tally: Tally, n_read: int) -> list[Stage]:
    found, n_in = [], n_read
    for table in operators:
        settings = {
            key: ", ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in table.items()
            if key not in ("use", "label") and value != []
        }
        counts = tally.operator(table["label"])
        n_out = n_in - counts.dropped
        rules = sorted(counts.rules.items(), key=lambda pair: (-pair[1], pair[0]))
        drawings = (
            histogram(name, bins, counts.dropped_histograms.get(name, {}))
            for name, bins in counts.histograms.items()
        )
        found.append(
            Stage(
                label=table["label"],
                use=table["use"],
                settings=settings,
                tally=counts,
                n_in=n_in,
                n_out=n_out,
                rules=rules[:MAX_RULES],
                histograms=[drawing for drawing in drawings if drawing],
            )
        )
        n_in = n_out
    return found


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
