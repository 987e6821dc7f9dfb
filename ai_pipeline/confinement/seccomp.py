"""Block system calls of a process for good: a filter of seccomp(2), for x86_64 and aarch64.

:func:`give_up` leaves threads, but no new process, no program, no socket, no signal to others, no change of a
file's owner, mode or times, and none of the calls by which sandboxes were broken. :func:`only_compute` leaves
only computing in memory.
"""

import ctypes
import errno
import platform
import struct
from functools import cache

# name: (x86_64, aarch64), of asm/unistd_64.h and asm-generic/unistd.h; -1 where there is none
_FORBIDDEN = {
    # processes and programs
    "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    # the network, and sockets at a path
    "socket": (41, 198),
    # other processes of the same person
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "kcmp": (312, 272),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218),
    # what Landlock does not watch on files
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "lchown": (94, -1), "fchown": (93, 55), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1),
    "utimensat": (280, 88), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
    # ways out
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428),
    "fsopen": (430, 430), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
}  # fmt: skip
# What Python and a library call while they compute.
_COMPUTING = {
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214),
    "madvise": (28, 233), "futex": (202, 98), "sched_yield": (24, 124), "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128), "clock_gettime": (228, 113), "gettimeofday": (96, 169),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_CLONE_THREAD = 0x10000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_Step = tuple[int, int, int, int]
"""Code, forward if true, forward if false, value: as ``struct sock_filter`` has them."""
_STEP = struct.Struct("HBBI")
_PR_SET_SECCOMP, _FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38


def known() -> bool:
    """Whether this module has a seccomp filter for this machine's processor."""
    return platform.machine() in _MACHINES


def give_up() -> bool:
    """Block the system calls in ``_FORBIDDEN`` for this process and its future threads. Returns False if that
    is impossible.
    """
    return known() and _install(_packed(_all_but_forbidden(*_MACHINES[platform.machine()])))


def only_compute() -> bool:
    """Block all system calls but those that computing needs, for this process. Returns False if that is
    impossible.
    """
    return known() and _install(computing())


@cache
def computing() -> bytes:
    """The seccomp filter of :func:`only_compute`; made once, as a process may fork a child for each frame."""
    column, machine = _MACHINES[platform.machine()]
    steps = _of_machine(machine)
    for numbers in _COMPUTING.values():
        steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    return _packed([*steps, (_RETURN, 0, 0, _REFUSE)])


def _packed(steps: list[_Step]) -> bytes:
    """The steps of a seccomp filter as the bytes that the kernel reads."""
    return b"".join(_STEP.pack(*step) for step in steps)


def _install(steps: bytes) -> bool:
    """Put a seccomp filter in force; returns False if the kernel refuses it."""
    libc = ctypes.CDLL(None)
    code = ctypes.create_string_buffer(steps)
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps) // _STEP.size, ctypes.addressof(code)))
    return not libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) and not libc.prctl(
        _PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0
    )


def _of_machine(machine: int) -> list[_Step]:
    """The first steps of a seccomp filter: end a process that makes calls of another ``machine``, then load
    the call's number.
    """
    return [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _all_but_forbidden(column: int, machine: int) -> list[_Step]:
    """A seccomp filter that refuses the calls in ``_FORBIDDEN`` only. ``column``: the machine's column in the
    tables of call numbers.
    """
    # The other numbers by which x86_64 takes the same calls
    steps = [
        *_of_machine(machine),
        (_AT_LEAST, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _REFUSE),
        # clone3 keeps its flags in memory, where a filter cannot look; libc takes clone then.
        (_EQUAL, 0, 1, _CLONE3[column]),
        (_RETURN, 0, 0, _UNKNOWN),
        (_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 0, 4, _PRLIMIT[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for numbers in _FORBIDDEN.values():
        if numbers[column] >= 0:
            steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _REFUSE)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]
