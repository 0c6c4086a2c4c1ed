"""Ids equal to transformers' and llama.cpp's on the 10,000 lines of `corpus.py`."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from corpus import corpus
from peer_tokenizers import Peer

from deepseek.tokenizer.bytelevel import BYTE_TO_CHARACTER
from deepseek.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.weights


def spellable(metadata: dict[str, Any]) -> tuple[str, ...]:
    """The corpus without characters that have a byte which the vocabulary lacks.

    SmolLM2 has no token for six control characters and for planes 4 to 11 of Unicode. Everyone
    drops those bytes; llama.cpp alone does not let their neighbours meet.
    """
    tokens = set(metadata["tokenizer.ggml.tokens"])
    lacking = {byte for byte, character in BYTE_TO_CHARACTER.items() if character not in tokens}
    return tuple(
        "".join(c for c in line if lacking.isdisjoint(c.encode())) if lacking else line
        for line in corpus()
    )


def composed() -> tuple[str, ...]:
    """The corpus as Qwen's tokenizer sees it: llama.cpp alone does not normalise."""
    return tuple(unicodedata.normalize("NFC", line) for line in corpus())


def assert_equal(lines: tuple[str, ...], ours: list[list[int]], theirs: list[list[int]]) -> None:
    assert len(lines) == len(ours) == len(theirs) == 10_000
    different = [(line, a, b) for line, a, b in zip(lines, ours, theirs, strict=True) if a != b]
    assert different == []


def peer_ids(peer: Peer, lines: tuple[str, ...]) -> list[list[int]]:
    return list(peer.plain(list(lines), add_special_tokens=False)["input_ids"])


def llama_ids(path: Path, lines: tuple[str, ...]) -> list[list[int]]:
    import llama_cpp

    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        return [
            model.tokenize(line.encode(), add_bos=False, special=False) if line else []
            for line in lines
        ]
    finally:
        model.close()


def test_the_corpus_has_what_it_promises() -> None:
    lines = corpus()
    assert len(set(lines)) > 9_500
    assert sum(any("一" <= c <= "鿿" for c in line) for line in lines) >= 1_000
    assert sum(any(ord(c) >= 0x1F300 for c in line) for line in lines) >= 900
    assert sum(any(unicodedata.category(c) == "Cc" for c in line) for line in lines) >= 700
    assert sum(unicodedata.normalize("NFC", line) != line for line in lines) >= 50


def test_smollm2_ids_equal_transformers(smollm2: Tokenizer, smollm2_peer: Peer) -> None:
    lines = corpus()
    assert_equal(lines, [smollm2.encode(line) for line in lines], peer_ids(smollm2_peer, lines))


def test_control_tokens_typed_by_users_equal_transformers(
    smollm2: Tokenizer, smollm2_peer: Peer
) -> None:
    for i in smollm2.control_ids:
        text = f"say {smollm2.token_text(i)} twice: {smollm2.token_text(i)}"
        ids = smollm2.encode(text)
        assert ids == smollm2_peer.plain.encode(text, add_special_tokens=False)
        assert smollm2.control_ids.isdisjoint(ids)
        marked = smollm2_peer.control.encode(text, add_special_tokens=False)
        assert smollm2.encode(text, control=True) == marked


def test_smollm2_text_comes_back(smollm2: Tokenizer, smollm2_metadata: dict[str, Any]) -> None:
    lines = spellable(smollm2_metadata)
    assert sum(a == b for a, b in zip(lines, corpus(), strict=True)) > 9_500
    assert [smollm2.decode(smollm2.encode(line)) for line in lines] == list(lines)


@pytest.mark.large
def test_qwen_ids_equal_transformers(qwen: Tokenizer, qwen_peer: Peer) -> None:
    lines = corpus()
    assert_equal(lines, [qwen.encode(line) for line in lines], peer_ids(qwen_peer, lines))


@pytest.mark.large
def test_qwen_text_comes_back_composed(qwen: Tokenizer) -> None:
    assert [qwen.decode(qwen.encode(line)) for line in corpus()] == list(composed())


@pytest.mark.oracle
def test_smollm2_ids_equal_llama_cpp(
    smollm2: Tokenizer, smollm2_metadata: dict[str, Any], smollm2_path: Path
) -> None:
    lines = spellable(smollm2_metadata)
    assert_equal(lines, [smollm2.encode(line) for line in lines], llama_ids(smollm2_path, lines))


@pytest.mark.oracle
@pytest.mark.large
def test_qwen_ids_equal_llama_cpp(qwen: Tokenizer, qwen_path: Path) -> None:
    lines = composed()
    assert_equal(lines, [qwen.encode(line) for line in lines], llama_ids(qwen_path, lines))


@pytest.mark.oracle
def test_smollm2_decodes_as_llama_cpp(smollm2: Tokenizer, smollm2_path: Path) -> None:
    import llama_cpp

    model = llama_cpp.Llama(str(smollm2_path), vocab_only=True, verbose=False)
    # The binding has room for 32 bytes of a single token.
    ours = {
        i: smollm2.token_bytes(i)
        for i in range(0, smollm2.vocab_size, 7)
        if i not in smollm2.control_ids and len(smollm2.token_bytes(i)) <= 32
    }
    assert len(ours) > 6_900
    assert ours == {i: model.detokenize([i]) for i in ours}
    model.close()
