"""Adapters made by `deepseek tune`, and what was measured of them, kept under what they depend on.

A run that was stopped goes on with the steps, the adapters and the measures that are missing.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from report import ROOT, say

KEPT = ROOT / "out" / "tuned"
SELF = "self"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to tune a base, with one seed."""

    name: str
    base: str
    data: Path
    rate: float
    epochs: float
    seed: int
    batch: int = 8
    window: int = 256
    general: Path | str | None = None
    """Beside the data; `self`: the base's own answers."""
    answers: int = 64
    """Of the base's own, at most."""

    @property
    def folder(self) -> Path:
        """Where its run is."""
        general = digest(self.general) if isinstance(self.general, Path) else self.general
        about = [*self._options(), self.base, digest(self.data), general]
        key = sha256(json.dumps(about).encode()).hexdigest()[:16]
        return KEPT / f"{self.name.replace(' ', '-')}-{self.seed}-{key}"

    @property
    def is_tuned(self) -> bool:
        """Whether its adapter is there."""
        return (self.folder / "report.html").exists()  # written last

    def tune(self, threads: int | None = None) -> Path:
        """The adapter's folder; nothing is done if it is there.

        Args:
            threads: They are no part of what an arm is: sums differ in their last bits.
        """
        out = self.folder
        if not self.is_tuned:
            start = time.perf_counter()
            command = [sys.executable, "-m", "deepseek", "tune", self.base, str(self.data)]
            command += ["--out", str(out), "--resume", *self._options()]
            if self.general is not None:
                command += ["--general", str(self.general)]
            if threads is not None:
                command += ["--threads", str(threads)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            say(f"{self.name}, seed {self.seed}: tuned in {time.perf_counter() - start:.0f} s")
        return out / "adapter"

    def _options(self) -> list[str]:
        options = {
            "rate": self.rate,
            "epochs": self.epochs,
            "seed": self.seed,
            "batch": self.batch,
            "window": self.window,
        }
        found = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        # What is measured is held out by the benchmark itself.
        found += ["--set", "validation.held_out=0.0", "--set", f"mix.answers={self.answers}"]
        return [*found, "--set", "mix.answer_tokens=96"]


def digest(data: Path | Sequence[Any]) -> str:
    """Of a file, or of plain data."""
    found = data.read_bytes() if isinstance(data, Path) else json.dumps(data).encode()
    return sha256(found).hexdigest()[:16]
