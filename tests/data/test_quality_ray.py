"""On a Ray cluster the result is the same, also when a worker dies on the way."""

import hashlib
import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest
from quality_corpus import prose, write_lines

from deepseek.core.errors import MissingDependencyError
from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.pipeline import Pipeline
from deepseek.data.quality.ray_pool import RayPool

HAS_RAY = importlib.util.find_spec("ray") is not None
CONFIG = """
[clean]
shard_bytes = 8_000
[sources.web]
paths = ["web"]
[[operators]]
use = "gopher"
[[operators]]
use = "repetition"
[[operators]]
use = "minhash"
[[operators]]
use = "pii"
"""


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_that_is_said(tmp_path):
    (tmp_path / "clean.toml").write_text(CONFIG)
    with pytest.raises(MissingDependencyError, match="Ray is not installed"):
        RayPool(load_clean_config(tmp_path / "clean.toml"), tmp_path, 2)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.large
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_dies_changes_nothing(tmp_path):
    import ray

    texts = [prose(seed) for seed in range(120)] + [prose(seed) + " More." for seed in range(30)]
    write_lines(tmp_path / "web" / "a.jsonl", texts)
    (tmp_path / "clean.toml").write_text(CONFIG)
    config = load_clean_config(tmp_path / "clean.toml")
    Pipeline(config, tmp_path / "local").run()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed: list[int] = []

    def kill(title: str, done: int, total: int) -> None:
        if not killed and 0 < done < total:
            killed.extend(workers(os.getpid())[:1])
            os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.2)

    try:
        Pipeline(config, tmp_path / "cluster", n_workers=2, use_ray=True).run(kill)
    finally:
        ray.shutdown()
    assert killed
    assert tree(tmp_path / "cluster") == tree(tmp_path / "local")


def workers(driver: int) -> list[int]:
    """Processes of this test's cluster that run our tasks."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
                is_ours = driver in ancestors(int(folder.name))
            except OSError:
                continue
            if command.startswith(b"ray::") and b"Map" in command and is_ours:
                found.append(int(folder.name))
    return sorted(found)


def ancestors(process: int) -> list[int]:
    """Its parent, the parent of that, and so on."""
    found = []
    while process > 1:
        status = (Path("/proc") / str(process) / "stat").read_text()
        process = int(status.rsplit(")", 1)[1].split()[1])
        found.append(process)
    return found
