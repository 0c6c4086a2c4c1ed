"""A pickle runs whatever its author wants: no source of the package may read one."""

import ast
from pathlib import Path

import pytest

import deepseek

ROOT = Path(deepseek.__file__).parent
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def findings(source: str) -> list[str]:
    """What in a source reads pickles or may do so."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in UNPICKLERS:
                found.append(module)
            if module in ("torch", "torch.serialization"):
                found += [f"{module}.{a.name}" for a in node.names if a.name == "load"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("torch.load", "torch.serialization.load"):
                found += [name] if options.get("weights_only") != "True" else []
            if options.get("allow_pickle", "False") != "False":
                found.append(f"{name}(allow_pickle)")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_reads_pickles(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill as d",
        "from joblib import load",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_must(source: str) -> None:
    assert findings(source)


def test_the_search_lets_pass_what_is_safe() -> None:
    assert findings("import torch\ntorch.load('x', weights_only=True)\nnp.load('x')") == []
