"""From a config to what a run needs: tokenizer, token files, model."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepseek.core.config import build
from deepseek.core.errors import ConfigError
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.conversation import encode_conversation
from deepseek.data.documents import Document, Funnel, documents
from deepseek.data.quality.corpus import kept_files
from deepseek.data.records import BadRecord
from deepseek.data.text import text_files
from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file
from deepseek.model.checkpoint import load_model
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.tokenizer.training import train_tokenizer
from deepseek.train.config import TrainingConfig
from deepseek.weights.cache import file_hash, home, write_atomically
from deepseek.weights.pull import ensure
from deepseek.weights.source import WeightSource, open_weights

OnFiles = Callable[[str, int, int], None]
"""Called with a source's name, documents encoded and files in all."""
STARTED = 2_048
"""Random inputs that a budget starts by."""
VERSION = 1
"""Of what makes a token file from the same texts."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """One source, encoded."""

    train: TokenFile
    held_out: TokenFile
    funnel: Funnel


def source_files(config: TrainingConfig) -> dict[str, list[Path]]:
    """The files of each source.

    Raises:
        DocumentError: A path does not exist.
        ConfigError: A source has no files, a file is for evaluation, too, or a folder holds a
            cleaning run that is not complete.
    """
    found = {}
    for name, source in config.sources.items():
        paths = [config.path(path) for path in source.paths]
        cleaned = {path: files for path in paths if (files := kept_files(path)) is not None}
        paths = [path for path in paths if path not in cleaned]
        files = text_files(paths)
        if source.kind == "conversations":
            files = [file for file in files if file.suffix == ".jsonl"]
        files += [f for path in paths if path.is_dir() for f in sorted(path.rglob("*.jsonl"))]
        files += [file for kept in cleaned.values() for file in kept]
        if not files:
            what = "text" if source.kind == "texts" else ".jsonl"
            raise ConfigError(f"source {name} has no {what} files", "look at its paths")
        found[name] = files
    evaluated = {f.resolve() for f in text_files([*map(config.path, config.evaluation.paths)])}
    for name, files in found.items():
        both = [file for file in files if file.resolve() in evaluated]
        if both:
            raise ConfigError(
                f"{both[0]} is in evaluation.paths and in source {name}", "take it out of one"
            )
    return found


def open_checkpoint(name: str, config: TrainingConfig) -> WeightSource:
    """A named checkpoint, pulled if need be, or a local one.

    Raises:
        DownloadError: It cannot be fetched.
        CheckpointError: It is damaged.
    """
    local = config.path(name)
    return open_weights(local if local.exists() else ensure(name).path)


def make_tokenizer(
    config: TrainingConfig, files: Mapping[str, Sequence[Path]], out: Path
) -> Tokenizer:
    """The tokenizer that the config names, or one learned from the sources and kept in `out`.

    Raises:
        TokenizerError: It is invalid or cannot be written.
    """
    name = config.tokenizer.checkpoint or config.model.get("checkpoint")
    if name is not None:
        source = open_checkpoint(str(name), config)
        if source.folder is not None:
            return Tokenizer.from_folder(source.folder)
        return Tokenizer.from_gguf_metadata(source.metadata)
    folder = out / "tokenizer"
    if (folder / "tokenizer_config.json").exists():
        found = Tokenizer.from_folder(folder)
        if found.vocab_size == config.tokenizer.vocab_size:
            return found
    settings = config.tokenizer
    tokenizer = train_tokenizer(
        _sample(config, files), settings.vocab_size, single_digits=settings.digits == "single"
    )
    tokenizer.save(folder)
    return tokenizer


def _sample(config: TrainingConfig, files: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Texts to learn a vocabulary from, taken in turns so that no source is left out."""
    left = config.tokenizer.sample // len(files)
    for name in files:
        room = left
        talks = config.sources[name].kind == "conversations"
        for document in documents(files[name], Funnel(), conversations=talks):
            yield document.text[:room]
            room -= len(document.text)
            if room <= 0:
                break


def encode_sources(
    config: TrainingConfig,
    files: Mapping[str, Sequence[Path]],
    tokenizer: Tokenizer,
    on_files: OnFiles | None = None,
) -> dict[str, Corpus]:
    """Token files of all sources: from the cache where texts and settings are the same.

    Raises:
        DocumentError: A text may not be trained on, and that is refused.
        CheckpointError: A token file cannot be written.
    """
    index, digest = None, ""
    if config.decontamination.index is not None:
        path = config.path(config.decontamination.index)
        index = ContaminationIndex.load(path)
        digest = file_hash(path, hashlib.sha256())
    found = {}
    for name, own in files.items():
        key = _key(config, name, own, tokenizer, digest)
        found[name] = _cached(key) or _encode(config, name, own, tokenizer, index, key, on_files)
    return found


def encode_files(
    config: TrainingConfig, tokenizer: Tokenizer, paths: Sequence[str], out: Path
) -> TokenFile:
    """Named texts for evaluation as a token file in `out`.

    Raises:
        DocumentError: A path does not exist.
    """
    files = text_files([config.path(path) for path in paths])
    kept = (_text(document, tokenizer) for document in documents(files, Funnel()))
    return write_token_file(out / "evaluation.tokens", kept)


def _key(
    config: TrainingConfig, name: str, files: Sequence[Path], tokenizer: Tokenizer, index: str
) -> str:
    settings: tuple[Any, ...] = (VERSION, tokenizer.digest, tokenizer.begin_id)
    settings += (tokenizer.end_id, index)
    if config.sources[name].kind == "conversations":
        settings += ("conversations", config.run.window)
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(repr(config.evaluation.held_out).encode())
    digest.update(config.decontamination.action.encode())
    for file in files:
        try:
            digest.update(file_hash(file, hashlib.sha256()).encode())
        except OSError:  # counted as unreadable later
            digest.update(str(file).encode())
    return digest.hexdigest()[:32]


def _cached(key: str) -> Corpus | None:
    folder = home() / "tokens"
    try:
        funnel = build(Funnel, json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return Corpus(
        TokenFile.open(folder / f"{key}-train.tokens"),
        TokenFile.open(folder / f"{key}-held-out.tokens"),
        funnel,
    )


def _encode(
    config: TrainingConfig,
    name: str,
    files: Sequence[Path],
    tokenizer: Tokenizer,
    index: ContaminationIndex | None,
    key: str,
    on_files: OnFiles | None,
) -> Corpus:
    funnel, held_out = Funnel(), list[EncodedDocument]()
    most = config.evaluation.tokens

    def kept() -> Iterator[EncodedDocument]:
        room = most
        refuse = config.decontamination.action == "refuse"
        for document in documents(
            files,
            funnel,
            held_out=config.evaluation.held_out,
            index=index,
            refuse=refuse,
            conversations=config.sources[name].kind == "conversations",
        ):
            if on_files:
                on_files(name, min(funnel.read, len(files)), len(files))
            try:
                encoded = _encoded(document, tokenizer, config.run.window)
            except BadRecord:  # the answer begins behind the window
                funnel.put_aside(document)
                continue
            if not document.is_held_out:
                yield encoded
            elif room > 0:
                held_out.append(encoded)
                room -= len(encoded.ids)

    folder = home() / "tokens"
    train = write_token_file(folder / f"{key}-train.tokens", kept())
    evaluated = write_token_file(folder / f"{key}-held-out.tokens", held_out)
    # The funnel last: it says that both files are there.
    write_atomically(folder / f"{key}.json", json.dumps(asdict(funnel)).encode())
    return Corpus(train, evaluated, funnel)


def _encoded(document: Document, tokenizer: Tokenizer, window: int) -> EncodedDocument:
    if not document.messages:
        return _text(document, tokenizer)
    found = encode_conversation(tokenizer, document.messages, window).document()
    return replace(found, difficulty=document.difficulty)


def _text(document: Document, tokenizer: Tokenizer) -> EncodedDocument:
    ids = tokenizer.encode(document.text)
    n_bytes = len(document.text.encode("utf-8", "replace"))
    if tokenizer.begin_id is not None:
        ids = [tokenizer.begin_id, *ids]
    else:
        n_bytes -= len(tokenizer.token_bytes(ids[0]))  # nothing predicts the first token
    return EncodedDocument([*ids, tokenizer.end_id], n_bytes, document.difficulty)


def model_config(config: TrainingConfig, vocab_size: int) -> ModelConfig:
    """The shape that `[model]` describes; without a vocabulary there, the tokenizer's.

    `[model.moe]` gives it experts, or changes some settings of those that a preset has.

    Raises:
        ConfigError: A key or value is wrong, or the vocabulary is too small.
    """
    table = dict(config.model)
    experts = table.pop("moe", None)
    if experts is not None and not isinstance(experts, dict):
        raise ConfigError(f"model.moe is {experts!r}", "write it as a section: [model.moe]")
    if "checkpoint" in config.model:
        if len(config.model) > 1:
            raise ConfigError(
                "model.checkpoint stands beside other keys", "a checkpoint has its own shape"
            )
        source = open_checkpoint(str(table["checkpoint"]), config)
        shape = ModelConfig.from_checkpoint(source.config())
    elif "preset" in table:
        path = config.path(str(table.pop("preset")))
        changes = table if "vocab_size" in table else {**table, "vocab_size": vocab_size}
        texts = (f"model.{name}={json.dumps(value)}" for name, value in changes.items())
        shape = load_preset(path, tuple(texts))
    elif table:
        shape = build(ModelConfig, {"vocab_size": vocab_size, **table}, "model.")
    else:
        raise ConfigError(
            "there is no model", 'add [model] with preset = "…", checkpoint = "…" or its shape'
        )
    if experts is not None:
        known = {} if shape.moe is None else shape.moe.to_table()
        shape = replace(shape, moe=MoEConfig.from_table(known | experts))
    if shape.vocab_size < vocab_size:
        raise ConfigError(
            f"the model has {shape.vocab_size} tokens, the tokenizer {vocab_size}",
            "leave model.vocab_size out, or make it as large",
        )
    if shape.attention != "dense":
        raise ConfigError(
            f"attention {shape.attention!r} cannot be trained on packed windows yet",
            "use dense attention",
        )
    return shape


def make_model(config: TrainingConfig, shape: ModelConfig) -> Transformer:
    """The model with its first weights, in float32.

    Raises:
        CheckpointError: A checkpoint is damaged.
    """
    name = config.model.get("checkpoint")
    if name is not None:
        model = load_model(open_checkpoint(str(name), config), dtype=torch.float32, pack=False)
    else:
        model = Transformer(shape)
        model.initialise(config.run.seed)
        start_budgets(model, config.run.seed)
    model.recompute = config.run.recompute
    return model


@torch.no_grad()
def start_budgets(model: Transformer, seed: int) -> None:
    """Let fresh gates leave as many slots empty as their budget says, of random inputs.

    Their biases would take hundreds of steps to come down from where no slot is empty.
    """
    moe, width = model.config.moe, model.config.d_model
    if moe is None or moe.budget is None:
        return
    x = torch.randn(STARTED, width, generator=torch.Generator().manual_seed(seed))
    for layer in mixtures_of(model):
        layer.gate.start_budget(x)


def identity(config: TrainingConfig, corpora: Mapping[str, Corpus], tokenizer: Tokenizer) -> Any:
    """Settings and data that a result depends on."""
    data = {f"data.{name}": corpus.train.checksum for name, corpus in corpora.items()}
    return config.identity() | data | {"data.tokenizer": tokenizer.digest}
