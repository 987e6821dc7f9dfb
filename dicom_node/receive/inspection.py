"""The inspection of a received object: it is read once, without its pixels in memory, before it is indexed.

It does not use ``dicom.header.read_header``: for hostile input the structure is counted first, long values
stay in the file, and the position of the Pixel Data is recorded.

Objects are opened in a separate process (``python -m`` this module: one request, one answer per line), under
limits of memory and time. A hostile object can end only this process. It is started again and the next
object is read. A stalled disk or a busy machine looks alike, so an object is quarantined only when a fresh
process, with more time, fails too.

Hashes of an object's header and Pixel Data tell whether one that comes again is the same version.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from ai_pipeline.images.dates import as_da
from ai_pipeline.images.numbers import DAMAGE, LARGEST_WHOLE, is_empty, value_of, whole
from ai_pipeline.images.part10 import NOT_DEFLATED
from ai_pipeline.terms import shown_uid_name
from dicom_node.base.dicom.elements import (
    BULK_BYTES,
    META_BYTES,
    PIXEL_DATA,
    UIDS,
    Element,
    Limits,
    Walk,
    named,
    read_file_meta,
    uid_of,
)
from dicom_node.base.dicom.header import (
    ASCII,
    TEXT,
    CharacterSet,
    character_sets,
    read_identity,
    readable_text,
    vr_of,
)
from dicom_node.base.dicom.identity import Patient, identity_texts, issuer_of
from dicom_node.base.dicom.uids import (
    SOURCES,
    TransferSyntax,
    is_own_result,
    transfer_syntax,
)
from dicom_node.base.errors import DecodedDifferently, FaultyObject
from dicom_node.base.processes import without_secrets
from dicom_node.receive.spool import read_store_request

# What rules may ask for and what orders the images; the first five are texts of people (no event holds them).
ATTRIBUTES = (
    "StudyDescription", "SeriesDescription", "StationName", "BodyPartExamined", "ProtocolName",
    "ViewPosition", "ImageLaterality", "Laterality", "PresentationIntentType", "ImageType",
    "PhotometricInterpretation", "Manufacturer", "ManufacturerModelName", "SeriesNumber", "InstanceNumber",
    "StudyDate", "TimezoneOffsetFromUTC",
)  # fmt: skip
_CONTROL = re.compile(rb"[\0-\x1f\x7f]")
_IN_ALL_SETS = re.compile(rb"[ -\[\]-}]*")  # in ISO_IR 13 the bytes of ~ and backslash are other signs
# Values of Specific Character Set (0008,0005), none: ASCII, that Orthanc decodes as this node does.
_READ_ALIKE: Final = (
    (), ("ISO_IR 6",), ("ISO_IR 100",), ("ISO_IR 101",), ("ISO_IR 109",), ("ISO_IR 110",), ("ISO_IR 126",),
    ("ISO_IR 127",), ("ISO_IR 138",), ("ISO_IR 144",), ("ISO_IR 148",), ("ISO_IR 166",), ("ISO_IR 192",),
    ("GB18030",),
)  # fmt: skip
_DEFAULT_LIMITS = Limits()
# What pydicom raises on damaged headers (its own damaged test files and fuzzing).
_DAMAGE = (*DAMAGE, MemoryError, InvalidDicomError, OSError, zlib.error)


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the index needs from the header of a received object. ``fault``: one sentence on why the object
    cannot be used, "" if it can.

    With a fault the other fields have the values that could be read (UIDs are empty or valid).
    ``attributes``: texts by DICOM keyword, for rules. ``identity``: the values that results copy
    (``dicom.identity``). ``assumed_charset``: the character set from the peer's settings, if it was used
    because the object's own did not decode its texts; else "". ``own``: whether this product made the object.
    ``header_sha256``: hash of what the header says. ``dataset_sha256``: hash of the data set byte for byte
    and its transfer syntax. ``remark``: one sentence on what was passed over, for the event; "" for nothing.
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
    remark: str = ""


def inspect(path: Path, assume_charset: str = "", limits: Limits = _DEFAULT_LIMITS) -> Inspected:
    """Read the header of a Part 10 file; the result's ``fault`` says why it cannot be used. Raises OSError if
    the disk fails.

    ``assume_charset``: the character set to try if the object's own does not fit; "" for none.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values; what matters is judged here
            return _inspect(file, assume_charset, limits)
    except FaultyObject as error:
        return Inspected(fault=str(error))
    except _DAMAGE as error:
        return Inspected(fault=f"not readable as DICOM ({_cause(error)})")


def _inspect(file: BinaryIO, assume_charset: str, limits: Limits) -> Inspected:
    """Read the header of an open Part 10 file, as :func:`inspect` does. Raises FaultyObject if its File Meta
    Information cannot be read.
    """
    meta = read_file_meta(file.read(META_BYTES))
    file.seek(meta.length)
    syntax = transfer_syntax(meta.transfer_syntax_uid)
    found = known = Inspected(meta.transfer_syntax_uid, meta.sop_class_uid, meta.sop_instance_uid)
    try:
        if syntax is not None and syntax.is_deflated:
            file = _inflated(file, limits)
        start = file.tell()
        walk = Walk(file, syntax, limits)
        dataset, pixels = _read(file, walk, list(walk.elements()))
        header = header_sha256(dataset, file)
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
        _check(dataset, found, known.sop_class_uid, syntax, pixels)
        pixels_sha256, begin, end = "", start, start
        if pixels:
            pixels_sha256 = hash_pixel_data(file, pixels, is_little_endian=walk.is_little_endian)
            begin, end = pixels.start, pixels.start + pixels.length
        # All bytes of the data set but its Pixel Data.
        digest = hashlib.sha256(f"{meta.transfer_syntax_uid} {pixels_sha256} ".encode())
        hash_bytes(digest, file, start, begin - start)
        hash_bytes(digest, file, end, walk.size - end)
        remark = f"{walk.stray} in front of the data set was left out (PS3.10 7.1)" if walk.stray else ""
        return replace(found, pixels_sha256=pixels_sha256, dataset_sha256=digest.hexdigest(), remark=remark)
    except FaultyObject as error:
        return replace(found, fault=str(error))
    except _DAMAGE as error:
        return replace(found, fault=f"the data set is not readable ({_cause(error)})")


def _described(known: Inspected, dataset: Dataset, assume_charset: str) -> Inspected:
    """Return ``known`` (the UIDs of the request) completed by everything that can be read from the data set;
    text that cannot be decoded becomes its ``fault``.

    Texts are decoded by the data set's own character set, or else by ``assume_charset``.
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
    patient_id, issuer = identity.get("PatientID", ""), issuer_of(identity)
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
        patient=Patient.of(identity),
        attributes={keyword: value for keyword, value in attributes.items() if value},
        identity=identity,
        assumed_charset=assume_charset if charset != own else "",
        own=is_own_result(dataset),
        fault=fault,
    )


def _check(
    dataset: Dataset,
    found: Inspected,
    requested_class: str,
    syntax: TransferSyntax,
    pixels: Element | None,
) -> None:
    """Raise FaultyObject if the object is unusable, naming the simplest cause.

    ``found``: what was read of it. ``requested_class``: SOP Class UID of the C-STORE request, "" if unknown.
    """
    for tag in UIDS:
        if not _bytes(dataset, tag).strip(b" \0"):
            raise FaultyObject(f"{named(tag)} is missing or empty")
        # Under another value representation a UID is a number, or its padding a part of it, to other readers.
        if not _uid(dataset, tag) or dataset.get_item(tag).VR not in (None, "UI"):
            raise FaultyObject(f"{named(tag)} is no UID")
    _check_patient_id(dataset, found)
    # Only the class: some senders take the SOP Instance UID of the request from a stale file header.
    if requested_class and requested_class != _uid(dataset, "SOPClassUID"):
        raise FaultyObject("SOP Class UID differs from the one in the C-STORE request")
    if pixels is None and _value(dataset, "Rows"):
        raise FaultyObject("the image has no Pixel Data")
    if str(dataset.SOPClassUID) in SOURCES:
        check_image(dataset, syntax, pixels)


def _check_patient_id(dataset: Dataset, found: Inspected) -> None:
    """Raise FaultyObject if a PACS may read another Patient ID than this node, and so file the image under
    another patient than its results.

    The ID is printable without its padding, of which others remove one kind, and only of text. Beyond what
    all sets have in common it is in a set of its own object that Orthanc decodes alike.
    """
    value, text = _bytes(dataset, "PatientID"), found.identity.get("PatientID", "")
    given = value.rstrip(b"\0") if value.endswith(b"\0") else value.rstrip(b" ")
    is_padded = given.endswith(b" ") or (
        value.strip(b" \0") != value and dataset.get_item("PatientID").VR not in {None, *TEXT}
    )
    if "\\" in text:
        raise FaultyObject("Patient ID (0010,0020) has more than one value: others read the first alone")
    is_printable = text.isprintable() and not _CONTROL.search(given)
    is_assumed = found.assumed_charset and not given.isascii()
    is_alike = character_sets(dataset) in _READ_ALIKE and not is_assumed
    if is_padded or not is_printable or not (is_alike or _IN_ALL_SETS.fullmatch(given)):
        raise FaultyObject("Patient ID (0010,0020) is written in a way that others read as another ID")


def _read(file: BinaryIO, walk: Walk, elements: Iterable[Element]) -> tuple[Dataset, Element | None]:
    """Return the data set that ``walk`` divides into ``elements``, without private ones and long values, and
    the element of its Pixel Data (None without one). ``file``: where the values are.
    """
    read: dict[BaseTag, Any] = {}
    pixels: Element | None = None
    for element in elements:
        tag, vr, start, length, _, is_implicit = element
        if tag in PIXEL_DATA:
            pixels = pixels or element
        elif not element.is_private:
            value = None
            if length <= BULK_BYTES or vr == "SQ":
                file.seek(start)
                value = file.read(length)
            raw = RawDataElement(BaseTag(tag), vr, length, value, start, is_implicit, walk.is_little_endian)
            read[raw.tag] = raw
    return Dataset(read), pixels


def _inflated(file: BinaryIO, limits: Limits) -> BinaryIO:
    """Return the inflated data set in a temporary file without a name, in the folder of ``file`` if that is
    writable. Raises FaultyObject.
    """
    folder = Path(file.name).parent
    out = cast(
        BinaryIO,
        tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None),  # noqa: SIM115  (returned)
    )
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflate.eof:
        block = inflate.unconsumed_tail or file.read(BULK_BYTES)
        try:
            inflated = inflate.decompress(block, 2**20)
        except zlib.error:
            raise FaultyObject(NOT_DEFLATED) from None
        if not block and not inflated:
            raise FaultyObject("the data set is truncated")
        out.write(inflated)
        if out.tell() > limits.inflated_mib * 2**20:
            raise FaultyObject(f"the data set inflates to more than {limits.inflated_mib} MiB")
    out.seek(0)
    return out


def _uid(dataset: Dataset, attribute: str | int) -> str:
    """Return a UID attribute (keyword or tag); "" if it is missing or not a valid UID."""
    return uid_of(_bytes(dataset, attribute))


def _bytes(dataset: Dataset, attribute: str | int) -> bytes:
    """Return the bytes of the value of an attribute (keyword or tag) as received; empty if it is missing."""
    tag = Tag(attribute)
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    return element.value or b"" if isinstance(element, RawDataElement) else b""


def _value(dataset: Dataset, keyword: str) -> object:
    """Return a decoded value; None if it is missing or its bytes do not fit its VR."""
    try:
        return cast(object, dataset.get(keyword))
    except _DAMAGE:
        return None


def _cause(error: BaseException) -> str:
    """Return the class name of an error, as the kind of damage, because pydicom's messages quote values; an
    error of the disk is raised again.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return type(error).__name__


_MAY_DIFFER: Final = frozenset(
    Tag(keyword)
    for keyword in (
        # when and by which way the object was written and sent
        "InstanceCreationDate", "InstanceCreationTime", "InstanceCoercionDateTime",
        "ContributingEquipmentSequence", "OriginalAttributesSequence",
        # where it is stored, and who vouches for that copy
        "RetrieveAETitle", "InstanceAvailability", "StorageMediaFileSetID", "StorageMediaFileSetUID",
        "SOPInstanceStatus", "SOPAuthorizationDateTime", "SOPAuthorizationComment",
        "AuthorizationEquipmentCertificationNumber", "MACParametersSequence", "DigitalSignaturesSequence",
        "DataSetTrailingPadding",  # without significance (PS3.10 7.2)
        # how texts are encoded: they are compared decoded
        "SpecificCharacterSet",
        # how pixels are encoded (CODING)
        "PlanarConfiguration",
    )
)  # fmt: skip
"""Attributes that may differ between two transmissions of one version, beside private ones, group lengths and
the File Meta Information. ``docs/operate/quarantine.md`` names their kinds."""
CODING: Final = ("PhotometricInterpretation", "PlanarConfiguration")
"""Attributes that another transfer syntax may change. Pixel Data of the same bytes has the same ones."""
_PHOTOMETRIC: Final = Tag(CODING[0])
# Bytes of a number (PS3.5 7.3).
_SIZES: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}


def header_sha256(dataset: Dataset, file: BinaryIO) -> str:
    """Return the hash of what the header of a data set says, without Pixel Data, private and empty
    attributes, and those that may differ between copies.

    It does not depend on the transfer syntax, except for the byte order of the longest values, which are read
    from ``file``. Text that its character set does not decode is hashed as bytes. Call it before a value is
    read: pydicom replaces the bytes of a value by what they mean.
    """
    digest = hashlib.sha256()
    _hash_header(digest, dataset, file, CharacterSet.from_terms(()))
    return digest.hexdigest()


def _hash_header(digest: "hashlib._Hash", dataset: Dataset, file: BinaryIO, inherited: CharacterSet) -> None:
    """Add a data set, or a sequence item within the character set ``inherited``, to the hash of the
    header.
    """
    own = character_sets(dataset)
    charset = CharacterSet.from_terms(own) if any(own) else inherited
    for tag in sorted(dataset.keys()):
        if tag.is_private or tag.element == 0 or tag in _MAY_DIFFER:
            continue
        element, mark = dataset.get_item(tag, keep_deferred=True), struct.pack("<L", tag)
        vr = vr_of(element)
        if vr == "SQ" and (items := _items(dataset, element)) is not None:
            for item in items:
                digest.update(mark + b"(")
                _hash_header(digest, item, file, charset)
                digest.update(mark + b")")
        elif value := _value_hash(element, vr, charset, file):
            digest.update(mark + b"=" + value)


def _value_hash(
    element: DataElement | RawDataElement, vr: str, charset: CharacterSet, file: BinaryIO
) -> bytes:
    """Return the hash of a value; empty for an empty value, and for a colour model that the pixel coding may
    change.
    """
    if not isinstance(element, RawDataElement):
        value = str(element.value or "").encode("utf-8", "surrogatepass")
    elif element.value is None:  # it is still in the file
        digest = hashlib.sha256()
        hash_bytes(digest, file, element.value_tell, element.length)
        return digest.digest() if element.length else b""
    elif vr in TEXT | ASCII:
        try:
            value = charset.decode(element.value, vr).rstrip("\0 ").encode()
        except (UnicodeError, LookupError):
            value = element.value.rstrip(b"\0 ")
    else:
        value = element.value if element.is_little_endian else _swapped(element.value, vr)
    if element.tag == _PHOTOMETRIC and not value.startswith((b"MONOCHROME", b"PALETTE")):
        return b""
    return hashlib.sha256(value).digest() if value else b""


def _swapped(value: bytes, vr: str) -> bytes:
    """Return numbers in big endian as bytes in little endian."""
    size = _SIZES.get(vr, 1)
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


def hash_bytes(digest: "hashlib._Hash", file: BinaryIO, start: int, length: int) -> None:
    """Add ``length`` bytes of the file from the position ``start``, or fewer at its end, to ``digest``."""
    file.seek(start)
    while length > 0 and (block := file.read(min(length, 2**20))):
        digest.update(block)
        length -= len(block)


def _items(dataset: Dataset, element: DataElement | RawDataElement) -> Sequence[Dataset] | None:
    """Return the items of a sequence; None if its bytes are no items or were not read."""
    if isinstance(element, RawDataElement) and element.value is None:
        return None
    try:
        value = dataset[element.tag].value
    except DAMAGE:
        return None
    return value if isinstance(value, Items) else None


def hash_pixel_data(file: BinaryIO, pixels: Element, *, is_little_endian: bool) -> str:
    """Return the SHA-256 of the Pixel Data value as received (of fragments without the final delimiter), as
    hex.

    The same bytes in big endian are other samples, so they have another hash.
    """
    digest = hashlib.sha256(b"" if is_little_endian else b"big endian")
    hash_bytes(digest, file, pixels.start, pixels.length)
    return digest.hexdigest()


def check_image(dataset: Dataset, syntax: TransferSyntax, pixels: Element | None) -> None:
    """Raise FaultyObject if the attributes and the size of Pixel Data cannot be those of an image (PS3.3
    C.7.6.3).

    ``pixels``: the element of Pixel Data, None if it is missing.
    """
    if missing := [word for word in ("Rows", "Columns", "BitsAllocated") if dataset.get(word) is None]:
        raise FaultyObject(f"{dictionary_description(missing[0])} is missing, which an image must have")
    rows, columns = (_number(dataset, keyword, 0) for keyword in ("Rows", "Columns"))
    if rows <= 0 or columns <= 0:
        raise FaultyObject(f"the image has {rows} × {columns} pixels")
    if pixels is None or not (pixels.length or pixels.is_undefined):
        raise FaultyObject("the image has no Pixel Data")
    frames = _number(dataset, "NumberOfFrames", 1)
    if frames <= 0:
        raise FaultyObject("Number of Frames (0028,0008) is not a positive number")
    if pixels.is_undefined is not syntax.is_encapsulated:
        found, said = (
            ("in fragments", "uncompressed") if pixels.is_undefined else ("not in fragments", "compressed")
        )
        raise FaultyObject(f"the Pixel Data is {found}, its transfer syntax is {said}")
    if pixels.is_undefined:
        return
    sizes = {bits: (frames * rows * columns * bits + 7) // 8 for bits in _pixel_bits(dataset)}
    # Up to a row too long is padding, seen in the field; more is another image than the header describes.
    if not any(size <= pixels.length <= size + max(columns * bits // 8, 2) for bits, size in sizes.items()):
        wanted = next(iter(sizes.values()))
        raise FaultyObject(f"the Pixel Data has {pixels.length} bytes, its attributes say {wanted}")


def _pixel_bits(dataset: Dataset) -> list[int]:
    """Return the possible numbers of bits per pixel, first the one that the attributes say. Raises
    FaultyObject.
    """
    samples = _number(dataset, "SamplesPerPixel", 1)
    allocated = _number(dataset, "BitsAllocated", 0)
    if allocated not in (1, 8, 16, 32, 64) or samples not in (1, 3, 4):
        raise FaultyObject(f"{samples} samples of {allocated} bits per pixel are no image")
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    if photometric.startswith(("YBR_FULL_422", "YBR_PARTIAL_422")):
        # Chrominance at every other pixel (PS3.3 C.7.6.3.1.2); some makers write it at each.
        return [2 * allocated, samples * allocated]
    return [samples * allocated]


def _number(dataset: Dataset, keyword: str, default: int) -> int:
    """Return an attribute as a whole number; ``default`` if it is empty. Raises FaultyObject."""
    if is_empty(dataset, keyword):
        return default
    number = whole(value_of(dataset, keyword), least=-LARGEST_WHOLE)
    if number is None:
        raise FaultyObject(f"{keyword} is not a number")
    return number


class ReaderLost(Exception):
    """The inspection process died or did not answer in time; the text says why. The object need not be at
    fault.
    """


class Inspector:
    """Inspects received files in a separate process, started on first use; used by one thread at a time."""

    def __init__(self, limits: Limits = _DEFAULT_LIMITS) -> None:
        """Prepare an inspection process with these limits; it is started on first use."""
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the inspection process unless it runs, and return it when it is ready. Raises OSError."""
        if self._process is not None and self._process.poll() is not None:  # killed between two objects
            self.close()
        if self._process is None:
            # Its errors would quote what is in the object.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "dicom_node.receive.inspection",
                    json.dumps(asdict(self._limits)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=without_secrets(),
            )
            if not _line(self._process, seconds=120):  # no fault of any object
                self.close()
                raise OSError(errno.ETIMEDOUT, "the process that reads objects does not start")
        return self._process

    def inspect(self, path: Path, assume_charset: str = "", *, again: bool = False) -> Inspected:
        """Inspect the header of a Part 10 file in the process. Raises ReaderLost, and OSError if the disk
        cannot read the file.

        ``again``: use a new process with more time; if that is lost too, the object is at fault and no
        ReaderLost is raised.
        """
        if again:
            self.close()
        try:
            found = self._ask({"inspect": str(path), "assume": assume_charset}, path.stat().st_size, again)
        except ReaderLost as lost:
            if not again:
                raise
            return unread(path, str(lost))
        if "error" in found:
            raise OSError(found["error"], os.strerror(found["error"]))
        return Inspected(**{**found, "patient": Patient(**found["patient"])})

    def fresh(self) -> "Inspector":
        """Return another inspector with the same limits, for second tries."""
        return Inspector(self._limits)

    def same_image(self, one: Path, other: Path, *, again: bool = False) -> bool | None:
        """Return whether two files decode to the same samples; None if one does not decode within the limits,
        or is gone.

        ``again``: this is the second try, with more time. Raises ReaderLost at the first try, and OSError if
        the disk cannot read a file.
        """
        try:
            size = one.stat().st_size + other.stat().st_size
            found = self._ask({"same": [str(one), str(other)]}, size, again)
        except FileNotFoundError:
            return None
        except ReaderLost:
            if again:
                return None
            raise
        if "error" in found:
            raise OSError(found["error"], os.strerror(found["error"]))
        return cast("bool | None", found["same"])

    def close(self) -> None:
        """Kill the inspection process, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, request: dict[str, Any], size: int, again: bool) -> dict[str, Any]:
        """Send a request to the inspection process and return its answer. Raises ReaderLost.

        ``size``: bytes of the files, for the time limit. ``again``: a second try, with more time.
        """
        # Beside the limit the time of a slow disk, 10 MiB/s; four times as much for the second try.
        seconds = (4 if again else 1) * (self._limits.seconds + size / (10 * 2**20))
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({**request, "seconds": seconds}).encode("ascii") + b"\n")
            answer = _line(process, seconds)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            self.close()
            raise ReaderLost(f"reading it took more than {seconds:.0f} s")
        if not answer.endswith(b"\n"):
            self.close()
            raise ReaderLost(
                f"the process that read it died; it may have needed more than {self._limits.memory_mib} MiB"
            )
        return cast(dict[str, Any], json.loads(answer))


def unread(path: Path, fault: str) -> Inspected:
    """Describe an object without reading its data set, by the UIDs of its C-STORE request. Raises OSError."""
    return Inspected(*read_store_request(path), fault=fault)


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Return the next line that the process prints; an incomplete one if it ends, None after ``seconds``."""
    assert process.stdout is not None
    end, read = time.monotonic() + seconds, bytearray()
    while not read.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(end - time.monotonic(), 0))
        if not ready:
            return None
        if not (block := process.stdout.read(2**20)):
            break
        read += block
    return bytes(read)


def main() -> None:
    """Run the inspection process: answer requests until standard input closes."""
    limits = Limits(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole group; the node ends us
    with contextlib.suppress(OSError):  # the kernel shall rather take this process than the node
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    _limit_memory(limits)
    print("{}", flush=True)  # ready
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Should the node die first, this one ends all the same.
        signal.alarm(int(request["seconds"]) + 6)
        answer: dict[str, Any]
        try:
            if "same" in request:
                one, other = map(Path, request["same"])
                answer = {"same": _same(one, other, limits)}
            else:
                answer = asdict(inspect(Path(request["inspect"]), request["assume"], limits))
        except OSError as error:
            answer = {"error": error.errno or errno.EIO}
        encoded = json.dumps(answer)
        signal.alarm(0)
        print(encoded, flush=True)


def _same(one: Path, other: Path, limits: Limits) -> bool | None:
    """Return whether both files decode to the same samples; None if one does not decode or needs too much
    memory. Raises OSError if the disk cannot read one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    # Numpy and decoders, seldom needed here.
    from ai_pipeline.errors import PixelError
    from ai_pipeline.images.decode import decoded_sha256

    _limit_memory(limits)
    try:
        return decoded_sha256(one) == decoded_sha256(other)
    except (PixelError, MemoryError):
        return None


def _limit_memory(limits: Limits) -> None:
    """Limit the address space of this process to ``memory_mib`` MiB more than it uses now; only the soft
    limit is set, so that it can be changed again.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + limits.memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


if __name__ == "__main__":
    main()
