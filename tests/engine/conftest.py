"""One thread: these models are so small that handing work over costs more than the work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine


@pytest.fixture(scope="package", autouse=True)
def _one_thread(_threads: None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def engine(tiny_folder: Path) -> Engine:
    """The tiny checkpoint, loaded as a user would load it."""
    return load_engine(str(tiny_folder), dtype="float32", threads=1)[0]
