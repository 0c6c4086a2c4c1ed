"""Local long-context mixture-of-experts language models.

    from deepseek import R1Model
    model = R1Model(context_window=100000)
    summary = model.analyze_paper("paper.pdf", tasks=["method_innovation", "experiment_flaws"])

Names are loaded when first used: importing this package takes milliseconds and no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.apps.papers.analysis import PaperAnalysis
    from deepseek.core.constraint import Constraint
    from deepseek.core.errors import DeepSeekError
    from deepseek.core.llm import Completion, Message, SamplingParams
    from deepseek.r1 import R1Model

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "Constraint",
    "DeepSeekError",
    "Message",
    "PaperAnalysis",
    "R1Model",
    "SamplingParams",
]

_HOMES = {
    "Completion": "deepseek.core.llm",
    "Constraint": "deepseek.core.constraint",
    "DeepSeekError": "deepseek.core.errors",
    "Message": "deepseek.core.llm",
    "PaperAnalysis": "deepseek.apps.papers.analysis",
    "R1Model": "deepseek.r1",
    "SamplingParams": "deepseek.core.llm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepseek' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
