"""Objects that come in by HTTP: by STOW-RS (PS3.18 10.5), or uploaded; spooled as those of a modality are.

They are written as they arrive, under the limits of the listener. Of an object only the file meta information
and the UID of its study are read here: the inspection opens it like any other.

Uploads from a browser: files, ZIPs and pictures, each handed over as a part of a STOW-RS request is.
"""

from __future__ import annotations

import io
import re
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

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
from dicom_node.base.dicom.file_meta import META_BYTES, FileMeta, is_uid, read_sop_uids, read_study_uids
from dicom_node.base.dicom.uids import TransferSyntax, derived_uid, transfer_syntax
from dicom_node.base.errors import FaultyInput, SpoolError
from dicom_node.base.kinds import CONSOLE_AE_TITLE, AuditAction
from dicom_node.base.store import sight
from dicom_node.base.store.database import Database
from dicom_node.people import ServiceResult, audit
from dicom_node.receive.inspection import Arrival, read_meta
from dicom_node.receive.policy import accepted_classes
from dicom_node.receive.spool import IncomingObject, Spool, WaitingObjects
from dicom_node.receive.statuses import Status

WAY: Final = "STOW-RS"
"""The field ``way`` of what the audit says of such a request."""
HEAD = 2**20
"""Bytes of a data set in which the UIDs of its study and series are looked for."""
_MEDIUM = 0  # C-STORE priority, PS3.7 9.1.1

# PS3.18 Table I.2-2, but for the last: PS3.7 C.5.24
NO_ROOM = Status(
    0xA700,
    "Refused: Out of Resources",
    "less free disk space than spool.minimum_free_mib, or the spool cannot be written, or as many objects "
    "of the console wait to be indexed as spool.waiting_objects or spool.waiting_mib allow; send again later",
)
NO_SUCH_CLASS = Status(0x0122, "Refused: SOP Class Not Supported", "the SOP class is none that is accepted")
NO_SUCH_SYNTAX = Status(
    0xC122, "Referenced Transfer Syntax Not Supported", "the transfer syntax is none that is accepted"
)
OTHER_OBJECT = Status(
    0xA900,
    "Error: Data Set Does Not Match SOP Class",
    "the data set has another SOP Class or SOP Instance UID than the file meta information",
)
NO_OBJECT = Status(
    0xC000,
    "Error: Cannot understand",
    "the part is no file of DICOM (PS3.10) with valid UIDs and a data set, or its media type is not "
    "application/dicom, or its Study or SOP Instance UID is needed and not in its first MiB",
)
TOO_LARGE = Status(
    0xC001, "Error: Cannot understand", "the data set is larger than listener.maximum_object_mib"
)
OTHER_STUDY = Status(0xC409, "Error: Cannot understand", "it is of another study than the address names")
NOT_ITS_STUDY = Status(
    0x0124,
    "Refused: Not Authorized",
    "the user sees the studies of some senders only, and the study or the object is here from others",
)
REASONS: Final = (
    NO_ROOM, NO_SUCH_CLASS, NO_SUCH_SYNTAX, OTHER_OBJECT, NO_OBJECT, TOO_LARGE, OTHER_STUDY, NOT_ITS_STUDY,
)  # fmt: skip
"""Failure Reasons (0008,1197) of an answer."""


@dataclass(slots=True)
class StowedInstance:
    """The outcome for one part. UIDs are "" if they were not read."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    failure: Status | None = None
    why: str = ""
    """The failure in words, where they say more than the status."""


class StowRequest:
    """The objects of one request, treated as one association. Used by one thread at a time.

    ``study_uid``: the study that all objects must belong to, "" for any. Raises SpoolError, FaultyInput for
    an invalid UID.
    """

    def __init__(self, database: Database, settings: Settings, by: audit.Person, study_uid: str = "") -> None:
        if study_uid and not is_uid(study_uid):
            raise FaultyInput("the address has no valid Study Instance UID")
        self._database, self._settings, self._by, self._study_uid = database, settings, by, study_uid
        self._classes = accepted_classes(settings.listener.further_storage_classes)
        self._spool, self._waiting = _place(
            settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20
        )
        self._largest = settings.listener.maximum_object_mib * 2**20
        self.association: Final = f"console-{secrets.token_hex(8)}"
        self.instances: Final[list[StowedInstance]] = []
        """What became of the parts that are whole."""
        self._part = _Part()

    def begin(self, media_type: str = "") -> None:
        """Begin a part of the request; ``media_type`` in lower case, "" if the part has none."""
        self.drop()
        self._part = _Part()
        if media_type not in ("", "application/dicom"):
            self._part.one.failure = NO_OBJECT

    def write(self, data: bytes) -> None:
        """Process the next bytes of the current part: the first ones until they show what it is."""
        part = self._part
        part.start += data
        if part.incoming is not None or len(part.start) >= META_BYTES:
            self._tried(self._spooled)

    def end(self) -> None:
        """End the current part: its object is stored durably, or refused, when this returns."""
        self._tried(self._commit)
        self.instances.append(self._part.one)

    def drop(self) -> None:
        """Delete what was written of an incomplete part."""
        if self._part.incoming is not None:
            self._part.incoming.abandon()
            self._part.incoming = None

    def close(self) -> None:
        """End the request: drop an incomplete part, and note in the audit how many objects were stored."""
        self.drop()
        if not self.instances:
            return
        with self._database.write() as session:
            audit.note(
                session,
                self._by,
                AuditAction.UPLOADED,
                way=WAY,
                objects=self.stored,
                refused=len(self.instances) - self.stored,
                association=self.association,
            )

    @property
    def stored(self) -> int:
        """How many objects of the request have been stored durably."""
        return sum(1 for one in self.instances if not one.failure)

    def _tried(self, step: Callable[[_Part], None]) -> None:
        part = self._part
        if part.one.failure is None:
            try:
                step(part)
            except _Refused as refused:
                part.one.failure = refused.status
            except FaultyInput as error:
                part.one.failure, part.one.why = NO_OBJECT, str(error)
            except SpoolError:
                part.one.failure = NO_ROOM
        if part.one.failure is not None:
            part.start.clear()
            self.drop()

    def _spooled(self, part: _Part) -> None:
        """Write the bytes that came; the first ones open a file in the spool."""
        if part.incoming is None:
            meta = read_meta(bytes(part.start[:META_BYTES]))
            part.one.sop_class_uid, part.one.sop_instance_uid = meta.sop_class_uid, meta.sop_instance_uid
            part.incoming = self._open(meta)
            part.syntax = transfer_syntax(meta.transfer_syntax_uid)
            del part.start[: meta.length]
        data = bytes(part.start)
        part.start.clear()
        part.size += len(data)
        if part.size > self._largest:
            raise _Refused(TOO_LARGE)
        part.head += data[: HEAD - len(part.head)]
        part.incoming.write(data)

    def _open(self, meta: FileMeta) -> IncomingObject:
        if meta.sop_class_uid not in self._classes:
            raise _Refused(NO_SUCH_CLASS)
        if transfer_syntax(meta.transfer_syntax_uid) is None:
            raise _Refused(NO_SUCH_SYNTAX)
        if not self._waiting.has_room(
            CONSOLE_AE_TITLE, self._settings.spool.waiting_objects, self._settings.spool.waiting_mib * 2**20
        ):
            raise _Refused(NO_ROOM)
        arrival = Arrival(
            self.association,
            CONSOLE_AE_TITLE,
            self._settings.node.ae_title,
            self._by.address,
            _MEDIUM,
            datetime.now(UTC),
            sight.SENDERS.get(),
        )
        return self._spool.open(arrival, meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)

    def _commit(self, part: _Part) -> None:
        if part.incoming is None or part.start:
            self._spooled(part)
        assert part.incoming is not None and part.syntax is not None
        one = part.one
        sop_class_uid, instance_uid = read_sop_uids(part.head, part.syntax, HEAD)
        if sop_class_uid not in ("", one.sop_class_uid) or instance_uid not in ("", one.sop_instance_uid):
            raise _Refused(OTHER_OBJECT)
        study_uid, _ = read_study_uids(part.head, part.syntax, HEAD)
        self._judge(study_uid, instance_uid)
        part.incoming.commit()
        part.incoming = None
        self._waiting.add(CONSOLE_AE_TITLE, part.size)

    def _judge(self, study_uid: str, instance_uid: str) -> None:
        """Raise _Refused if this object is not accepted; each UID "" if the first bytes do not contain it."""
        is_limited = bool(sight.SENDERS.get())
        if (not study_uid and (self._study_uid or is_limited)) or (is_limited and not instance_uid):
            raise _Refused(NO_OBJECT)
        if self._study_uid and study_uid != self._study_uid:
            raise _Refused(OTHER_STUDY)
        if is_limited:
            with self._database.read() as session:
                if sight.is_hidden(session, study_uid, instance_uid):
                    raise _Refused(NOT_ITS_STUDY)


@cache
def _place(folder: Path, minimum_free_bytes: int) -> tuple[Spool, WaitingObjects]:
    """The spool, and what waits in it: all requests of this process share them."""
    spool = Spool(folder, minimum_free_bytes)
    return spool, WaitingObjects(spool.incoming)


class _Refused(Exception):
    """The node refuses to store an object."""

    def __init__(self, status: Status) -> None:
        self.status = status


@dataclass(slots=True)
class _Part:
    """One part while it comes: bytes that are not written yet, the first ones of the data set, its file."""

    one: StowedInstance = field(default_factory=StowedInstance)
    start: bytearray = field(default_factory=bytearray)
    head: bytearray = field(default_factory=bytearray)
    incoming: IncomingObject | None = None
    syntax: TransferSyntax | None = None
    size: int = 0


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


def take_files(
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
_PLAIN = re.compile(r"[^\\\x00-\x1f\x7f]*")


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
            if len(texts[keyword]) > longest or not _PLAIN.fullmatch(texts[keyword])
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
