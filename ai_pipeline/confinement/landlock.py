"""Restrict a process to named files and folders by Landlock (landlock(7))."""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

LEAST = 3  # the version of Linux 6.2: before it a file elsewhere could be emptied
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same number on every machine
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_EXECUTE, _ALL = 1 << 0, (1 << 15) - 1
_IOCTL_DEVICE, _TCP, _SCOPES = 1 << 15, 0b11, 0b11  # of versions 5, 4 and 6
_SCOPE_SIGNAL, _SIGNALS_SINCE = 1 << 1, 6
_PR_SET_NO_NEW_PRIVS = 38


def version() -> int:
    """The version of the kernel's Landlock ABI; 0 if the kernel has none or it is switched off."""
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def allow_only(reads: Iterable[Path], writes: Iterable[Path]) -> bool:
    """Let this process and its children access only the files and folders in ``reads`` and ``writes`` that
    exist.

    No program can be run. Where the kernel supports it, TCP and signals to other processes are blocked too.
    Returns False if the kernel has no Landlock of version :data:`LEAST`.
    """
    here = version()
    if here < LEAST:
        return False
    watched = _ALL | (_IOCTL_DEVICE if here >= 5 else 0)
    known = 8 if here < 4 else 16 if here < 6 else 24  # bytes of struct landlock_ruleset_attr
    rules = struct.pack("QQQ", watched, _TCP, _SCOPES)[:known]
    allowed = [(path, _READ_FILE | _READ_DIR) for path in reads]
    return _restrict(rules, allowed + [(path, watched & ~_EXECUTE) for path in writes])


def keep_signals_inside() -> bool:
    """Let this process and its children signal one another and no other process, for good.

    Returns False if the kernel cannot do this (before Linux 6.12).
    """
    return version() >= _SIGNALS_SINCE and _restrict(struct.pack("QQQ", 0, 0, _SCOPE_SIGNAL), [])


def _restrict(rules: bytes, allowed: Iterable[tuple[Path, int]]) -> bool:
    """Put the Landlock ruleset ``rules`` (struct landlock_ruleset_attr) in force for good, with exceptions
    for the ``allowed`` paths and their access rights; returns False if the kernel refuses.
    """
    libc = ctypes.CDLL(None)
    ruleset = libc.syscall(_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    try:
        for path, access in allowed:
            _allow(libc, ruleset, path, access)
        return not libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) and not libc.syscall(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    """Add a rule that allows access to a path, if it exists."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            access &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        # LANDLOCK_RULE_PATH_BENEATH
        if libc.syscall(_ADD, ruleset, 1, struct.pack("=Qi", access, opened), 0):
            raise OSError(f"Landlock does not take {path}")
    finally:
        os.close(opened)
