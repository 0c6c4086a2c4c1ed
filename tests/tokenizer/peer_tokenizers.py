"""transformers' tokenizers from the vocabulary of a GGUF file, built by transformers' classes.

`AutoTokenizer.from_pretrained(gguf_file=…)` is not used: it gives SmolLM2 the splitting rule of
GPT-2, without the single digits of its published tokenizer.json, and Qwen no normalisation.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, pre_tokenizers
from transformers import GPT2Tokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

CONTROL, USER_DEFINED = 3, 4


@dataclass(frozen=True)
class Peer:
    """One vocabulary twice: `plain` knows no control token, `control` recognises them."""

    plain: PreTrainedTokenizerBase
    control: PreTrainedTokenizerBase


def smollm_peer(metadata: dict[str, Any]) -> Peer:
    """GPT-2's class with the splitting rule that SmolLM2 publishes in its tokenizer.json."""
    return Peer(*(_smollm(metadata, control) for control in (False, True)))


def qwen2_peer(metadata: dict[str, Any]) -> Peer:
    """Qwen2's own class, which brings its splitting rule and normalisation."""
    return Peer(*(_built(Qwen2Tokenizer, metadata, control) for control in (False, True)))


def _smollm(metadata: dict[str, Any], control: bool) -> PreTrainedTokenizerBase:
    peer = _built(GPT2Tokenizer, metadata, control)
    peer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    return peer


def _built(kind: Any, metadata: dict[str, Any], control: bool) -> PreTrainedTokenizerBase:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    peer = kind(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(line.split(" ")) for line in metadata["tokenizer.ggml.merges"]],
        bos_token=None,
        unk_token=None,
        split_special_tokens=not control,
        pad_token=None,
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
    )
    for token, kind_of_token in zip(tokens, types, strict=True):
        if kind_of_token in (CONTROL, USER_DEFINED):
            special = kind_of_token == CONTROL
            added = AddedToken(token, special=special, normalized=False)
            peer.add_tokens([added], special_tokens=special)
    return peer
