"""A learned router: trained on text that is named, measured on text that is not.

    python benchmarks/routing.py --text FOLDER [FOLDER ...] [--windows 24] [--out FILE]

SmolLM2-135M in torch's precision for this machine. The router learns from the named files (go on
after a kill by the same command) and is then compared with the training-free one, as the share of
true attention that window, sinks and 2,048 recalled tokens hold: on windows of files that were kept
apart, and on papers of Qasper. Pass keys beyond the trained length: `--passkeys 16000`, slow.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from deepseek.core.device import choose_compute
from deepseek.data.text import text_files, windows
from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.checkpoint import load_model
from deepseek.model.hierarchical import choose_hierarchy
from deepseek.model.transformer import Transformer
from deepseek.ops.hierarchical import UNTRAINED, Hierarchy, Router
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.train.router import Coverage, RouterTrainer, RouterTraining, compare, hierarchies
from deepseek.weights.pull import ensure
from deepseek.weights.source import open_weights
from held_out import documents
from held_out import windows as held_out_windows
from passkey import ROOM, passkeys
from report import ROOT, Row, write_results

MODEL = "smollm2-135m"
MUST, MOONSHOT = 0.5, 0.8
HELD_OUT = 2
"""Windows of each kind that are measured."""


def coverage_rows(what: str, found: Sequence[Coverage]) -> Iterator[Row]:
    """The learned share beside the training-free one, and how much of the gap is closed."""
    for where, each in zip(("near", "beyond the reach"), found, strict=True):
        name = f"attention seen, {where}, {what}"
        print(name, each, flush=True)
        yield Row(name, each.learned, "share", "training-free", each.plain, None, HELD_OUT)
        yield Row(f"the same, best choice, {where}, {what}", each.best, "share", rounds=HELD_OUT)
        yield Row(
            f"gap closed, {where}, {what}",
            each.closed,
            "share",
            rounds=HELD_OUT,
            must=MUST,
            moonshot=MOONSHOT,
        )


def found_keys(
    model: Transformer, tokenizer: Tokenizer, router: Router, length: int, n_depths: int
) -> float:
    """Share of pass keys that are found with a router."""
    hierarchy = choose_hierarchy(model.config, length + 1_000)
    assert hierarchy is not None, "a length beyond the trained one"
    dtype, device = model.embedding(torch.tensor([[0]])).dtype, model.norm.weight.device
    runner = TorchRunner(model, dtype=dtype, device=device, hierarchy=hierarchy, router=router)
    n_found = 0
    for item in passkeys(length, n_depths, lambda text: len(tokenizer.encode(text))):
        ids = tokenizer.encode(item.prompt)
        answer: list[int] = []
        logits = runner.read(ids)
        for _ in range(ROOM):
            answer.append(int(logits.argmax()))
            logits = runner.step(answer[-1])
        text = tokenizer.decode(answer)
        n_found += item.is_found(text)
        print(length, type(router).__name__, f"{item.depth:.2f}", item.key, repr(text), flush=True)
    return n_found / n_depths


def main() -> None:
    """Train, or go on training, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--windows", type=int, default=RouterTraining().windows)
    parser.add_argument("--out", type=Path, default=ROOT / "out/routing/router.safetensors")
    parser.add_argument("--passkeys", type=int, nargs="*", default=[], metavar="TOKENS")
    parser.add_argument("--depths", type=int, default=5)
    args = parser.parse_args()
    compute = choose_compute("cpu", "auto", None)
    source = open_weights(ensure(MODEL).path)
    model = load_model(source, dtype=compute.dtype)
    tokenizer = Tokenizer.from_gguf_metadata(source.metadata)
    settings = RouterTraining(windows=args.windows)
    kept, read = windows(
        text_files(args.text),
        tokenizer.encode,
        size=settings.size,
        counts=(HELD_OUT, args.windows),
        seed=settings.seed,
    )
    trainer = RouterTrainer(model, read, settings, args.out)
    router = trainer.run(lambda done, total: print(f"window {done} of {total}", flush=True))
    papers = held_out_windows(documents("text"), tokenizer.encode, settings.size, HELD_OUT)
    rows: list[Row] = []
    for what, ids in (("files kept apart", kept), ("papers", papers)):
        found = [compare(model, router, ids, each)[0] for each in hierarchies(Hierarchy())]
        rows += coverage_rows(what, found)
    for length in args.passkeys:
        shares = [
            found_keys(model, tokenizer, each, length, args.depths) for each in (UNTRAINED, router)
        ]
        name = f"pass keys found in {length:,} tokens ({args.depths} depths)"
        rows.append(Row(name, shares[1], "share", "training-free", shares[0], None, args.depths))
    write_results("routing", rows, sys.argv)


if __name__ == "__main__":
    main()
