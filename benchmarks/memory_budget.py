"""What a memory budget computes beside what a process really holds, in each number format.

    python benchmarks/memory_budget.py [--window 8192]

SmolLM2-135M in int8 reads a prompt that fills the context window and answers, in a process of its
own for each format of keys and values; once more with itself as a draft model, an adapter of rank
16 on all linear layers, and eight requests side by side that take all pages. The peak that was
computed before loading must not be passed by more than 2 %. Writes
benchmarks/results/memory_budget.json, .md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from deepseek.core.llm import SamplingParams
from deepseek.core.memory import peak_bytes
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.adapter import MATRICES, shape_of
from deepseek.model.budget import KV_FORMATS
from deepseek.model.config import ModelConfig
from deepseek.ops.hierarchical import PAGE
from report import Row, write_results

MODEL = "smollm2-135m"
BUDGET = 4 << 30  # more than is needed: pools are reserved, and memory counts once it is written
FULL_BUDGET = 1 << 30
"""Of the run in which all of it is used."""
ANSWER = 16
RANK = 16
SIDE_BY_SIDE, ALL_WINDOW = 8, 2_048
ALL = "all"
TOLERANCE = 1.02
MIB = 1 << 20


def measured(kv_format: str, window: int) -> dict[str, int]:
    """Peaks of this process in bytes, and what its cache reserves for the window."""
    engine, _ = load_engine(
        MODEL,
        context_window=window,
        kv_dtype=kv_format,  # type: ignore[arg-type]
        memory_budget=BUDGET,
    )
    budget = engine.runner.budget
    assert budget is not None, "one was given"
    answer = engine.generate(prompt_of(engine, window), SamplingParams(max_tokens=ANSWER))
    assert answer.n_prompt_tokens + ANSWER > 0.99 * window
    return {"computed": budget.peak_bytes, "measured": peak_bytes()}


def measured_with_all(window: int) -> dict[str, int]:
    """The same of a budget that is just used up, with a draft model and an adapter."""
    engine, _ = load_engine(
        MODEL, context_window=window, memory_budget=FULL_BUDGET, draft_model=MODEL
    )
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(Path(folder), engine.runner.model.config)
        engine.load_adapter("all", Path(folder))
    params = SamplingParams(max_tokens=ANSWER, temperature=1.0)
    # Each begins in its own way, so that nothing is shared, and together they need all pages.
    prompts = [f"{n} {prompt_of(engine, window - 8)}" for n in range(SIDE_BY_SIDE)]
    adapters = ["all" if n % 2 else None for n in range(SIDE_BY_SIDE)]
    answers = dict(engine.generate_many(prompts, params, adapter=adapters))
    plan, runner = engine.memory_plan, engine.runner
    assert plan is not None
    assert isinstance(runner, NativeRunner)
    n_pages = runner.decoder.pool.most or 0
    assert sum(answer.n_prompt_tokens for answer in answers.values()) > PAGE * n_pages
    print(plan, file=sys.stderr)
    return {"computed": plan.total, "measured": peak_bytes()}


def prompt_of(engine: Engine, window: int) -> str:
    """A text that fills a window up to the answer."""
    text = "The grass is green and the sky is blue. " * window
    # What is decoded may be encoded in a few more tokens.
    return engine.decode(engine.encode(text)[: window - 2 * ANSWER])


def write_adapter(folder: Path, config: ModelConfig) -> None:
    """One in PEFT's format that adds nothing, in matrices as large as those of others."""
    tensors = {}
    for layer in range(config.n_layers):
        for name, which in MATRICES.items():
            n_out, n_in = shape_of(config).of(which)
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.ones(RANK, n_in, dtype=torch.bfloat16)
            tensors[f"{prefix}.lora_B.weight"] = torch.zeros(n_out, RANK, dtype=torch.bfloat16)
    names = [name.rpartition(".")[2] for name in MATRICES]
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": names}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")


def row_of(kv_format: str, window: int) -> Row:
    """Both in a fresh process."""
    command = [sys.executable, __file__, "--window", str(window), "--only", kv_format]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    print(kv_format, *(f"{kind} {size / MIB:,.0f} MiB" for kind, size in found.items()))
    name = f"peak of {window:,} tokens in {kv_format}"
    if kv_format == ALL:
        name = f"peak of {SIDE_BY_SIDE} requests, a draft model and an adapter"
    return Row(
        name,
        found["measured"] / MIB,
        "MiB",
        "computed before loading",
        found["computed"] / MIB,
        must=TOLERANCE,
        better="lower",
        judge="ratio",
    )


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=8_192)
    parser.add_argument(
        "--only", choices=(*KV_FORMATS, ALL), help="measure this process, print JSON"
    )
    args = parser.parse_args()
    if args.only:
        of = measured_with_all if args.only == ALL else partial(measured, args.only)
        print(json.dumps(of(args.window)))
        return
    rows = [row_of(kv_format, args.window) for kv_format in KV_FORMATS]
    rows.append(row_of(ALL, ALL_WINDOW))
    write_results("memory_budget", rows, sys.argv)


if __name__ == "__main__":
    main()
