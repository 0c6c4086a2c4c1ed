"""The folder of pages: its bound, its order, other processes, and disks that fail."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.engine import prefix_folder
from deepseek.engine.prefix_folder import PrefixFolder, choose_prefixes
from deepseek.model.prefix_page import HEADER_BYTES
from deepseek.ops import native

pytestmark = pytest.mark.skipif(
    not native.is_available() or os.name != "posix", reason="needs the kernels and Unix"
)
IDENTITY, OTHER = b"i" * 32, b"o" * 32
N_BYTES = 1_000
SIZE = HEADER_BYTES + N_BYTES
WRITER = """
import sys
first, root, *sys.path[:0] = sys.argv[1:]
from pathlib import Path
from test_prefix_folder import content, folder_at, key, there
folder = folder_at(Path(root), 20)
for n in range(int(first), int(first) + 150):
    folder.write(key(n), content(n))
    with folder._locked():
        assert len(there(Path(root))) <= 20
    for m in (n, max(0, n - 5)):
        found = folder.read(key(m)) if folder.has(key(m)) else None
        assert found is None or found.equal(content(m))
assert folder.counts.damaged == 0
print(folder.counts.written)
"""


def folder_at(path: Path, n_files: int, identity: bytes = IDENTITY) -> PrefixFolder:
    return PrefixFolder(path, identity, N_BYTES, n_files * SIZE)


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def content(n: int) -> torch.Tensor:
    return torch.full((N_BYTES,), n % 251, dtype=torch.uint8)


def there(path: Path) -> set[int]:
    """What is in the folder, whoever wrote it."""
    return {int(file.stem, 16) for file in path.glob("?" * 32 + "/*.page")}


@pytest.mark.parametrize("seed", range(4))
def test_random_histories_against_a_list(tmp_path: Path, seed: int) -> None:
    """What was used last is there, as far as the bound allows, also for those who open it later."""
    generator, order = random.Random(seed), list[int]()
    folder = folder_at(tmp_path, 20)
    for _ in range(200):
        n = generator.randrange(60)
        match generator.randrange(4):
            case 0 | 1 if not folder.has(key(n)):
                folder.write(key(n), content(n))
                order.append(n)
            case 2:
                found = folder.read(key(n)) if folder.has(key(n)) else None
                assert found is None or torch.equal(found, content(n))
                if found is not None:
                    folder.renew([key(n)])
                    order.remove(n)
                    order.append(n)
            case 3 if generator.random() < 0.2:
                folder.settle()
                folder = folder_at(tmp_path, 20)
        now = there(tmp_path)
        assert len(now) <= 20
        assert now == set(order[-len(now) :])
        assert len(now) >= min(18, len(order))
        assert folder.n_bytes == SIZE * len(now)
        order = order[-len(now) :]
    assert all(
        folder.has(key(n)) or folder.why(key(n)) in ("dropped for size", None) for n in range(60)
    )


def test_the_first_pages_of_a_prompt_are_the_last_to_go(tmp_path: Path) -> None:
    folder = folder_at(tmp_path, 10)
    for n in range(10):
        folder.write(key(n), content(n))
    folder.renew([key(n) for n in range(10)])
    folder.settle()
    for opened in (folder, folder_at(tmp_path, 10)):
        opened.write(key(100 + opened.counts.read), content(1))
        assert folder.has(key(0))
    assert not folder.has(key(9))
    assert folder.why(key(9)) == "dropped for size"
    assert folder.why(key(77)) is None


def test_a_smaller_bound_holds_at_once(tmp_path: Path) -> None:
    folder = folder_at(tmp_path, 10)
    for n in range(10):
        folder.write(key(n), content(n))
    folder_at(tmp_path, 4)
    assert 2 <= len(there(tmp_path)) <= 4
    with pytest.raises(ConfigError, match="does not hold a page"):
        PrefixFolder(tmp_path, IDENTITY, N_BYTES, SIZE - 1)


def test_models_share_a_bound_and_nothing_else(tmp_path: Path) -> None:
    one, other = folder_at(tmp_path, 6), folder_at(tmp_path, 6, OTHER)
    one.write(key(1), content(1))
    assert not other.has(key(1))
    assert other.why(key(1)) == "read with other weights or settings"
    for n in range(2, 10):
        other.write(key(n), content(n))
    assert len(there(tmp_path)) <= 6
    assert not one.has(key(1))
    assert one.read(key(1)) is None
    assert one.why(key(1)) == "dropped for size"


def test_two_processes_keep_the_bound_and_read_nothing_wrong(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, first, str(tmp_path), str(tests), str(tests.parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in ("0", "100")
    ]
    for run in runs:
        out, error = run.communicate()
        assert run.returncode == 0, error
        assert int(out) == 150
    assert 15 <= len(there(tmp_path)) <= 20


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "longer", "other name"])
def test_a_damaged_file_is_dropped_with_a_reason(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_at(tmp_path, 10)
    folder.write(key(1), content(1))
    folder.write(key(2), content(2))
    (file,) = tmp_path.glob(f"*/{key(1).hex()}.page")
    data = bytearray(file.read_bytes())
    match change:
        case "flip":
            data[700] ^= 4
        case "cut":
            del data[900:]
        case "empty":
            data.clear()
        case "longer":
            data += b"x"
        case "other name":
            data = bytearray(file.with_name(f"{key(2).hex()}.page").read_bytes())
    file.write_bytes(data)
    assert folder.read(key(1)) is None
    assert not file.exists()
    assert folder.why(key(1)) == "damaged on disk"
    assert folder.counts.damaged == 1
    assert len(caplog.records) == 1
    folder.write(key(1), content(1))
    assert folder.why(key(1)) is None
    assert torch.equal(folder.read(key(1)), content(1))


def test_what_vanishes_is_no_error(tmp_path: Path) -> None:
    folder = folder_at(tmp_path, 3)
    for n in range(3):
        folder.write(key(n), content(n))
    for file in tmp_path.glob("*/*.page"):
        file.unlink()
    folder.ask_for([key(0)])
    assert folder.read(key(0)) is None
    folder.settle()
    for n in range(3, 9):
        folder.write(key(n), content(n))
    assert len(there(tmp_path)) <= 3


def test_only_the_owner_can_read_and_write(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "a" / "b", 3)
    folder.write(key(1), content(1))
    for path in (tmp_path / "a" / "b").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="others may write"):
        folder_at(tmp_path / "open", 3)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError):
        folder_at(tmp_path / "file", 3)
    with pytest.raises(ConfigError):
        folder_at(tmp_path / "file" / "below", 3)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    kept = [tmp_path / "notes.txt", tmp_path / "ab" / "x.page", tmp_path / IDENTITY.hex()[:32]]
    kept[2] = kept[2] / "notes.txt"
    for file in kept:
        file.parent.mkdir(exist_ok=True, mode=0o700)
        file.write_bytes(b"x" * 100_000)
    folder = folder_at(tmp_path, 3)
    for n in range(9):
        folder.write(key(n), content(n))
    assert all(file.stat().st_size == 100_000 for file in kept)
    assert folder.n_bytes == SIZE * len(there(tmp_path))
    assert 2 <= len(there(tmp_path)) <= 3


def test_leftovers_go_and_writers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_at(tmp_path, 3)
    left, fresh = tmp_path / "new" / "left", tmp_path / "new" / "fresh"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    fresh.write_bytes(b"x")
    folder_at(tmp_path, 3)
    assert not left.exists()
    assert fresh.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder, write, calls = folder_at(tmp_path, 3), os.write, []

    def fail(handle: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 2:
            raise OSError(number, os.strerror(number))
        return write(handle, data[:100])  # a part of it, as a full disk does

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        folder.write(key(1), content(1))
    monkeypatch.undo()
    assert not list((tmp_path / "new").iterdir())
    assert not there(tmp_path)
    folder.write(key(1), content(1))
    assert torch.equal(folder.read(key(1)), content(1))


def test_some_of_the_disk_is_left_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_at(tmp_path, 3)
    monkeypatch.setattr(prefix_folder, "SPARE_BYTES", 1 << 60)
    with pytest.raises(OSError, match="space"):
        folder.write(key(1), content(1))


def test_another_process_with_the_lock_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = folder_at(tmp_path, 3), folder_at(tmp_path, 3)
    monkeypatch.setattr(prefix_folder, "LOCK_SECONDS", 0.02)
    with other._locked(), pytest.raises(TimeoutError):
        folder.write(key(1), content(1))
    folder.write(key(1), content(1))


def test_any_count_in_the_lock_will_do(tmp_path: Path) -> None:
    folder_at(tmp_path, 3)
    (tmp_path / "lock").write_bytes(b"\xff" * 50)
    folder = folder_at(tmp_path, 3)
    for n in range(9):
        folder.write(key(n), content(n))
    assert len(there(tmp_path)) <= 3


def test_what_may_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path))
    assert choose_prefixes(None) is None
    auto = choose_prefixes("auto", "2GiB")
    assert auto is not None
    assert (auto.path, auto.most_bytes, auto.is_required) == (
        tmp_path / "prefixes",
        2 << 30,
        False,
    )
    named = choose_prefixes(tmp_path / "x")
    assert named is not None
    assert (named.path, named.most_bytes, named.is_required) == (tmp_path / "x", 4 << 30, True)
    for given in ((None, "1GiB"), ("auto", "much"), ("auto", 0)):
        with pytest.raises(ConfigError):
            choose_prefixes(*given)  # type: ignore[arg-type]
