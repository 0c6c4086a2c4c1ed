"""Fixtures for pulls that need no network."""

from pathlib import Path

import pytest
from wheelhouse import Wheelhouse


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """An empty folder of wheels as pip's only source, and an empty cache of our own."""
    house = Wheelhouse(tmp_path / "links", tmp_path / "home")
    house.links.mkdir()
    house.home.mkdir()
    monkeypatch.setenv("DEEPSEEK_HOME", str(house.home))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(house.links))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return house
