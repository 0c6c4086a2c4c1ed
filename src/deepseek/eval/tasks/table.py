"""Task name to module: only the tasks that are asked for get imported."""

import importlib

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError
from deepseek.eval.task import Task

TASKS = {
    "mmlu": "mmlu",
    "mmlu_cloze": "mmlu_cloze",
    "hellaswag": "hellaswag",
    "arc": "arc",
    "arc_easy": "arc_easy",
    "arc_challenge": "arc_challenge",
    "boolq": "boolq",
    "piqa": "piqa",
    "humaneval": "humaneval",
    "humaneval_completion": "humaneval_completion",
    "mbpp": "mbpp",
    "mbpp_completion": "mbpp_completion",
    "mbpp_sanitized": "mbpp_sanitized",
    "gsm8k": "gsm8k",
    "squad": "squad",
    "qasper": "qasper",
    "perplexity": "perplexity",
    "fidelity": "fidelity",
    "longbench": "longbench",
    "ruler": "ruler",
    "passkey": "passkey",
    "infinitebench_kv": "infinitebench_kv",
}
"""Name of a task and the module of `deepseek.eval.tasks` that defines it as `TASK`."""


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        ConfigError: There is none; the hint says what it may have been.
    """
    if name not in TASKS:
        raise ConfigError(f"no task is named {name!r}", suggest(name, TASKS))
    module = importlib.import_module(f"deepseek.eval.tasks.{TASKS[name]}")
    task = module.TASK
    assert isinstance(task, Task)
    return task
