"""Text by which gates are started: windows of token ids, with the domain of each if it is known."""

import argparse
import ast
import contextlib
import inspect
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from deepseek.core.errors import ConfigError, DocumentError
from deepseek.data.text import text_files
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.gate import UNKNOWN

N_TOKENS = 16_384
WINDOW = 512
LARGEST = 4 << 20
"""Characters of a domain that are read."""
BUILTIN = "the language reference and modules of Python"


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A sample of what a model reads."""

    token_ids: Int[Tensor, "S T"]
    domains: Int[Tensor, " S"]
    """Of each window: the number of a group, or `UNKNOWN`."""
    origin: str
    """Where the text is from, for people."""

    @property
    def n_tokens(self) -> int:
        """In all windows."""
        return self.token_ids.numel()


def named_texts(words: Sequence[str]) -> dict[str, str]:
    """Texts by group from words such as `notes.txt`, `code=src`; those without have no name.

    Raises:
        DocumentError: A file does not exist or is no text.
    """
    texts: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name.isidentifier():
            name, path = "", word
        for file in text_files([Path(path)]):
            if len(texts.get(name, "")) < LARGEST:
                texts[name] = texts.get(name, "") + _read(file)
    return texts


def builtin_texts() -> dict[str, str]:
    """English prose and code that come with Python; nothing if this Python was installed without.

    It is the language reference that `help` shows, and the source of some modules.
    """
    texts = {}
    with contextlib.suppress(ImportError):
        from pydoc_data.topics import topics

        texts["text"] = "".join(topics[name] for name in sorted(topics))
    with contextlib.suppress(OSError):
        modules = (argparse, ast, inspect, tarfile)
        texts["code"] = "".join(inspect.getsource(module) for module in modules)
    return texts


def calibrate(
    texts: Mapping[str, str],
    encode: Callable[[str], list[int]],
    moe: MoEConfig,
    origin: str,
    n_tokens: int = N_TOKENS,
) -> Calibration:
    """Windows spread over texts, equally many of each.

    Args:
        texts: By group. A name that is no group is refused, except those of built-in texts.
        encode: Gives token ids.
        moe: Has the groups.
        origin: Where the text is from.
        n_tokens: In all.

    Raises:
        ConfigError: A name is no group, or there is too little text.
    """
    windows: list[list[int]] = []
    domains: list[int] = []
    names = [group.name for group in moe.groups]
    wanted = max(1, n_tokens // WINDOW // max(1, len(texts)))
    for name, text in texts.items():
        is_builtin = origin == BUILTIN and name not in names
        domain = UNKNOWN if not name or is_builtin else moe.group(name)
        ids = encode(text)
        n_whole = len(ids) // WINDOW
        chosen = sorted({i * n_whole // wanted for i in range(wanted)}) if n_whole else []
        windows += [ids[i * WINDOW : (i + 1) * WINDOW] for i in chosen]
        domains += [domain] * len(chosen)
    if not windows:
        raise ConfigError(
            f"the calibration text is shorter than {WINDOW} tokens", "name more files"
        )
    return Calibration(torch.tensor(windows), torch.tensor(domains), origin)


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as handle:
            return handle.read(LARGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot read {file}: {error}", "name text files") from None
