"""The machine's own ceilings, measured in the same run as what is held against them."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
TORCH = "import json, sys, ceilings; print(json.dumps(ceilings.torch_rates(int(sys.argv[1]))))"
PASSES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Rates a second, and what was measured."""

    read: float
    """GB."""
    reading: str
    int8: float
    """Gop: multiplications and additions of bytes; 0 where that cannot be measured."""
    bf16: float
    """GFLOP of torch's product of two bfloat16 matrices."""

    def or_better(self, other: "Ceilings") -> "Ceilings":
        """The higher of each: what is measured on a busy machine is too low."""
        faster = max(self, other, key=lambda one: one.read)
        return Ceilings(
            read=faster.read,
            reading=faster.reading,
            int8=max(self.int8, other.int8),
            bf16=max(self.bf16, other.bf16),
        )


def measure(n_threads: int) -> Ceilings:
    """Measure in child processes, so that their threads and memory are gone afterwards."""
    command = [sys.executable, "-c", TORCH, str(n_threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    rates = json.loads(done.stdout) | {"int8": 0.0}
    reading = "torch's sum over 1 GiB"
    if native := _compiled(n_threads):
        rates["int8"] = native["int8"]
        if native["read"] > rates["read"]:
            rates["read"] = native["read"]
            reading = "a plain read of 1 GiB with prefetches, huge pages"
    return Ceilings(read=rates["read"], reading=reading, int8=rates["int8"], bf16=rates["bf16"])


def torch_rates(n_threads: int) -> dict[str, float]:
    """What torch reaches: summing 1 GiB, and multiplying two large bfloat16 matrices."""
    import torch

    torch.set_num_threads(n_threads)
    read = (1 << 30) / _least_seconds(torch.ones(1 << 28).sum) / 1e9
    a, b = torch.ones(2_048, 2_048, dtype=torch.bfloat16), torch.ones(2_048, 2_048).bfloat16()
    bf16 = 2 * 2_048**3 / _least_seconds(lambda: a @ b) / 1e9
    return {"read": read, "bf16": bf16}


def _compiled(n_threads: int) -> dict[str, float] | None:
    """The compiled program's rates; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / SOURCE.stem
        flags = ["-O3", "-march=native", "-fopenmp", str(SOURCE), "-o", str(program)]
        if subprocess.run([compiler, *flags], capture_output=True, check=False).returncode:
            return None
        done = subprocess.run(
            [str(program), str(n_threads)], capture_output=True, text=True, check=True
        )
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def _least_seconds(do: Callable[[], object]) -> float:
    do()  # warm
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
