import logging
import mmap
import sys
from pathlib import Path

import pytest

from deepseek.core import log
from deepseek.core.memory import available_bytes, peak_bytes, reset_peak, resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 96 << 20


def test_memory_that_is_written_counts_and_memory_given_back_does_not() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, SIZE) as block:
        assert resident_bytes() < before + SIZE // 2  # mapped, not touched
        for page in range(0, SIZE, mmap.PAGESIZE):
            block[page] = 1
        assert resident_bytes() > before + SIZE // 2
        assert peak_bytes() >= resident_bytes()
    assert resident_bytes() < before + SIZE // 2
    assert peak_bytes() > before + SIZE // 2


def test_the_peak_can_be_forgotten() -> None:
    with mmap.mmap(-1, SIZE) as block:
        for page in range(0, SIZE, mmap.PAGESIZE):
            block[page] = 1
    high = peak_bytes()
    reset_peak()
    if peak_bytes() == high:
        pytest.skip("this system does not let a process reset its peak")
    assert peak_bytes() < high
    assert peak_bytes() >= resident_bytes() - SIZE // 4


def test_what_is_left_is_the_least_that_machine_and_control_groups_allow(tmp_path: Path) -> None:
    root, member, meminfo = (tmp_path / name for name in ("cgroup", "membership", "meminfo"))

    def left() -> int | None:
        return available_bytes(root, member, meminfo)

    def group(folder: Path, **files: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    8000 kB\n\nHugePages_Free:    0\n")
    assert left() == 8_000 << 10
    member.write_text("0::/user.slice/job\n")
    job = root / "user.slice" / "job"
    group(job, memory__max="max\n", memory__current="5\n", memory__stat="inactive_file 7\n")
    assert left() == 8_000 << 10
    group(job.parent, memory__max="5000\n", memory__current="4000\n")
    group(job.parent, memory__stat="anon 3000\ninactive_file 700\n")
    assert left() == 1_700
    group(job, memory__max="100\n", memory__current="5000\n")
    assert left() == 0, "it holds more than it may, but for a lowered limit"
    member.write_text("4:memory:/docker/a\n2:cpu:/\n")
    group(
        root / "memory" / "docker" / "a",
        memory__limit_in_bytes="900\n",
        memory__usage_in_bytes="800\n",
        memory__stat="inactive_file 1\ntotal_inactive_file 50\n",
    )
    assert left() == 150


def test_this_machine_has_some_memory_left() -> None:
    left = available_bytes()
    assert left is not None
    assert left > 1 << 20


@pytest.fixture
def _same_log() -> object:
    logger = log.LOGGER
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


@pytest.mark.usefixtures("_same_log")
@pytest.mark.parametrize("verbose", [True, False])
def test_the_log_goes_to_stderr_and_is_quiet_unless_asked(
    verbose: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up(verbose)
    log.set_up(verbose)  # twice must not print twice
    log.LOGGER.info("a detail")
    logging.getLogger("deepseek.part").warning("a warning")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("a detail\n" if verbose else "") + "a warning\n"
