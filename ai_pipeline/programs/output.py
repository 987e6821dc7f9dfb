"""What a program left in its output folder: findings, a JSON file for others, and DICOM objects.

Everything in it is hostile: a file may be a link to another patient's image, a pipe that never answers, or
one of a hundred thousand. Nothing but whole files of the folder itself is read, each once, under limits. The
program has ended by then, with all its processes.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.contract import ProgramFile
from ai_pipeline.errors import ProgramFailed

ANSWER = "findings.json"
RESULT = "result.json"
"""The JSON that mercure keeps of a module; so does the node, with the job."""
LARGEST_ANSWER = 1 << 20
"""Bytes of ``findings.json`` and ``result.json``."""
MOST_OBJECTS = 2_000
"""DICOM objects of one answer."""
MOST_OBJECT_BYTES = 256 << 20
"""Bytes of all of them: they are in memory once as files, and one at a time as data sets."""
MOST_FILES = 10_000
"""Files and folders of an output folder."""
DEEPEST = 8
"""Folders in one another, the output folder included."""
_PREAMBLE = 132  # bytes, "DICM" at the end (PS3.10 7.1)
_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class ProgramOutput:
    """The content of an output folder. ``findings``, ``result``: bytes of ``findings.json`` and
    ``result.json``, None if the program wrote none. ``objects``: DICOM files in the order of their names.
    ``others``: number of further files, which nobody reads.
    """

    findings: bytes | None = None
    result: bytes | None = None
    objects: tuple[ProgramFile, ...] = ()
    others: int = 0


def read_output(folder: int) -> ProgramOutput:
    """Read the output folder, given as an open descriptor. Raises ProgramFailed for a folder beyond the
    limits, for an answer or object that is no file, and for one that holds neither findings nor an object.
    """
    answers: dict[str, bytes] = {}
    objects: list[ProgramFile] = []
    others, left = 0, MOST_OBJECT_BYTES
    for place, parent in _files(folder):
        name = place.rpartition("/")[2]
        if place in (ANSWER, RESULT):
            answers[place] = _answer(place, parent)
        elif (content := _object(name, parent, left)) is None:
            others += 1
        else:
            left -= len(content)
            objects.append(ProgramFile(harmless_name(place), content))
            if len(objects) > MOST_OBJECTS:
                raise ProgramFailed(f"the program left more than {MOST_OBJECTS} DICOM objects")
    if ANSWER not in answers and not objects:
        raise ProgramFailed(f"the program left no {ANSWER} and no DICOM object that can be read")
    return ProgramOutput(answers.get(ANSWER), answers.get(RESULT), tuple(objects), others)


def hand_on(folder: int, target: Path) -> bytes | None:
    """Copy the files of an output folder, given as an open descriptor, to the empty folder ``target``, which
    the next program reads; returns the bytes of ``result.json``, which it does not get, None without one.

    Links, devices and further names of files are left out. Raises ProgramFailed beyond the limits, OSError.
    """
    result = None
    left = MOST_OBJECT_BYTES
    for place, parent in _files(folder):
        name = place.rpartition("/")[2]
        if place == RESULT:
            result = _answer(place, parent)
        elif _is_file(name, parent):
            with _opened(name, parent) as descriptor:
                data = _read(descriptor, left)
            if data is None:
                raise ProgramFailed(f"a program left files of more than {MOST_OBJECT_BYTES >> 20} MiB")
            left -= len(data)
            path = target / place
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
    return result


def harmless_name(place: str) -> str:
    """A file's place in the output folder as it may be shown: printable ASCII without spaces, 64 characters
    at most, other characters as "?".
    """
    return re.sub(r"[^A-Za-z0-9._/+#=-]", "?", place)[-_NAME_LENGTH:]


def _files(folder: int) -> Iterator[tuple[str, int]]:
    """Yield each entry below ``folder`` that is no folder, in the order of names, as its place ("a/b.dcm")
    and the descriptor of its folder, valid until the next one. Raises ProgramFailed beyond the limits.
    """
    seen = 0

    def below(parent: int, place: str, depth: int) -> Iterator[tuple[str, int]]:
        """Yield the entries of one folder; ``place``: its own, with a "/" at the end, "" for the first."""
        nonlocal seen
        found: list[tuple[str, bool]] = []
        with os.scandir(parent) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_FILES:
                    raise ProgramFailed(f"the program left more than {MOST_FILES} files")
                found.append((entry.name, entry.is_dir(follow_symlinks=False)))
        for name, is_folder in sorted(found):
            if not is_folder:
                yield f"{place}{name}", parent
                continue
            if depth == DEEPEST:
                raise ProgramFailed(f"the program left folders more than {DEEPEST} deep")
            with _opened(name, parent, os.O_DIRECTORY) as child:
                yield from below(child, f"{place}{name}/", depth + 1)

    yield from below(folder, "", 1)


@contextlib.contextmanager
def _opened(name: str, parent: int, how: int = 0) -> Iterator[int]:
    """A context manager: the descriptor of a file or folder in ``parent``. Raises ProgramFailed if it is a
    link, or may not be read.
    """
    try:
        # O_NONBLOCK: opening a pipe would block.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | how, dir_fd=parent)
    except OSError as error:
        raise ProgramFailed("the program left a file or folder that cannot be read") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _answer(name: str, parent: int) -> bytes:
    """The bytes of ``findings.json`` or ``result.json``. Raises ProgramFailed unless it is a file of
    acceptable size.
    """
    if not _is_file(name, parent):
        raise ProgramFailed(f"the program's {name} is no file")
    with _opened(name, parent) as descriptor:
        data = _read(descriptor, LARGEST_ANSWER)
    if data is None:
        raise ProgramFailed(f"the program's {name} is larger than {LARGEST_ANSWER >> 10} KiB")
    return data


def _object(name: str, parent: int, left: int) -> bytes | None:
    """The bytes of a DICOM file: one called so, or one with its prefix (PS3.10 7.1); None for any other.

    ``left``: bytes that objects may still have. Raises ProgramFailed for a link or device of such a name, and
    beyond the limits.
    """
    is_named = name.lower().endswith(".dcm")
    if not _is_file(name, parent):
        if is_named:
            raise ProgramFailed("the program left a DICOM object that is no file")
        return None
    with _opened(name, parent) as descriptor:
        if not is_named and os.pread(descriptor, _PREAMBLE, 0)[_PREAMBLE - 4 :] != b"DICM":
            return None
        data = _read(descriptor, left)
    if data is None:
        raise ProgramFailed(f"the program left objects of more than {MOST_OBJECT_BYTES >> 20} MiB")
    return data


def _is_file(name: str, parent: int) -> bool:
    """Whether this is a regular file under one name alone: under a second one it may be a file of the
    spool.
    """
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _read(descriptor: int, most: int) -> bytes | None:
    """The bytes of an open file; None for one larger than ``most`` bytes."""
    if os.fstat(descriptor).st_size > most:  # a file of holes is not read to find out
        return None
    with open(descriptor, "rb", closefd=False) as opened:
        data = opened.read(most + 1)
    return data if len(data) <= most else None
