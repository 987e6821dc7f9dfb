"""Names of lease owners, by which processes of the same machine see whether an owner still runs.

A killed worker's job is thus taken over at once, not when its lease ends; on other machines the lease
decides.
"""

import hashlib
import os
import secrets
import socket
from functools import cache
from pathlib import Path


def new_owner() -> str:
    """A name for this process that is never used again; at most 64 characters."""
    return f"{_machine()}/{os.getpid()}/{os.getppid()}/{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that has ended; False if this is unknown."""
    return _runs_no_more(owner, 1)


def is_dead_with_its_node(owner: str) -> bool:
    """Whether the process that started the owner has ended too: the whole node died, not only the worker."""
    return _runs_no_more(owner, 1) and _runs_no_more(owner, 2)


def _runs_no_more(owner: str, place: int) -> bool:
    parts = owner.split("/")
    if len(parts) != 4 or parts[0] != _machine() or not parts[place].isdigit():
        return False
    pid = int(parts[place])
    try:
        os.kill(pid, 0)
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return True
    except OSError:  # another user's, or no /proc
        return False
    return about.rpartition(")")[2].split()[0] == "Z"  # a zombie


@cache
def _machine() -> str:
    """This boot of this machine and its process name space: containers may share a host name."""
    parts = [socket.gethostname()]
    for read in (Path("/proc/sys/kernel/random/boot_id").read_text, Path("/proc/self/ns/pid").readlink):
        try:
            parts.append(str(read()))
        except OSError:  # not Linux: leases alone decide, because the name holds the process id of one boot
            parts.append(secrets.token_hex(8))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
