"""Seccomp: the system calls that a program has no business with.

A list of what is refused rather than of what is allowed: Python and its libraries may use any
call for computing and files, and the other layers bound those. What is refused is everything
that reaches outside the process: sockets, other processes, new processes and programs, mounts,
namespaces, keys, and the kernel's large interfaces (bpf, io_uring, perf).
"""

import ctypes
import platform
import struct

from deepseek.eval.sandbox.linux import PR_SET_SECCOMP, prctl

# Columns: x86_64, aarch64. A call that a machine does not have is -1.
REFUSED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "personality": (135, 92),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
}
CLONE, CLONE3, KILL, TGKILL = (56, 220), (435, 435), (62, 129), (234, 131)
PRLIMIT, PRCTL = (302, 261), (157, 167)
CLONE_THREAD = 0x0001_0000
REFUSED_PRCTL = (1, 4, 36, 0x59616D61)
"""PDEATHSIG, DUMPABLE, CHILD_SUBREAPER, PTRACER: what keeps this process in our hands."""

MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
"""Column of the tables, and the name the kernel gives the machine."""
X32_BIT = 0x4000_0000

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, ARGUMENT_0 = 0, 4, 16
ALLOW, END_PROCESS, FAIL = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
EPERM, ENOSYS = 1, 38
MODE_FILTER = 2

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_calls(pid: int) -> None:
    """Refuse the calls above from now on, in this process and for good.

    Args:
        pid: This process as it knows itself: the only one it may send signals to.

    Raises:
        OSError: The kernel refuses, or the machine is of another kind.
    """
    code = b"".join(struct.pack("HBBI", *step) for step in _instructions(pid))
    program = _Program(length=len(code) // 8, filter=code)
    prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(program))


def _instructions(pid: int) -> list[Instruction]:
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"no system call table for {machine}")
    column, audit = MACHINES[machine]
    steps: list[Instruction] = [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 1, 0, audit),
        (RETURN, 0, 0, END_PROCESS),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine == "x86_64":  # the x32 calls are the same with other numbers
        steps += [(AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, END_PROCESS)]
    for numbers in REFUSED.values():
        if numbers[column] >= 0:
            steps += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, FAIL | EPERM)]
    # C libraries fall back to clone, whose flags a filter can see.
    steps += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, FAIL | ENOSYS)]
    steps += _argument(CLONE[column], [(ANY_BIT, 1, 0, CLONE_THREAD)])
    for numbers in (KILL, TGKILL):
        steps += _argument(numbers[column], [(EQUAL, 1, 0, pid)])
    steps += _argument(PRLIMIT[column], [(EQUAL, 1, 0, 0)])
    steps += _argument(PRCTL[column], _none_of(REFUSED_PRCTL))
    return [*steps, (RETURN, 0, 0, ALLOW)]


def _argument(number: int, condition: list[Instruction]) -> list[Instruction]:
    """Fail a call unless its first argument meets the condition, which skips one step then."""
    body = [(LOAD, 0, 0, ARGUMENT_0), *condition]
    body += [(RETURN, 0, 0, FAIL | EPERM), (RETURN, 0, 0, ALLOW)]
    return [(EQUAL, 0, len(body), number), *body]


def _none_of(values: tuple[int, ...]) -> list[Instruction]:
    """Go on to the refusal at one of these, skip it otherwise."""
    last = len(values) - 1
    return [
        (EQUAL, last - place, 0 if place < last else 1, value) for place, value in enumerate(values)
    ]
