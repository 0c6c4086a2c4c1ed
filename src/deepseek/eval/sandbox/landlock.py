"""Landlock: the files a process can touch, by paths, without being root."""

import ctypes
import os
import stat
from collections.abc import Sequence

from deepseek.eval.sandbox.linux import syscall

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1 << 0
PATH_BENEATH = 1

READ_FILE, READ_DIR = 1 << 2, 1 << 3
READ = READ_FILE | READ_DIR
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
FILE_RIGHTS = 1 << 0 | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
MAKE_DEVICES_AND_SOCKETS = 1 << 6 | 1 << 9 | 1 << 11
RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights on files the first versions know; later ones 16."""
TCP = 1 << 0 | 1 << 1
ABSTRACT_SOCKETS_AND_SIGNALS = 1 << 0 | 1 << 1


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # what _pack_ implies; Python 3.14 wants it said
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def landlock_version() -> int:
    """The kernel's version of Landlock.

    Raises:
        OSError: It has none, or it is off.
    """
    return syscall(CREATE_RULESET, None, 0, VERSION)


def restrict_files(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Leave this process only these files; TCP, signals and abstract sockets too if possible.

    Args:
        readable: Files and folders that can be read.
        writable: Files and folders that can be read and changed, without devices and sockets.

    Raises:
        OSError: The kernel refuses.
    """
    version = landlock_version()
    every_right = (1 << RIGHTS_OF_VERSION.get(version, 16)) - 1
    rules = _Ruleset(files=every_right)
    size = 8
    if version >= 4:
        rules.network, size = TCP, 16
    if version >= 6:
        rules.scoped, size = ABSTRACT_SOCKETS_AND_SIGNALS, 24
    ruleset = syscall(CREATE_RULESET, ctypes.byref(rules), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, READ & every_right)
        for path in writable:
            _allow(ruleset, path, every_right & ~MAKE_DEVICES_AND_SOCKETS & ~1)
        syscall(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= FILE_RIGHTS
        rule = _PathBeneath(allowed=rights, folder=place)
        syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)
