"""Control groups as they are on different machines, laid out in a temporary folder."""

import os
from pathlib import Path

import pytest

from deepseek.core import threads
from deepseek.core.errors import ConfigError
from deepseek.core.threads import cgroup_quota, thread_count


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def quota(root: Path, membership: str) -> float | None:
    file = root.parent / "membership"
    file.write_text(membership)
    return cgroup_quota(root, file)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_v2_takes_the_tightest_of_all_ancestors(root: Path) -> None:
    write(root / "user.slice", cpu__max="150000 100000\n")
    write(root / "user.slice" / "job", cpu__max="max 100000\n")
    assert quota(root, "0::/user.slice/job\n") == 1.5
    write(root / "user.slice" / "job", cpu__max="50000 100000\n")
    assert quota(root, "0::/user.slice/job\n") == 0.5
    assert quota(root, "0::/user.slice\n") == 1.5


def test_v2_in_a_container_is_at_the_root(root: Path) -> None:
    write(root, cpu__max="200000 100000\n")
    assert quota(root, "0::/\n") == 2
    assert quota(root, "0::/../../host/path\n") == 2


def test_v1_reads_the_cpu_controller(root: Path) -> None:
    write(root / "cpu" / "docker" / "a", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    write(root / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    write(root / "memory" / "docker" / "a", cpu__cfs_quota_us="1", cpu__cfs_period_us="100000")
    membership = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n"
    assert quota(root, membership) == 3


def test_v1_in_a_container_is_at_the_controllers_root(root: Path) -> None:
    write(root / "cpu", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert quota(root, "4:cpu,cpuacct:/docker/abc\n") == 2.5


@pytest.mark.parametrize(
    "text", ["max 100000\n", "", "x y\n", "100000\n", "100000 0\n", "-1 100000\n", "1 2 3\n"]
)
def test_no_limit_and_nonsense_are_no_quota(root: Path, text: str) -> None:
    write(root, cpu__max=text)
    assert quota(root, "0::/\n") is None


@pytest.mark.parametrize("membership", ["", "\n", "nonsense\n", "0:\n", "::::\n", "0::\n"])
def test_an_odd_membership_is_survived(root: Path, membership: str) -> None:
    write(root, cpu__max="100000 100000")
    assert quota(root, membership) == 1


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("granted", "count", "reason"),
    [
        (None, 8, "8 CPUs in the affinity mask"),
        (2.0, 2, "control-group quota of 2 CPUs"),
        (2.5, 3, "control-group quota of 2.5 CPUs"),
        (0.2, 1, "control-group quota of 0.2 CPUs"),
        (64.0, 8, "8 CPUs in the affinity mask"),
    ],
)
def test_the_smaller_of_quota_and_affinity_decides(
    monkeypatch: pytest.MonkeyPatch, granted: float | None, count: int, reason: str
) -> None:
    monkeypatch.setattr(threads, "_affinity", lambda: 8)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: granted)
    assert thread_count() == (count, reason)


def test_this_process_gets_no_more_than_its_affinity() -> None:
    count, reason = thread_count()
    assert 1 <= count <= len(os.sched_getaffinity(0))
    assert reason


def test_a_narrower_affinity_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: None)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert thread_count()[0] == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_number_that_the_user_names_wins() -> None:
    assert thread_count(3) == (3, "as requested")


@pytest.mark.parametrize("requested", [0, -1, 100_000])
def test_a_number_of_threads_that_makes_no_sense_is_refused(requested: int) -> None:
    with pytest.raises(ConfigError, match=f"threads is {requested}"):
        thread_count(requested)
