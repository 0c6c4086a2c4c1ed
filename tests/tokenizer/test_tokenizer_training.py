"""A vocabulary that is learned, written and read again."""

from pathlib import Path

import pytest

from deepseek.core.errors import ConfigError
from deepseek.core.llm import Message
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.tokenizer.training import SMALLEST, train_tokenizer

TEXTS = ["the cat and the other cat", "naïve façades 猫 and \U0001f431", "tabs\tand\r\nlines"]


def write(tokenizer: Tokenizer, folder: Path) -> None:
    for name, text in tokenizer.files().items():
        (folder / name).write_text(text, encoding="utf-8")


def test_it_encodes_every_text_and_has_the_size_asked_for() -> None:
    tokenizer = train_tokenizer(TEXTS, SMALLEST + 10)
    assert tokenizer.vocab_size == SMALLEST + 10
    for text in [*TEXTS, "never seen: Ω <|endoftext|>"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_id not in ids
    assert len(tokenizer.encode("the cat")) < len("the cat")


def test_the_same_texts_give_the_same_vocabulary(tmp_path: Path) -> None:
    tokenizers = [train_tokenizer(TEXTS, SMALLEST + 10) for _ in range(2)]
    write(tokenizers[0], tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert {again.digest} == {tokenizer.digest for tokenizer in tokenizers}


def test_a_tokenizer_that_is_saved_is_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    write(tokenizer, tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.digest == tokenizer.digest
    assert again.eos_ids == tokenizer.eos_ids
    assert (again.bos_id, again.begin_id) == (tokenizer.bos_id, tokenizer.begin_id)
    assert again.token_text(again.end_id) == "<|endoftext|>"


@pytest.mark.weights
def test_a_gguf_files_tokenizer_is_saved_as_a_folder(smollm2_path: Path, tmp_path: Path) -> None:
    from deepseek.weights.source import open_weights

    tokenizer = Tokenizer.from_gguf_metadata(open_weights(smollm2_path).metadata)
    write(tokenizer, tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    text = "def f(x):\n    return x  # naïve 猫 <|im_end|> 1,234"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.eos_ids == tokenizer.eos_ids
    assert again.control_ids == tokenizer.control_ids
    assert again.end_id == tokenizer.end_id


def test_bytes_must_fit() -> None:
    with pytest.raises(ConfigError, match="a vocabulary of 100"):
        train_tokenizer(TEXTS, 100)


def test_digits_can_be_tokens_of_their_own() -> None:
    texts = ["1999 and 1999 or 1999 "] * 50
    together = train_tokenizer(texts, SMALLEST + 20)
    single = train_tokenizer(texts, SMALLEST + 20, single_digits=True)
    assert len(together.encode("1999")) < 4
    assert [single.token_text(i) for i in single.encode("1999")] == list("1999")
    assert single.decode(single.encode("in 1999: 7")) == "in 1999: 7"


def test_a_learned_tokenizer_knows_conversations(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, SMALLEST + 10)
    tokenizer.save(tmp_path)
    for known in (tokenizer, Tokenizer.from_folder(tmp_path)):
        ids = known.encode_chat([Message("user", "Hi")])
        shown = known.decode(ids, skip_control=False)
        assert shown == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert known.encode("<|im_end|>", control=True)[0] in known.eos_ids
        assert known.token_text(known.end_id) == "<|endoftext|>"
