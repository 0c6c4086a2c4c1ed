"""Builds the `tokenizers` object from GGUF metadata, checking everything it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from deepseek.core.errors import TokenizerError
from deepseek.tokenizer.bytelevel import splitter

MAX_TOKENS = 2_000_000
MAX_TOKEN_CHARACTERS = 4_096
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
# Names by which families mark the end of a turn, whatever the metadata calls the end token.
END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A BPE with its special tokens."""

    backend: tokenizers.Tokenizer
    control: dict[str, int]
    """Control tokens by text: never produced by user text."""
    bos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool
    chat_template: str | None
    unused_ids: frozenset[int] = frozenset()
    """Places in the vocabulary that stand for nothing."""


def vocabulary_of_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """Build the tokenizer that a GGUF file describes.

    Raises:
        TokenizerError: It is of another kind, or inconsistent.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise TokenizerError(
            f"the tokenizer is of kind {kind!r}", "supported is byte-level BPE ('gpt2')"
        )
    tokens = _strings(metadata, "tokens")
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise _invalid(f"{len(tokens)} tokens and a token_type list that does not match")
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise _invalid("a token appears twice")
    merges = _merges(_strings(metadata, "merges"), ids)
    name = metadata.get("tokenizer.ggml.pre", "default")
    split = splitter(name) if isinstance(name, str) else None
    if split is None:
        raise TokenizerError(
            f"the splitting rule {name!r} is not known", "use a checkpoint with tokenizer.json"
        )
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=ids, merges=merges, ignore_merges=name in ("llama-bpe", "llama3"))
    )
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    if name == "qwen2":  # as in Qwen's own tokenizer.json
        backend.normalizer = normalizers.NFC()
    control = {token: i for i, token in enumerate(tokens) if types[i] == CONTROL}
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    backend.add_tokens(
        [
            AddedToken(token, special=False, normalized=False)
            for i, token in enumerate(tokens)
            if types[i] == USER_DEFINED
        ]
    )
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise _invalid("the chat template is no text")
    return Vocabulary(
        backend=backend,
        control=control,
        bos_id=_id(metadata, "bos_token_id", len(tokens)),
        eos_ids=end_ids(
            control,
            _id(metadata, "eos_token_id", len(tokens)),
            _id(metadata, "eot_token_id", len(tokens)),
        ),
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        chat_template=template,
        unused_ids=frozenset(i for i in range(len(tokens)) if types[i] == UNUSED),
    )


def end_ids(control: Mapping[str, int], *named: int | None) -> frozenset[int]:
    """All tokens that end an answer: the named ones and the usual ones this vocabulary has.

    Raises:
        TokenizerError: There are none: an answer would never end.
    """
    ids = {i for i in named if i is not None} | {control[n] for n in END_NAMES if n in control}
    if not ids:
        raise _invalid("no token ends an answer")
    return frozenset(ids)


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_TOKENS:
        raise _invalid(f"{key} is missing, empty or too long")
    for value in values:
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_TOKEN_CHARACTERS:
            raise _invalid(f"{key} holds an entry that is empty, too long or no text")
    return values


def _merges(lines: list[str], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs = []
    for line in lines:
        left, space, right = line.partition(" ")
        if not space or left not in ids or right not in ids or left + right not in ids:
            raise _invalid(f"the merge {line[:60]!r} names tokens that do not exist")
        pairs.append((left, right))
    return pairs


def _id(metadata: Mapping[str, Any], key: str, n_tokens: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n_tokens:
        raise _invalid(f"{key} is {value!r}, outside the vocabulary")
    return value


def _invalid(why: str) -> TokenizerError:
    return TokenizerError(f"the tokenizer is invalid: {why}", "the file is damaged: fetch it again")
