"""The same model in llama.cpp's fastest format, Q4_0, made by its own tool, in the cache."""

import os
import subprocess
import sys
from pathlib import Path

from deepseek.weights.cache import home


def requantised(path: Path, n_threads: int) -> Path:
    """Where the Q4_0 file is, which is made if it is not there.

    Raises:
        CalledProcessError: llama.cpp cannot make it.
    """
    target = home() / "benchmarks" / f"{path.stem}.requantised-Q4_0.gguf"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    command = [sys.executable, __file__, str(path), str(unfinished), str(n_threads)]
    subprocess.run(command, check=True, capture_output=True)  # it reports every matrix
    os.replace(unfinished, target)
    return target


def _quantise(source: str, target: str, n_threads: str) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.nthread, params.allow_requantize = int(n_threads), True
    if problem := llama_cpp.llama_model_quantize(source.encode(), target.encode(), params):
        raise SystemExit(f"llama_model_quantize returns {problem}")


if __name__ == "__main__":
    _quantise(*sys.argv[1:])
