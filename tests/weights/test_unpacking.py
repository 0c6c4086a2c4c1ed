"""Texts out of archives: pinned by hash, and nothing hostile gets out of them."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wheelhouse import Wheelhouse, build_wheel, row_of

from deepseek.core.errors import ConfigError, DownloadError
from deepseek.weights import unpacking
from deepseek.weights.pull import is_here, pull
from deepseek.weights.registry import find_entry
from deepseek.weights.unpacking import unpack

TEXTS = {"p-1.0/docs/a.txt": b"first", "p-1.0/docs/deep/b.txt": b"second", "p-1.0/c.py": b"code"}
Make = Callable[[Path, dict[str, bytes]], Path]
BACKEND = """
from pathlib import Path
Path({marker!r}).touch()
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder, "proseful-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: proseful\\nVersion: 1.0\\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return info.name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise RuntimeError("nobody asked for a wheel")
"""


def make_zip(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "texts.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(folder: Path, members: dict[str, bytes], name: str = "texts.tar.gz") -> Path:
    path = folder / name
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_only_what_is_asked_for_comes_out(tmp_path: Path, make: Make) -> None:
    archive, folder = make(tmp_path, TEXTS), tmp_path / "out" / "texts"
    unpack(archive, ["p-1.0/docs/*.txt"], folder)
    assert contents(folder) == {name: TEXTS[name] for name in list(TEXTS)[:2]}
    unpack(archive, ["p-1.0/*.py"], folder)  # what was there is replaced as a whole
    assert contents(folder) == {"p-1.0/c.py": b"code"}
    assert [p.name for p in folder.parent.iterdir()] == ["texts"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "name",
    ["../out.txt", "/tmp/out.txt", "docs/../../out.txt", "docs//x.txt", "docs/.hidden.txt",
     "C:x.txt", "docs/a\nb.txt", "docs\\x.txt", "x" * 300 + ".txt"],
)  # fmt: skip
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, make: Make, name: str) -> None:
    archive, folder = make(tmp_path, {"docs/good.txt": b"x", name: b"evil"}), tmp_path / "out/texts"
    with pytest.raises(DownloadError, match="is no name for a file"):
        unpack(archive, ["*.txt"], folder)
    assert contents(folder.parent) == {}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        path = tmp_path / "texts.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo("docs/passwd.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(DownloadError, match="is no plain file"):
            unpack(path, ["*.txt"], tmp_path / "out")
    path = tmp_path / "texts.whl"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("docs/passwd.txt")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DownloadError, match="is no plain file"):
        unpack(path, ["*.txt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_small_archives_do_not_become_large(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    bomb = make(tmp_path, {"bomb.txt": bytes(3_000_000)})
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr(unpacking, "LARGEST", 1_000_000)
    with pytest.raises(DownloadError, match="larger than a text may be"):
        unpack(bomb, ["*.txt"], folder)
    monkeypatch.undo()
    monkeypatch.setattr(unpacking, "MOST_BYTES", 2_000_000)
    with pytest.raises(DownloadError, match=r"holds more than|larger than"):
        unpack(bomb, ["*.txt"], folder)
    if make is make_tar:  # also where nothing of it is wanted: it would have to be read
        with pytest.raises(DownloadError, match="holds more than 2,000,000 bytes"):
            unpack(make(tmp_path, {"x.bin": bytes(3_000_000), "a.txt": b"a"}), ["*.txt"], folder)
    monkeypatch.setattr(unpacking, "MOST_MEMBERS", 2)
    with pytest.raises(DownloadError, match="more than 2 members"):
        unpack(make(tmp_path, TEXTS), ["*.txt"], folder)
    assert not folder.exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damage_and_doubles_are_refused(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / "out"
    with pytest.raises(DownloadError, match="is there twice"):
        unpack(make(tmp_path, {"A.txt": b"1", "a.txt": b"2"}), ["*.txt"], folder)
    with pytest.raises(DownloadError, match=r"it has no files \*\.md"):
        unpack(make(tmp_path, TEXTS), ["*.md"], folder)
    whole = make(tmp_path, {"a.txt": bytes(range(256)) * 400}).read_bytes()
    archive = tmp_path / make(tmp_path, TEXTS).name
    for cut in (0, 10, len(whole) // 2, len(whole) - 8):
        archive.write_bytes(whole[:cut])
        with pytest.raises(DownloadError, match="cannot be unpacked"):
            unpack(archive, ["*.txt"], folder)
    assert not folder.exists()


def test_texts_of_a_wheel_are_pulled(wheelhouse: Wheelhouse) -> None:
    wheel = build_wheel(wheelhouse.links, "talk", {"talk/data/a.yml": b"a: 1"})
    row = row_of(wheel.name, wheel.read_bytes()) | {"wheel": "talk==1.0"}
    register(wheelhouse, "talk", row, ["talk/data/*.yml"])
    found = pull("talk")
    assert found.kind == "texts"
    assert contents(found.path) == {"talk/data/a.yml": b"a: 1"}
    (found.path / "talk/data/a.yml").write_text("changed")
    assert contents(pull("talk", verify=True).path) == {"talk/data/a.yml": b"a: 1"}


def test_code_of_an_archive_with_another_hash_never_runs(
    wheelhouse: Wheelhouse, tmp_path: Path
) -> None:
    marker = tmp_path / "backend-ran"
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    members = {
        "proseful-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: proseful\nVersion: 1.0\n",
        "proseful-1.0/pyproject.toml": project.encode(),
        "proseful-1.0/backend.py": BACKEND.format(marker=str(marker)).encode(),
        "proseful-1.0/docs/a.txt": b"prose",
    }
    archive = make_tar(wheelhouse.links, members, "proseful-1.0.tar.gz")
    row = row_of(archive.name, archive.read_bytes()) | {"sdist": "proseful==1.0"}
    register(wheelhouse, "prose", row | {"sha256": "0" * 64}, ["*/docs/*.txt"])
    with pytest.raises(DownloadError, match=r"pip could not fetch proseful==1\.0"):
        pull("prose")
    assert not marker.exists()
    assert not is_here(find_entry("prose"))
    wheelhouse.forget()
    register(wheelhouse, "prose", row, ["*/docs/*.txt"])
    assert contents(pull("prose").path) == {"proseful-1.0/docs/a.txt": b"prose"}
    archive.unlink()
    assert pull("prose").path.is_dir()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sdist": "a"}, "is not pinned"),
        ({"sdist": "-r==1"}, "invalid source"),
        ({"wheel": "a==1"}, "exactly one"),
    ],
)
def test_wrong_entries_are_refused(
    wheelhouse: Wheelhouse, change: dict[str, str], why: str
) -> None:
    row = row_of("a-1.tar.gz", b"x") | {"sdist": "a==1"} | change
    register(wheelhouse, "wrong", row, ["*.txt"])
    with pytest.raises(ConfigError) as caught:
        find_entry("wrong")
    assert why in f"{caught.value.message} {caught.value.hint}"


def test_texts_name_their_members_and_others_do_not(wheelhouse: Wheelhouse) -> None:
    row = row_of("a-1.tar.gz", b"x") | {"sdist": "a==1"}
    wheelhouse.register("none", "texts", [row])
    with pytest.raises(ConfigError, match="0 members"):
        find_entry("none")


def register(house: Wheelhouse, name: str, row: dict[str, object], members: list[str]) -> None:
    """An entry of texts: `members` stands before the files."""
    house.register(name, "texts", [row])
    file = house.home / "registry.toml"
    text = file.read_text().replace(f"[[{name}.files]]", f"members = {members}\n[[{name}.files]]")
    file.write_text(text)
