"""What tests of the kernels share."""

from collections.abc import Iterator

import pytest

from deepseek.ops import native

BEST = native.level()


@pytest.fixture(params=native.levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each set of instructions that this processor has; the best one afterwards."""
    native.use_level(request.param)
    yield request.param
    native.use_level(BEST)
    native.use_threads(1)
