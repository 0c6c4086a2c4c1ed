"""Cold pages in a file: it has no name, and says when there is no room to grow."""

import gc
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deepseek.core.errors import ConfigError, RequestError
from deepseek.model.disk import DiskPool
from deepseek.model.pages import BLOCK
from deepseek.ops import native
from deepseek.ops.cold import page_bytes
from tiny_checkpoint import tiny_config

pytestmark = [
    pytest.mark.skipif(not native.is_available(), reason="the kernels were not built"),
    pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="Linux only"),
]


def disk_pool(folder: Path, most: int | None = None) -> DiskPool:
    return DiskPool(tiny_config(), bits=4, folder=folder, most=most)


def content(pool: DiskPool, seed: int) -> torch.Tensor:
    config = tiny_config()
    size = 2 * config.n_layers * config.n_kv_heads * page_bytes(4, config.d_head)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (size,), generator=generator).to(torch.uint8)


def test_pages_are_shared_copied_and_used_again(tmp_path: Path) -> None:
    pool = disk_pool(tmp_path)
    pages = [pool.take() for _ in range(BLOCK + 1)]
    assert pool.file.n_blocks == 2
    assert pool.n_bytes == os.fstat(pool.file.fd).st_size == 2 * BLOCK * pool.page_bytes
    for page in pages:
        pool.write(page, content(pool, page))
    assert pool.own(pages[3]) == pages[3]
    pool.share(pages[3])
    copy = pool.own(pages[3])
    assert copy not in pages
    for page in pages:
        assert torch.equal(pool.read(page), content(pool, page))
    assert torch.equal(pool.read(copy), content(pool, pages[3]))
    for page in (*pages, copy):
        pool.give_back(page)
    assert pool.n_used == 0
    assert [pool.take() for _ in pages]
    assert pool.file.n_blocks == 2, "what is free is used first"


def test_the_file_has_no_name_and_goes_with_the_pool(tmp_path: Path) -> None:
    pool = disk_pool(tmp_path)
    assert not list(tmp_path.iterdir())
    place = Path(f"/proc/self/fd/{pool.file.fd}")
    assert "(deleted)" in os.readlink(place)
    assert os.fstat(pool.file.fd).st_mode & 0o777 == 0o600
    del pool
    gc.collect()
    assert not place.is_symlink() or str(tmp_path) not in os.readlink(place)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in (("missing", "No such file"), ("file", "Not a directory")):
        with pytest.raises(ConfigError, match=reason) as caught:
            disk_pool(tmp_path / folder)
        assert "--kv-disk" in caught.value.hint
    pool = disk_pool(tmp_path, most=3)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RequestError, match="budget allows no more"):
        pool.take()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One that is soon full: of its own, where that can be mounted."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(tmp_path)]
    try:
        done = subprocess.run(mounted, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("nothing can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill(pool: DiskPool) -> list[int]:
    """All the pages that there are."""
    pages: list[int] = []
    with pytest.raises(RequestError, match="MiB more in") as caught:
        pages.extend(iter(pool.take, None))
    assert "make room" in caught.value.hint
    return list(range(BLOCK * pool.file.n_blocks))


def test_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The error names what is missing; what was there is there, and room that is made is used."""
    (small_disk / "other").write_bytes(bytes(200_000))
    pool = disk_pool(small_disk)
    assert "is in memory" in caplog.text
    pages = fill(pool)
    assert pages
    for page in pages:
        pool.write(page, content(pool, page))
    with pytest.raises(RequestError, match="No space left on device"):
        pool.take()
    assert os.fstat(pool.file.fd).st_size == pool.n_bytes
    (small_disk / "other").unlink()
    assert pool.take() not in pages
    assert all(torch.equal(pool.read(page), content(pool, page)) for page in pages)
    left = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "more").write_bytes(bytes(left))
    with pytest.raises(ConfigError, match="No space left on device"):
        disk_pool(small_disk)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    pool = disk_pool(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * pool.n_bytes + 5, limits[1]))
    try:
        pages = fill(pool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(pages) == 3 * BLOCK
    assert pool.take() == 3 * BLOCK
