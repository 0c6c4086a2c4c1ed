"""Fetches files of a Hugging Face repository over HTTP, resuming where a pull stopped."""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError, DownloadError
from deepseek.weights.cache import PIECE
from deepseek.weights.registry import Entry, RemoteFile

TIMEOUT_SECONDS = 30
MAX_LISTING_BYTES = 20 << 20
WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|model\.safetensors\.index)\.json"
    r"|chat_template\.jinja|model(-\d{5}-of-\d{5})?\.safetensors"
)


def endpoint() -> str:
    """The hub's address: `$HF_ENDPOINT` for a mirror."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def describe_repo(repo: str) -> Entry:
    """Make an entry of a repository with safetensors: its files, sizes and hashes.

    Args:
        repo: `owner/name` or `owner/name@revision`.

    Raises:
        ConfigError: The name is malformed, or the repository has no safetensors.
        DownloadError: The hub cannot be reached or does not know it.
    """
    owner_name, _, revision = repo.partition("@")
    if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", owner_name):
        raise ConfigError(f"{repo!r} is no repository", "write it as hf:owner/name")
    revision = urllib.parse.quote(revision or "main", safe="")
    url = f"{endpoint()}/api/models/{owner_name}/revision/{revision}?blobs=true"
    with _open(url) as response:
        listing = json.loads(response.read(MAX_LISTING_BYTES))
    commit = str(listing.get("sha", "main"))
    files = [
        RemoteFile(
            name=row["rfilename"],
            size=row["size"],
            sha256=row["lfs"]["sha256"] if row.get("lfs") else "0" * 64,
            repo=f"{owner_name}@{commit}",
        )
        for row in listing.get("siblings", [])
        if WANTED.fullmatch(row.get("rfilename", "")) and row.get("size")
    ]
    if not any(f.name.endswith(".safetensors") for f in files):
        raise ConfigError(f"{repo} has no safetensors weights", "name a repository that has them")
    licence = next(
        (t.removeprefix("license:") for t in listing.get("tags", []) if t.startswith("license:")),
        "not stated",
    )
    return Entry(
        name=re.sub(r"[^A-Za-z0-9._-]", "--", owner_name),
        kind="safetensors",
        description=f"{owner_name} at {commit[:12]}",
        licence=licence,
        files=tuple(files),
    )


def fetch_file(
    file: RemoteFile, target: Path, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Download one file of a repository, continuing what `target` already holds.

    Raises:
        DownloadError: The hub cannot be reached, or sends more than the file's size.
    """
    repo, _, revision = file.repo.partition("@")
    path = urllib.parse.quote(file.path or file.name)
    url = f"{endpoint()}/{repo}/resolve/{revision or 'main'}/{path}"
    have = target.stat().st_size if target.exists() else 0
    if have >= file.size:
        return
    with _open(url, start=have) as response:
        resumed = response.status == 206
        have = have if resumed else 0
        with target.open("ab" if resumed else "wb") as out:
            while piece := response.read(PIECE):
                have += len(piece)
                if have > file.size:
                    raise DownloadError(f"{file.name} is larger than announced", "pull it again")
                out.write(piece)
                if on_bytes:
                    on_bytes(have)


def _open(url: str, start: int = 0) -> Any:
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    token = os.environ.get("HF_TOKEN")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        hint = "check the name; set HF_TOKEN if the repository is private"
        raise DownloadError(f"the hub answered {error.code} for {url}", hint) from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"the hub cannot be reached ({reason})",
            "go online, or name a GGUF file or a folder with safetensors instead",
        ) from None
