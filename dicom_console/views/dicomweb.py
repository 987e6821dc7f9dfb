"""Objects for DICOMweb (PS3.18): their list, their attributes as JSON, and frames as stored."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import get_expected_length, pack_bits, unpack_bits
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ai_pipeline.images.codestreams import Fragments
from ai_pipeline.images.numbers import DAMAGE, whole_of
from dicom_console.views.search import NOT_SHOWN, grouped
from dicom_node.config.settings import Settings
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.object_store.files import Files
from dicom_node.store.tables import Delivery, Instance, Result, Study, Withdrawal

OF_STUDY = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID"),
    *("PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription"),
)
OF_SERIES = (
    *("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber"),
    *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
)
OF_INSTANCE = (
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated"),
    "NumberOfFrames",
)
"""Attributes of answers (PS3.18 Tables 10.6.3-3 to 10.6.3-5), as far as a file has them."""
_PIXEL_GROUP = 0x7FE0
UTF8 = "ISO_IR 192"
_INLINE = 262_144  # bytes of a value in JSON; palettes are shorter
_DEFERRED = 65_536  # bytes of a value that is not read before it is asked for


@dataclass(frozen=True, slots=True)
class HeldObject:
    """An object of a study that a viewer may retrieve."""

    path: str
    study: int
    study_uid: str
    series_uid: str
    uid: str


def objects(session: Session, study: str, series: str = "", instance: str = "") -> list[HeldObject]:
    """The received objects and the results of a study, a series or an instance, found by UIDs.

    Left out are withdrawn results, results that no person has accepted yet, de-identified results, and all
    objects of a study in quarantine. Raises NotFound if no object is left.
    """
    found = [
        one
        for one in _of(session, Study.study_instance_uid == study)
        if series in ("", one.series_uid) and instance in ("", one.uid)
    ]
    if not found:
        raise NotFound("there is no such study, series or instance, or no longer")
    return found


def of_studies(session: Session, numbers: Collection[int]) -> dict[int, list[HeldObject]]:
    """The same objects of several studies, by the study's number."""
    return grouped((one.study, one) for one in _of(session, Study.id.in_(numbers)))


def _of(session: Session, studies: ColumnElement[bool]) -> list[HeldObject]:
    unaccepted = select(Delivery.result_id).where(Delivery.state == DeliveryState.UNASSESSED)
    hidden = unaccepted.union(select(Withdrawal.result_id))
    shown: dict[type[Instance | Result], tuple[ColumnElement[bool], ...]] = {
        Instance: (Instance.role.not_in(NOT_SHOWN),),
        Result: (~Result.deidentified, Result.id.not_in(hidden)),
    }
    found = []
    for table, which in shown.items():
        columns = (table.path, table.study_id, table.series_instance_uid, table.sop_instance_uid)
        chosen = select(*columns, Study.study_instance_uid).join(Study, Study.id == table.study_id)
        chosen = chosen.where(studies, Study.state != StudyState.QUARANTINED, table.purged.is_(False), *which)
        found += [
            HeldObject(path, number, str(study), series, uid)
            for path, number, series, uid, study in session.execute(chosen.order_by(table.id))
        ]
    return found


def file_of(session: Session, settings: Settings, held: HeldObject) -> Path:
    """The local file of an object. Raises NotFound."""
    path = Files(settings).if_here(session, held.path)
    if path is None:
        raise NotFound("the file of this object is gone")
    return path


def by_series(found: Iterable[HeldObject]) -> dict[str, list[HeldObject]]:
    """The objects grouped by series, in order of arrival."""
    return grouped((one.series_uid, one) for one in found)


def header(path: Path, tags: Sequence[str | int]) -> Dataset:
    """These attributes of a file. Raises NotFound."""
    return _read(path, stop_before_pixels=True, specific_tags=list(tags))


def attributes(path: Path, keywords: Sequence[str]) -> dict[str, Any]:
    """The attributes ``keywords`` of a file in the DICOM JSON Model (PS3.18 F.2)."""
    return _as_json(header(path, keywords))


def metadata(path: Path) -> dict[str, Any]:
    """All attributes of a file except Pixel Data and values larger than 256 KiB."""
    dataset = _read(path, stop_before_pixels=True)
    for tag in [tag for tag in dataset.keys() if tag.group == _PIXEL_GROUP]:  # noqa: SIM118
        del dataset[tag]
    return _as_json(dataset)


def _read(path: Path, **how: Any) -> Dataset:
    """Raises NotFound: it is no DICOM file."""
    try:
        with quiet_pydicom():
            return dcmread(path, **how)
    except (InvalidDicomError, OSError, ValueError, EOFError):
        raise NotFound("the file of this object cannot be read") from None


def _as_json(dataset: Dataset) -> dict[str, Any]:
    """In the DICOM JSON Model; numbers that JSON lacks are null, a long value has no bytes."""
    with quiet_pydicom():
        found = dataset.to_json_dict(_INLINE, lambda _element: "", suppress_invalid_tags=True)
    if "00080005" in found:  # JSON is UTF-8, whatever the file was (PS3.18 F.2.1.1)
        found["00080005"]["Value"] = [UTF8]
    return {tag: _without_nan(element) for tag, element in found.items()}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items() if key != "BulkDataURI"}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def transfer_syntax(path: Path) -> UID:
    """The transfer syntax of the DICOM file ``path``."""
    return UID(header(path, ["SOPClassUID"]).file_meta.TransferSyntaxUID)


def frames(path: Path, numbers: Sequence[int]) -> Iterator[bytes]:
    """The frames with these ``numbers`` (from 1) as stored: codestreams, or samples in Little Endian.

    Before the first frame, raises NotFound if a frame does not exist or cannot be told from the others, and
    NotAllowedNow if the samples are in Big Endian.
    """
    dataset = _read(path, defer_size=_DEFERRED)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    number = whole_of(dataset, "NumberOfFrames", 1, least=1)
    if "PixelData" not in dataset or any(not 1 <= one <= number for one in numbers):
        raise NotFound("there is no such frame")
    if syntax == ExplicitVRBigEndian:
        raise NotAllowedNow("frames in Big Endian are not sent: ask for the instance")
    element = dataset.get_item("PixelData", keep_deferred=True)
    try:
        if syntax.is_encapsulated:
            head = 8 if dataset.original_encoding[0] else 12  # tag, VR and length (PS3.5 7.1.2, 7.1.3)
            found = Fragments.find(path, element.value_tell - head, number)
            return (found.frame(one - 1) for one in numbers)
        pixels, is_422 = int(dataset.Rows) * int(dataset.Columns), "_422" in dataset.PhotometricInterpretation
        samples = 3 if element.length >= pixels * 3 * number else 2  # seen in the field: all of them
        size = pixels * samples if is_422 else get_expected_length(dataset) // number
    except DAMAGE:
        raise NotFound("where each frame of this object begins is not known") from None
    if element.length < size * number:
        raise NotFound("the pixel data of this object are cut off")
    bits = pixels if dataset.BitsAllocated == 1 else size * 8
    if syntax == DeflatedExplicitVRLittleEndian:  # inflated in memory, within the limit of the listener
        return _samples(partial(io.BytesIO, dataset.PixelData), 0, bits, numbers)
    return _samples(partial(io.FileIO, path), element.value_tell, bits, numbers)


def _samples(
    opened: Callable[[], io.RawIOBase | io.BytesIO], start: int, bits: int, numbers: Sequence[int]
) -> Iterator[bytes]:
    """Frames of so many bits, which follow each other also within a byte (PS3.5 8.1.1)."""
    with opened() as source:
        for one in numbers:
            skipped, within = divmod((one - 1) * bits, 8)
            source.seek(start + skipped)
            data = source.read((within + bits + 7) // 8)
            yield data if bits % 8 == 0 else pack_bits(unpack_bits(data)[within : within + bits])
