"""Every kind of file is read, in any cut; what is bad is put aside with its place and reason."""

import gzip
import json
import zlib

import pytest
from quality_corpus import prose

from deepseek.core.errors import ConfigError, DocumentError
from deepseek.data.quality.config import CleanConfig, CleanSettings, SourceSettings
from deepseek.data.quality.plan import Item, Shard, make_plan
from deepseek.data.quality.readers import Reader
from deepseek.data.quality.record import Flaw, Record


def config(folder, settings=None, **source):
    source = {"paths": ["."]} | source
    return CleanConfig(folder, settings or CleanSettings(), {"s": SourceSettings(**source)}, ())


def read(found):
    reader = Reader(found.settings)
    try:
        return [list(reader.read(s, found.sources[s.source])) for s in make_plan(found)]
    finally:
        reader.close()


def flat(found):
    return [record for shard in read(found) for record in shard]


def zstd(data):
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


LINES = [json.dumps({"text": f"Text {i}. " + "ä" * (i * 7 % 50), "n": i}) for i in range(200)]
BODY = ("\n".join(LINES) + "\n").encode()


@pytest.mark.parametrize("shard_bytes", [1_000, 1_003, 5_000, 10**6])
def test_any_cut_of_lines_gives_the_same_records(tmp_path, shard_bytes):
    (tmp_path / "a.jsonl").write_bytes(BODY)
    (tmp_path / "b.jsonl").write_bytes(BODY.rstrip())
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(BODY))
    (tmp_path / "d.jsonl.zst").write_bytes(zstd(BODY))
    shards = read(config(tmp_path, CleanSettings(shard_bytes=shard_bytes)))
    assert (len(shards) > 3) == (shard_bytes < 10_000)
    records = [r for shard in shards for r in shard]
    assert [r.text for r in records] == [json.loads(line)["text"] for line in LINES] * 4
    assert records[1].id == f"s/a.jsonl@{len(LINES[0].encode()) + 1}"
    assert records[1].metadata == {"n": 1}
    assert len({r.id for r in records}) == 800


def test_bad_lines_are_put_aside(tmp_path):
    good = json.dumps({"text": "fine", "id": "own"}).encode()
    lines = [
        good,
        b'{"text": "cut of',
        b'{"text": "\xff\xfe"}',
        b"[1, 2]",
        b'{"txt": "no text"}',
        b'{"text": 7}',
        b'{"text": "  "}',
        b'{"text": "\\ud800 half"}',
        b'{"text": "' + b"x" * 3_000 + b'"}',
        b"[" * 100_000,
        b'{"text": "NaN beside", "n": NaN}',
        b"",
        good,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = flat(config(tmp_path, CleanSettings(max_document_bytes=2_000)))
    reasons = [r.reason for r in found if isinstance(r, Flaw)]
    assert [r.id for r in found if isinstance(r, Record)] == ["own", "own"]
    wanted = (
        "no JSON: Invalid control", "no UTF-8 at byte 10", "no JSON object", "no text under 'text'",
        "no text under 'text'", "empty", "half a character", "a line of 3,013 bytes",
        "a line of 100,001 bytes", "metadata that JSON cannot hold",
    )  # fmt: skip
    assert len(reasons) == len(wanted)
    for reason, beginning in zip(reasons, wanted, strict=True):
        assert reason.startswith(beginning)
    places = [r.place for r in found if isinstance(r, Flaw)]
    assert places[0] == f"s/a.jsonl@{len(good) + 1}"


@pytest.mark.parametrize("name", ["c.jsonl.gz", "d.jsonl.zst"])
def test_a_compressed_file_that_breaks_off_gives_what_it_has(tmp_path, name):
    body = "".join(json.dumps({"text": prose(i)}) + "\n" for i in range(300)).encode()
    data = gzip.compress(body) if name.endswith("gz") else zstd(body)
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    found = flat(config(tmp_path))
    assert isinstance(found[-1], Flaw)
    assert "breaks off" in found[-1].reason
    assert 20 < sum(isinstance(record, Record) for record in found) < 300
    (tmp_path / name).write_bytes(b"no archive at all" * 10)
    (flaw,) = flat(config(tmp_path))
    assert "breaks off" in flaw.reason


def test_files_of_text_and_code(tmp_path):
    (tmp_path / "src" / ".git").mkdir(parents=True)
    (tmp_path / "src" / "a.py").write_text("print(1)\n")
    (tmp_path / "src" / "b.md").write_bytes(b"\xef\xbb\xbf# Title")
    (tmp_path / "src" / "c.txt").write_bytes(b"\xff\x00\x80")
    (tmp_path / "src" / "d.txt").write_text("x" * 3_000)
    (tmp_path / "src" / "e.txt").write_text(" \n")
    (tmp_path / "src" / "f.bin").write_text("unknown")
    (tmp_path / "src" / ".git" / "g.txt").write_text("hidden")
    found = flat(config(tmp_path, CleanSettings(max_document_bytes=2_000)))
    assert {r.id: r.text for r in found if isinstance(r, Record)} == {
        "s/src/a.py": "print(1)\n",
        "s/src/b.md": "# Title",
    }
    assert {r.place: r.reason for r in found if isinstance(r, Flaw)} == {
        "s/src/c.txt": "no UTF-8 at byte 0",
        "s/src/d.txt": "3,000 bytes are more than 2,000",
        "s/src/e.txt": "empty",
    }
    only = flat(config(tmp_path, include=["*.py"]))
    assert [r.id for r in only] == ["s/src/a.py"]
    assert [r.id for r in flat(config(tmp_path, kind="text", include=["*.bin"]))] == ["s/src/f.bin"]


def test_parquet_and_a_damaged_one(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"body": [f"row {i} " * 50 for i in range(600)], "n": list(range(600))})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=200)
    settings = CleanSettings(shard_bytes=1_000)
    shards = read(config(tmp_path, settings, text_key="body"))
    assert len(shards) == 3
    records = [r for shard in shards for r in shard]
    assert [r.metadata["n"] for r in records] == list(range(600))
    assert records[200].id == "s/a.parquet@1.0"
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-100])
    (flaw,) = flat(config(tmp_path, text_key="body"))
    assert flaw.reason.startswith("no readable Parquet file")
    spoiled = data[:100] + zlib.compress(b"nonsense") * 20 + data[100 + 20 * 16 :]
    (tmp_path / "a.parquet").write_bytes(spoiled[: len(data)])
    found = flat(config(tmp_path, text_key="body"))
    assert any(isinstance(r, Flaw) for r in found)


PAGE = """<html><head><title>A &amp; B</title><script>var x = 1;</script></head><body>
<nav><a href="/">Home</a><a href="/a">About</a></nav><main><h1>Heading</h1><p>{}</p><p>{}</p></main>
<footer>Copyright</footer></body></html>"""


def test_html_without_its_navigation(tmp_path):
    (tmp_path / "a.html").write_text(PAGE.format(prose(1), prose(2)))
    (tmp_path / "b.html").write_bytes(PAGE.format("Grüße aus Köln. " * 20, "x").encode("latin-1"))
    first, second = flat(config(tmp_path))
    assert prose(1).splitlines()[0] in first.text
    assert "About" not in first.text
    assert "var x" not in first.text
    assert first.metadata == {"title": "A & B"}
    assert "Grüße aus Köln." in second.text


def pdf(text: str) -> bytes:
    """A file of one page."""
    stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 6\n0000000000 65535 f \n"
    return (
        body
        + head
        + table
        + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(body)
    )


def test_pdf_and_a_broken_one(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf("A sentence on a page."))
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7 nothing")
    (tmp_path / "c.pdf").write_bytes(pdf("The last one."))
    first, flaw, last = flat(config(tmp_path))
    assert (first.text, last.text) == ("A sentence on a page.", "The last one.")
    assert "PdfiumError" in flaw.reason


def test_a_child_that_dies_costs_one_file(tmp_path, monkeypatch):
    from deepseek.data.quality import extraction

    program = tmp_path / "child.py"
    source = extraction.PROGRAM.read_text()
    dying = "import os; 'bad' in path and os._exit(9); document = pdfium"
    program.write_text(source.replace("document = pdfium", dying))
    monkeypatch.setattr(extraction, "PROGRAM", program)
    for name in ("a", "bad", "c"):
        (tmp_path / f"{name}.pdf").write_bytes(pdf(f"Page of {name}."))
    first, flaw, last = flat(config(tmp_path, include=["*.pdf"]))
    assert (first.text, last.text) == ("Page of a.", "Page of c.")
    assert flaw.reason.startswith("extracting its text failed")


def test_a_file_that_goes_away_is_put_aside(tmp_path):
    shard = Shard("s", (Item(str(tmp_path / "gone.txt"), "s/gone.txt", "text", 1, 0),))
    found = config(tmp_path)
    (flaw,) = Reader(found.settings).read(Shard.from_json(shard.as_json()), found.sources["s"])
    assert flaw == Flaw("s/gone.txt", "cannot be read: No such file or directory")


def test_paths_are_checked(tmp_path):
    with pytest.raises(DocumentError, match="does not exist"):
        make_plan(config(tmp_path, paths=["nowhere"]))
    with pytest.raises(ConfigError, match="source s has no files"):
        make_plan(config(tmp_path))
