import json
from pathlib import Path
from typing import Any

import pytest
from tiny_vocabulary import BYTES, CONTROL, MERGED, tiny_folder, tiny_metadata

from deepseek.core.errors import TokenizerError
from deepseek.core.llm import Message
from deepseek.tokenizer.tokenizer import Tokenizer

MERGED_IDS = range(len(BYTES), len(BYTES) + len(MERGED))


@pytest.fixture(params=["gguf", "folder"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """The same vocabulary from both kinds of files."""
    if request.param == "gguf":
        return Tokenizer.from_gguf_metadata(tiny_metadata())
    return Tokenizer.from_folder(tiny_folder(tmp_path / "model"))


def test_merges_apply_in_their_order(tiny: Tokenizer) -> None:
    assert tiny.encode("hello") == [MERGED_IDS[-1]]
    assert tiny.encode("hell") == [MERGED_IDS[2]]
    assert tiny.encode("") == []
    assert tiny.vocab_size == len(BYTES) + len(MERGED) + 5


def test_nothing_is_cut_off_or_filled_up(tiny: Tokenizer) -> None:
    text = "x" * 20
    assert len(tiny.encode(text)) == 20
    assert len(tiny.encode("x")) == 1


@pytest.mark.parametrize("text", ["hello wörld", "\0\x7f\n\r\t ", "你好🌍", "é!", "<tool>x"])
def test_text_comes_back(tiny: Tokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text)) == text


def test_control_tokens_are_recognised_only_when_asked_for(tiny: Tokenizer) -> None:
    text = "a<|im_end|>b"
    end = tiny.encode("<|im_end|>", control=True)
    assert len(end) == 1
    assert tiny.encode(text, control=True) == tiny.encode("a") + end + tiny.encode("b")
    plain = tiny.encode(text)
    assert tiny.control_ids.isdisjoint(plain)
    assert tiny.decode(plain) == text
    assert tiny.decode(tiny.encode(text, control=True)) == "ab"
    assert tiny.decode(tiny.encode(text, control=True), skip_control=False) == text
    assert tiny.token_text(end[0]) == "<|im_end|>"


def test_user_defined_tokens_are_plain_text_kept_whole(tiny: Tokenizer) -> None:
    assert len(tiny.encode("<tool>")) == 1
    (odd,) = tiny.encode("é!")  # é alone is a letter of the byte alphabet, too
    assert tiny.token_bytes(odd) == "é!".encode()


def test_a_lone_surrogate_is_replaced(tiny: Tokenizer) -> None:
    assert tiny.decode(tiny.encode("a\ud800b")) == "a?b"


def test_an_id_outside_the_vocabulary_has_no_bytes(tiny: Tokenizer) -> None:
    assert tiny.token_bytes(1_000_000) == b""
    assert tiny.decode([1_000_000, *tiny.encode("x")]) == "x"


def test_a_cut_character_becomes_a_replacement(tiny: Tokenizer) -> None:
    assert tiny.decode(tiny.encode("世")[:2]) == "\ufffd"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_beginning_is_marked_if_the_model_wants_it(wanted: bool) -> None:
    tokenizer = Tokenizer.from_gguf_metadata(tiny_metadata(add_bos_token=wanted))
    ids = tokenizer.encode("x", add_bos=True)
    assert (ids[0] == tokenizer.bos_id) is wanted
    assert len(tokenizer.encode("x")) == 1


def test_answers_end_at_the_named_token_and_the_usual_ones(tiny: Tokenizer) -> None:
    names = {tiny.token_text(i) for i in tiny.eos_ids}
    assert names == {"<|im_end|>", "<|endoftext|>"}


def test_a_conversation_without_a_template_is_chatml(tiny: Tokenizer) -> None:
    ids = tiny.encode_chat([Message("user", "hello")])
    assert tiny.decode(ids, skip_control=False) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_vocabulary_whose_merges_build_a_control_token_does_not_give_it_away() -> None:
    tokens = [*BYTES, "zz", "zzz", "<|im_end|>"]
    types = [1] * len(BYTES) + [1, 3, 3]
    tokenizer = Tokenizer.from_gguf_metadata(
        tiny_metadata(
            tokens=tokens,
            token_type=types,
            merges=["z z", "zz z"],
            eos_token_id=len(tokens) - 1,
            bos_token_id=None,
        )
    )
    assert len(tokenizer.encode("xzzy")) == 3
    ids = tokenizer.encode("xzzzy")
    assert tokenizer.control_ids.isdisjoint(ids)
    assert len(ids) == 5
    assert tokenizer.decode(ids) == "xzzzy"
    assert len(tokenizer.encode("xzzzy", control=True)) == 3


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": "llama"}, "of kind 'llama'"),
        ({"model": None}, "of kind None"),
        ({"pre": "unheard-of"}, "'unheard-of' is not known"),
        ({"pre": 3}, "3 is not known"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": []}, "tokens is missing"),
        ({"tokens": "abc"}, "tokens is missing"),
        ({"tokens": [1, 2]}, "tokens holds an entry"),
        ({"tokens": [""]}, "tokens holds an entry"),
        ({"tokens": ["a" * 5_000]}, "tokens holds an entry"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "twice"),
        ({"token_type": [1]}, "does not match"),
        ({"token_type": "x"}, "does not match"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["h e", 3]}, "merges holds an entry"),
        ({"merges": ["he"]}, "the merge 'he'"),
        ({"merges": ["h zz"]}, "the merge 'h zz'"),
        ({"merges": ["z z"]}, "the merge 'z z'"),
        ({"eos_token_id": 10**6}, "outside the vocabulary"),
        ({"eos_token_id": -1}, "outside the vocabulary"),
        ({"eos_token_id": "2"}, "outside the vocabulary"),
        ({"bos_token_id": True}, "outside the vocabulary"),
    ],
)
def test_an_inconsistent_vocabulary_is_an_error(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenizerError, match=why) as caught:
        Tokenizer.from_gguf_metadata(tiny_metadata(**changed))
    assert caught.value.hint


def test_a_vocabulary_without_an_end_is_an_error() -> None:
    tokens = [*BYTES, *MERGED]
    with pytest.raises(TokenizerError, match="no token ends an answer"):
        Tokenizer.from_gguf_metadata(
            tiny_metadata(
                tokens=tokens, token_type=[1] * len(tokens), eos_token_id=None, bos_token_id=None
            )
        )


def test_a_template_that_is_no_text_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="chat template is no text"):
        Tokenizer.from_gguf_metadata(tiny_metadata() | {"tokenizer.chat_template": [1]})


def test_a_file_that_makes_the_library_panic_is_an_error(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    table["model"]["continuing_subword_prefix"] = "x" * 50
    (folder / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(TokenizerError, match="is invalid"):
        Tokenizer.from_folder(folder)


def test_a_folder_says_where_answers_end_and_which_template_it_has(tmp_path: Path) -> None:
    folder = tiny_folder(
        tmp_path / "model",
        chat_template=[{"name": "other", "template": "o"}, {"name": "default", "template": "d"}],
        add_bos_token=True,
    )
    ids = [len(BYTES), 10**9, -1, True, "x"]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    tokenizer = Tokenizer.from_folder(folder)
    assert len(BYTES) in tokenizer.eos_ids
    assert max(tokenizer.eos_ids) < tokenizer.vocab_size
    assert min(tokenizer.eos_ids) >= 0
    assert tokenizer.encode("", add_bos=True) == tokenizer.encode(CONTROL[0], control=True)
    assert tokenizer.decode(tokenizer.encode_chat([Message("user", "x")])) == "d"
    (folder / "chat_template.jinja").write_text("f")
    newer = Tokenizer.from_folder(folder)
    assert newer.decode(newer.encode_chat([Message("user", "x")])) == "f"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("tokenizer.json", None, "cannot read"),
        ("tokenizer.json", b"{", "no valid JSON"),
        ("tokenizer.json", b"\xff\xfe{}", "no UTF-8"),
        ("tokenizer.json", b"[" * 100_000, "no valid JSON"),
        ("tokenizer.json", b"[]", "no JSON object"),
        ("tokenizer.json", b"{}", "no byte-level"),
        ("tokenizer.json", b'{"decoder": []}', "no byte-level"),
        ("tokenizer.json", b'{"decoder": {"type": "WordPiece"}}', "no byte-level"),
        ("tokenizer.json", b'{"decoder": {"type": "ByteLevel"}}', "is invalid"),
        ("tokenizer_config.json", b"[]", "no JSON object"),
        ("generation_config.json", b"3", "no JSON object"),
        ("chat_template.jinja", b"\xff", "no UTF-8"),
    ],
)
def test_a_damaged_folder_is_an_error(
    tmp_path: Path, name: str, data: bytes | None, why: str
) -> None:
    path = tiny_folder(tmp_path / "model") / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(TokenizerError, match=why) as caught:
        Tokenizer.from_folder(tmp_path / "model")
    assert caught.value.hint
