"""The Part 10 header of a spooled object (PS3.10 7.1), which contains the sender and the time of arrival.

After any crash, the spool alone shows which objects were received from whom. Of Part 10 files from other
systems on their way into the spool only the meta information is read.

The inspection of a received object: it is read once, without its pixels in memory, before it is indexed.

It does not use ``dicom.header.read_header``: for hostile input the structure is counted first, long values
stay in the file, and the position of the Pixel Data is recorded.
"""

import hashlib
import json
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag

from ai_pipeline.images.dates import as_da
from ai_pipeline.terms import shown_uid_name
from dicom_node.base.config.sections import InspectionSettings
from dicom_node.base.dicom.file_meta import META_BYTES, FileMeta, read_file_meta, uid_of
from dicom_node.base.dicom.hashes import PixelData, check_image, hash_pixel_data, header_sha256
from dicom_node.base.dicom.header import (
    BULK_BYTES,
    PIXEL_DATA,
    Element,
    Limits,
    Walk,
    character_sets,
    read_identity,
    readable_text,
)
from dicom_node.base.dicom.identity import Patient, identity_texts
from dicom_node.base.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    SOURCES,
    TransferSyntax,
    derived_uid,
    is_own_result,
    transfer_syntax,
)
from dicom_node.base.errors import DecodedDifferently, FaultyInput, FaultyObject, SpoolError

# (0002,0100) Private Information Creator UID: says that (0002,0102) holds an Arrival as JSON.
ARRIVAL_CREATOR_UID = derived_uid("private information", "arrival", "1")

_PREAMBLE = bytes(128) + b"DICM"
_AFTER_SYNTAX = b"\x02\x00\x12\x00UI"  # (0002,0012), which follows it in every header that is written here
_TIME_OF_ARRIVAL = b'"received_at":"'
_JSON = json.JSONEncoder(separators=(",", ":"))
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Arrival:
    """The arrival of an object, stored in the private information of its Part 10 header (PS3.10 7.1).

    ``association`` is the node's own identifier of the association; ``priority`` the C-STORE priority of
    PS3.7 9.1.1 (0 medium, 1 high, 2 low); ``received_at`` is UTC. ``senders``: whose studies the user of the
    console sees who stored it, () for all.
    """

    association: str
    calling_ae: str
    called_ae: str
    address: str
    priority: int
    received_at: datetime
    senders: Sequence[str] = ()


def encode_header(
    arrival: Arrival, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """Preamble and File Meta Information. Its length does not depend on ``arrival.received_at``."""
    fields = {
        "association": arrival.association,
        "calling_ae": arrival.calling_ae,
        "called_ae": arrival.called_ae,
        "address": arrival.address,
        "priority": arrival.priority,
        **({"senders": arrival.senders} if arrival.senders else {}),
        "received_at": _encode_time(arrival.received_at).decode("ascii"),  # the last, see _TIME_OF_ARRIVAL
    }
    values = (
        (0x0001, b"OB", "\0\1"),
        (0x0002, b"UI", sop_class_uid),
        (0x0003, b"UI", sop_instance_uid),
        (0x0010, b"UI", transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        (0x0016, b"AE", arrival.calling_ae),
        (0x0017, b"AE", arrival.calling_ae),
        (0x0018, b"AE", arrival.called_ae),
        (0x0100, b"UI", ARRIVAL_CREATOR_UID),
        (0x0102, b"OB", _JSON.encode(fields)),
    )
    elements = b"".join(_element(element, vr, value.encode("ascii")) for element, vr, value in values)
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(elements))) + elements


def with_time_of_arrival(encoded: bytes, received_at: datetime) -> bytes:
    """The header with another ``received_at``, of the same length."""
    time = _encode_time(received_at)
    start = encoded.rindex(_TIME_OF_ARRIVAL) + len(_TIME_OF_ARRIVAL)
    return encoded[:start] + time + encoded[start + len(time) :]


def read_arrival(path: Path) -> Arrival:
    """Read the arrival of the object in a spooled file. Raises SpoolError if the file does not contain it,
    and OSError if the disk cannot read it: that says nothing of the object.
    """
    try:
        meta = _meta_of(path)
    except FaultyObject as error:
        raise SpoolError(f"{path.name} is no spooled object: {type(error).__name__}") from None
    if meta.values.get(0x0100, b"").rstrip(b"\0") != ARRIVAL_CREATOR_UID.encode("ascii"):
        raise SpoolError(f"{path.name} was not written by the listener")
    fields = json.loads(meta.values.get(0x0102, b"").rstrip(b" \0"))
    return Arrival(**{**fields, "received_at": datetime.fromisoformat(fields["received_at"])})


def same_object(one: Path, other: Path) -> bool:
    """Whether two spooled files hold the same SOP class, instance, transfer syntax and data set.

    They are compared byte by byte, without the records of their arrival. Raises OSError.
    """
    with one.open("rb") as mine, other.open("rb") as theirs:
        if _meta_information(mine) != _meta_information(theirs) or _rest(mine) != _rest(theirs):
            return False
        while block := mine.read(_BLOCK):
            if block != theirs.read(_BLOCK):
                return False
    return True


def _meta_information(file: BinaryIO) -> bytes:
    """The elements of the header up to the transfer syntax; leaves the file at the data set."""
    start = file.read(len(_PREAMBLE) + 12)
    return file.read(struct.unpack("<I", start[-4:])[0]).partition(_AFTER_SYNTAX)[0]


def _rest(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def read_requested(path: Path) -> tuple[str, str, str]:
    """Transfer syntax, SOP class and instance UID of the C-STORE request, each "" if the file lacks it.

    Raises OSError.
    """
    try:
        meta = _meta_of(path)
    except FaultyObject:
        return "", "", ""
    return meta.transfer_syntax_uid, meta.sop_class_uid, meta.sop_instance_uid


def read_meta(start: bytes) -> FileMeta:
    """Read the meta information from the first META_BYTES of a file. Raises FaultyInput."""
    if start[128:132] != b"DICM":
        raise FaultyInput("it is no file of DICOM (Part 10)")
    try:
        meta = read_file_meta(start)
    except FaultyObject as error:
        raise FaultyInput(str(error)) from None
    if not (meta.sop_class_uid and meta.sop_instance_uid and meta.transfer_syntax_uid):
        raise FaultyInput("its file meta information has no valid UIDs")
    return meta


def check_taken(sop_class_uid: str, transfer_syntax_uid: str, classes: Collection[str]) -> None:
    """Raise FaultyInput if this node does not accept the class or the transfer syntax."""
    if sop_class_uid not in classes:
        raise FaultyInput("this node does not take its SOP class (docs/conformance.md)")
    if transfer_syntax(transfer_syntax_uid) is None:
        raise FaultyInput("this node does not take its transfer syntax (docs/conformance.md)")


def _meta_of(path: Path) -> FileMeta:
    with path.open("rb") as file:
        return read_file_meta(file.read(META_BYTES))


def _encode_time(moment: datetime) -> bytes:
    return moment.isoformat(timespec="microseconds").encode("ascii")


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """One element of group 0002 in Explicit VR Little Endian (PS3.5 7.1.2), padded to an even length."""
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


# What rules may ask for and what orders the images; the first five are texts of people (no event holds them).
ATTRIBUTES = (
    "StudyDescription", "SeriesDescription", "StationName", "BodyPartExamined", "ProtocolName",
    "ViewPosition", "ImageLaterality", "Laterality", "PresentationIntentType", "ImageType",
    "PhotometricInterpretation", "Manufacturer", "ManufacturerModelName", "SeriesNumber", "InstanceNumber",
    "StudyDate",
)  # fmt: skip
_DEFAULT_LIMITS = InspectionSettings()
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
    ``assumed_charset`` is set if the object's own character set does not decode them. ``header_sha256`` is
    the hash of what the header says (``dicom.hashes``), ``dataset_sha256`` that of the data set byte for
    byte and its transfer syntax.
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
    header_sha256: str = ""
    dataset_sha256: str = ""
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
    meta = read_file_meta(file.read(META_BYTES))
    file.seek(meta.length)
    syntax = transfer_syntax(meta.transfer_syntax_uid)
    found = known = Inspected(meta.transfer_syntax_uid, meta.sop_class_uid, meta.sop_instance_uid)
    try:
        if syntax is not None and syntax.is_deflated:
            file = _inflated(file, limits)
        start = file.tell()
        walk = Walk(
            file,
            syntax,
            Limits(
                limits.maximum_items,
                limits.maximum_elements,
                limits.maximum_depth,
                limits.maximum_header_mib,
            ),
        )
        dataset, pixels = _read(file, walk, list(walk.elements()))
        header = header_sha256(dataset, file, little_endian=walk.is_little_endian)
        found = replace(_described(known, dataset, assume_charset), header_sha256=header)
        if syntax is None:
            raise FaultyObject(f"the transfer syntax is {shown_uid_name(meta.transfer_syntax_uid)}")
        if walk.fault:  # the request names what the walk did not come to
            found = replace(
                found,
                sop_class_uid=found.sop_class_uid or known.sop_class_uid,
                sop_instance_uid=found.sop_instance_uid or known.sop_instance_uid,
            )
            raise FaultyObject(walk.fault)
        _check(dataset, known.sop_class_uid, syntax, pixels)
        pixels_sha256 = hash_pixel_data(pixels) if pixels else ""
        whole = _hash_data_set(file, start, pixels, f"{meta.transfer_syntax_uid} {pixels_sha256} ")
        return replace(found, pixels_sha256=pixels_sha256, dataset_sha256=whole)
    except FaultyObject as error:
        return replace(found, fault=str(error))
    except _DAMAGE as error:
        return replace(found, fault=f"the data set is not readable ({_cause(error)})")


def _described(known: Inspected, dataset: Dataset, assume_charset: str) -> Inspected:
    """What can be read; a text that cannot be decoded is the fault.

    Texts are decoded by the data set's own character set or the one that the peer is known to use.
    """
    own = charset = character_sets(dataset)
    fault, identity = "", {}
    try:
        header = read_identity(dataset, assume_charset)
        identity, charset = identity_texts(header.dataset), header.charset
    except (DecodedDifferently, FaultyObject) as error:
        fault = str(error)
    except _DAMAGE as error:
        fault = f"the header is damaged ({_cause(error)})"
    attributes = {keyword: readable_text(dataset, keyword, charset) for keyword in ATTRIBUTES}
    study_date = as_da(attributes["StudyDate"].partition("\\")[0]) or ""
    attributes["StudyDate"] = study_date or attributes["StudyDate"][:64]  # such a date holds the study
    for keyword in ("Rows", "Columns", "BitsStored", "PlanarConfiguration"):
        attributes[keyword] = str(_value(dataset, keyword) or "")
    attributes["NumberOfFrames"] = readable_text(dataset, "NumberOfFrames", charset)
    patient_id, issuer = identity.get("PatientID", ""), identity.get("IssuerOfPatientID", "")
    return replace(
        known,
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        modality=readable_text(dataset, "Modality", charset)[:16],
        patient_id=patient_id[:255],
        issuer_of_patient_id=issuer[:255],
        study_date=study_date,
        patient=Patient.from_values(
            patient_id,
            issuer,
            identity.get("PatientName", ""),
            identity.get("PatientBirthDate", ""),
            identity.get("PatientSex", ""),
        ),
        attributes={keyword: value for keyword, value in attributes.items() if value},
        identity=identity,
        assumed_charset=assume_charset if charset != own else "",
        own=is_own_result(dataset),
        fault=fault,
    )


def _check(dataset: Dataset, requested_class: str, syntax: TransferSyntax, pixels: PixelData | None) -> None:
    """Raise FaultyObject for what makes an object unusable, the plainest cause first."""
    for keyword, name in (
        ("SOPClassUID", "SOP Class UID (0008,0016)"),
        ("SOPInstanceUID", "SOP Instance UID (0008,0018)"),
        ("StudyInstanceUID", "Study Instance UID (0020,000D)"),
        ("SeriesInstanceUID", "Series Instance UID (0020,000E)"),
    ):
        if not _bytes(dataset, keyword).strip(b" \0"):
            raise FaultyObject(f"{name} is missing or empty")
        if not _uid(dataset, keyword):
            raise FaultyObject(f"{name} is no UID")
    # Only the class: some senders take the SOP Instance UID of the request from a stale file header.
    if requested_class and requested_class != _uid(dataset, "SOPClassUID"):
        raise FaultyObject("SOP Class UID differs from the one in the C-STORE request")
    if pixels is None and _value(dataset, "Rows"):
        raise FaultyObject("the image has no Pixel Data")
    if str(dataset.SOPClassUID) in SOURCES:
        check_image(dataset, syntax, pixels)


def _hash_data_set(file: BinaryIO, start: int, pixels: PixelData | None, begun: str) -> str:
    """SHA-256 of ``begun`` and all bytes of a data set but its Pixel Data, at whose end the file stands."""
    digest = hashlib.sha256(begun.encode())
    end = file.tell() if pixels else start
    file.seek(start)
    left = pixels.start - start if pixels else 0
    while left > 0 and (block := file.read(min(left, BULK_BYTES))):
        digest.update(block)
        left -= len(block)
    file.seek(end)
    while block := file.read(BULK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _read(file: BinaryIO, walk: Walk, elements: Iterable[Element]) -> tuple[Dataset, PixelData | None]:
    """The data set without private elements and long values, and where its Pixel Data is."""
    read: dict[BaseTag, Any] = {}
    pixels: PixelData | None = None
    for element in elements:
        tag, vr, start, length, is_undefined, is_implicit = element
        if tag in PIXEL_DATA:
            pixels = pixels or PixelData(
                file, start, None if is_undefined else length, walk.size, walk.is_little_endian
            )
        elif not element.is_private:
            value = None
            if length <= BULK_BYTES or element.is_sequence:
                file.seek(start)
                value = file.read(length)
            raw = RawDataElement(BaseTag(tag), vr, length, value, start, is_implicit, walk.is_little_endian)
            read[raw.tag] = raw
    return Dataset(read), pixels


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
            limit = f"{limits.maximum_inflated_mib} MiB"
            raise FaultyObject(f"the data set inflates to more than {limit}")
    out.seek(0)
    return out


def _uid(dataset: Dataset, keyword: str) -> str:
    return uid_of(_bytes(dataset, keyword))


def _bytes(dataset: Dataset, keyword: str) -> bytes:
    """A value as it was received."""
    tag = Tag(keyword)
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    return element.value or b"" if isinstance(element, RawDataElement) else b""


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
