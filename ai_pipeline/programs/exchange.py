"""The folders that a program gets: copies of the images, a place to write, a place to work.

They lie in a folder of their own under ``TMPDIR``, which only the node's user can read, and are deleted after
the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.errors import ProgramFailed
from ai_pipeline.programs.supervisor import entries

ANSWER = "findings.json"
LARGEST_ANSWER = 1 << 20
"""Bytes of ``findings.json``."""
_PREFIX, _LOCK = "ai-pipeline-images-", "lock"
_YOUNG_SECONDS = 60.0
"""Age from which a folder whose lock is free is abandoned (seconds)."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The folders of one run. ``input``: ``1.dcm``, ``2.dcm`` … in the order of the images; no path holds a
    name or UID.
    """

    name: str
    input: Path
    output: Path
    work: Path
    _output: int
    """Descriptor of ``output``: a program may put another folder under its name."""

    def answer(self) -> bytes:
        """The bytes of ``findings.json``. Raises ProgramFailed unless it is a file of acceptable size."""
        try:
            # O_NONBLOCK: opening a pipe of that name would block.
            file = os.open(ANSWER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._output)
        except OSError as error:
            raise ProgramFailed(f"the program left no {ANSWER} that can be read") from error
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(file)
            raise ProgramFailed(f"the program's {ANSWER} is no file")
        with open(file, "rb") as opened:  # noqa: PTH123  (a descriptor)
            data = opened.read(LARGEST_ANSWER + 1)
        if len(data) > LARGEST_ANSWER:
            raise ProgramFailed(f"the program's {ANSWER} is larger than {LARGEST_ANSWER >> 10} KiB")
        return data

    def others(self) -> str:
        """One sentence on further files that the program wrote; "" if there are none."""
        found = entries(f"/proc/self/fd/{self._output}")
        others = [one for one in found if one.name != ANSWER and not one.is_dir(follow_symlinks=False)]
        if not others:
            return ""
        what = f"{len(others)} other files" if len(others) > 1 else "another file"
        dicom = sum(_is_dicom(entry.path) for entry in others)
        return f"the program wrote {what} ({dicom} of them DICOM), of which none is taken: only {ANSWER} is"


@contextmanager
def exchange(images: Sequence[Path]) -> Iterator[Exchange]:
    """Copy the images into new folders, and delete everything at the end. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # for this user alone
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            made = [folder / name for name in ("input", "output", "work")]
            for path in made:
                path.mkdir(mode=0o700)
            source, target, work = made
            for number, image in enumerate(images, start=1):
                copy = source / f"{number}.dcm"
                shutil.copyfile(image, copy)
                copy.chmod(0o400)
            source.chmod(0o500)
            opened = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                yield Exchange(secrets.token_hex(8), source, target, work, opened)
            finally:
                os.close(opened)
        finally:
            _remove(folder)


def remove_abandoned() -> None:
    """Delete folders of processes that were killed, whose locks are free."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.stat(follow_symlinks=False)
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_SECONDS:
                continue
            with (folder / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _remove(folder: Path) -> None:
    """Delete a folder with folders of any mode and depth in it."""
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf", "--one-file-system"]):
        subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _is_dicom(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(file).st_mode) and os.read(file, 132)[128:] == b"DICM"
    finally:
        os.close(file)
