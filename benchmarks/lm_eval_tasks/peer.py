"""lm-eval with transformers, asked for items by lines of JSON; run by a Python that has lm-eval.

    python peer.py MODEL DOCUMENTS THREADS DTYPE

Each line on standard input: `{"items": {task: [places]}, "shots": n, "batch": n, "out": path}`.
Answers on standard output: the seconds that its model class spent from requests to results. With
a batch of 0 nothing is computed and hashes of what would be asked are written. The tasks are
lm-eval's own files; only where their documents come from is changed.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_ALLOW_CODE_EVAL": "1"}

import datasets
import evaluate
import lm_eval
import torch
from lm_eval.models.dummy import DummyLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "gsm8k_cot": "gsm8k/gsm8k-cot.yaml",
    "humaneval": "humaneval/humaneval.yaml",
    "mbpp": "mbpp/mbpp.yaml",
}


class TimedModel(HFLM):
    """lm-eval's transformers model with a clock."""

    seconds = 0.0

    def loglikelihood(self, *args: Any, **kwargs: Any) -> Any:
        """Score, timed."""
        start = time.perf_counter()
        scores = super().loglikelihood(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return scores

    def generate_until(self, *args: Any, **kwargs: Any) -> Any:
        """Generate, timed."""
        start = time.perf_counter()
        texts = super().generate_until(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return texts


class NoScore:
    """In place of `code_eval`, which is fetched from a hub: programs are not run here."""

    def compute(self, **_: Any) -> tuple[dict[str, float], None]:
        """No score."""
        return {"pass@1": float("nan")}, None


def task_config(name: str, documents: Path) -> dict[str, Any]:
    """lm-eval's configuration of a task, with documents from a folder."""
    file = FILES.get(name) or f"mmlu/default/{name}.yaml"
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / file)
    splits = {path.stem: str(path) for path in (documents / name).glob("*.jsonl")}
    settings = {"data_files": splits, "cache_dir": str(documents / "cache")}
    config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": settings}
    for kind in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(kind) not in splits:
            config.pop(kind, None)
    return config


def hashes(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is asked, in short: prompts with their continuations, or prompts alone."""
    short = []
    for sample in samples:
        texts = [[part for part in one if isinstance(part, str)] for one in sample["arguments"]]
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        short.append({"doc_id": sample["doc_id"], "sha256": digest})
    return short


def serve(model: str, documents: str, threads: str, dtype: str) -> None:
    """Answer lines until there are no more."""
    torch.set_num_threads(int(threads))
    datasets.disable_progress_bars()
    evaluate.load = lambda *_, **__: NoScore()
    peer = TimedModel(pretrained=model, dtype=dtype, device="cpu", batch_size=1)
    for line in sys.stdin:
        job = json.loads(line)
        peer.batch_size_per_gpu, peer.seconds = job["batch"], 0.0
        results = lm_eval.simple_evaluate(
            model=peer if job["batch"] else DummyLM(),
            tasks=[task_config(name, Path(documents)) for name in job["items"]],
            samples=job["items"],
            num_fewshot=job["shots"],
            bootstrap_iters=0,
            confirm_run_unsafe_code=True,
            verbosity="ERROR",
        )
        assert results is not None
        logged = results["samples"]
        if not job["batch"]:
            logged = {name: hashes(samples) for name, samples in logged.items()}
        Path(job["out"]).write_text(json.dumps(logged, default=str), encoding="utf-8")
        print(f"seconds {peer.seconds}", flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
