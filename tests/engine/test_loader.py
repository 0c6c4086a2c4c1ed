"""Loading holds each weight once, and the report says what it took."""

import subprocess
import sys
from pathlib import Path

import pytest

from deepseek.core.errors import CheckpointError, TokenizerError
from deepseek.engine.loader import load_engine

MEASURE = """
import sys
from deepseek.core.memory import resident_bytes
from deepseek.engine.loader import load_engine
from deepseek.model.linear import Linear

path, dtype = sys.argv[1:]
load_engine(path, dtype=dtype)  # code and buffers that only the first load brings in
before = resident_bytes()
engine, report = load_engine(path, dtype=dtype)
linears = [m for m in engine.runner.model.modules() if isinstance(m, Linear)]
weights = sum(m.packed.n_bytes if m.packed else m.weight.nbytes for m in linears)
print(before, report.peak_bytes, weights, report.file_bytes)
"""


@pytest.mark.weights
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_peak_memory_is_the_weights_and_one_matrix(smollm2_path: Path, dtype: str) -> None:
    """In a process of its own: this one's peak holds what other tests used."""
    command = [sys.executable, "-c", MEASURE, str(smollm2_path), dtype]
    output = subprocess.run(command, capture_output=True, check=True, text=True, timeout=300)
    before, peak, weights, file_bytes = map(int, output.stdout.split())
    assert file_bytes == smollm2_path.stat().st_size
    # The head is the largest matrix: 28 M numbers, 108 MiB in float32, in plain and packed form
    # for a moment. A second copy of all weights would be 256 MiB or more.
    assert peak - before < weights + 230 * 2**20
    assert peak - before > weights // 2


def test_the_report(tiny_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    engine, report = load_engine(
        str(tiny_folder), threads=1, on_load=lambda *step: seen.append(step)
    )
    assert report.file_bytes == (tiny_folder / "model.safetensors").stat().st_size
    assert report.seconds > 0
    assert report.peak_bytes > report.file_bytes
    assert "cpu" in report.compute
    assert "1 threads (as requested)" in report.compute
    assert report.compute in str(report)
    assert seen[-1] == (5, 5)
    assert engine.name == tiny_folder.stem


def test_a_folder_without_weights_or_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_engine(str(tmp_path))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    with pytest.raises(TokenizerError, match="tokenizer"):
        load_engine(str(tmp_path))
