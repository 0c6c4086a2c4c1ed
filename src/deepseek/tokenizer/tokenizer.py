"""`Tokenizer`: text to ids and back, safe against control tokens typed by users."""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from deepseek.core.errors import TokenizerError
from deepseek.core.llm import Message
from deepseek.tokenizer.bytelevel import BYTE_TO_CHARACTER, text_to_bytes
from deepseek.tokenizer.template import CHATML, TAGS, ChatTemplate
from deepseek.tokenizer.vocabulary import Vocabulary, end_ids, vocabulary_of_gguf

MAX_JSON_BYTES = 200 << 20
MAX_TEMPLATE_BYTES = 4 << 20
DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")


class Tokenizer:
    """A byte-level BPE with its control tokens and chat template."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._backend = vocabulary.backend
        # Text is encoded as text: control tokens are recognised by `encode(control=True)` only.
        self._backend.encode_special_tokens = True
        self._control = vocabulary.control
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Added tokens are plain text; only the others are written in the byte alphabet.
        added = self._backend.get_added_tokens_decoder().values()
        self._literal = frozenset(token.content for token in added)
        self._add_bos = vocabulary.add_bos and vocabulary.bos_id is not None
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids
        self.control_ids = frozenset(self._control.values())
        # Tags around reasoning and tool calls are text for programs, whatever token they are.
        self.hidden_ids = self.control_ids - {self._control.get(tag, -1) for tag in TAGS}
        self.unused_ids = vocabulary.unused_ids
        self._chat_template = vocabulary.chat_template
        self._template = ChatTemplate(
            vocabulary.chat_template or CHATML,
            control=longest_first,
            bos=self.token_text(self.bos_id) if self.bos_id is not None else "",
            eos=self.token_text(min(self.eos_ids)),
        )

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From a GGUF file's key-value pairs.

        Raises:
            TokenizerError: The vocabulary is inconsistent or of an unsupported kind.
        """
        return cls(vocabulary_of_gguf(metadata))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """From `tokenizer.json` and what stands beside it in a Hugging Face folder.

        Raises:
            TokenizerError: The file is missing, invalid or of an unsupported kind.
        """
        return cls(_vocabulary_of_folder(folder))

    def files(self) -> dict[str, str]:
        """What `from_folder` reads: texts by the names of their files."""
        named = {"bos_token": self.bos_id, "eos_token": min(self.eos_ids)}
        settings: dict[str, Any] = {
            key: self.token_text(i) for key, i in named.items() if i is not None
        }
        settings |= {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self._add_bos,
        }
        if self._chat_template is not None:
            settings["chat_template"] = self._chat_template
        return {
            "tokenizer.json": self._backend.to_str(),
            "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2),
            "generation_config.json": json.dumps({"eos_token_id": sorted(self.eos_ids)}),
        }

    def save(self, folder: Path) -> None:
        """Write `files` into a folder.

        Raises:
            TokenizerError: The folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self.files().items():
                partial = folder / f".{name}.partial"
                partial.write_text(text, encoding="utf-8")
                os.replace(partial, folder / name)
        except OSError as error:
            raise TokenizerError(
                f"cannot write {folder}: {error.strerror}",
                "free some space or choose another folder",
            ) from None

    @property
    def digest(self) -> str:
        """Of everything that decides how text is encoded, hexadecimal."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    @property
    def begin_id(self) -> int | None:
        """What a document begins with, if this model wants something there."""
        return self.bos_id if self._add_bos else None

    @property
    def end_id(self) -> int:
        """What a document ends with: of several ends the one that is no end of a turn."""
        by_text = {self.token_text(i): i for i in self.eos_ids}
        return next((by_text[t] for t in DOCUMENT_ENDS if t in by_text), min(self.eos_ids))

    @property
    def vocab_size(self) -> int:
        """Entries, control tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, control: bool = False, add_bos: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: Any text. A lone surrogate is replaced, since it is no character.
            control: Recognise control tokens such as `<|im_end|>`. Never set this for text
                that a user wrote: without it they become ordinary text.
            add_bos: Begin with the beginning-of-text token if this model wants one.
        """
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids = [self.bos_id] if add_bos and self._add_bos and self.bos_id is not None else []
        if not control:
            return ids + self._plain(text)
        position = 0
        for match in self._control_pattern.finditer(text):
            ids += self._plain(text[position : match.start()])
            ids.append(self._control[match.group()])
            position = match.end()
        return ids + self._plain(text[position:])

    def encode_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation in the model's own format.

        Only the template writes control tokens; what stands in a message stays text.

        Raises:
            TokenizerError: The template fails, refuses the roles or exceeds its bounds.
        """
        ids: list[int] = []
        for segment in self._template.render(messages, add_generation_prompt):
            if segment.is_control:
                ids.append(self._control[segment.text])
            else:
                ids += self._plain(segment.text)
        return ids

    def decode(self, ids: Iterable[int], *, skip_control: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, skip_control=skip_control).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_control: bool = True) -> bytes:
        """Bytes of token ids."""
        return b"".join(
            self.token_bytes(i) for i in ids if not (skip_control and i in self.hidden_ids)
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes that one token stands for (none for an id outside the vocabulary)."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        return token.encode() if token in self._literal else text_to_bytes(token)

    def token_text(self, token_id: int) -> str:
        """One token as text, for people."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def stream_decoder(self) -> "StreamDecoder":
        """A decoder for tokens that arrive one at a time."""
        return StreamDecoder(self)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids if text else []
        return ids if self.control_ids.isdisjoint(ids) else self._spelt(ids)

    def _spelt(self, ids: list[int]) -> list[int]:
        """Control tokens that a hostile vocabulary's merges built, byte by byte instead."""
        spelt: list[int] = []
        for i in ids:
            if i not in self.control_ids:
                spelt.append(i)
                continue
            for byte in self.token_bytes(i):
                one = self._backend.token_to_id(BYTE_TO_CHARACTER[byte])
                if one is not None and one not in self.control_ids:
                    spelt.append(one)
        return spelt


class StreamDecoder:
    """Turns tokens into text as they come; holds back a character until it is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        if token_id in self._tokenizer.hidden_ids:
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """U+FFFD for a character that never became complete."""
        return self._utf8.decode(b"", final=True)


def _vocabulary_of_folder(folder: Path) -> Vocabulary:
    data = _json(folder / "tokenizer.json", required=True)
    settings = _json(folder / "tokenizer_config.json")
    generation = _json(folder / "generation_config.json")
    decoder = data.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise TokenizerError(
            f"{folder} has no byte-level tokenizer", "supported is byte-level BPE only"
        )
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(data))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # plain Exception for most things, a Rust panic for others
        raise TokenizerError(
            f"{folder / 'tokenizer.json'} is invalid: {error}", "fetch it again"
        ) from None
    # What the library would add by itself (a BOS, padding, truncation) is ours to decide.
    backend.no_padding()
    backend.no_truncation()
    control = {
        token.content: i for i, token in backend.get_added_tokens_decoder().items() if token.special
    }
    n_tokens = backend.get_vocab_size(with_added_tokens=True)
    named = generation.get("eos_token_id")
    ends = list(named) if isinstance(named, list) else [named]
    ends.append(backend.token_to_id(_token_name(settings.get("eos_token")) or ""))
    bos = _token_name(settings.get("bos_token"))
    template_file = folder / "chat_template.jinja"
    template = settings.get("chat_template")
    if template_file.is_file():
        template = _text(template_file, MAX_TEMPLATE_BYTES)
    if isinstance(template, list):  # several by name
        named_so = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named_so[0].get("template") if named_so else None
    return Vocabulary(
        backend=backend,
        control=control,
        bos_id=backend.token_to_id(bos) if bos else None,
        eos_ids=end_ids(control, *(i for i in ends if type(i) is int and 0 <= i < n_tokens)),
        add_bos=bool(settings.get("add_bos_token", False)),
        chat_template=template if isinstance(template, str) else None,
    )


def _token_name(value: Any) -> str | None:
    """A token in tokenizer_config.json: a string, or an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _json(path: Path, required: bool = False) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(_text(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is no valid JSON: {error}", "fetch it again") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is no JSON object", "fetch it again")
    return value


def _text(path: Path, max_bytes: int) -> str:
    try:
        if path.stat().st_size > max_bytes:
            raise TokenizerError(f"{path} is too large", "it is no tokenizer file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(
            f"cannot read {path}: {error.strerror}", "a checkpoint folder needs this file"
        ) from None
    except UnicodeDecodeError:
        raise TokenizerError(f"{path} is no UTF-8 text", "fetch it again") from None
