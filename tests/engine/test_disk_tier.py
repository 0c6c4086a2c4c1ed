"""Keys and values on a disk, from the loader to the answer: the same, and what failures leave."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_cold_tier import HIERARCHIES, N_TOKENS, TIER, hidden, tokens

from deepseek.cli.main import main
from deepseek.core.errors import ConfigError, DiskError, RequestError
from deepseek.core.llm import SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.disk import DiskPool
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE

has_kernels = pytest.mark.skipif(
    not native.is_available() or not hasattr(os, "posix_fallocate"),
    reason="the kernels were not built, or not for Linux",
)
GREEDY = SamplingParams(max_tokens=3)
TEXT = "The ship left the harbour at noon and nobody knew why. " * 60
KILLED = """
import sys, time
from deepseek.engine.loader import load_engine
engine, _ = load_engine(sys.argv[1], dtype="int8", threads=1, kv_dtype="int4", kv_disk=sys.argv[2])
engine.read("The ship left the harbour at noon and nobody knew why. " * 20)
print(engine.runner.tier_bytes["disk"], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def on_disk(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("disk")
    return load_engine(str(smollm2_path), dtype="int8", threads=1, kv_dtype="int4", kv_disk=folder)[
        0
    ]


def runner_of(engine: Engine, kind: str, folder: Path | None) -> NativeRunner:
    return NativeRunner(
        engine.runner.model,
        dtype=torch.float32,
        device=torch.device("cpu"),
        hierarchy=HIERARCHIES[kind],
        tier=replace(TIER, folder=folder),
    )


def disk_of(engine: Engine) -> DiskPool:
    assert isinstance(engine.runner, NativeRunner)
    assert isinstance(engine.runner.decoder.cold, DiskPool)
    return engine.runner.decoder.cold


@pytest.mark.weights
@has_kernels
@pytest.mark.parametrize("kind", HIERARCHIES)
def test_the_same_bits_as_in_memory(on_disk: Engine, kind: str, tmp_path: Path) -> None:
    """Reading in chunks, tokens one by one, branches, a cut behind the slack, and a fork there."""
    text, found = tokens(N_TOKENS), []
    for folder in (None, tmp_path):
        runner = runner_of(on_disk, kind, folder)
        parts = [runner.read(text), *(runner.step(token) for token in tokens(3, 1))]
        runner.rewind(N_TOKENS)
        parts += runner.read_branches(text, [tokens(9, 2), tokens(5, 3)], [[tokens(4, 4)], []])
        runner.rewind(9 * PAGE)
        parts.append(runner.extend(tokens(30, 5)))
        with_fork = runner.decoder.sequence()
        hidden(runner, with_fork, text)
        parts.append(hidden(runner, with_fork.fork(7 * PAGE + 3), tokens(20, 6)))
        found.append(parts)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert runner.tier_bytes["cold"] == 0
    assert runner.tier_bytes["disk"] > 0
    assert runner.cache_bytes == runner.tier_bytes["hot"] + runner.tier_bytes["memory nodes"]


@pytest.mark.weights
@has_kernels
def test_what_an_answer_says(on_disk: Engine) -> None:
    answer = on_disk.generate(TEXT, GREEDY)
    assert answer.attended is not None
    assert answer.attended.tier_bytes["disk"] == disk_of(on_disk).n_bytes > 0
    assert ", disk " in answer.attended.describe()


@pytest.mark.weights
@has_kernels
def test_after_damage_the_text_is_read_anew(on_disk: Engine) -> None:
    """The request fails; the next one does not, and its answer is the one from before."""
    on_disk.forget()
    wanted = on_disk.generate(TEXT, GREEDY)
    file = disk_of(on_disk).file
    os.ftruncate(file.fd, 0)
    os.posix_fallocate(file.fd, 0, disk_of(on_disk).n_bytes)
    with pytest.raises(DiskError, match="damaged") as caught:
        on_disk.generate(TEXT + "And then", GREEDY)
    assert "read anew" in caught.value.hint
    assert on_disk.runner.tokens == []
    assert disk_of(on_disk).n_used == 0
    again = on_disk.generate(TEXT, GREEDY)
    assert again.token_ids == wanted.token_ids
    assert again.n_reused_tokens == 0


@pytest.mark.weights
@has_kernels
def test_a_full_disk_ends_the_request_only(on_disk: Engine) -> None:
    """What was in the cache stays, and a shorter request is answered."""
    on_disk.forget()
    wanted = on_disk.generate(TEXT, GREEDY)
    pool = disk_of(on_disk)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (pool.n_bytes, limits[1]))
    try:
        with pytest.raises(RequestError, match="MiB more in"):
            on_disk.generate(TEXT * 4, GREEDY)
        again = on_disk.generate(TEXT, GREEDY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert again.token_ids == wanted.token_ids
    assert again.n_reused_tokens > 0
    assert on_disk.generate(TEXT * 2, GREEDY).token_ids


@pytest.mark.weights
@has_kernels
def test_a_killed_process_leaves_nothing(smollm2_path: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(smollm2_path), str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert int(process.stdout.readline()) > 0
            fds = Path(f"/proc/{process.pid}/fd").iterdir()
            places = [os.readlink(fd) for fd in fds]
            assert any(place.startswith(str(tmp_path)) for place in places), "it is there"
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_settings_that_do_not_fit(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="bfloat16 are not kept on a disk"):
        load_engine(str(tiny_folder), kv_dtype="bfloat16", kv_disk=tmp_path)
    with pytest.raises(ConfigError, match="computed in float32"):
        load_engine(str(tiny_folder), dtype="float32", kv_dtype="int8", kv_disk=tmp_path)
    assert main(["generate", "x", "--model", str(tiny_folder), "--kv-disk", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "keys and values in int8 work with the native library only" in error
    assert "--kv-disk out" in error


@has_kernels
def test_a_folder_that_is_missing(smollm2_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load_engine(str(smollm2_path), dtype="int8", kv_dtype="int8", kv_disk=tmp_path / "missing")
