"""The files of results on disk: written under temporary names, then put in place."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from dicom_node.base.durable import sync_folder
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DEIDENTIFIED_FOLDER, ResultKind
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.stated_report import read_report


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result's file on disk that still has a temporary name. ``final``: its path once it is kept; ``size``
    in bytes.

    ``was_there``: the file was written before, but its database row was lost. Then the existing bytes are the
    object (a result is built once), and whether they were sent is unknown.
    """

    temporary: Path
    final: Path
    sha256: str
    size: int
    was_there: bool = False


@contextlib.contextmanager
def temporary_files(built: Iterable[BuiltObject], door: Files) -> Iterator[dict[str, ResultFile]]:
    """Context manager: write the files of newly built objects under temporary names, by SOP Instance UID.

    ``door``: the store of the node's files. Objects that were built before (``data`` None) are skipped. Files
    that the caller does not move to their final path are deleted at the end of the scope.
    """
    files = {}
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
    """The values for a new row of the results table that come from the object and its file.

    ``door``: the store of the node's files, which makes the path relative to the data folder.
    """
    is_report = built.kind is ResultKind.SR
    return {
        "kind": built.kind,
        "sop_instance_uid": built.sop_instance_uid,
        "sop_class_uid": built.sop_class_uid,
        "series_instance_uid": built.series_instance_uid,
        "supersedes": built.supersedes,
        "deidentified": built.deidentified,
        "pseudonym_domain": built.pseudonym_domain,
        "path": door.relative(file.final),
        "sha256": file.sha256,
        "bytes": file.size,
        "short_result": "\n".join(read_report(BytesIO(built.data or b"")).short_result) if is_report else "",
    }


def put_in_place(files: Sequence[ResultFile], door: Files) -> None:
    """Rename the files to their final names, durably, and upload them to the object store. Raises StoreAway.

    ``door``: the store of the node's files.
    """
    for file in files:
        door.keep(file.temporary, door.relative(file.final))
    folders = {file.final.parent for file in files}
    for folder in folders | {folder.parent for folder in folders}:
        sync_folder(folder)


def _write(door: Files, folder: Path, uid: str, data: bytes) -> ResultFile:
    """Write the bytes of one result durably under a temporary name, unless its final file is there already.

    ``door``: the store of the node's files; ``uid``: SOP Instance UID; ``folder``: where the final file
    belongs.
    """
    place = folder / hashlib.sha256(uid.encode("ascii")).hexdigest()[:2]
    place.mkdir(parents=True, exist_ok=True)
    temporary, final = place / f".{uid}.{os.getpid()}", place / f"{uid}.dcm"
    was_there = door.built_before(door.relative(final)) is not None
    if was_there:
        data = final.read_bytes()
    else:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return ResultFile(temporary, final, hashlib.sha256(data).hexdigest(), len(data), was_there)
