"""Files that a person uploads: DICOM files, pictures, and ZIPs of both, stored as the objects of one request.

Pictures become Secondary Captures of one new study. An upload ends when its row in the audit is written: then
its studies are complete. Before, as after a crash in its midst, they wait for their quiet time, as studies
whose association was lost do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import BinaryIO, Final

from ai_pipeline.errors import NoDecoder, PixelError
from ai_pipeline.images.decode import PICTURES
from ai_pipeline.images.decoder import DECODER
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import Intake
from dicom_node.base.store.database import Database
from dicom_node.people import Row, zips
from dicom_node.people.audit import Person
from dicom_node.people.captures import secondary_capture
from dicom_node.people.described import checked
from dicom_node.people.stow import StowRequest
from dicom_node.people.zips import Archive, Readable

PICTURES_OF_ONE, PICTURE_MIB = 500, 128
"""Most pictures of an upload, and the largest one (MiB), which is read whole."""
_BLOCK: Final = 2**20
_NEEDED: Final = ("PatientID", "PatientName", "Modality")
_TAKEN: Final = "DICOM (Part 10), PNG, JPEG, TIFF, or a ZIP of these"


def take_files(
    database: Database,
    settings: Settings,
    sent: Sequence[tuple[str, BinaryIO]],
    about: Mapping[str, str],
    by: Person,
    intake: Intake = Intake.UPLOAD,
) -> tuple[int, list[Row]]:
    """Store the acceptable files of an upload in the spool; ``sent``: pairs of name and opened file.

    ``about``: what the person says of pictures, as ``described.FIELDS``; all empty: no picture is taken.
    Returns (number of the audit row that counts the files, a row for each file). A row has ``name``, which
    may name a patient and is only for the page, and ``refusal``, "" if it was accepted. Raises FaultyInput
    without files or for a faulty field, SpoolError.
    """
    if not sent:
        raise FaultyInput("choose the files to send")
    is_described = any(about[name] for name in about if name != "Modality")
    needed = _NEEDED if is_described and intake is not Intake.TRIAL else ()
    described = checked(about, needed) if is_described or intake is Intake.TRIAL else None
    request = StowRequest(database, settings, by, intake=intake)
    upload = _Upload(request, described, settings.console.upload_mib * 2**20)
    rows: list[Row] = []
    try:
        for name, file in sent:
            rows.extend(upload.take(name, file))
    finally:
        number = request.close(sum(bool(row["refusal"]) for row in rows))
    return number, rows


class _Upload:
    """The files of one upload while they are stored."""

    def __init__(self, request: StowRequest, about: Mapping[str, str] | None, most_bytes: int) -> None:
        """``about``: what the person says of pictures, checked; None: nothing. ``most_bytes``: that ZIPs may
        have when they are unpacked.
        """
        self._request, self._about = request, about
        self._pictures, self._left = 0, most_bytes

    def take(self, name: str, file: BinaryIO) -> Iterator[Row]:
        """Store one file, or each file of a ZIP; yield its row."""
        is_zip = file.read(len(zips.SIGNATURE)) == zips.SIGNATURE
        file.seek(0)
        if not is_zip:
            yield _outcome(name, partial(self._take_one, file))
            return
        try:
            archive = Archive(file, self._left)
        except FaultyInput as error:
            yield Row(name=name, refusal=str(error))
            return
        for entry in archive.files:
            with_its_zip = f"{name}: {entry.filename}"  # shown, and used for nothing
            yield _outcome(with_its_zip, partial(self._take_packed, archive, entry))
        self._left = archive.left

    def _take_packed(self, archive: Archive, entry: zips.Entry) -> None:
        """Store one file of a ZIP. Raises FaultyInput, PixelError."""
        with archive.open(entry) as file:
            self._take_one(file)

    def _take_one(self, file: Readable) -> None:
        """Store a DICOM file or a picture. Raises FaultyInput, PixelError."""
        start = file.read(_BLOCK)
        pieces = chain([start], iter(partial(file.read, _BLOCK), b""))
        is_object = start[128:132] == b"DICM"
        if is_object and self._request.intake is Intake.TRIAL:
            raise FaultyInput("a DICOM file of a ZIP is not tried: send it alone")
        if start.startswith(zips.SIGNATURE) and not is_object:
            raise FaultyInput("a ZIP in a ZIP is not opened: pack its files themselves")
        if not is_object and not start.startswith(PICTURES):
            raise FaultyInput(f"it is none of the files that are taken: {_TAKEN}" if start else "it is empty")
        self._store(pieces if is_object else [self._captured(pieces)])

    def _captured(self, pieces: Iterator[bytes]) -> bytes:
        """The file of a Secondary Capture of a picture. Raises FaultyInput, PixelError."""
        if self._about is None:
            raise FaultyInput("a picture does not say whose it is: fill in patient and modality")
        data = bytearray()
        for piece in pieces:
            data += piece
            if len(data) > PICTURE_MIB * 2**20:
                raise FaultyInput(f"a picture has at most {PICTURE_MIB} MiB")
        self._pictures += 1
        if self._pictures > PICTURES_OF_ONE:
            raise FaultyInput(f"an upload has at most {PICTURES_OF_ONE} pictures: send several")
        return secondary_capture(bytes(data), self._about, self._request.association, self._pictures)

    def _store(self, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
        """Store a DICOM file as the next part of the request. Raises FaultyInput if it is refused."""
        self._request.begin()
        for piece in pieces:
            self._request.write(piece)
        self._request.end()
        done = self._request.instances[-1]
        if done.failure:
            raise FaultyInput(done.why or done.failure.when)


def prepare() -> None:
    """Start the process that decodes pictures, so that the first one does not wait for it."""
    with suppress(NoDecoder):  # the first picture is refused, and its row says why
        DECODER.start()


def is_dicom(file: BinaryIO) -> bool:
    """Whether an opened file is one of DICOM (Part 10); it is read from its beginning next."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def _outcome(name: str, take: Callable[[], None]) -> Row:
    """The row of a file after ``take`` has stored it."""
    try:
        take()
    except (FaultyInput, PixelError, NoDecoder) as error:
        return Row(name=name, refusal=str(error))
    return Row(name=name, refusal="")
