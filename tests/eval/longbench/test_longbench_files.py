"""LongBench's files are the user's: what is wrong is said, with file and line."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deepseek.core.errors import RequestError
from deepseek.eval.longbench import files
from deepseek.eval.longbench.files import Source, find_datasets, read_samples


def line(**changes: Any) -> str:
    row = {"input": "Who?", "context": "Text", "answers": ["She"], "all_classes": None, "_id": "a"}
    return json.dumps(row | changes, ensure_ascii=False) + "\n"


def test_a_folder_a_file_and_the_archive(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "qasper.jsonl").write_text(line(), encoding="utf-8")
    (data / "narrativeqa.jsonl").write_text(line(), encoding="utf-8")
    (data / "qasper_e.jsonl").write_text("ignored", encoding="utf-8")
    assert find_datasets(data) == find_datasets(tmp_path)
    assert list(find_datasets(data)) == ["narrativeqa", "qasper"]
    assert find_datasets(data / "qasper.jsonl") == {"qasper": Source(data / "qasper.jsonl")}

    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/trec.jsonl", line(all_classes=["She"]) + "\n" + line(_id=None))
    with pytest.raises(RequestError, match=r"data.zip:data/trec.jsonl, line 3: all_classes is mi"):
        read_samples("trec", find_datasets(packed)["trec"])
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/qmsum.jsonl", line(context="中文") + "\n" + line(_id=None))
    samples = read_samples("qmsum", find_datasets(packed)["qmsum"])
    assert [(sample.id, sample.context) for sample in samples] == [("a", "中文"), ("3", "Text")]
    lone = tmp_path / "lone"
    lone.mkdir()
    packed.rename(lone / "data.zip")
    assert list(find_datasets(lone)) == ["qmsum"]


def test_ids_are_made_unique(tmp_path: Path) -> None:
    path = tmp_path / "qasper.jsonl"
    path.write_text(line() + line(_id="b") + line(input="When?"), encoding="utf-8")
    samples = read_samples("qasper", Source(path))
    assert [(sample.id, sample.question) for sample in samples] == [
        ("a", "Who?"),
        ("b", "Who?"),
        ("a-3", "When?"),
    ]


def test_no_data_says_where_it_is(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "qasper.jsonl"):
        with pytest.raises(RequestError, match="holds no dataset of LongBench") as error:
            find_datasets(path)
        assert "THUDM/LongBench" in error.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[" * 100_000, "line 2: no JSON"),
        ("[1]", "line 2: no JSON object"),
        (line(input=None), "line 2: input is no text"),
        (line(context=3), "line 2: context is no text"),
        (line(answers="She"), "line 2: answers is no list of texts"),
        (line(answers=[]), "line 2: answers is no list of texts"),
        (line(answers=[1]), "line 2: answers is no list of texts"),
        (line(all_classes="x"), "line 2: all_classes is no list of texts"),
        ("\udcff", "line 2: no JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "qasper.jsonl"
    path.write_bytes(line().encode() + text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=f"qasper.jsonl, {message}"):
        read_samples("qasper", Source(path))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "qasper.jsonl"
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(RequestError, match="is empty"):
        read_samples("qasper", Source(path))
    monkeypatch.setattr(files, "LINES", 2)
    path.write_text(line() * 3, encoding="utf-8")
    with pytest.raises(RequestError, match="more than 2 lines"):
        read_samples("qasper", Source(path))
    monkeypatch.setattr(files, "LINE", 1 << 20)
    path.write_text(line(context="x" * (1 << 20)), encoding="utf-8")
    with pytest.raises(RequestError, match="more than 1 MiB"):
        read_samples("qasper", Source(path))


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(RequestError, match=r"cannot read .*data.zip"):
        find_datasets(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("qasper.jsonl", line() * 1_000)
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(40) + whole[100:])
    with pytest.raises(RequestError, match=r"cannot read data.zip:qasper.jsonl"):
        read_samples("qasper", Source(path, "qasper.jsonl"))
