"""Token files say what was written, and damage is found."""

from pathlib import Path

import pytest
from token_sources import write_source

from deepseek.core.errors import CheckpointError
from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file


def test_documents_come_back(tmp_path: Path) -> None:
    written = write_source(tmp_path, "a", [3, 1, 4])
    tokens = TokenFile.open(written.path)
    assert tokens.tokens.tolist() == [1000, 1001, 0, 0, 3000, 3001, 3002, 0]
    assert [tokens.span(i) for i in range(3)] == [(0, 3), (3, 4), (4, 8)]
    assert tokens.n_bytes.tolist() == [9, 3, 12]
    assert tokens.checksum == written.checksum
    assert [f.name for f in tmp_path.iterdir()] == ["a.tokens"]


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = write_source(tmp_path, "a", [3, 1, 4]).path
    whole = path.read_bytes()
    for place in range(8, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 2
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            TokenFile.open(path)


def test_a_cut_file_is_found(tmp_path: Path) -> None:
    path = write_source(tmp_path, "a", [3, 1, 4]).path
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError):
        TokenFile.open(path)


def test_what_fails_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def documents():
        yield EncodedDocument([1, 2], 2, 0.0)
        raise RuntimeError("the reader failed")

    with pytest.raises(RuntimeError):
        write_token_file(tmp_path / "a.tokens", documents())
    assert list(tmp_path.iterdir()) == []
