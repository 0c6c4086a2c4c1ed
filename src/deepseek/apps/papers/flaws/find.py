"""`find_flaws`: every detector over one document."""

from deepseek.apps.documents.document import Document
from deepseek.apps.papers.flaws import (  # noqa: F401
    ablation,
    arithmetic,
    baselines,
    consistency,
    gains,
    mismatch,
    renamed,
    reporting,
    sweeps,
    variance,
)
from deepseek.apps.papers.flaws.flaw import DETECTORS, Flaw
from deepseek.apps.papers.flaws.paper import PaperView


def find_flaws(document: Document) -> list[Flaw]:
    """What a careful reader should ask the authors, the surest first.

    No language model is used. What is `is_certain` follows from the text by arithmetic; the
    rest carries a `question` that a model or a person should answer.

    Args:
        document: As `read_document` gives it.
    """
    view = PaperView(document)
    found = [flaw for find in DETECTORS.values() for flaw in find(view)]
    return sorted(found, key=lambda flaw: -flaw.confidence)
