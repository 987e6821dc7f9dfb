"""What a process may not do while it reads a file from outside. Linux; each limit holds for itself alone.

Not a prison: the process keeps the rights of the person who started it, and can read what that person can.
"""

from __future__ import annotations

import ctypes
import resource

MEMORY = 16 << 30  # bytes of addresses; importing torch takes 4 of the 16 GiB
FILE = 4 << 30  # bytes that one file may grow to
FILES = 256  # open at once
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # unshare(2)


def confine(seconds: int) -> bool:
    """Limit this process and its children for good; call it before any thread starts.

    ``seconds`` of processor time. Returns True when it also has no network any more, which some kernels and
    containers do not grant to everybody.
    """
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (limit, limit))
    return leave_network()


def leave_network() -> bool:
    """Take the network from this process and its children, for good. Returns whether the kernel did so."""
    libc = ctypes.CDLL(None)
    return bool(libc.unshare(_NEW_NET) == 0 or libc.unshare(_NEW_USER | _NEW_NET) == 0)
