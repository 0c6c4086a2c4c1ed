"""Fetches files of a Hugging Face repository over HTTP, resuming where a pull stopped."""

import dataclasses
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek.core.config import build
from deepseek.core.errors import ConfigError, DownloadError
from deepseek.weights.cache import PIECE, home, write_atomically
from deepseek.weights.registry import Entry, RemoteFile

TIMEOUT_SECONDS = 30
MAX_LISTING_BYTES = 20 << 20
ATTEMPTS = 5  # connections that may break in a row without bringing a byte
WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|model\.safetensors\.index)\.json"
    r"|chat_template\.jinja|model(-\d{5}-of-\d{5})?\.safetensors"
)
WANTED_DATA = re.compile(r".+\.(jsonl|zip)")
DATASETS = "datasets/"
NONSENSE = (ConfigError, ValueError, LookupError, TypeError, AttributeError)
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def endpoint() -> str:
    """The hub's address: `$HF_ENDPOINT` for a mirror."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def describe_repo(repo: str) -> Entry:
    """Make an entry of a repository with safetensors or data: its files, sizes and hashes.

    Args:
        repo: `owner/name` or `owner/name@revision`; with `datasets/` before it, its JSON lines
            and archives are meant.

    Raises:
        ConfigError: The name is malformed, or the repository has no such files.
        DownloadError: The hub cannot be reached or does not know it.
    """
    owner_name, _, revision = _parts(repo)
    is_data = owner_name.startswith(DATASETS)
    wanted = WANTED_DATA if is_data else WANTED
    place = owner_name if is_data else f"models/{owner_name}"
    url = f"{endpoint()}/api/{place}/revision/{revision}?blobs=true"
    try:
        with _open(url) as response:
            listing = json.loads(response.read(MAX_LISTING_BYTES))
        commit = str(listing["sha"])
        files = tuple(
            _remote_file(row, f"{owner_name}@{commit}")
            for row in listing["siblings"]
            if wanted.fullmatch(row["rfilename"]) and row.get("size")
        )
        tags = [str(tag) for tag in listing.get("tags", [])]
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from None
    except (*NONSENSE, RecursionError) as error:
        raise DownloadError(
            f"the hub's description of {repo} makes no sense ({type(error).__name__}: {error})",
            "check HF_ENDPOINT, or name a folder with safetensors instead",
        ) from None
    if is_data and not files:
        raise ConfigError(f"{repo} has no .jsonl or .zip files", "name a repository that has them")
    if not is_data and not any(f.name.endswith(".safetensors") for f in files):
        raise ConfigError(f"{repo} has no safetensors weights", "name a repository that has them")
    licences = [t.removeprefix("license:") for t in tags if t.startswith("license:")]
    return Entry(
        name=_folder_name(repo),
        kind="dataset" if is_data else "safetensors",
        description=f"{owner_name} at {commit[:12]}",
        licence=licences[0] if licences else "not stated",
        files=files,
    )


def save_listing(repo: str, entry: Entry) -> None:
    """Remember what the hub said, so that a pulled repository opens without a network."""
    data = json.dumps(dataclasses.asdict(entry)).encode()
    write_atomically(_listing_file(repo), data)


def remembered_repo(repo: str) -> Entry | None:
    """What the hub said at the last pull, if there was one."""
    try:
        table = json.loads(_listing_file(repo).read_bytes())
        files = tuple(build(RemoteFile, row) for row in table["files"])
        return build(Entry, table | {"files": files, "members": ()})
    except (OSError, *NONSENSE):
        return None


def fetch_file(
    file: RemoteFile, target: Path, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Download one file of a repository, continuing what `target` already holds.

    A connection that breaks is opened again where it broke, as long as bytes keep coming.

    Raises:
        DownloadError: The hub cannot be reached, or sends more than the file's size.
    """
    attempts = ATTEMPTS
    while (have := target.stat().st_size if target.exists() else 0) < file.size:
        if attempts == 0:
            raise DownloadError(
                f"the connection broke {ATTEMPTS} times at byte {have:,} of {file.name}",
                "pull again: it continues there",
            )
        brought = _continue(file, target, have, on_bytes)
        attempts = ATTEMPTS if brought else attempts - 1


def _continue(
    file: RemoteFile, target: Path, have: int, on_bytes: Callable[[int], None] | None
) -> bool:
    """Read from one connection until it ends; whether it brought anything new."""
    repo, _, revision = file.repo.partition("@")
    path = urllib.parse.quote(file.path or file.name)
    url = f"{endpoint()}/{repo}/resolve/{revision or 'main'}/{path}"
    before = have
    with _open(url, start=have) as response:
        resumed = response.status == 206
        have = have if resumed else 0
        with target.open("ab" if resumed else "wb") as out:
            while piece := _read(response):
                have += len(piece)
                if have > file.size:
                    out.truncate(0)
                    raise DownloadError(f"{file.name} is larger than announced", "pull it again")
                out.write(piece)
                if on_bytes:
                    on_bytes(have)
    return have > before


def _read(response: Any) -> bytes:
    """The next bytes, none if the connection broke."""
    try:
        return bytes(response.read1(PIECE))
    except (OSError, http.client.HTTPException):
        return b""


def _remote_file(row: dict[str, Any], repo: str) -> RemoteFile:
    """One row of a listing. Small files come with git's own hash only."""
    large = row.get("lfs")
    digest = {"sha256": str(large["sha256"])} if large else {"git_sha1": str(row["blobId"])}
    return build(RemoteFile, {"name": row["rfilename"], "size": row["size"], "repo": repo} | digest)


def _parts(repo: str) -> tuple[str, str, str]:
    owner_name, at, revision = repo.partition("@")
    if not re.fullmatch(f"({DATASETS})?{NAME}/{NAME}", owner_name) or (at and not revision):
        raise ConfigError(
            f"{repo!r} is no repository", "write it as hf:owner/name or hf:datasets/owner/name"
        )
    return owner_name, at, urllib.parse.quote(revision or "main", safe="")


def _folder_name(repo: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "--", repo)


def _listing_file(repo: str) -> Path:
    return home() / "hub" / f"{_folder_name(repo)}.json"


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
        error.close()
        hint = "check the name; set HF_TOKEN if the repository is private"
        raise DownloadError(f"the hub answered {error.code} for {url}", hint) from None
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from None


def _unreachable(error: Exception) -> DownloadError:
    return DownloadError(
        f"the hub cannot be reached ({getattr(error, 'reason', error)})",
        "go online, or name a GGUF file or a folder with safetensors instead",
    )
