"""Restrict a process to computing with installed libraries: no network, no programs, no other files."""

import sys
from collections.abc import Iterable
from pathlib import Path

from ai_pipeline.confinement import landlock, seccomp

_SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/lib",
    "/lib64",
    "/dev/urandom",
)


def keep_libraries(reads: Iterable[Path] = (), writes: Iterable[Path] = ()) -> str:
    """Give up the network, other programs and processes, signals, and all files but libraries, ``reads`` and
    ``writes``.

    Returns what this machine cannot take away, in words, "" for nothing.
    """
    package = Path(__file__).parents[1]
    libraries = [*map(Path, _SYSTEM), Path(sys.prefix), Path(sys.base_prefix), package]
    files = landlock.allow_only([*libraries, *reads], writes)
    calls = seccomp.give_up()
    lacks = ((files, "files (Landlock)"), (calls, "system calls (seccomp)"))
    return ", ".join(what for is_taken, what in lacks if not is_taken)
