import logging
import mmap
import sys

import pytest

from deepseek.core import log
from deepseek.core.memory import peak_bytes, reset_peak, resident_bytes

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
