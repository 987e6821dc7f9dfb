"""Owners of leases: the names of processes, by which others of their machine see whether they still run."""

import hashlib
import os
import secrets
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def new_owner() -> str:
    """Return a name for this process as an owner of leases, never used again; at most 64 characters."""
    return f"{_machine()}/{os.getpid()}/{os.getppid()}/{secrets.token_hex(4)}"


def is_of(owner: str, pid: int) -> bool:
    """Return whether the process named ``owner`` is the one of this machine with this number."""
    return owner.startswith(f"{_machine()}/{pid}/")


def is_dead(owner: str) -> bool:
    """Return whether the process named ``owner`` ran on this machine and has ended; False if this is
    unknown.
    """
    return _has_process_ended(owner, 1)


def is_alive(owner: str) -> bool:
    """Return whether the process named ``owner`` is known to run on this machine, as a child of its node."""
    state, parent = _process(owner, 1)
    return state not in ("", "Z") and parent == owner.split("/")[2]


def is_dead_with_its_node(owner: str) -> bool:
    """Return whether the process named ``owner`` has ended and so has its parent: the whole node died, not
    only the worker.
    """
    return is_dead(owner) and _has_process_ended(owner, 2)


def _has_process_ended(owner: str, place: int) -> bool:
    """Return whether a process in an owner's name has ended on this machine; False if that is unknown.

    ``place``: 1 for the owner itself, 2 for its parent.
    """
    return _process(owner, place)[0] == "Z"


def _process(owner: str, place: int) -> Sequence[str]:
    """Return the state (proc(5); "Z" if it has ended) of a process in an owner's name and the number of its
    parent; "" for what is unknown. ``place`` as above.
    """
    parts = owner.split("/")
    if len(parts) != 4 or parts[0] != _machine() or not parts[place].isdigit():
        return "", ""
    pid = int(parts[place])
    try:
        os.kill(pid, 0)
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return "Z", ""
    except OSError:  # another user's, or no /proc
        return "", ""
    return about.rpartition(")")[2].split()[:2]


@cache
def _machine() -> str:
    """Return a name of this machine, its present boot and its process name space, because containers may
    share a host name.
    """
    parts = [socket.gethostname()]
    for read in (Path("/proc/sys/kernel/random/boot_id").read_text, Path("/proc/self/ns/pid").readlink):
        try:
            parts.append(str(read()))
        except OSError:  # not Linux: leases alone decide, because the name holds the process id of one boot
            parts.append(secrets.token_hex(8))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
