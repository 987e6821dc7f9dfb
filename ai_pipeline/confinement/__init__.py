"""Take rights from a process for good: limits of the kernel, access to files, system calls."""

import ctypes
import os
import resource
import signal
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1


def lower(limits: Mapping[int, int]) -> None:
    """Lower this process's resource limits (setrlimit(2), by number of the resource) for good; a limit that
    is lower already stays.
    """
    for what, most in limits.items():
        now, _ = resource.getrlimit(what)
        limit = most if now == resource.RLIM_INFINITY else min(most, now)
        resource.setrlimit(what, (limit, limit))


def die_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when its ``parent`` ends; exit at once if the parent has ended.

    Returns whether the kernel accepted the request.
    """
    asked = not ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked, and the kernel tells of no past
        os._exit(1)
    return asked
