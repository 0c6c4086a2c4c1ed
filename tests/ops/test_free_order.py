"""What `benchmarks/invariance.py` compares with computes the same, in another order."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from random_decoder import SHAPES, Cache, Decoder, run

from deepseek.ops import native

NATIVE = Path(__file__).parents[2] / "native"
N = 700
pytestmark = pytest.mark.skipif(
    not (shutil.which("cmake") and native.is_available()), reason="needs cmake and a compiler"
)


@pytest.fixture(scope="module")
def free_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not optimised: that is built soonest."""
    folder = tmp_path_factory.mktemp("free")
    for command in (
        ["cmake", "-S", NATIVE, "-B", folder, "-DFREE_ORDER=ON", "-DCMAKE_BUILD_TYPE=Debug"],
        ["cmake", "--build", folder, "-j", str(os.cpu_count())],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr
    return folder / "deepseek_native.so"


@pytest.fixture(autouse=True)
def with_it(free_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("DEEPSEEK_NATIVE", str(free_library))
        native.library.cache_clear()
        yield
    native.library.cache_clear()


def last_of(decoder: Decoder, x: torch.Tensor, n_threads: int, n_last: int) -> torch.Tensor:
    """The last tokens after all others, which are read in one pass."""
    cache, done = Cache(decoder.shape, 12), N - n_last
    run(decoder, cache, [(x[:done].clone(), 0, range(11))])
    native.use_threads(n_threads)
    (found,) = run(decoder, cache, [(x[done:].clone(), done, range(11))])
    native.use_threads(1)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_last", [1, 9])
def test_it_agrees_with_float64(shape: object, n_threads: int, n_last: int) -> None:
    decoder = Decoder(shape, seed=n_threads)
    x = decoder.embeddings(N)
    got, wanted = last_of(decoder, x, n_threads, n_last), decoder.reference(x)[-n_last:]
    errors = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(errors.max()) < 2e-2


def test_its_bits_depend_on_the_number_of_threads() -> None:
    """Or there would be nothing to compare with."""
    decoder = Decoder(SHAPES[2], seed=0)
    x = decoder.embeddings(N)
    one, two = (last_of(decoder, x, n_threads, 1) for n_threads in (1, 2))
    assert not torch.equal(one, two)
    assert torch.allclose(one, two, rtol=1e-2, atol=1e-2)
