"""The entries of a folder that a program has written, at any depth; links are not followed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

MOST_ENTRIES = 10_000
"""Files and folders that a program may write."""


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """All readable entries below ``folder``, up to one more than :data:`MOST_ENTRIES`."""
    waiting, count = [folder], 0
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                yield entry
                count += 1
                if count > MOST_ENTRIES:
                    return
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
