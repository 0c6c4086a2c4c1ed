"""A tiny model trained and measured along the run, document by document: one arm of a comparison.

An arm is trained by `deepseek.train` from a config of its own, on files of lines of JSON; what is
measured is no part of the config. Results are kept as those of benchmarks/arms.py are.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from arms import as_toml, kept_result
from chart import Points
from deepseek.data.documents import Document
from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file
from deepseek.model.config import load_preset
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.train.config import load_training_config
from deepseek.train.run import Run, prepare_run
from paired import bits_per_byte, document_nats
from report import ROOT, Row

VOCABULARY = 4_096
CONFIG = """
[run]
window = {window}
batch = {batch}
micro = {batch}
seed = {seed}
threads = 1
spike = 0
[model]
preset = {preset}
[tokenizer]
vocab_size = {vocabulary}
{sources}
[optimiser]
kind = "muon"
rate = {rate}
[schedule]
{schedule}
{stages}
[evaluation]
every = 100_000
held_out = 0.0
[checkpoint]
every = {save}
average = {average}
"""
"""No step is left out for a long gradient, it is only cut: where a stage begins, or junk ends, the
lengths before say little of what is usual."""
AVERAGED = 50
"""Checkpoints that are averaged lie so that so many would be in a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is trained and measured."""

    tokens: int
    window: int = 256
    batch: int = 4
    rate: float = 4e-3
    measured: int = 12_000
    """Tokens of each held-out set."""
    along: int = 2_500
    """The same, along the run."""
    points: int = 12
    """Along the run."""
    kept_only: bool = field(default=False, repr=False)
    """Train nothing: an arm of which nothing is kept raises `LookupError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What arms of a comparison share."""

    sources: Mapping[str, Path]
    held_out: Mapping[str, TokenFile]
    tokenizer: Path

    @property
    def key(self) -> str:
        """Of all that is in it."""
        files = [*self.sources.values(), *(tokens.path for tokens in self.held_out.values())]
        files += sorted(self.tokenizer.iterdir())
        return sha256(b"".join(sha256(f.read_bytes()).digest() for f in files)).hexdigest()


def write_texts(path: Path, texts: list[str]) -> Path:
    """A file that a source can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return path


def write_held_out(path: Path, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> TokenFile:
    """Documents of which only the second part counts."""
    return write_token_file(path, (_encoded(tokenizer, *pair) for pair in pairs))


def _encoded(tokenizer: Tokenizer, given: str, text: str) -> EncodedDocument:
    begin = [] if tokenizer.begin_id is None else [tokenizer.begin_id]
    before, ids = begin + (tokenizer.encode(given) if given else []), tokenizer.encode(text)
    n_bytes = len(text.encode())
    if not before:  # nothing predicts the first token
        n_bytes -= len(tokenizer.token_bytes(ids[0]))
    ids = [*(-1 - i for i in before), *ids, tokenizer.end_id]
    return EncodedDocument(ids, n_bytes, Document(text, True).difficulty)


def follow(
    name: str,
    seed: int,
    scale: Scale,
    material: Material,
    *,
    stages: str,
    schedule: str,
    average: int = 1,
    change: Callable[[Run], dict[str, Any]] | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Train an arm, or give what is known of it.

    Args:
        name: What else it depends on, for people.
        seed: Of first weights and order.
        scale: Its size.
        material: What it reads and is measured on.
        stages: Sections of the config.
        schedule: Lines of the config.
        average: The result is the mean of so many last checkpoints.
        change: Done to the run before it begins; what it returns goes into the result.
        quick: Keep nothing, with a small vocabulary.

    Returns:
        `arm`, `seed`, `bits_per_byte` by set at the end, `losses` and `bytes` by document, `curve`
        (tokens and the sets' bits per byte along the run), `skipped` and `steps`, and `seconds`.

    Raises:
        LookupError: Only what is kept is wanted, and this arm is not.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        preset, file = work / "shape.toml", work / "run.toml"
        vocabulary = Tokenizer.from_folder(material.tokenizer).vocab_size
        tiny = ROOT / "configs" / "r1-tiny.toml"
        preset.write_text(as_toml(load_preset(tiny, (f"model.vocab_size={vocabulary}",))))
        sources = "\n".join(
            f"[sources.{source}]\npaths = [{json.dumps(str(path))}]"
            for source, path in material.sources.items()
        )
        table = {
            "window": scale.window, "batch": scale.batch, "seed": seed, "rate": scale.rate,
            "preset": json.dumps(str(preset)), "vocabulary": vocabulary, "schedule": schedule,
            "stages": stages, "average": average,
            "save": max(1, scale.tokens // (scale.batch * scale.window) // AVERAGED)
            if average > 1 else 100_000,
        }  # fmt: skip
        file.write_text(CONFIG.format(sources=sources, **table))
        known = table | {"preset": preset.read_text()}

        def make() -> dict[str, Any]:
            if scale.kept_only:
                raise LookupError(f"{name}, seed {seed}")
            shutil.copytree(material.tokenizer, work / "out" / "tokenizer")
            run = prepare_run(load_training_config(file), work / "out")
            more = change(run) if change else {}
            return {"arm": name, "seed": seed, **more, **_followed(run, material.held_out, scale)}

        return kept_result(f"{name} {material.key} {scale} {known}", make, quick)


def _followed(run: Run, sets: Mapping[str, TokenFile], scale: Scale) -> dict[str, Any]:
    model, n_steps = run.trainer.model, run.trainer.plan.n_steps
    curve, skipped = list[tuple[int, dict[str, float]]](), list[str]()

    def losses(most: int) -> dict[str, list[float]]:
        return {n: document_nats(model, tokens, scale.window, most) for n, tokens in sets.items()}

    def on_step(row: dict[str, Any]) -> None:
        skipped.extend([row["skipped"]] if row["skipped"] else [])
        if row["step"] % max(1, n_steps // scale.points) == 0 or row["step"] == n_steps:
            curve.append((row["tokens"], bits_per_byte(losses(scale.along), sets)))

    run.train(on_step)
    if (average := run.config.checkpoint.average) > 1:
        run.trainer.checkpoints.average(run.trainer.checkpoints.steps()[-average:], model)
    final = losses(scale.measured)
    return {
        "bits_per_byte": bits_per_byte(final, sets),
        "losses": final,
        "bytes": {name: sets[name].n_bytes[: len(part)].tolist() for name, part in final.items()},
        "curve": curve,
        "skipped": len(skipped),
        "steps": n_steps,
    }


def share_needed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Tokens after which our loss along the run is their last one, as a share of theirs.

    The mean over the sets counts, with straight lines between points; infinite if never.
    """
    wanted = _mean(theirs["curve"][-1][1])
    total = theirs["curve"][-1][0]
    points = [(tokens, _mean(bits)) for tokens, bits in ours["curve"]]
    before = points[0]
    for after in points:
        if after[1] <= wanted:
            fall = before[1] - after[1]
            along = (before[1] - wanted) / fall if fall > 0 else 1.0
            return float((before[0] + along * (after[0] - before[0])) / total)
        before = after
    return float("inf")


def mean_curve(results: Sequence[Mapping[str, Any]], name: str = "") -> Points:
    """Tokens and the mean over the seeds of a set's bits per byte, or of the mean of all sets'."""
    curves = [result["curve"] for result in results]
    return [
        (points[0][0], fmean(bits[name] if name else _mean(bits) for _, bits in points))
        for points in zip(*curves, strict=True)
    ]


def skipped_row(part: str, results: Sequence[Mapping[str, Any]]) -> Row:
    """Steps that were left out in the worst arm: with many of them a comparison says nothing."""
    worst = max(result["skipped"] / result["steps"] for result in results)
    name = f"{part}: steps left out, worst arm"
    return Row(name, worst, "share", rounds=len(results), must=0.02, better="lower")


def _mean(bits: Mapping[str, float]) -> float:
    return sum(bits.values()) / len(bits)
