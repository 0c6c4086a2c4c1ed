"""200 mutated and truncated PDFs: each is refused or read; nothing crashes, hangs or misplaces."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from paper_pdf import Sheet, write_pdf

from deepseek.apps.documents import pdf
from deepseek.apps.documents.glyphs import load_glyphs
from deepseek.apps.documents.reader import read_document
from deepseek.core.errors import DocumentError

COUNT = 200


def original(compress: bool) -> bytes:
    sheets = [Sheet(), Sheet(rotate=90)]
    for sheet in sheets:
        y = sheet.prose(60, 100, 220, "A sentence that is here to be damaged. " * 8)
        sheet.text(60, y + 20, "2 Results", 12, "bold")
        for i in range(5):
            sheet.text(60 + 50 * i, y + 40, f"{i}.5")
            sheet.text(60 + 50 * i, y + 52, f"{i}.7")
        sheet.prose(60, y + 70, 220, "Table 1: Numbers of no meaning.")
    return write_pdf(sheets, title="Fuzz", compress=compress)


def damaged(data: bytes, random_state: random.Random) -> bytes:
    """The file with bytes changed, numbers changed, a piece cut out or its end cut off."""
    body = bytearray(data)
    how = random_state.randrange(4)
    if how == 0:
        for _ in range(random_state.randint(1, 40)):
            body[random_state.randrange(len(body))] = random_state.randrange(256)
    elif how == 1:
        digits = [i for i, byte in enumerate(body) if 48 <= byte <= 57]
        for i in random_state.sample(digits, min(8, len(digits))):
            body[i] = random_state.choice(b"0123456789-.")
    elif how == 2:
        start = random_state.randrange(len(body))
        del body[start : start + random_state.randint(1, 400)]
    else:
        del body[random_state.randrange(9, len(body)) :]
    return bytes(body)


@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="the driver forks")
def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_state = random.Random(20)
    sources = [original(compress) for compress in (False, True)]
    for i in range(COUNT):
        (tmp_path / f"{i:03}.pdf").write_bytes(damaged(sources[i % 2], random_state))
    driver = Path(__file__).with_name("fuzz_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == COUNT
    outcomes = {"read": 0, "refused": 0}
    for line in lines:
        name, status, *said = line.split(" ", 2)
        assert status in ("0", "3"), line  # no signal, no traceback
        if status == "3":
            assert said[0].startswith("error "), line
            outcomes["refused"] += 1
            continue
        loaded = load_glyphs(tmp_path / Path(name).with_suffix(".npz"))
        monkeypatch.setattr(pdf, "read_glyphs", lambda *_, loaded=loaded: loaded)
        try:
            document = pdf.read_pdf(tmp_path / name, "0" * 64)
        except DocumentError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        for item in [*document.blocks, *document.sentences]:
            for span in item.spans:
                page = document.pages[span.page - 1]
                assert 0 <= span.start < span.end <= len(page.text)
                assert page.boxes is not None
                assert len(page.boxes) == len(page.text)
    assert min(outcomes.values()) > 30, outcomes


@pytest.mark.parametrize("keep", [9, 60, 600, 1500])
def test_truncated_files_through_the_front_door(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.pdf"
    path.write_bytes(original(True)[:keep])
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
