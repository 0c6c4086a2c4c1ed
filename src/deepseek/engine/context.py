"""A long text that was read once, and the questions that follow it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek.core.errors import ContextError, RequestError
from deepseek.core.llm import Message, Prompt
from deepseek.engine.adapters import LoadedAdapter
from deepseek.engine.runner import Runner
from deepseek.model.context_file import (
    HINT,
    ContextFile,
    ContextInfo,
    Pages,
    pages_of,
    write_context,
)
from deepseek.ops.cold import BITS, ColdTier
from deepseek.ops.hierarchical import PAGE, Hierarchy

BETWEEN = "\n\n"
"""What stands between a text in a message and the question behind it."""


@dataclass(frozen=True, slots=True)
class Context:
    """The beginning of prompts: what is known of them before a question is."""

    beginning: str | tuple[Message, ...]
    n_tokens: int
    """Tokens that are not read again: whole pages of those that all questions share."""
    adapter: str | None = None
    """The name of the adapter that it was read with, and is to be asked with."""

    def followed_by(self, question: str) -> Prompt:
        """The prompt that asks a question.

        A plain text is continued by it as it stands. In a conversation it stands behind the last
        message if that is a user's, else it is a message of its own.
        """
        if isinstance(self.beginning, str):
            return self.beginning + question
        *before, last = self.beginning
        if last.role == "user":
            return [*before, Message("user", last.content + BETWEEN + question)]
        return [*before, last, Message("user", question)]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reads a context."""

    model: str
    """The checkpoint's name."""
    fingerprint: str
    """Of its weights."""
    context_window: int
    adapter: LoadedAdapter | None = None
    """That is in use."""


def beginning_of(prompt: Prompt) -> str | tuple[Message, ...]:
    """A prompt that questions can follow.

    Raises:
        RequestError: It is empty.
    """
    beginning = prompt if isinstance(prompt, str) else tuple(prompt)
    if not beginning:
        raise RequestError("the text to read is empty", "give some text")
    return beginning


def shared_ids(
    encode: Callable[[Prompt], list[int]], beginning: str | tuple[Message, ...]
) -> list[int]:
    """Tokens that begin the prompts of all questions, in whole pages.

    Whether a prompt really begins so is compared token by token when it is asked: a question that
    joins the text's last letters to a word only makes the last page read again.

    Raises:
        RequestError: They are fewer than a page.
    """
    context = Context(beginning, 0)
    one, other = (encode(context.followed_by(question)) for question in ("What", "\u4e3a"))
    common = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        common += 1
    n_tokens = common // PAGE * PAGE
    if not n_tokens:
        raise RequestError(
            f"a text of {common} tokens is too short to be kept", f"{PAGE} are the least"
        )
    return one[:n_tokens]


def save(
    path: Path,
    context: Context,
    runner: Runner,
    identity: Identity,
    on_page: Callable[[int, int], None] | None = None,
) -> ContextInfo:
    """Write a context that is in the runner's cache.

    Raises:
        ContextError: The place cannot be written.
    """
    text = _text_of(context.beginning)
    info = ContextInfo(
        model=identity.model,
        fingerprint=identity.fingerprint,
        context_window=identity.context_window,
        attention=_settings(runner.hierarchy),
        n_tokens=context.n_tokens,
        text_bytes=len(text),
        pages=pages_of(runner.tables, context.n_tokens),
        cold=_tier_settings(runner.tier),
        adapter=_adapter_settings(identity.adapter),
    )
    write_context(path, info, text, runner.tokens[: context.n_tokens], runner.tables, on_page)
    return info


def load(
    path: Path,
    runner: Runner,
    encode: Callable[[Prompt], list[int]],
    identity: Identity,
    on_page: Callable[[int, int], None] | None = None,
) -> Context:
    """Bring a saved context into the runner's cache, whose contents are lost.

    Raises:
        ContextError: The file is damaged, or does not fit the model and its settings.
    """
    with ContextFile(path) as file:
        info = file.info
        if info.fingerprint != identity.fingerprint:
            other = "other weights" if info.model == identity.model else info.model
            raise ContextError(
                f"{path} was read by {other}, not by this {identity.model}",
                f"load the model it was saved with (--model {info.model})",
            )
        _check_adapter(path, info, identity.adapter)
        _check_settings(path, info, runner, identity.context_window)
        beginning = parsed_text(path, file.text())
        token_ids = file.token_ids()
        if shared_ids(encode, beginning) != token_ids:
            raise ContextError(f"{path}: its text has other tokens with this tokenizer", HINT)
        pages = [file.pages(kind, on_page) for kind in range(len(info.pages))]
        runner.restore(token_ids, pages)
    adapter = identity.adapter
    return Context(beginning, info.n_tokens, None if adapter is None else adapter.name)


def adapter_of(path: Path) -> str | None:
    """The fingerprint of the adapter that a saved context was read with.

    Raises:
        ContextError: The file is damaged.
    """
    with ContextFile(path) as file:
        return (file.info.adapter or {}).get("fingerprint")


def parsed_text(path: Path, data: bytes) -> str | tuple[Message, ...]:
    """The beginning of prompts from a file's text.

    Raises:
        ContextError: It is no such text.
    """
    try:
        value = json.loads(data)
        if isinstance(value, str) and value:
            return value
        messages = tuple(Message(role, content) for role, content in value)
        if messages and all(isinstance(message.content, str) for message in messages):
            return messages
    except (ValueError, TypeError, RecursionError, RequestError):
        pass
    raise ContextError(f"{path} holds no text", HINT)


def _text_of(beginning: str | tuple[Message, ...]) -> bytes:
    if isinstance(beginning, str):
        return json.dumps(beginning).encode()
    return json.dumps([[m.role, m.content] for m in beginning]).encode()


def _settings(hierarchy: Hierarchy | None) -> dict[str, Any] | None:
    return None if hierarchy is None else asdict(hierarchy)


def _adapter_settings(adapter: LoadedAdapter | None) -> dict[str, Any] | None:
    return None if adapter is None else {"name": adapter.name, "fingerprint": adapter.fingerprint}


def _check_adapter(path: Path, info: ContextInfo, adapter: LoadedAdapter | None) -> None:
    given = (info.adapter or {}).get("fingerprint")
    if given != (None if adapter is None else adapter.fingerprint):
        name = str((info.adapter or {}).get("name"))[:200]
        raise ContextError(
            f"{path} was read with an adapter named {name!r}, which is not loaded",
            "load the same adapter before it (--adapter)",
        )


def _check_settings(path: Path, info: ContextInfo, runner: Runner, context_window: int) -> None:
    here = _settings(runner.hierarchy)
    if info.attention != here:
        raise ContextError(
            f"{path} was read with {_named(info.attention)}, this model reads with {_named(here)}",
            f"load the model with a context window of {info.context_window} and the attention "
            f"it was saved with ({'dense' if info.attention is None else 'hierarchical'})",
        )
    if info.n_tokens >= context_window:
        raise ContextError(
            f"{path} has {info.n_tokens:,} tokens, the context window {context_window:,}",
            "load the model with a larger context window",
        )
    wanted = pages_of(runner.tables, info.n_tokens)
    _check_format(path, info, runner.tier, wanted)
    if info.pages != wanted:
        raise ContextError(
            f"{path} holds {_kinds(info.pages)}, where this model keeps {_kinds(wanted)}",
            "load the model on the device and with the dtype it was saved with",
        )


def _named(attention: dict[str, Any] | None) -> str:
    if attention is None:
        return "dense attention"
    return "hierarchical attention (" + ", ".join(f"{k} {v}" for k, v in attention.items()) + ")"


def _tier_settings(tier: ColdTier | None) -> dict[str, Any] | None:
    """What decides about the numbers; where they lie does not."""
    if tier is None:
        return None
    settings = asdict(tier)
    del settings["folder"]
    return settings


def _check_format(
    path: Path, info: ContextInfo, tier: ColdTier | None, wanted: Sequence[Pages]
) -> None:
    here = _tier_settings(tier)
    if info.cold == here:
        return
    bits = None if info.cold is None else info.cold.get("bits")
    name = next((name for name, known in BITS.items() if known == bits), None)
    is_other = name is not None and (here is None or bits != here["bits"])
    raise ContextError(
        f"{path} holds keys and values in {_format_named(info.cold, info.pages)}, "
        f"this model keeps them in {_format_named(here, wanted)}",
        f'load the model with kv_dtype="{name}" (--kv-dtype {name})' if is_other else HINT,
    )


def _format_named(cold: dict[str, Any] | None, pages: Sequence[Pages]) -> str:
    if cold is None:
        return pages[0].layout.partition(" ")[0]
    settings = ", ".join(f"{k} {v}" for k, v in cold.items() if k != "bits")
    return f"int{cold.get('bits')} ({settings})"


def _kinds(pages: Sequence[Pages]) -> str:
    return ", ".join(f"{kind.name} as {kind.layout}" for kind in pages)
