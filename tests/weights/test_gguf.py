import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from block_reference import REFERENCE
from gguf_writer import BLOCKS, GGUFImage, RawTensor, write_gguf
from tiny_model import D_HEAD, D_MODEL, N_HEADS, tiny_gguf, tiny_metadata, tiny_tensors

from deepseek.core.errors import CheckpointError
from deepseek.weights import gguf_header
from deepseek.weights.gguf import GGUFFile
from deepseek.weights.gguf_header import read_header
from deepseek.weights.mapping import MappedFile
from deepseek.weights.source import open_weights

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return to_file


def reference_numbers(tensor: RawTensor) -> torch.Tensor:
    _, _, n_bytes = BLOCKS[tensor.format]
    numbers = [
        value
        for start in range(0, len(tensor.data), n_bytes)
        for value in REFERENCE[tensor.format](tensor.data[start : start + n_bytes])
    ]
    return torch.tensor(numbers).view(tensor.shape)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_whole_file_reads_back(write: Write, family: str, version: int) -> None:
    tensors = tiny_tensors(family)
    path = write(write_gguf(tiny_metadata(family), tensors, version=version).data)
    source = open_weights(path)
    config = source.config()
    assert config["model_type"] == family
    assert (config["hidden_size"], config["head_dim"]) == (D_MODEL, D_HEAD)
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is (family == "llama")
    assert source.metadata["tokenizer.ggml.flags"] == [True, False, True]
    assert source.metadata["tokenizer.ggml.scores"] == [0.5, -1.5]
    assert len(source.names()) == len(tensors)
    assert source.n_bytes == path.stat().st_size
    raw = {t.name: t for t in tensors}
    pairs = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.1.self_attn.v_proj.weight": "blk.1.attn_v.weight",
    }
    for ours, theirs in pairs.items():
        found = source.tensor(ours, torch.float32)
        assert source.shape(ours) == found.shape == raw[theirs].shape
        torch.testing.assert_close(found, reference_numbers(raw[theirs]), rtol=1e-6, atol=1e-5)


def test_llama_rows_come_back_in_the_order_of_rotary_halves(write: Write) -> None:
    path = write(tiny_gguf("llama").data)
    stored = reference_numbers(next(t for t in tiny_tensors() if t.name == "blk.0.attn_q.weight"))
    found = GGUFFile(path).tensor("model.layers.0.self_attn.q_proj.weight", torch.float32)
    for head in range(N_HEADS):
        rows = stored[head * D_HEAD : (head + 1) * D_HEAD]
        expected = torch.cat((rows[0::2], rows[1::2]))
        torch.testing.assert_close(found[head * D_HEAD : (head + 1) * D_HEAD], expected)


def test_qwen_rows_stay_as_they_are(write: Write) -> None:
    path = write(tiny_gguf("qwen2").data)
    tensor = next(t for t in tiny_tensors("qwen2") if t.name == "blk.0.attn_q.weight")
    found = GGUFFile(path).tensor("model.layers.0.self_attn.q_proj.weight", torch.float32)
    torch.testing.assert_close(found, reference_numbers(tensor))


def test_some_rows_equal_those_of_the_whole_matrix(write: Write) -> None:
    source = open_weights(write(tiny_gguf().data))
    ids = torch.tensor([63, 0, 7, 7])
    whole = source.tensor("model.embed_tokens.weight", torch.float32)
    assert torch.equal(source.rows("model.embed_tokens.weight", ids, torch.float32), whole[ids])
    source.release()
    assert torch.equal(source.tensor("model.embed_tokens.weight", torch.float32), whole)


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"])
def test_codes_are_the_numbers_in_the_same_order(write: Write, part: str) -> None:
    """Rows that llama.cpp keeps in another order come in Hugging Face's from both."""
    source = GGUFFile(write(tiny_gguf().data))
    name = f"model.layers.0.{part}.weight"
    if not source.has_codes(name):
        pytest.skip("stored as plain numbers")
    n_rows = source.shape(name)[0]
    whole = source.tensor(name, torch.float32)
    cuts = (0, 1, n_rows // 2, n_rows)
    parts = [source.codes(name, a, b - a).numbers() for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=1e-6)


def test_an_unknown_name_is_an_error(write: Write) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor model\.nothing"):
        open_weights(write(tiny_gguf().data)).tensor("model.nothing", torch.float32)


def _alignment_of(value: object) -> Callable[[GGUFImage], bytes]:
    pairs = tiny_metadata() | {"general.alignment": value}
    return lambda _: bytes(write_gguf(pairs, tiny_tensors()).data)


def _without(name: str) -> Callable[[GGUFImage], bytes]:
    kept = [t for t in tiny_tensors() if t.name != name]
    return lambda _: bytes(write_gguf(tiny_metadata(), kept).data)


def _with(**pairs: object) -> Callable[[GGUFImage], bytes]:
    table = tiny_metadata() | {key.replace("__", "."): v for key, v in pairs.items()}
    return lambda _: bytes(write_gguf(table, tiny_tensors()).data)


def _with_tensor(name: str, shape: tuple[int, ...], family: str = "llama") -> bytes:
    n_bytes = 4
    for size in shape:
        n_bytes *= size
    extra = RawTensor(name, shape, "F32", bytes(n_bytes))
    return bytes(write_gguf(tiny_metadata(family), [*tiny_tensors(family), extra]).data)


HUGE = 2**64 - 1
LIES: dict[str, tuple[Callable[[GGUFImage], bytes], str]] = {
    "magic": (lambda f: b"GGML" + f.data[4:], "does not begin with GGUF"),
    "version 1": (lambda f: f.patched("version", 1), "version 1"),
    "other byte order": (lambda f: f.patched("version", 3 << 24), "version"),
    "tensor count huge": (lambda f: f.patched("tensor count", HUGE), "claims"),
    "tensor count one more": (lambda f: f.patched("tensor count", 21), "damaged"),
    "tensor count zero": (lambda f: f.patched("tensor count", 0), "damaged"),
    "pair count huge": (lambda f: f.patched("pair count", HUGE), "claims"),
    "pair count one more": (lambda f: f.patched("pair count", 17), "damaged"),
    "pair count one less": (lambda f: f.patched("pair count", 15), "damaged"),
    "key length huge": (lambda f: f.patched("key length", HUGE), "claims"),
    "key length zero": (lambda f: f.patched("key length", 0), "empty"),
    "key length past end": (lambda f: f.patched("key length", 60_000), "ends inside"),
    "string length huge": (lambda f: f.patched("string length", HUGE), "claims"),
    "string length past end": (lambda f: f.patched("string length", 10**7), "ends inside"),
    "value type unknown": (lambda f: f.patched("value type", 13), "unknown type 13"),
    "array of arrays": (lambda f: f.patched("item type", 9), "items of type 9"),
    "array item type unknown": (lambda f: f.patched("item type", 99), "items of type 99"),
    "array count huge": (lambda f: f.patched("item count", HUGE), "array claims"),
    "array count past end": (lambda f: f.patched("item count", 100_000, 1), "array claims"),
    "boolean of 2": (lambda f: _boolean(f, 2), "boolean"),
    "dimension count zero": (lambda f: f.patched("dimension count", 0), "0 dimensions"),
    "dimension count 5": (lambda f: f.patched("dimension count", 5), "5 dimensions"),
    "dimension zero": (lambda f: f.patched("dimension", 0), "shape"),
    "dimension huge": (lambda f: f.patched("dimension", HUGE), "shape"),
    "dimensions that overflow": (lambda f: f.patched("dimension", 2**39, 1), "past the end"),
    "row that fills no block": (lambda f: f.patched("dimension", 33), "do not fill"),
    "tensor type unknown": (lambda f: f.patched("tensor type", 77), "unsupported type 77"),
    "tensor type larger": (lambda f: f.patched("tensor type", 0), "damaged"),
    "offset unaligned": (lambda f: f.patched("offset", 7, 1), "not aligned"),
    "offset past end": (lambda f: f.patched("offset", 1 << 40, 1), "past the end"),
    "offset huge": (lambda f: f.patched("offset", HUGE - 31, 1), "past the end"),
    "tensors overlap": (lambda f: f.patched("offset", 0, 3), "overlap"),
    "tensor twice": (lambda f: f.renamed("blk.0.attn_k.weight", "blk.0.attn_v.weight"), "twice"),
    "tensor renamed": (lambda f: f.renamed("blk.0.attn_k.weight", "blk.0.attn_x.weight"), "know"),
    "tensor of no layer": (
        lambda f: f.renamed("blk.0.attn_k.weight", "blk.7.attn_k.weight"),
        "shape",
    ),
    "alignment 24": (_alignment_of(24), "alignment"),
    "alignment zero": (_alignment_of(0), "alignment"),
    "alignment of text": (_alignment_of("32"), "alignment"),
    "alignment of truth": (_alignment_of(True), "alignment"),
    "alignment that moves the data": (_alignment_of(64), "damaged"),
    "a tensor missing": (_without("blk.1.ffn_up.weight"), "damaged"),
    "no embedding": (_without("token_embd.weight"), "embed_tokens"),
    "architecture unknown": (_with(general__architecture="mamba"), "mamba"),
    "architecture of numbers": (_with(general__architecture=[1, 2]), "architecture"),
    "more layers than tensors": (_with(llama__block_count=1_000), "too few tensors"),
    "fewer layers than tensors": (_with(llama__block_count=1), "shape"),
    "no layers": (_with(llama__block_count=0), "block_count"),
    "more layers than any model": (_with(llama__block_count=1_000_000), "block_count"),
    "context huge": (_with(llama__context_length=2**31), "context_length"),
    "width of text": (_with(llama__embedding_length="32"), "embedding_length"),
    "width other than the tensors": (_with(llama__embedding_length=64), "shape"),
    "odd heads": (_with(llama__attention__key_length=7), "width 7"),
    "heads that do not share": (_with(llama__attention__head_count_kv=3), "share"),
    "base not finite": (_with(llama__rope__freq_base=float("nan")), "rotary base"),
    "epsilon zero": (
        _with(llama__attention__layer_norm_rms_epsilon=0.0),
        "epsilon",
    ),
    "scaling of numbers": (_with(llama__rope__scaling__type=[1]), "scaling"),
    "odd bias": (lambda _: _with_tensor("blk.0.attn_q.bias", (7,)), "q_proj.bias has shape"),
    "bias of a norm": (lambda _: _with_tensor("blk.0.attn_norm.bias", (32,)), "shape"),
    "scaled positions": (lambda _: _with_tensor("rope_freqs.weight", (16,)), "rotary"),
}


def _boolean(image: GGUFImage, value: int) -> bytes:
    """The value right after the first pair of type boolean."""
    start = next(s for text, s in image.strings if text == "general.quantised")
    copy = bytearray(image.data)
    copy[start + len("general.quantised") + 4] = value
    return bytes(copy)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_header_is_an_error(write: Write, lie: str) -> None:
    forge, why = LIES[lie]
    with pytest.raises(CheckpointError, match=why) as caught:
        open_weights(write(forge(tiny_gguf())))
    assert caught.value.hint
    assert len(str(caught.value)) < 1_000


def test_a_key_that_appears_twice_is_an_error(write: Write) -> None:
    image = write_gguf(tiny_metadata() | {"general.nama": "x"}, tiny_tensors())
    with pytest.raises(CheckpointError, match="twice"):
        open_weights(write(image.renamed("general.nama", "general.name")))


def test_one_place_for_two_tensors_is_an_error(write: Write) -> None:
    image = tiny_gguf()
    with pytest.raises(CheckpointError, match="does not know"):
        open_weights(write(image.renamed("blk.1.attn_k.weight", "blk.00.attn_kweight")))
    with pytest.raises(CheckpointError, match="does not know"):
        open_weights(write(_with_tensor("blk.٠.attn_k.bias", (16,))))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error(write: Write, share: float) -> None:
    data = tiny_gguf().data
    with pytest.raises(CheckpointError):
        open_weights(write(data[: int(len(data) * share)]))


def test_headers_are_bounded_in_all(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tiny_gguf().data)
    monkeypatch.setattr(gguf_header, "MAX_ITEMS", 100)  # two arrays of 64 are more together
    with pytest.raises(CheckpointError, match="array claims 64 items"):
        open_weights(path)
    monkeypatch.setattr(gguf_header, "MAX_ITEMS", 1_000)
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match="larger than any model needs"):
        open_weights(path)


def test_a_bias_is_read_where_there_is_one(write: Write) -> None:
    source = open_weights(write(_with_tensor("blk.1.attn_q.bias", (32,))))
    assert source.tensor("model.layers.1.self_attn.q_proj.bias", torch.float32).shape == (32,)


def test_what_is_no_readable_file_is_an_error(tmp_path: Path) -> None:
    empty, pipe = tmp_path / "empty.gguf", tmp_path / "pipe.gguf"
    empty.touch()
    os.mkfifo(pipe)
    for path, why in (
        (tmp_path / "absent.gguf", "does not exist"),
        (empty, "is empty"),
        (pipe, "no regular file"),
        (Path("/dev/null"), "no regular file"),
    ):
        with pytest.raises(CheckpointError, match=why):
            open_weights(path)
    with pytest.raises(CheckpointError, match="cannot open"):
        GGUFFile(tmp_path / "a\0b.gguf")


def test_damaged_numbers_are_found_when_the_tensor_is_read(write: Write) -> None:
    data = bytearray(tiny_gguf().data)
    start = tiny_gguf().data_start
    struct.pack_into("<e", data, start, float("inf"))  # the first scale of the embedding
    source = open_weights(write(data))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight holds"):
        source.tensor("model.embed_tokens.weight", torch.float32)
    with pytest.raises(CheckpointError):
        source.rows("model.embed_tokens.weight", torch.tensor([0]), torch.float32)


@pytest.mark.weights
def test_a_real_checkpoint_has_the_numbers_of_the_scalar_reference(smollm2_path: Path) -> None:
    source = GGUFFile(smollm2_path)
    ids = torch.tensor([0, 1, 40_000])
    info = read_header(MappedFile(smollm2_path)).tensors["token_embd.weight"]
    form, raw = info.format.name, MappedFile(smollm2_path).bytes[info.start :][: info.n_bytes]
    rows = source.rows("model.embed_tokens.weight", ids, torch.float32)
    n_bytes = BLOCKS[form][2]
    row_bytes = raw.numel() // source.shape("model.embed_tokens.weight")[0]
    for row, i in zip(rows, ids.tolist(), strict=True):
        data = bytes(raw[i * row_bytes : (i + 1) * row_bytes].tolist())
        expected = [
            v for s in range(0, row_bytes, n_bytes) for v in REFERENCE[form](data[s : s + n_bytes])
        ]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.weights
def test_a_real_checkpoint_has_the_numbers_of_the_gguf_package(smollm2_path: Path) -> None:
    import gguf

    source = GGUFFile(smollm2_path)
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.17.ffn_down.weight": "model.layers.17.mlp.down_proj.weight",
        "blk.3.attn_v.weight": "model.layers.3.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    theirs = {t.name: t for t in gguf.GGUFReader(smollm2_path).tensors}
    for name, ours in names.items():
        oracle = gguf.dequantize(theirs[name].data, theirs[name].tensor_type)
        found = source.tensor(ours, torch.float32)
        assert torch.equal(found, torch.from_numpy(oracle.copy()).view(found.shape))
