"""2,000 damaged files: each is refused with a `CheckpointError`, or loads and holds numbers.

Memory is bounded from outside, by `RLIMIT_AS`: the whole process, torch's own allocator
included, may grow by 192 MiB over what it has when a file is opened, and an allocation beyond
that fails with an error that is no `CheckpointError`. (`tracemalloc` would not see what torch
allocates.) The files have 60 KB, so every count and length that a reader believes is found.
A crash ends pytest; a hang is ended by an alarm.
"""

import random
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from gguf_writer import GGUFImage
from mutation import mutated_gguf, mutated_safetensors
from safetensors_writer import row, sample_data, sample_table, write_folder
from tiny_model import tiny_gguf

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.model.checkpoint import load_model
from deepseek.weights.source import WeightSource, open_weights

GROWTH = 192 << 20
ALARM_SECONDS = 60  # for a file that takes milliseconds: only a hang can reach it
N_GGUF, N_SAFETENSORS = 300, 200  # for each of four seeds


def load(path: Path) -> str:
    """Open a file and read all it holds; the outcome in a word."""
    try:
        source = open_weights(path)
        for name in source.names():
            tensor = source.tensor(name, torch.float32)
            assert tuple(tensor.shape) == source.shape(name)
            assert torch.isfinite(tensor).all()
        check_rows(source)
    except CheckpointError as error:
        return "refused" if error.hint and len(str(error)) < 2_000 else f"badly refused: {error}"
    return "loaded"


def check_rows(source: WeightSource) -> None:
    for name in source.names():
        shape = source.shape(name)
        if len(shape) == 2 and shape[0]:
            ids = torch.tensor([shape[0] - 1, 0])
            whole = source.tensor(name, torch.float32)
            # Rows of reordered matrices are never asked for; the embedding's are.
            if "embed" in name or ".weight" not in name:
                assert torch.equal(source.rows(name, ids, torch.float32), whole[ids])


@contextmanager
def bounded() -> Iterator[None]:
    """Let the process grow by `GROWTH` only, and end a hang."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def hung(*_: object) -> None:
        raise AssertionError(f"a file was not read within {ALARM_SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, hung)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GROWTH, hard))
    signal.alarm(ALARM_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    """Let torch start its threads before memory is bounded."""
    torch.rand(1 << 20).sum()


def test_the_bound_on_memory_holds() -> None:
    # Far more than what earlier tests may have left free inside the process.
    beyond = GROWTH + (32 << 30)
    with bounded(), pytest.raises(RuntimeError, match="allocate"):
        torch.empty(beyond, dtype=torch.uint8)
    with bounded(), pytest.raises(MemoryError):
        bytes(beyond)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_gguf_files_are_refused_or_load(tmp_path: Path, family: str, seed: int) -> None:
    rng = random.Random(f"{family}{seed}")
    image, path = tiny_gguf(family), tmp_path / "model.gguf"
    outcomes: Counter[str] = Counter()
    for i in range(N_GGUF):
        data = mutated_gguf(image, rng)
        path.unlink(missing_ok=True)  # a new file: the old one may still be mapped
        path.write_bytes(data)
        with bounded():
            outcome = load(path)
        outcomes[outcome] += 1
        if i % 50 == 0:
            assert load_original(tmp_path / "whole.gguf", image) == "loaded"
        if outcome == "loaded" and data[: image.data_start] != image.data[: image.data_start]:
            outcomes[check_whole_model(path)] += 1
    assert set(outcomes) <= {"refused", "loaded", "model", "unsupported"}, outcomes
    assert min(outcomes["refused"], outcomes["loaded"]) >= 10, outcomes
    assert outcomes["model"] >= 3, outcomes  # loaded although the header was damaged


@pytest.mark.parametrize("seed", range(4))
def test_damaged_safetensors_files_are_refused_or_load(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    table, data = sample_table(), sample_data()
    if seed % 2:
        table["d.weight"] = row("I32", [2, 2], 176)
        table["e.embed"] = row("F32", [3, 2], 192)
        data += bytes(16) + bytes(24)
    outcomes: Counter[str] = Counter()
    for i in range(N_SAFETENSORS):
        folder = write_folder(tmp_path / str(i), mutated_safetensors(table, data, rng))
        with bounded():
            outcomes[load(folder)] += 1
    assert set(outcomes) == {"refused", "loaded"}, outcomes
    assert min(outcomes.values()) >= 5, outcomes


def check_whole_model(path: Path) -> str:
    """A file that reads must also make a model, or be of a kind that is not supported."""
    try:
        load_model(open_weights(path), dtype=torch.float32)
    except ConfigError as error:
        return "unsupported" if "scaling" in str(error) else f"wrong kind of error: {error}"
    return "model"


def load_original(path: Path, image: GGUFImage) -> str:
    """The undamaged file, now and then: a fuzz test that only ever refuses proves nothing."""
    path.unlink(missing_ok=True)
    path.write_bytes(image.data)
    return load(path)
