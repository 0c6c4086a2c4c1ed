import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from safetensors_writer import Table, file_bytes, row, sample_data, sample_table, write_folder

from deepseek.core.errors import CheckpointError
from deepseek.weights import safetensors
from deepseek.weights.safetensors import DTYPES
from deepseek.weights.source import open_weights


def test_a_file_of_the_library_reads_back_in_every_dtype(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: (torch.rand((3, 5), generator=generator) * 100).to(dtype)
        for name, dtype in DTYPES.items()
    }
    folder = write_folder(tmp_path / "m", b"")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source = open_weights(folder)
    assert sorted(source.names()) == sorted(tensors)
    assert source.folder == folder
    assert source.n_bytes == (folder / "model.safetensors").stat().st_size
    for name, tensor in tensors.items():
        assert source.shape(name) == (3, 5)
        assert torch.equal(source.tensor(name, tensor.dtype), tensor)
        if tensor.is_floating_point():
            ids = torch.tensor([2, 0])
            assert torch.equal(source.rows(name, ids, tensor.dtype), tensor[ids])


def test_numbers_are_copies_in_the_dtype_asked_for(tmp_path: Path) -> None:
    source = open_weights(write_folder(tmp_path / "m", file_bytes(sample_table(), sample_data())))
    first = source.tensor("a.weight", torch.float32)
    first.zero_()  # a view of the mapped file would crash here
    assert torch.equal(
        source.tensor("a.weight", torch.bfloat16).float().flatten()[:3] * 4, arange(3)
    )
    assert torch.equal(source.tensor("b.weight", torch.float32), arange(8))
    source.release()
    assert torch.equal(source.tensor("c.weight", torch.float64).flatten() * 2, arange(16).double())


def test_unaligned_and_empty_tensors_are_legal(tmp_path: Path) -> None:
    table = {
        "byte": row("U8", [3], 0),
        "none": row("F32", [0, 7], 3),
        "odd": row("F32", [2], 3),
        "scalar": row("F64", [], 11),
    }
    data = b"\1\2\3" + struct.pack("<2fd", 1.5, -2.5, 0.25)
    for padding in range(8):  # every remainder of the header's length
        text = json.dumps(table) + " " * padding
        source = open_weights(write_folder(tmp_path / "m", file_bytes(text, data)))
        assert source.tensor("odd", torch.float32).tolist() == [1.5, -2.5]
        assert source.tensor("none", torch.float32).shape == (0, 7)
        assert source.tensor("scalar", torch.float32).item() == 0.25


def test_a_boolean_is_0_or_1_whatever_the_byte(tmp_path: Path) -> None:
    table = {"mask": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}
    source = open_weights(write_folder(tmp_path / "m", file_bytes(table, b"\0\1\2\xff")))
    assert source.tensor("mask", torch.float32).tolist() == [0, 1, 1, 1]


def test_several_files_are_one_checkpoint(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", b"")
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file({"a": torch.ones(2)}, folder / names[0])
    save_file({"b": torch.zeros(3)}, folder / names[1])
    _index(folder, {"a": names[0], "b": names[1]})
    assert sorted(open_weights(folder).names()) == ["a", "b"]
    save_file({"a": torch.zeros(3)}, folder / names[1])
    with pytest.raises(CheckpointError, match="'a' is in two files"):
        open_weights(folder)
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match="cannot open"):
        open_weights(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "model.bin",
        "a\0.safetensors",
    ],
)
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "m", b"")
    _index(folder, {"a": name})
    with pytest.raises(CheckpointError):
        open_weights(folder)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{"]
)
def test_an_index_of_another_form_is_an_error(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "m", b"")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError):
        open_weights(folder)


def test_a_folder_without_weights_or_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        open_weights(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        open_weights(tmp_path)
    with pytest.raises(CheckpointError, match="one file of a checkpoint"):
        open_weights(tmp_path / "model.safetensors")


def _changed(**fields: object) -> Table:
    table = sample_table()
    table["b.weight"] |= fields
    return table


def _header(text: str) -> bytes:
    return file_bytes(text, sample_data())


ROW = '{"dtype": "F32", "shape": [44], "data_offsets": [0, 176]}'
LIES: dict[str, Callable[[], bytes]] = {
    "shorter than a length": lambda: b"\1\0\0",
    "length huge": lambda: struct.pack("<Q", 2**64 - 1) + b"{}",
    "length past end": lambda: struct.pack("<Q", 3) + b"{}",
    "length zero": lambda: struct.pack("<Q", 0) + sample_data(),
    "no JSON": lambda: _header("not json"),
    "no object": lambda: _header("[1]"),
    "no UTF-8": lambda: file_bytes(b'{"\xff": 1}', b""),
    "nested too deep": lambda: _header("[" * 100_000),
    "number too long": lambda: _header('{"a": ' + "9" * 10_000 + "}"),
    "key twice": lambda: _header(f'{{"a": {ROW}, "a": {ROW}}}'),
    "field twice": lambda: _header(f'{{"a": {ROW[:-1]}, "shape": [44]}}}}'),
    "tensor is no object": lambda: file_bytes({"a": 1}, b""),
    "field missing": lambda: file_bytes({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "field too many": lambda: _edited(extra=1),
    "type unknown": lambda: _edited(dtype="F8"),
    "type of numbers": lambda: _edited(dtype=[1]),
    "shape of text": lambda: _edited(shape="8"),
    "shape negative": lambda: _edited(shape=[-8]),
    "shape of fractions": lambda: _edited(shape=[8.0]),
    "shape of truths": lambda: _edited(shape=[True] * 8),
    "shape larger": lambda: _edited(shape=[9]),
    "shape smaller": lambda: _edited(shape=[7]),
    "shape with too many axes": lambda: _edited(shape=[1] * 8 + [8]),
    "shape that overflows": lambda: _edited(shape=[2**47, 2**47, 2**47]),
    "empty shape with huge strides": lambda: _edited(
        shape=[0, 2**47, 2**47], data_offsets=[128, 128]
    ),
    "offsets backwards": lambda: _edited(data_offsets=[144, 128]),
    "offsets of three": lambda: _edited(data_offsets=[128, 144, 160]),
    "offsets past end": lambda: _edited(data_offsets=[176, 192]),
    "offsets huge": lambda: _edited(data_offsets=[2**63, 2**63 + 16]),
    "tensors overlap": lambda: _edited(data_offsets=[120, 136]),
    "a gap between tensors": lambda: file_bytes(
        {"a": row("F32", [4], 0), "b": row("F32", [4], 20)}, bytes(36)
    ),
    "bytes behind the last": lambda: file_bytes(sample_table(), sample_data() + b"\0"),
    "last byte missing": lambda: file_bytes(sample_table(), sample_data()[:-1]),
}


def _edited(**fields: object) -> bytes:
    return file_bytes(_changed(**fields), sample_data())


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_header_is_an_error(tmp_path: Path, lie: str) -> None:
    folder = write_folder(tmp_path / "m", LIES[lie]())
    with pytest.raises(CheckpointError) as caught:
        open_weights(folder)
    assert caught.value.hint
    assert len(str(caught.value)) < 1_000


def test_headers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "m", file_bytes(sample_table(), sample_data()))
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match="header claims"):
        open_weights(folder)
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 10)
    with pytest.raises(CheckpointError, match="too large for JSON"):
        open_weights(folder)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    data = bytearray(sample_data())
    struct.pack_into("<f", data, 40, bad)
    source = open_weights(write_folder(tmp_path / "m", file_bytes(sample_table(), bytes(data))))
    with pytest.raises(CheckpointError, match=r"a\.weight holds"):
        source.tensor("a.weight", torch.float32)
    with pytest.raises(CheckpointError):
        source.rows("a.weight", torch.tensor([1]), torch.float32)
    assert source.rows("a.weight", torch.tensor([0]), torch.float32).shape == (1, 8)


def test_numbers_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    table = {"a": row("F32", [2, 1], 0)}
    source = open_weights(
        write_folder(tmp_path / "m", file_bytes(table, struct.pack("<2f", 1.0, 1e6)))
    )
    with pytest.raises(CheckpointError, match="too large for float16"):
        source.tensor("a", torch.float16)
    with pytest.raises(CheckpointError, match="too large for float16"):
        source.rows("a", torch.tensor([1]), torch.float16)


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    source = open_weights(write_folder(tmp_path / "m", file_bytes(sample_table(), sample_data())))
    with pytest.raises(CheckpointError, match="no tensor z"):
        source.tensor("z", torch.float32)


def arange(n: int) -> torch.Tensor:
    return torch.arange(n).float()


def _index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
