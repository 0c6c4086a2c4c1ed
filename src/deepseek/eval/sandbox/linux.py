"""The system calls of Linux that Python has no function for, through ctypes.

Every call raises OSError with the kernel's own reason, so that a refused layer can say why.
"""

import ctypes
import functools
import os
import platform
import sys

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
MS_NOSUID_NODEV = 2 | 4
MNT_DETACH = 2
AT_RECURSIVE = 0x8000
AT_FDCWD = -100
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2

# These came after the tables of system calls were unified: one number everywhere.
MOUNT_SETATTR = 442
# The others have a number per machine.
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPGET = {"x86_64": 125, "aarch64": 90}
LAST_CAPABILITY = 40

IS_LINUX = sys.platform == "linux"


@functools.cache
def _libc() -> ctypes.CDLL:
    if not IS_LINUX:
        raise OSError(f"needs Linux, this is {sys.platform}")
    return ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def machine_number(table: dict[str, int]) -> int:
    """A system call's number on this machine.

    Raises:
        OSError: The machine is of a kind that the table does not have.
    """
    number = table.get(platform.machine()) if IS_LINUX else None
    if number is None:
        raise OSError(f"no system call table for {sys.platform} on {platform.machine()}")
    return number


def syscall(number: int, *arguments: object) -> int:
    """Any system call; integers are passed as longs."""
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *longs))


def prctl(option: int, argument: int = 0, second: int = 0) -> None:
    """Change how the kernel treats this process."""
    nothing = ctypes.c_ulong(0)
    _checked(
        _libc().prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), nothing, nothing)
    )


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _checked(_libc().unshare(flags))


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount a file system, or bind a folder or file to a second place."""
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    _checked(_libc().mount(*texts, ctypes.c_ulong(flags), data.encode()))


def make_read_only(target: str) -> None:
    """Make a mount and all below it read-only, keeping its other flags."""
    attributes = _MountAttr(attr_set=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
    syscall(
        MOUNT_SETATTR,
        AT_FDCWD,
        ctypes.c_char_p(target.encode()),
        AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )


def change_root(folder: str) -> None:
    """Make a mount the root of the file system and let go of the old one."""
    os.chdir(folder)
    here = ctypes.c_char_p(b".")
    syscall(machine_number(PIVOT_ROOT), here, here)
    _checked(_libc().umount2(b".", MNT_DETACH))
    os.chdir("/")


def has_capability(number: int) -> bool:
    """Whether this process holds a capability, such as 21 (CAP_SYS_ADMIN)."""
    header, data = _CapHeader(version=0x2008_0522), (_CapData * 2)()
    syscall(machine_number(CAPGET), ctypes.byref(header), ctypes.byref(data))
    return bool(data[number // 32].effective >> (number % 32) & 1)


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # not held, or unknown to this kernel
            break
    header, data = _CapHeader(version=0x2008_0522), (_CapData * 2)()
    syscall(machine_number(CAPSET), ctypes.byref(header), ctypes.byref(data))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
