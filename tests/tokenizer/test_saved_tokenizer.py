"""A tokenizer from a GGUF file or a folder, saved as a Hugging Face folder, is the same one."""

from pathlib import Path

import pytest

from deepseek.core.errors import TokenizerError
from deepseek.core.llm import Message
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.source import open_weights

TEXTS = ["", "Hello, world", "naïve – 你好 🙂", "def f(x):\n    return x<|im_end|>1 + 23", "\ud800"]
CHAT = [Message("system", "Be brief."), Message("user", "Why is <|im_start|> there?")]


def assert_same(first: Tokenizer, second: Tokenizer) -> None:
    for text in TEXTS:
        for control in (False, True):
            ids = first.encode(text, control=control, add_bos=True)
            assert second.encode(text, control=control, add_bos=True) == ids
            assert second.decode(ids) == first.decode(ids)
    assert second.encode_chat(CHAT) == first.encode_chat(CHAT)
    for name in ("bos_id", "eos_ids", "control_ids", "hidden_ids", "vocab_size"):
        assert getattr(second, name) == getattr(first, name), name


@pytest.mark.weights
def test_of_a_gguf_file(smollm2_path: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf_metadata(open_weights(smollm2_path).metadata)
    tokenizer.save(tmp_path)
    assert_same(tokenizer, Tokenizer.from_folder(tmp_path))


def test_of_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    tokenizer.save(tmp_path / "once")
    again = Tokenizer.from_folder(tmp_path / "once")
    assert_same(tokenizer, again)
    again.save(tmp_path / "twice")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        once, twice = ((tmp_path / n / name).read_bytes() for n in ("once", "twice"))
        assert once == twice


def test_where_nothing_can_be_written(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(TokenizerError, match="cannot write"):
        Tokenizer.from_folder(tiny_folder).save(tmp_path / "taken")
