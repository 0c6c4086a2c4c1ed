from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    n_layers: int
    rate: float = 0.1
    name: str = "x"
    mode: Literal["fast", "exact"] = "fast"
    seed: int | None = None
    flag: bool = False
    sizes: list[int] = field(default_factory=list)


def test_a_table_becomes_a_dataclass() -> None:
    found = build(Sample, {"n_layers": 3, "rate": 1, "seed": None, "mode": "exact", "sizes": [1]})
    assert found == Sample(n_layers=3, rate=1, mode="exact", sizes=[1])


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"n_layer": 3}, "unknown setting model.n_layer", "did you mean n_layers?"),
        ({"n_layers": 1, "zzz": 3}, "unknown setting model.zzz", "known: flag, mode, n_layers"),
        ({}, "model.n_layers is missing", "add n_layers"),
        ({"n_layers": "3"}, "model.n_layers is '3'", "of type int"),
        ({"n_layers": True}, "model.n_layers is True", "of type int"),
        ({"n_layers": 3.0}, "model.n_layers is 3.0", "of type int"),
        ({"n_layers": 1, "rate": "high"}, "model.rate is 'high'", "of type float"),
        ({"n_layers": 1, "rate": True}, "model.rate is True", "of type float"),
        ({"n_layers": 1, "flag": 1}, "model.flag is 1", "of type bool"),
        ({"n_layers": 1, "mode": "slow"}, "model.mode is 'slow'", "one of 'fast', 'exact'"),
        ({"n_layers": 1, "mode": ["fast"]}, "model.mode is", "exact"),
        ({"n_layers": 1, "seed": "x"}, "model.seed is 'x'", "int"),
        ({"n_layers": 1, "sizes": 3}, "model.sizes is 3", "list"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(
    values: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Sample, values, where="model.")
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("word", "hint"),
    [("n_layer", "did you mean n_layers?"), ("qqq", "known: n_heads, n_layers")],
)
def test_a_hint_names_what_is_near_or_all_there_is(word: str, hint: str) -> None:
    assert suggest(word, ["n_layers", "n_heads"]) == hint


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "preset.toml"
    path.write_text('title = "t"\n[model]\nn_layers = 2\n[model.deep]\nx = 1\n')
    return path


def test_overrides_win_and_have_toml_types(preset: Path) -> None:
    overrides = (
        "model.n_layers=4",
        "model.rate = 3e-4",
        "model.flag=true",
        "model.name=bare",
        'model.quoted="a=b"',
        "model.sizes=[1, 2]",
        "model.deep.x=5",
        "new.section.key=1",
        "title=",
    )
    assert load_table(preset, overrides) == {
        "title": "",
        "model": {
            "n_layers": 4,
            "rate": 3e-4,
            "flag": True,
            "name": "bare",
            "quoted": "a=b",
            "sizes": [1, 2],
            "deep": {"x": 5},
        },
        "new": {"section": {"key": 1}},
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.n_layers", "has no '='"),
        ("title.x=1", "title in 'title.x=1' is no section"),
        ("=1", "names no setting"),
        ("model.=1", "names no setting"),
        ("model..x=1", "names no setting"),
    ],
)
def test_a_wrong_override_is_named(preset: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_table(preset, (override,))


@pytest.mark.parametrize("data", [b"a = ", b"a = 1\na = 2", b"\xff = 1", b"[a\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load_table(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent"):
        load_table(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_table(tmp_path)
