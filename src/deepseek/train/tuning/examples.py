"""Records of a fine-tuning run as token files: what is learned, held out, and put aside."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError, DocumentError, TokenizerError
from deepseek.core.llm import Message
from deepseek.data.conversation import Example, encode_conversation, encode_text
from deepseek.data.documents import PARTS
from deepseek.data.records import (
    BadRecord,
    Quarantine,
    Record,
    conversation_of,
    pair_of,
    prompt_of,
    read_records,
    record_files,
)
from deepseek.data.text import text_files
from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.train.tuning.config import TuningConfig
from deepseek.train.tuning.rewards import GYM, check_record, gym_records
from deepseek.weights.cache import write_atomically

DOMAIN, GENERAL = "domain", "general"
CHOSEN, REJECTED = "chosen", "rejected"
QUARANTINE = "quarantine.jsonl"

Encode = Callable[[Record, Quarantine], list[Example]]
"""The examples of a record, the same number for each."""


@dataclass(slots=True)
class Prompts:
    """Questions whose answers can be judged, in the order of a token file."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    messages: list[list[Message]] = field(default_factory=list)


@dataclass(slots=True)
class TuningData:
    """What a run reads, by name."""

    train: dict[str, TokenFile] = field(default_factory=dict)
    held_out: dict[str, TokenFile] = field(default_factory=dict)
    quarantines: dict[str, Quarantine] = field(default_factory=dict)
    prompts: Prompts = field(default_factory=Prompts)
    held_out_prompts: Prompts = field(default_factory=Prompts)

    def checksums(self) -> dict[str, str]:
        """What a resumed run must share."""
        return {f"data.{name}": tokens.checksum for name, tokens in self.train.items()}

    def funnels(self) -> dict[str, str]:
        """What became of each source's records."""
        return {name: str(quarantine) for name, quarantine in self.quarantines.items()}

    def write_quarantine(self, folder: Path) -> Path | None:
        """Write what was put aside, with reasons; None if nothing was."""
        text = "".join(quarantine.lines() for quarantine in self.quarantines.values())
        path = folder / QUARANTINE
        if not text:
            path.unlink(missing_ok=True)
            return None
        write_atomically(path, text.encode("utf-8", "replace"))
        return path


def encode_data(config: TuningConfig, tokenizer: Tokenizer, folder: Path) -> TuningData:
    """Read the domain's records for the run's method into token files in a folder.

    Raises:
        DocumentError: A file cannot be read, or no record can be used.
    """
    data = TuningData()
    method, window = config.tune.method, config.tune.window
    quarantine = data.quarantines[DOMAIN] = Quarantine()
    records = _records(config, quarantine)
    if method == "grpo":
        _encode_prompts(config, tokenizer, records, data, folder)
    elif method == "dpo":
        _encode(
            records,
            lambda record, _: _pair(tokenizer, record, window),
            (CHOSEN, REJECTED),
            quarantine,
            config.validation.held_out,
            data,
            folder,
        )
    else:
        _encode(
            records,
            lambda record, _: [_answers(tokenizer, record, window)],
            (DOMAIN,),
            quarantine,
            config.validation.held_out,
            data,
            folder,
        )
    if not quarantine.n_kept:
        bad = quarantine.bad[0][:2] if quarantine.bad else None
        first = f"; {bad[0]}: {bad[1]}" if bad else ""
        raise DocumentError(
            f"{config.data}: no record can be trained on ({quarantine}){first}",
            f"write records for --method {method} (docs/guides/tuning.md)",
        )
    return data


def encode_general(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    window: int,
    held_out: float,
    data: TuningData,
    folder: Path,
) -> None:
    """Read general data: records, `.jsonl` files with a `text` in each line, or plain files.

    Raises:
        DocumentError: A path does not exist, or nothing in it can be used.
    """
    files = _general_files(paths)
    quarantine = data.quarantines[GENERAL] = Quarantine()

    def encoded(record: Record, _: Quarantine) -> list[Example]:
        if isinstance(text := record.values.get("text"), str):
            return encode_text(tokenizer, text, window)[:1]
        return [_answers(tokenizer, record, window)]

    def records() -> Iterator[Record]:
        for file in files:
            found = iter([Record(file.name, {"text": _text(file)})])
            if file.suffix == ".jsonl":
                found = read_records([file], quarantine)
            for record in found:
                text = record.values.get("text")
                if not isinstance(text, str):
                    yield record
                    continue
                for number, piece in enumerate(_pieces(text, tokenizer, window)):
                    quarantine.n_read += number > 0 or file.suffix != ".jsonl"
                    yield Record(record.place, {"text": piece})

    _encode(records(), encoded, (GENERAL,), quarantine, held_out, data, folder)
    if not quarantine.n_kept:
        raise DocumentError(f"{paths[0]}: nothing to train on ({quarantine})", "name other texts")


def _encode(
    records: Iterator[Record],
    encode: Encode,
    names: tuple[str, ...],
    quarantine: Quarantine,
    held_out: float,
    data: TuningData,
    folder: Path,
) -> None:
    """Token files of the examples of each record, one a name."""
    kept: list[tuple[Example, ...]] = []
    aside: list[tuple[Example, ...]] = []
    for _, examples, is_held_out in _clean(records, encode, quarantine, held_out):
        (aside if is_held_out else kept).append(tuple(examples))
    for number, name in enumerate(names):
        for found, table, kind in ((kept, data.train, "train"), (aside, data.held_out, "held-out")):
            documents = (examples[number].document() for examples in found)
            path = folder / f"{name}-{kind}.tokens"
            tokens = write_token_file(path, documents)
            if tokens.n_documents:
                table[name] = tokens


def _clean(
    records: Iterator[Record], encode: Encode, quarantine: Quarantine, held_out: float
) -> Iterator[tuple[Record, list[Example], bool]]:
    """Different records with their examples, and whether they are held out."""
    seen: set[bytes] = set()
    for record in records:
        text = json.dumps(record.values, sort_keys=True, ensure_ascii=False)
        digest = blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if digest in seen:
            quarantine.n_repeated += 1
            continue
        seen.add(digest)
        try:
            examples = encode(record, quarantine)
        except (BadRecord, TokenizerError) as error:
            quarantine.put(record.place, str(error), text)
            continue
        quarantine.n_truncated += any(example.is_truncated for example in examples)
        is_held_out = int.from_bytes(digest[:4], "little") < held_out * PARTS
        quarantine.n_held_out += is_held_out
        quarantine.n_kept += not is_held_out
        yield record, examples, is_held_out


def _records(config: TuningConfig, quarantine: Quarantine) -> Iterator[Record]:
    if config.data.startswith(GYM):
        if config.tune.method != "grpo":
            raise ConfigError(f"{config.data} has verifiers, no answers", "use --method grpo")
        return gym_records(config.data, config.tune.seed, quarantine)
    return read_records(record_files(Path(config.data)), quarantine)


def _answers(tokenizer: Tokenizer, record: Record, window: int) -> Example:
    return encode_conversation(tokenizer, conversation_of(record.values), window)


def _pair(tokenizer: Tokenizer, record: Record, window: int) -> list[Example]:
    prompt, chosen, rejected = pair_of(record.values)
    return [
        encode_conversation(tokenizer, [*prompt, answer], window) for answer in (chosen, rejected)
    ]


def _encode_prompts(
    config: TuningConfig,
    tokenizer: Tokenizer,
    records: Iterator[Record],
    data: TuningData,
    folder: Path,
) -> None:
    quarantine = data.quarantines[DOMAIN]

    def encoded(record: Record, _: Quarantine) -> list[Example]:
        check_record(record, config.reward.reward)
        ids = tokenizer.encode_chat(prompt_of(record.values))
        if len(ids) + config.reward.answer_tokens > config.tune.window:
            raise BadRecord(f"the prompt takes {len(ids):,} tokens, too many for the window")
        return [Example([-1 - i for i in ids], 0, False)]

    documents: list[EncodedDocument] = []
    share = config.validation.held_out
    for record, (example,), is_held_out in _clean(records, encoded, quarantine, share):
        prompts = data.held_out_prompts if is_held_out else data.prompts
        prompts.records.append(record.values)
        prompts.messages.append(prompt_of(record.values))
        if not is_held_out:
            documents.append(example.document())
    if documents:
        data.train[DOMAIN] = write_token_file(folder / "prompts.tokens", documents)


def _general_files(paths: Sequence[Path]) -> list[Path]:
    found = text_files(list(paths))
    found += [f for path in paths if path.is_dir() for f in sorted(path.rglob("*.jsonl"))]
    if not found:
        raise DocumentError(f"{paths[0]} has no files to read", "name texts or .jsonl files")
    return found


def _text(file: Path) -> str:
    """A plain file; nothing if it is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _pieces(text: str, tokenizer: Tokenizer, window: int) -> Iterator[str]:
    """A text in pieces that fit a window."""
    ids = tokenizer.encode(text)
    for first in range(0, len(ids), window - 2):
        piece = tokenizer.decode(ids[first : first + window - 2], skip_control=False)
        if piece.strip():
            yield piece
