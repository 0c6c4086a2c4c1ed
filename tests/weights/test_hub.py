"""Pulls from a hub over HTTP: a server on this machine, honest or not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, Hub, serve
from safetensors_writer import CONFIG, file_bytes, sample_data, sample_table

from deepseek.core.errors import ConfigError, DownloadError
from deepseek.weights import hub as client
from deepseek.weights.pull import ensure, pull
from deepseek.weights.source import open_weights

WEIGHTS = file_bytes(sample_table(), sample_data())
NAME = "hf:owner/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(
        {
            "config.json": json.dumps(CONFIG).encode(),
            "model.safetensors": WEIGHTS,
            "pytorch_model.bin": b"never fetched",
            "README.md": b"never fetched",
        }
    )
    server = serve(hub)
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


def fetched(hub: Hub) -> list[tuple[str, str]]:
    """Name and range of each file request."""
    return [(p.rsplit("/", 1)[1], r) for p, r, _ in hub.requests if "/resolve/" in p]


def test_a_repository_of_data_gives_its_archives(hub: Hub, models: Path) -> None:
    hub.files = {"data.zip": b"archive", "script.py": b"never fetched"}
    found = ensure("hf:datasets/owner/tiny")
    assert (found.kind, found.licence) == ("dataset", "mit")
    assert found.path == models / "datasets--owner--tiny" / "data.zip"
    assert found.path.read_bytes() == b"archive"
    assert fetched(hub) == [("data.zip", "")]
    hub.files = {"README.md": b""}
    with pytest.raises(ConfigError, match=r"no \.jsonl or \.zip files"):
        ensure("hf:datasets/owner/tiny@other")


def test_a_repository_becomes_a_checkpoint(hub: Hub, models: Path) -> None:
    found = ensure(NAME)
    assert (found.kind, found.licence) == ("safetensors", "mit")
    assert found.path == models / "owner--tiny"
    source = open_weights(found.path)
    assert source.tensor("b.weight", torch.float32).tolist() == list(range(8))
    names = sorted(p.name for p in found.path.iterdir() if not p.name.startswith("."))
    assert names == ["config.json", "model.safetensors"]
    assert all(COMMIT in path for path, _, _ in hub.requests[1:])  # one revision, whatever happens
    before = len(hub.requests)
    assert pull(NAME) == found
    assert len(hub.requests) == before + 1  # it only asked whether there is something new
    assert pull(NAME, verify=True) == found
    assert len(fetched(hub)) == 2


def test_what_was_pulled_opens_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pull(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards
    assert pull(NAME) == found
    (found.path / "config.json").write_text("changed")
    with pytest.raises(DownloadError, match="cannot be reached"):
        pull(NAME)


def test_without_a_network_the_error_says_what_else_works(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot be reached") as caught:
        pull(NAME)
    assert "GGUF file" in caught.value.hint


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub) -> None:
    hub.break_after, hub.n_breaks = 100, 3
    found = pull(NAME)
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [r for name, r in fetched(hub) if name == "model.safetensors"]
    assert ranges[-1] == "bytes=200-"


def test_a_later_pull_goes_on_where_an_earlier_gave_up(hub: Hub, models: Path) -> None:
    hub.files["model.safetensors"] = WEIGHTS
    hub.break_after, hub.n_breaks = 0, 1_000
    del hub.files["config.json"]
    with pytest.raises(DownloadError, match="broke 5 times at byte 0"):
        pull(NAME)
    hub.break_after = 150
    hub.n_breaks = 1
    with pytest.raises(DownloadError, match="at byte 150"):
        _pull_with_one_good_piece(hub)
    assert not models.exists()
    hub.n_breaks = 0
    assert (pull(NAME).path / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched(hub)[-1] == ("model.safetensors", "bytes=150-")


def _pull_with_one_good_piece(hub: Hub) -> None:
    """The first connection brings 150 bytes, all later ones none."""

    def starve(step: str, done: int, total: int) -> None:
        hub.break_after, hub.n_breaks = 0, 1_000

    pull(NAME, starve)


def test_a_server_without_ranges_sends_all_again(hub: Hub) -> None:
    hub.break_after, hub.n_breaks, hub.ranges = 100, 2, False
    assert (pull(NAME).path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_bytes_than_announced_are_never_used(hub: Hub, models: Path, name: str) -> None:
    hub.listing = hub.describe()
    good = hub.files[name]
    hub.files[name] = good[:-1] + b"?"
    with pytest.raises(DownloadError, match=f"{name} of owner--tiny arrived with a wrong SHA-"):
        pull(NAME)
    assert not models.exists()
    hub.files[name] = good
    assert (pull(NAME).path / name).read_bytes() == good


def test_more_bytes_than_announced_are_not_stored(hub: Hub, models: Path, tmp_path: Path) -> None:
    hub.extra = bytes(5_000_000)
    with pytest.raises(DownloadError, match="larger than announced"):
        pull(NAME)
    assert not models.exists()
    held = sum(p.stat().st_size for p in (tmp_path / "home").rglob("*") if p.is_file())
    assert held < 10_000


def test_a_token_goes_to_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    pull(NAME)
    assert {authorisation for _, _, authorisation in hub.requests} == {"Bearer secret"}


def test_an_unknown_repository_is_an_error(hub: Hub) -> None:
    with pytest.raises(DownloadError, match="answered 404") as caught:
        pull("hf:owner/other")
    assert "HF_TOKEN" in caught.value.hint


def test_a_missing_file_is_an_error(hub: Hub, models: Path) -> None:
    hub.listing = hub.describe()
    del hub.files["model.safetensors"]
    with pytest.raises(DownloadError, match="answered 404"):
        pull(NAME)
    assert not models.exists()


def test_a_repository_without_safetensors_is_an_error(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(ConfigError, match="has no safetensors"):
        pull(NAME)


@pytest.mark.parametrize(
    "name", ["owner", "owner/", "/tiny", "../tiny", "owner/..", "a/b/c", "o/t?x", "o/t@", "o t/x"]
)
def test_what_is_no_repository_name_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(ConfigError, match="is no repository"):
        pull(f"hf:{name}")
    assert not hub.requests


def _row(**changed: object) -> dict[str, object]:
    row = {"rfilename": "model.safetensors", "size": 5, "lfs": {"sha256": "0" * 64}}
    return {"sha": COMMIT, "siblings": [row | changed]}


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"[" * 100_000,
        {},
        {"sha": COMMIT},
        {"sha": COMMIT, "siblings": 3},
        {"sha": COMMIT, "siblings": [3]},
        {"sha": COMMIT, "siblings": [{}]},
        {"sha": COMMIT, "siblings": [], "tags": 3},
        _row(rfilename=3),
        _row(size="5"),
        _row(size=-5),
        _row(size=1 << 60),
        _row(lfs=None),
        _row(lfs={}),
        _row(lfs={"sha256": "short"}),
    ],
)
def test_a_listing_that_makes_no_sense_is_an_error(hub: Hub, listing: object) -> None:
    hub.listing = listing  # type: ignore[assignment]
    with pytest.raises(DownloadError, match="makes no sense"):
        pull(NAME)


def test_revisions_have_their_own_folders(hub: Hub) -> None:
    entry = client.describe_repo("owner/tiny@v/1")
    assert entry.name == "owner--tiny--v--1"
    assert hub.requests[-1][0].endswith("/revision/v%2F1?blobs=true")
    assert {file.repo for file in entry.files} == {f"owner/tiny@{COMMIT}"}
