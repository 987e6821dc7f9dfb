"""Built objects on disk: durable under temporary names, then renamed, all or none."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.model.kinds import ResultKind
from dicom_node.object_store.files import Files
from dicom_node.results.common.context import BuiltObject
from dicom_node.results.sr.reading import short_result


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A built object under a temporary name. ``final``: its final path; ``size`` in bytes.

    ``was_there``: it was built before, and its row was lost with the database. Then the existing bytes are
    the object (a result is built once), and whether they were sent is unknown.
    """

    temporary: Path
    final: Path
    sha256: str
    size: int
    was_there: bool = False


@contextlib.contextmanager
def written(built: Iterable[BuiltObject], door: Files) -> Iterator[dict[str, ResultFile]]:
    """Write the files of newly built objects, by SOP Instance UID.

    Files that the caller does not move to their final path are deleted at the end of the scope.
    """
    files: dict[str, ResultFile] = {}
    try:
        for item in built:
            if item.data is not None:
                folder = door.data_dir / (DEIDENTIFIED_FOLDER if item.deidentified else "results")
                files[item.sop_instance_uid] = _write(door, folder, item.sop_instance_uid, item.data)
        yield files
    finally:
        for file in files.values():
            file.temporary.unlink(missing_ok=True)


def row_values(built: BuiltObject, file: ResultFile, door: Files) -> dict[str, Any]:
    """The values for a new result's row that come from the object and its file."""
    names = ("kind", "sop_instance_uid", "sop_class_uid", "series_instance_uid", "supersedes")
    values = {name: getattr(built, name) for name in (*names, "deidentified", "pseudonym_domain")}
    is_report = built.kind is ResultKind.SR and built.data is not None
    short = "\n".join(short_result(BytesIO(built.data or b""))) if is_report else ""
    where = {"path": door.relative(file.final), "sha256": file.sha256, "bytes": file.size}
    return {**values, **where, "short_result": short}


def put_in_place(files: Sequence[ResultFile], door: Files) -> None:
    """Rename files to their final names, durably, and upload them to the object store. Raises StoreAway."""
    for file in files:
        door.keep(file.temporary, door.relative(file.final))
    folders = {file.final.parent for file in files}
    for folder in folders | {folder.parent for folder in folders}:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(door: Files, folder: Path, uid: str, data: bytes) -> ResultFile:
    place = folder / hashlib.sha256(uid.encode("ascii")).hexdigest()[:2]
    place.mkdir(parents=True, exist_ok=True)
    temporary, final = place / f".{uid}.{os.getpid()}", place / f"{uid}.dcm"
    if door.built_before(door.relative(final)):
        data = final.read_bytes()
        return ResultFile(temporary, final, hashlib.sha256(data).hexdigest(), len(data), was_there=True)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return ResultFile(temporary, final, hashlib.sha256(data).hexdigest(), len(data))
