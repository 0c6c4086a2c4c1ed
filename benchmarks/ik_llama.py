"""ik_llama.cpp, a faster fork of llama.cpp, through its `llama-bench` program."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

VARIANTS = (("-rtr", "0"), ("-rtr", "1"))
"""Weights as they are, or repacked while loading."""


class IkBench:
    """One run of the program a job. It loads the file anew each time, which is not counted."""

    def __init__(self, program: Path, model: Path, n_threads: int, flags: Sequence[str]) -> None:
        self._command = [str(program), "-m", str(model), "-t", str(n_threads), "-r", "1"]
        self._command += ["-o", "json", "-fa", "1", *flags]
        self.flags = " ".join(("-fa 1", *flags))
        self.build = ""
        """The commit that it was built from; known after the first run."""

    def rate(self, job: str, n_tokens: int, context: int = 128) -> float:
        """Tokens a second.

        Args:
            job: `prefill` or `decode`.
            n_tokens: How many are timed.
            context: Tokens before those that are decoded.

        Raises:
            CalledProcessError: The program fails.
        """
        what = ["-p", str(n_tokens), "-n", "0"]
        if job == "decode":
            what = ["-p", "0", "-n", "0", "-gp", f"{context},{n_tokens}"]
        done = subprocess.run([*self._command, *what], capture_output=True, text=True, check=True)
        (report,) = json.loads(done.stdout)
        self.build = report["build_commit"]
        return float(report["avg_ts"])


def best_of(program: Path, model: Path, n_threads: int, job: str, n_tokens: int) -> IkBench:
    """The program with its fastest flags for a kind of job: the better of two runs each."""
    benches = [IkBench(program, model, n_threads, flags) for flags in VARIANTS]
    return max(benches, key=lambda bench: max(bench.rate(job, n_tokens) for _ in range(2)))
