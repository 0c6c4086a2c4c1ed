"""A byte-level vocabulary small enough to see through, as GGUF metadata and as a folder."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["h e", "l l", "he ll", "hell o"]
MERGED = [merge.replace(" ", "") for merge in MERGES]
CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
USER_DEFINED = ["<tool>", "é!"]


def tiny_metadata(**changed: Any) -> dict[str, Any]:
    tokens = [*BYTES, *MERGED, *CONTROL, *USER_DEFINED]
    types = [1] * (len(BYTES) + len(MERGED)) + [3] * len(CONTROL) + [4] * len(USER_DEFINED)
    table = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": types,
        "merges": MERGES,
        "eos_token_id": tokens.index("<|im_end|>"),
        "bos_token_id": tokens.index("<|im_start|>"),
    }
    return {f"tokenizer.ggml.{key}": v for key, v in (table | changed).items() if v is not None}


def tiny_folder(folder: Path, **settings: Any) -> Path:
    """The same as `tokenizer.json` and `tokenizer_config.json`."""
    backend = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate([*BYTES, *MERGED])},
            merges=[(left, right) for left, right in (m.split(" ") for m in MERGES)],
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in USER_DEFINED])
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    table = {"eos_token": "<|im_end|>", "bos_token": {"content": "<|im_start|>"}} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(table), encoding="utf-8")
    return folder
