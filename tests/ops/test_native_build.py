"""Tests of kernels that are not there say nothing: where there is a compiler, they must be."""

import shutil

from deepseek.ops import native


def test_the_kernels_were_built() -> None:
    assert native.is_available() or not shutil.which("c++"), "install the package again"
