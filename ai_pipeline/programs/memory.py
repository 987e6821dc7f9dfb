"""The memory of a program that is not its processes' own: temporary files, and files without a name.

``/tmp``, ``/var/tmp`` and ``/dev/shm`` of the machine are in memory or on its disk, count for nobody, and
stay when a program is killed. Where the kernel grants a mount namespace, a program has its own: one tmpfs for
all, as large as its limit of memory, which vanishes with its last process.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_TEMPORARY, _SHARED = Path("/tmp"), (Path("/dev/shm"), Path("/var/tmp"))
_SEGMENTS = Path("/proc/sys/kernel/shmall")
_NO_SUID, _NO_DEVICES, _BIND, _RECURSIVE = 0x2, 0x4, 0x1000, 0x4000  # mount(2)
_BLOCK = 512  # bytes, of st_blocks
_MIB = 2**20


def mount_own(memory_mib: int, needed: Iterable[str]) -> None:
    """Mount a tmpfs of ``memory_mib`` MiB at ``/tmp``, ``/dev/shm`` and ``/var/tmp`` of this process's mount
    namespace, and let its segments of System V be no larger together.

    What of ``/tmp`` holds one of the paths ``needed`` stays in its place. Where the kernel refuses, nothing
    changes.
    """
    mount, paths = ctypes.CDLL(None).mount, [*map(Path, needed)]
    inside = (path for path in paths if _TEMPORARY in path.parents and path.exists())
    kept = {top: os.open(top, os.O_PATH) for top in {Path(*path.parts[:3]) for path in inside}}
    # A file without bytes takes memory, too.
    size = f"size={memory_mib}m,nr_inodes={256 * memory_mib},mode=1777".encode()
    if not mount(b"tmpfs", bytes(_TEMPORARY), b"tmpfs", _NO_SUID | _NO_DEVICES, size):
        for top, opened in kept.items():
            top.mkdir() if Path(f"/proc/self/fd/{opened}").is_dir() else top.touch()
            mount(f"/proc/self/fd/{opened}".encode(), bytes(top), None, _BIND | _RECURSIVE, None)
        for place in (one for one in _SHARED if not any(one in path.parents for path in paths)):
            own = _TEMPORARY / f".{place.name}"
            own.mkdir()
            own.chmod(0o1777)
            mount(bytes(own), bytes(place), None, _BIND, None)
    with contextlib.suppress(OSError):
        _SEGMENTS.write_text(str(memory_mib * _MIB // os.sysconf("SC_PAGE_SIZE")), encoding="ascii")
    for opened in kept.values():
        os.close(opened)


def shared_mib(first: int, processes: Iterable[int]) -> float:
    """MiB that the namespace of the process ``first`` has in its own ``/tmp``, and ``processes`` in files
    without a name (memfd) and shared memory.
    """
    processes = list(processes)
    written = _in_temporary(first) + sum(_unnamed(processes).values())
    return max(written, sum(map(_mapped, processes))) / _MIB


def _in_temporary(first: int) -> int:
    """Bytes in the own ``/tmp`` of a process; 0 if it has none."""
    own = Path(f"/proc/{first}/root{_TEMPORARY}")
    with contextlib.suppress(OSError):
        if own.stat().st_dev != _TEMPORARY.stat().st_dev:
            found = os.statvfs(own)
            return (found.f_blocks - found.f_bfree) * found.f_frsize
    return 0


def _unnamed(processes: Iterable[int]) -> dict[tuple[int, int], int]:
    """Bytes of each memfd that the processes have open, by device and inode."""
    found = {}
    for process in processes:
        with contextlib.suppress(OSError):
            for opened in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(opened.readlink()).startswith("/memfd:"):
                        stat = opened.stat()
                        found[stat.st_dev, stat.st_ino] = stat.st_blocks * _BLOCK
    return found


def _mapped(process: int) -> int:
    """Bytes of a process's shared memory that are mapped, divided by the processes that share them."""
    with contextlib.suppress(OSError, ValueError):
        if "RssShmem:\t       0 kB" not in Path(f"/proc/{process}/status").read_text(errors="replace"):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss_Shmem:"):
                    return int(line.split()[1]) * 1024
    return 0
