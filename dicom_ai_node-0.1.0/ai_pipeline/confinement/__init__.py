"""How a process gives up for good what it does not need: limits of the kernel, files, system calls."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1


def lower(limits: Mapping[int, int]) -> None:
    """Set limits of setrlimit(2) for good; one that is lower already stays."""
    for what, most in limits.items():
        now, _ = resource.getrlimit(what)
        limit = most if now == resource.RLIM_INFINITY else min(most, now)
        resource.setrlimit(what, (limit, limit))


def die_with_parent(parent: int) -> bool:
    """Let the kernel end this process when ``parent``, which made it, ends. If it has, this ends here."""
    asked = not ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked, and the kernel tells of no past
        os._exit(1)
    return asked
