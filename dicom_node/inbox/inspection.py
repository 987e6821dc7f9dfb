"""The inspection of a received object: it is read once, without its pixels in memory, before it is indexed.

It does not use ``dicom.header.read_header``: for hostile input the structure is counted first, long values
stay in the file, and the position of the Pixel Data is recorded.
"""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from ai_pipeline.terms import shown_uid_name
from dicom_node.config.sections import InspectionSettings
from dicom_node.dicom import character_sets
from dicom_node.dicom.header import decoded, readable_text
from dicom_node.dicom.identity import COPIED, Patient, identity_texts
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.dicom.pixel_data import PixelData, check_image, hash_pixel_data
from dicom_node.dicom.sop_classes import SOURCES
from dicom_node.dicom.transfer_syntaxes import TransferSyntax, transfer_syntax
from dicom_node.errors import DecodedDifferently, FaultyObject
from dicom_node.inbox.prescan import BULK_BYTES, scan

# What rules may ask for and what orders the images; the first five are texts of people (no event holds them).
ATTRIBUTES = (
    "StudyDescription", "SeriesDescription", "StationName", "BodyPartExamined", "ProtocolName",
    "ViewPosition", "ImageLaterality", "Laterality", "PresentationIntentType", "ImageType",
    "PhotometricInterpretation", "Manufacturer", "ManufacturerModelName", "SeriesNumber", "InstanceNumber",
    "StudyDate",
)  # fmt: skip
_NUMBERS = ("Rows", "Columns", "BitsStored")
_DEFAULT_LIMITS = InspectionSettings()
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # Float, Double Float, Pixel Data
# What pydicom raises on damaged headers (its own damaged test files and fuzzing).
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
    BytesLengthException, InvalidDicomError, OSError, OverflowError, RecursionError, TypeError, ValueError,
    struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inspected:
    """An object's header as the index needs it. ``fault`` says in one sentence why it cannot be used.

    With a fault the other fields have the values that could be read (UIDs are empty or valid). ``attributes``
    are texts by DICOM keyword, ``identity`` the values that results copy (``dicom.identity``);
    ``assumed_charset`` is set if the object's own character set does not decode them.
    """

    transfer_syntax_uid: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    modality: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    study_date: str = ""
    pixels_sha256: str = ""
    patient: Patient = field(default_factory=Patient)
    attributes: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict, repr=False)
    assumed_charset: str = ""
    own: bool = False
    fault: str = ""


def inspect(path: Path, assume_charset: str = "", limits: InspectionSettings = _DEFAULT_LIMITS) -> Inspected:
    """Read a Part 10 file; ``fault`` says why it cannot be used. Raises OSError if the disk fails."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values; what matters is judged here
            return _inspect(file, assume_charset, limits)
    except FaultyObject as error:
        return Inspected(fault=str(error))
    except _DAMAGE as error:
        return Inspected(fault=f"not readable as DICOM ({_cause(error)})")


def _inspect(file: BinaryIO, assume_charset: str, limits: InspectionSettings) -> Inspected:
    meta = _read_meta(file)
    uid = _valid_uid(meta, "TransferSyntaxUID")
    syntax = transfer_syntax(uid)
    known = Inspected(
        transfer_syntax_uid=uid,
        sop_class_uid=_valid_uid(meta, "MediaStorageSOPClassUID"),
        sop_instance_uid=_valid_uid(meta, "MediaStorageSOPInstanceUID"),
    )
    try:
        dataset, pixels, complete = _read_body(file, syntax, limits)
    except FaultyObject as error:
        return replace(known, fault=str(error))
    except _DAMAGE as error:
        return replace(known, fault=f"the data set is not readable ({_cause(error)})")
    found = _Header(dataset, assume_charset).described(known)
    try:
        if syntax is None:
            raise FaultyObject(f"the transfer syntax is {shown_uid_name(uid)}")
        _check(dataset, meta, syntax, pixels, complete)
        hashed = hash_pixel_data(pixels) if pixels else ""
        return replace(found, pixels_sha256=hashed)
    except FaultyObject as error:
        return replace(found, fault=str(error))
    except _DAMAGE as error:
        return replace(found, fault=f"the header is damaged ({_cause(error)})")


class _Header:
    """Texts of one data set, decoded by its own character set or the one that the peer is known to use."""

    def __init__(self, dataset: Dataset, assume_charset: str) -> None:
        self._dataset = dataset
        self._charset = character_sets.named(dataset)
        self._assumed = assume_charset

    def described(self, known: Inspected) -> Inspected:
        """What can be read; a text that cannot be decoded is the fault."""
        dataset, fault, assumed, identity = self._dataset, "", "", {}
        try:
            try:
                identity = self._identity()
            except DecodedDifferently:
                if not self._assumed:
                    raise
                assumed, self._charset = self._assumed, character_sets.terms(self._assumed)
                identity = self._identity()
        except (DecodedDifferently, FaultyObject) as error:
            fault = str(error)
        patient_id, issuer = identity.get("PatientID", ""), identity.get("IssuerOfPatientID", "")
        return replace(
            known,
            sop_class_uid=_valid_uid(dataset, "SOPClassUID"),
            sop_instance_uid=_valid_uid(dataset, "SOPInstanceUID"),
            study_instance_uid=_valid_uid(dataset, "StudyInstanceUID"),
            series_instance_uid=_valid_uid(dataset, "SeriesInstanceUID"),
            modality=self._readable("Modality")[:16],
            patient_id=patient_id[:255],
            issuer_of_patient_id=issuer[:255],
            study_date=self._readable("StudyDate")[:8],
            patient=Patient.from_values(
                patient_id,
                issuer,
                identity.get("PatientName", ""),
                identity.get("PatientBirthDate", ""),
                identity.get("PatientSex", ""),
            ),
            attributes=self._attributes(),
            identity=identity,
            assumed_charset=assumed,
            own=is_own_result(dataset),
            fault=fault,
        )

    def _identity(self) -> dict[str, str]:
        try:
            return identity_texts(decoded(self._dataset, COPIED, self._charset))
        except (DecodedDifferently, FaultyObject):
            raise
        except _DAMAGE as error:
            raise FaultyObject(f"the header is damaged ({_cause(error)})") from None

    def _attributes(self) -> dict[str, str]:
        found = {keyword: self._readable(keyword) for keyword in ATTRIBUTES}
        for keyword in _NUMBERS:
            found[keyword] = str(_value(self._dataset, keyword) or "")
        found["NumberOfFrames"] = self._readable("NumberOfFrames")
        return {keyword: value for keyword, value in found.items() if value}

    def _readable(self, keyword: str) -> str:
        return readable_text(self._dataset, keyword, self._charset)


def _check(
    dataset: Dataset, meta: Dataset, syntax: TransferSyntax, pixels: PixelData | None, complete: bool
) -> None:
    """Raise FaultyObject for what makes an object unusable, the plainest cause first."""
    for keyword, name in (
        ("SOPClassUID", "SOP Class UID (0008,0016)"),
        ("SOPInstanceUID", "SOP Instance UID (0008,0018)"),
        ("StudyInstanceUID", "Study Instance UID (0020,000D)"),
        ("SeriesInstanceUID", "Series Instance UID (0020,000E)"),
    ):
        if not str(_value(dataset, keyword) or "").strip(" \0"):
            raise FaultyObject(f"{name} is missing or empty")
        if not _valid_uid(dataset, keyword):
            raise FaultyObject(f"{name} is no UID")
    # Only the class: some senders take the SOP Instance UID of the request from a stale file header.
    requested = _valid_uid(meta, "MediaStorageSOPClassUID")
    if requested and requested != _valid_uid(dataset, "SOPClassUID"):
        raise FaultyObject("SOP Class UID differs from the one in the C-STORE request")
    if not complete:
        raise FaultyObject("the data set is truncated")
    if pixels is None and _value(dataset, "Rows"):
        raise FaultyObject("the image has no Pixel Data")
    if str(dataset.SOPClassUID) in SOURCES:
        check_image(dataset, syntax, pixels)


def _read_meta(file: BinaryIO) -> Dataset:
    """File Meta Information (PS3.10 7.1); leaves the file at the start of the data set."""
    if file.read(132)[128:] != b"DICM":
        raise FaultyObject("not DICOM: the prefix DICM is missing")
    start = file.tell()
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    length = _value(meta, "FileMetaInformationGroupLength")
    if isinstance(length, int):
        file.seek(start + 12 + length)
    return meta


def _read_body(
    file: BinaryIO, syntax: TransferSyntax | None, limits: InspectionSettings
) -> tuple[Dataset, PixelData | None, bool]:
    """The data set up to its Pixel Data, where that is, and whether all values are there in full."""
    implicit = syntax is not None and syntax.is_implicit_vr
    little = syntax is None or syntax.is_little_endian
    if syntax is not None and syntax.is_deflated:
        file = _inflated(file, limits)
    start = file.tell()
    scan(file, implicit=implicit, little=little, limits=limits)
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    end: int | None = start  # of the value seen last, as its length says; None where it has none
    pixels: PixelData | None = None

    def seen(tag: BaseTag, _vr: str | None, length: int) -> bool:
        nonlocal end, pixels
        end = None if length == 0xFFFFFFFF else file.tell() + length
        if tag not in _PIXEL_DATA:
            return False
        pixels = PixelData(file, file.tell(), None if end is None else length, size, little)
        return True

    dataset = read_dataset(file, implicit, little, stop_when=seen, defer_size=BULK_BYTES)
    complete = end in (None, size) or (pixels is not None and end is not None and end <= size)
    return dataset, pixels, complete


def _inflated(file: BinaryIO, limits: InspectionSettings) -> BinaryIO:
    """The inflated data set, in a file without a name beside this one."""
    folder = Path(file.name).parent
    handle = tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None)  # noqa: SIM115  (returned)
    out = cast(BinaryIO, handle)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflate.eof:
        block = inflate.unconsumed_tail or file.read(BULK_BYTES)
        inflated = inflate.decompress(block, 2**20)
        if not block and not inflated:
            raise FaultyObject("the data set is truncated")
        out.write(inflated)
        if out.tell() > limits.maximum_inflated_mib * 2**20:
            limit = f"{limits.maximum_inflated_mib} MiB (inspection.maximum_inflated_mib)"
            raise FaultyObject(f"the data set inflates to more than {limit}")
    out.seek(0)
    return out


def _valid_uid(dataset: Dataset, keyword: str) -> str:
    value = str(_value(dataset, keyword) or "").strip(" \0")
    return value if len(value) <= 64 and _UID.fullmatch(value) else ""


def _value(dataset: Dataset, keyword: str) -> object:
    """The value, None where its bytes do not fit its VR."""
    try:
        return cast(object, dataset.get(keyword))
    except _DAMAGE:
        return None


def _cause(error: BaseException) -> str:
    """The kind of damage (pydicom's own words quote values). A failing disk is no damage of the object."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return type(error).__name__
