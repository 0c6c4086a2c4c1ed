"""An analysis as one self-contained HTML page: no script, nothing fetched."""

from collections.abc import Callable
from importlib import resources
from itertools import count
from pathlib import Path

import jinja2
from markupsafe import Markup

from deepseek.apps.papers.analysis import PaperAnalysis
from deepseek.apps.papers.report.labels import LABELS, page_label, reading_label
from deepseek.apps.papers.report.pages import shown_pages


def html_report(analysis: PaperAnalysis, pdf: Path | None = None) -> str:
    """Findings on the left, the paper's pages with highlighted quotes on the right.

    Everything that comes from the paper or the model is escaped.
    """
    document = analysis.document
    numbers = count()
    rows = [
        (task, [(f, [(next(numbers), e) for e in f.evidence]) for f in task.findings])
        for task in analysis.tasks
    ]
    quotes = [e.spans for f in analysis.findings for e in f.evidence]
    if pdf is None and document is not None and document.kind == "pdf":
        pdf = Path(document.source)
    pages = shown_pages(document, quotes, pdf) if document is not None else []
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = resources.files(__package__).joinpath("report.html.jinja")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        analysis=analysis,
        rows=rows,
        words=LABELS[analysis.language],
        reading=analysis.reading and reading_label(analysis.reading, analysis.language),
        pages=pages,
        has_images=any(page.image for page in pages),
        n_quotes=sum(e.verified for f in analysis.findings for e in f.evidence),
        page_label=lambda number: page_label(number, analysis.language),
        anchor=_anchors(),
    )


def _anchors() -> Callable[[int], Markup]:
    """Gives the first mark of each quote its id; a quote of several lines has several marks."""
    seen: set[int] = set()

    def anchor(quote: int) -> Markup:
        if quote in seen:
            return Markup("")
        seen.add(quote)
        return Markup(' id="q{}"').format(quote)

    return anchor
