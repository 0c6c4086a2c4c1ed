"""Text and code that no model here was made from on purpose, in windows of token ids.

Text: scientific papers of Qasper, from the pulled evaluation data. Code: the Python files of the
installed llama-cpp-python, whose version is fixed and younger than the checkpoints.
"""

import itertools
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from deepseek.eval.data import read_requests
from deepseek.eval.task import Setup
from deepseek.eval.tasks.qasper import paper_text

PACKAGE = "llama-cpp-python"
SHORTEST = 8_192  # characters; less hardly fills a window


def documents(kind: str) -> list[str]:
    """Whole documents in a fixed order."""
    return {"text": papers, "code": code_files}[kind]()


def papers() -> list[str]:
    """Each paper once."""
    texts: dict[str, str] = {}
    for doc in read_requests(Setup(shots=0), "qasper_yesno/rc_5shot"):
        texts.setdefault(doc["id"].rpartition("_")[0], paper_text(doc))
    return list(texts.values())


def code_files() -> list[str]:
    """The package's own files, without what is short."""
    files = metadata.files(PACKAGE) or []
    names = sorted(str(f) for f in files if f.suffix == ".py" and f.parts[0] == "llama_cpp")
    located = {str(f): Path(str(f.locate())) for f in files}
    texts = [located[name].read_text(encoding="utf-8") for name in names]
    return [text for text in texts if len(text) >= SHORTEST]


def describe(kind: str) -> str:
    """What the documents are."""
    if kind == "text":
        return "papers of Qasper"
    return f"Python files of {PACKAGE} {metadata.version(PACKAGE)}"


def windows(
    texts: list[str], encode: Callable[[str], list[int]], size: int, count: int
) -> list[list[int]]:
    """The first windows of all documents, then their second ones, and so on.

    Args:
        texts: Documents; what is left over at their ends is not used.
        encode: Gives token ids.
        size: Tokens of a window.
        count: How many windows.

    Raises:
        ValueError: There is not enough text.
    """
    found: list[Iterator[list[int]]] = []
    n_found = 0
    for text in texts:
        if n_found > 4 * count:
            break
        ids = encode(text)
        starts = range(0, len(ids) - size + 1, size)
        found.append(iter([ids[start : start + size] for start in starts]))
        n_found += len(starts)
    rounds = itertools.zip_longest(*found)
    chosen = [window for turn in rounds for window in turn if window is not None][:count]
    if len(chosen) < count:
        raise ValueError(f"{len(chosen)} windows of {size} tokens where {count} are wanted")
    return chosen
