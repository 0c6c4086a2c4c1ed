"""Namespaces: a process's own network, processes, host name and file system."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepseek.eval.sandbox import linux

CAP_SYS_ADMIN = 21
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
MOUNT_POINT = "/tmp"  # is there on every machine; only our own view of it changes


def enter_user_namespace() -> None:
    """Become the owner of new namespaces without being root.

    Raises:
        OSError: It is not needed, or the kernel or the container refuses.
    """
    if linux.has_capability(CAP_SYS_ADMIN):
        raise OSError("not needed: this process may make namespaces as it is")
    user, group = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def enter_private_root(readable: Sequence[str], work: str, size: int, owner: int) -> None:
    """Leave a file system with nothing but these paths, an empty folder and four devices.

    Files of the folder live in memory and vanish with the last process that sees them.

    Args:
        readable: Files and folders that keep their places, read-only.
        work: Where the empty folder comes to be.
        size: Bytes for all that is written.
        owner: The user that may write to the folder.

    Raises:
        OSError: The kernel or the container refuses.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    # Opened before the mount below hides what may lie there.
    places = {path: os.open(path, os.O_PATH) for path in readable if os.path.exists(path)}
    devices = {path: os.open(path, os.O_PATH) for path in DEVICES if os.path.exists(path)}
    limits = f"size={size},nr_inodes=8192,mode=0755"
    linux.mount("tmpfs", MOUNT_POINT, "tmpfs", linux.MS_NOSUID_NODEV, limits)
    for path, place in (places | devices).items():
        _bind(place, path, MOUNT_POINT + path)
    for path in places:
        linux.make_read_only(MOUNT_POINT + path)
    for place in (places | devices).values():
        os.close(place)
    folder = MOUNT_POINT + work
    os.makedirs(folder, 0o755)
    os.chmod(folder, 0o700)
    if owner != os.geteuid():
        os.chown(folder, owner, owner)
    linux.change_root(MOUNT_POINT)


def _bind(place: int, path: str, target: str) -> None:
    """Mount what is open as `place` at a path that is made for it."""
    if os.path.isdir(path):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    source = f"/proc/self/fd/{place}"
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)


def make_folder(owner: int) -> str:
    """A new temporary folder on disk, where no private root can be had."""
    folder = tempfile.mkdtemp(prefix="deepseek-sandbox-")
    if owner != os.geteuid():
        os.chown(folder, owner, owner)
    return folder


def remove_folder(folder: str) -> None:
    """Delete a folder, whatever a program did to its permissions."""
    os.chmod(folder, 0o700)
    for parent, names, _ in os.walk(folder):
        for path in (os.path.join(parent, name) for name in names):
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def folder_bytes(folder: str) -> int:
    """What the files of a folder take on disk."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:  # deleted meanwhile
                continue
    return total
