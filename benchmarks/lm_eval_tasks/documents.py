"""The evaluation data as the JSONL files that lm-eval's tasks expect, under their field names."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepseek.eval.data import read_arrow, read_requests
from deepseek.eval.task import Item, Setup
from deepseek.eval.tasks.mmlu import DATA

Rows = list[dict[str, Any]]
NAMES = {"gsm8k": "gsm8k_cot", "humaneval_completion": "humaneval", "mbpp_completion": "mbpp"}
"""What lm-eval calls a task, where it calls it otherwise."""
BOOLQ = re.compile(r"(?s)(.*)\nQuestion: (.*)\?\nAnswer:")
ARC = re.compile(r"(?s)Question: (.*)\nAnswer:")


def places(task: str, items: Iterable[Item], asked: Iterable[Item]) -> dict[str, dict[int, str]]:
    """lm-eval's task and place of each item that is asked, with our id of it."""
    wanted = {item.id for item in asked}
    found: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for item in items:
        name = f"mmlu_{item.group}" if task == "mmlu" else NAMES.get(task, task)
        place = counts[name] = counts.get(name, -1) + 1
        if item.id in wanted:
            found.setdefault(name, {})[place] = item.id
    return found


def write_documents(name: str, folder: Path) -> None:
    """The documents of one of lm-eval's tasks."""
    for split, rows in _splits(name).items():
        target = folder / name / f"{split}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _splits(name: str) -> dict[str, Rows]:
    setup = Setup(shots=0)
    if name.startswith("mmlu_"):
        subject = f"{DATA}/{name.removeprefix('mmlu_')}"
        return {split: read_arrow(setup, subject, split) for split in ("dev", "test")}
    if name.startswith("arc_"):
        return {"test": [_arc(doc) for doc in read_requests(setup, f"{name}/test_rc_5shot")]}
    if name == "hellaswag":
        return {"validation": read_arrow(setup, "hellaswag/none", "validation")}
    if name == "piqa":
        return {"validation": read_arrow(setup, "piqa/plain_text", "validation")}
    if name == "boolq":
        return {"validation": [_boolq(doc) for doc in read_requests(setup, "boolq/rc_0shot")]}
    requests = {
        "gsm8k_cot": "gsm8k/gold_bpb_5shot",
        "humaneval": "codex_humaneval/gold_bpb_0shot",
        "mbpp": "codex_mbpp/gold_bpb_3shot",
    }
    return {"test": read_requests(setup, requests[name])}


def _arc(doc: dict[str, Any]) -> dict[str, Any]:
    found = ARC.fullmatch(doc["query"])
    assert found is not None
    labels = [chr(ord("A") + i) for i in range(len(doc["choices"]))]
    return {
        "id": doc["id"],
        "question": found.group(1),
        "choices": {"text": doc["choices"], "label": labels},
        "answerKey": labels[doc["gold"]],
    }


def _boolq(doc: dict[str, Any]) -> dict[str, Any]:
    found = BOOLQ.fullmatch(doc["query"])
    assert found is not None
    label = int(doc["choices"][doc["gold"]] == "yes")
    return {"passage": found.group(1), "question": found.group(2), "label": label}
