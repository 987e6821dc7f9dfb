"""Uploads from a browser: files, ZIPs and pictures, each handed over as a part of a STOW-RS request is."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, BinaryIO, Protocol

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from ai_pipeline.errors import PixelError
from ai_pipeline.images.dates import as_da
from ai_pipeline.images.decode import picture_of
from ai_pipeline.images.header import NONE_GIVEN
from ai_pipeline.images.limits import LIMITS
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import FaultyInput
from dicom_node.base.kinds import AuditAction
from dicom_node.base.store.database import Database
from dicom_node.people import ServiceResult, audit
from dicom_node.people.stow import StowRequest

ENTRIES, DIRECTORY_BYTES = 10_000, 4 * 2**20
"""Most files in a ZIP, and most bytes of its directory, which is read whole."""
RATIO = 200
"""How many times its packed size a file of a ZIP may be; none under a MiB is asked."""
_BLOCK = 2**20
_END_OF_DIRECTORY = struct.Struct("<4s4H2IH")  # APPNOTE.TXT 4.3.16
_ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20  # 4.3.15: before the end of the directory
_LOCAL_HEADER_BYTES = 30  # 4.3.7: at least, without the name
_ENCRYPTED = 1  # 4.4.4, bit 0
_PACKED_AS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways of packing (4.4.5) of which Python unpacks as much as is asked for: BZIP2 and LZMA it unpacks whole.
"""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff")


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file with its name in the browser, which may name a patient: only for the page."""

    name: str
    file: BinaryIO


class UploadedRow(ServiceResult):
    """One uploaded file; ``refusal`` is empty where it was taken."""

    name: str
    refusal: str


@dataclass(frozen=True, slots=True)
class Upload:
    """The outcome for each file of one upload. ``number``: the number of the upload's row in the audit."""

    number: int
    files: Sequence[UploadedRow]


def take(
    database: Database,
    settings: Settings,
    sent: Sequence[UploadedFile],
    about: Described | None,
    by: audit.Person,
) -> Upload:
    """Spool all acceptable files; ``about`` describes pictures among them. The audit records their number."""
    request = StowRequest(database, settings, by)
    upload = _Upload(settings, request, about)
    try:
        rows = [row for one in sent for row in upload.take(one)]
    finally:
        request.drop()
    with database.write() as session:
        noted = audit.note(
            session,
            by,
            AuditAction.UPLOADED,
            objects=request.stored,
            refused=len(rows) - request.stored,
            association=request.association,
        )
    return Upload(noted.id, rows)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Upload:
    """The files of one upload, which are stored as the parts of one request are."""

    def __init__(self, settings: Settings, request: StowRequest, about: Described | None) -> None:
        self._settings, self._request, self._about = settings, request, about
        self._pictures = 0
        self._unpacked = 0

    def take(self, sent: UploadedFile) -> Iterator[UploadedRow]:
        """One file: an object, a picture, or a ZIP of objects."""
        start = sent.file.read(132)
        sent.file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            yield from self._take_zip(sent)
        elif start.startswith(_PICTURES):
            yield self._tried(sent.name, partial(self._take_picture, sent.file))
        else:
            yield self._tried(sent.name, partial(self._take_object, sent.file))

    def _tried(self, name: str, take: Callable[[], None]) -> UploadedRow:
        refusal = ""
        try:
            take()
        except (FaultyInput, PixelError) as error:
            refusal = str(error)
        except _DAMAGED:
            refusal = "it is damaged, encrypted or packed in a way that is not known here"
        return UploadedRow(name=name, refusal=refusal)

    def _take_zip(self, sent: UploadedFile) -> Iterator[UploadedRow]:
        try:
            _check_directory(sent.file)
            archive = zipfile.ZipFile(sent.file)
            entries = [entry for entry in archive.infolist() if _may_be_object(entry)]
            if len(entries) > ENTRIES:
                raise FaultyInput(f"this ZIP has more than {ENTRIES} files")
            if _overlap(archive):
                raise FaultyInput("files in this ZIP overlap: pack it again")
        except FaultyInput as error:
            yield UploadedRow(name=sent.name, refusal=str(error))
            return
        except (*_DAMAGED, MemoryError):
            yield UploadedRow(name=sent.name, refusal="this ZIP cannot be read")
            return
        for entry in entries:
            # Its name is shown and used for nothing: the node names its files itself.
            name = f"{sent.name}: {entry.filename}"
            yield self._tried(name, partial(self._take_entry, archive, entry))

    def _take_entry(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        if entry.flag_bits & _ENCRYPTED:
            raise FaultyInput("it is encrypted")
        if entry.compress_type not in _PACKED_AS:
            raise FaultyInput("it is packed in another way than stored or deflated: pack it so")
        left = self._settings.console.upload_mib * 2**20 - self._unpacked
        most = min(left, max(RATIO * entry.compress_size, 2**20))
        with archive.open(entry) as file:
            counted = _UnpackedFile(file, most, entry.file_size)
            try:
                self._take_object(counted)
            finally:
                self._unpacked += counted.taken

    def _take_object(self, file: _Readable) -> None:
        self._request.begin()
        for piece in iter(partial(file.read, _BLOCK), b""):
            self._request.write(piece)
        self._request.end()
        if (done := self._request.instances[-1]).failure:
            raise FaultyInput(done.why or done.failure.when)

    def _take_picture(self, file: BinaryIO) -> None:
        if self._about is None:
            raise FaultyInput("a PNG or JPEG needs a patient and a modality: fill in the form")
        self._pictures += 1
        self._take_object(secondary_capture(file, self._about, self._request.association, self._pictures))


class _UnpackedFile:
    """A file of a ZIP, of which at most ``most`` bytes are unpacked; ``size``: what its directory says."""

    def __init__(self, file: _Readable, most: int, size: int) -> None:
        self._file = file
        self._most = most
        self._size = size
        self.taken = 0

    def read(self, size: int, /) -> bytes:
        """The next bytes. Raises FaultyInput beyond the limit, and at the end of a file of another size."""
        data = self._file.read(size)
        self.taken += len(data)
        if self.taken > self._most:
            raise FaultyInput(f"unpacked it is larger than console.upload_mib, or {RATIO} times as packed")
        if not data and self.taken != self._size:
            raise FaultyInput("it is damaged: it has another size than its ZIP says")
        return data


def _may_be_object(entry: zipfile.ZipInfo) -> bool:
    """Not folders, the directory of a medium, and what systems add."""
    base = entry.filename.rpartition("/")[2]
    hidden = base.startswith(".") or entry.filename.startswith("__MACOSX/")
    return not (entry.filename.endswith("/") or hidden or base.upper() == "DICOMDIR")


def _overlap(archive: zipfile.ZipFile) -> bool:
    """Whether bytes are unpacked for more than one file (a bomb: Fifield, WOOT 2019), or
    for one beyond the last.
    """
    end = 0
    for entry in sorted(archive.infolist(), key=attrgetter("header_offset")):
        if entry.header_offset < end:
            return True
        end = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size
    return end > archive.start_dir


def _check_directory(file: BinaryIO) -> None:
    """Raise FaultyInput for a directory that is too large to be read whole."""
    size = file.seek(0, 2)
    tail_size = min(size, 65_536 + _END_OF_DIRECTORY.size + _ZIP64_LOCATOR_BYTES)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06")
    file.seek(0)
    if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
        raise FaultyInput("this ZIP cannot be read")
    if tail[max(at - _ZIP64_LOCATOR_BYTES, 0) : at].startswith(_ZIP64_LOCATOR):
        raise FaultyInput("this ZIP has the sizes of ZIP64: pack it in parts of less than 4 GiB")
    *_, entries, directory, _, _ = _END_OF_DIRECTORY.unpack_from(tail, at)
    if entries > ENTRIES or directory > DIRECTORY_BYTES:
        raise FaultyInput(f"this ZIP has more than {ENTRIES} files, or names that are too long")


MODALITIES = ("US", "DX", "CR", "OT")
SEXES = ("", "F", "M", "O")
PICTURE_MIB = 256
"""Largest PNG or JPEG, which is read whole."""
# What the form calls them and their longest, VR lengths of PS3.5 6.2.
_TEXTS = {
    "PatientID": ("Patient ID", 64),
    "PatientName": ("Name", 64),
    "StudyDescription": ("Study description", 64),
    "AccessionNumber": ("Accession number", 16),
}
# LO and PN have no control characters and no backslash.
_TEXT = re.compile(r"[^\\\x00-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class Described:
    """A person's description of pictures, by keyword. They belong to one study."""

    texts: Mapping[str, str]
    modality: str
    study_date: str

    @classmethod
    def from_form(cls, fields: Mapping[str, str]) -> Described | None:
        """The description in a form, None if it is empty. Raises FaultyInput with all mistakes."""
        if not any(value for key, value in fields.items() if key not in ("Modality", "PatientSex")):
            return None
        texts = {keyword: fields.get(keyword, "") for keyword in _TEXTS}
        wrong = [
            f"{label}: at most {longest} characters, no backslash"
            for keyword, (label, longest) in _TEXTS.items()
            if len(texts[keyword]) > longest or not _TEXT.fullmatch(texts[keyword])
        ]
        wrong += [
            f"{_TEXTS[keyword][0]}: is missing"
            for keyword in ("PatientID", "PatientName")
            if not texts[keyword]
        ]
        if (modality := fields.get("Modality", "")) not in MODALITIES:
            wrong.append(f"Modality: one of {', '.join(MODALITIES)}")
        if (sex := fields.get("PatientSex", "")) not in SEXES:
            wrong.append("Sex: F, M, O or nothing")
        dates = {
            keyword: (as_da(text) if (text := fields.get(keyword, "")) else "")
            for keyword in ("PatientBirthDate", "StudyDate")
        }
        wrong += [f"{keyword}: no date" for keyword, date in dates.items() if date is None]
        if wrong:
            raise FaultyInput("; ".join(wrong))
        texts |= {"PatientSex": sex, "PatientBirthDate": dates["PatientBirthDate"] or ""}
        return cls(texts, modality, dates["StudyDate"] or f"{datetime.now().astimezone():%Y%m%d}")


def secondary_capture(file: BinaryIO, about: Described, upload: str, number: int) -> BinaryIO:
    """The picture as a file of a Secondary Capture object; UIDs are derived from ``upload`` and ``number``.

    Raises FaultyInput, and PixelError for a file that is no picture or exceeds the limits.
    """
    data = file.read(PICTURE_MIB * 2**20 + 1)
    if len(data) > PICTURE_MIB * 2**20:
        raise FaultyInput(f"a picture has at most {PICTURE_MIB} MiB")
    # Decoded by a process that can do nothing else.
    samples = np.ascontiguousarray(picture_of(data, about.modality, LIMITS, NONE_GIVEN).samples)
    now = datetime.now().astimezone()
    is_colour, bits = samples.ndim == 3, 8 * samples.dtype.itemsize
    pixels = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    values: dict[str, Any] = {
        **about.texts,
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY"],
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": derived_uid("upload", upload, "instance", str(number)),
        "StudyInstanceUID": derived_uid("upload", upload, "study"),
        "SeriesInstanceUID": derived_uid("upload", upload, "series"),
        "SeriesNumber": 1,
        "InstanceNumber": number,
        "StudyDate": about.study_date,
        "StudyTime": "",
        "StudyID": "",
        "ReferringPhysicianName": "",
        "Modality": about.modality,
        "ConversionType": "WSD",
        "DateOfSecondaryCapture": f"{now:%Y%m%d}",
        "TimeOfSecondaryCapture": f"{now:%H%M%S}",
        "PatientOrientation": [],
        "SamplesPerPixel": 3 if is_colour else 1,
        "PhotometricInterpretation": "RGB" if is_colour else "MONOCHROME2",
        "Rows": samples.shape[0],
        "Columns": samples.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels + b"\0" * (len(pixels) % 2),
    }
    if is_colour:
        values["PlanarConfiguration"] = 0
    if not data.startswith(b"\x89PNG"):
        ratio = f"{max(samples.nbytes / len(data), 1):.2f}"
        values |= {"LossyImageCompression": "01", "LossyImageCompressionRatio": ratio}
        values["LossyImageCompressionMethod"] = "ISO_10918_1"
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    made["PixelData"].VR = "OW" if bits > 8 else "OB"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    encoded = io.BytesIO()
    dcmwrite(encoded, made, enforce_file_format=True)
    encoded.seek(0)
    return encoded
