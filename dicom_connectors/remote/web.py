"""A vendor's AI as an HTTP service: a study goes to it by one request of STOW-RS (PS3.18 10.5).

The answer to the request may already have the results, as ``multipart/related; type="application/dicom"``. It
counts only when it is whole; until then nothing of it is stored.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile
from typing import Final
from uuid import NAMESPACE_OID, uuid5

import requests
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from python_multipart.exceptions import FormParserError
from urllib3.exceptions import HTTPError

from dicom_connectors.dicomweb.client import store_response, stored_report
from dicom_connectors.remote.received import AnswerSink, TooLarge, WholeParts
from dicom_connectors.remote.settings import Vendor
from dicom_node.base.answer_token import AnswerTokens
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import META_BYTES
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.base.errors import FaultyInput, ResultRefused, SpoolError, StorageError
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.scu import Outgoing, SendReport, SendStatus
from dicom_node.deliver.scu.http import CONNECT_SECONDS, FAULTY_ANSWER, UNREADABLE, HttpCaller
from dicom_node.receive.spool import read_meta
from dicom_node.studies.fetch import closing_on_stop

_OBJECTS: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_RESPONSE: Final = "application/dicom+json, application/dicom+xml;q=0.5, */*;q=0.1"
_BLOCK: Final = 2**20
_LONGEST_WAIT: Final = 3600.0  # seconds that a service may have the node wait


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of a request. ``after``: seconds after which the service wants the next one, 0: any."""

    report: SendReport
    after: float = 0


def post_study(
    settings: Settings,
    vendor: Vendor,
    row: AwaitedAnswer,
    objects: Callable[[], Sequence[Outgoing]],
    stop: threading.Event,
) -> Posted:
    """Send the study of a row, until its time is over or ``stop`` is set."""
    try:
        body = StudyBody(objects())
    except (StorageError, FaultyInput) as error:
        return Posted(SendReport(SendStatus.RETRY, "", str(error)))
    except ResultRefused as error:
        return Posted(SendReport(SendStatus.FAULTY, "", str(error)))
    service = WebService(vendor, settings)
    with closing(service), closing_on_stop(stop, service):
        return service.post(row, body, max((row.limit_at - utc_now()).total_seconds(), 1.0))


class WebService(HttpCaller):
    """The client of one service. For one thread; any thread may call ``close``."""

    def __init__(self, vendor: Vendor, settings: Settings) -> None:
        """Prepare calls to the URL of the service."""
        super().__init__(vendor.peer, settings)
        self._returns = vendor.options.answers == "returned"
        self._sends = vendor.options.answers == "sent"

    def post(self, row: AwaitedAnswer, body: "StudyBody", seconds: float) -> Posted:
        """Send a study, and store what the service returns if its rule says that it returns results."""
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary="{body.boundary}"',
            "Accept": _OBJECTS if self._returns else _RESPONSE,
            "Accept-Encoding": "identity",
            "Idempotency-Key": key_of(row),
        }
        if self._sends:
            tokens = AnswerTokens(self._settings.node.data_dir)
            headers["Answer-Token"] = tokens.make(row.id, row.began_at)
        url = f"{self._url}/studies/{row.study_instance_uid}"
        wait = (CONNECT_SECONDS, seconds)
        try:
            with (
                self._connections.within(seconds),
                self._session.post(
                    url, data=body, headers=headers, timeout=wait, stream=self._returns
                ) as answer,
            ):
                answer.raise_for_status()
                return Posted(self._take(answer, row) if self._returns else _stored(answer, body.objects))
        except requests.RequestException as error:
            return Posted(self._problem(error), _wanted_wait(error.response))
        except (HTTPError, FormParserError):
            why = "cut off: too slow" if self._connections.timed_out else "its answer ended early"
            return Posted(SendReport(SendStatus.RETRY, "", why))
        except SpoolError as error:
            return Posted(SendReport(SendStatus.RETRY, "", str(error)))
        except TooLarge:
            return Posted(_refused("its answer is compressed, or has too many bytes or objects"))
        except FAULTY_ANSWER:
            return Posted(UNREADABLE)

    def _take(self, answer: requests.Response, row: AwaitedAnswer) -> SendReport:
        """Store the objects of an answer once it is whole and each of them may come."""
        if (
            answer.status_code != 200
            or "multipart/related" not in answer.headers.get("Content-Type", "").lower()
        ):
            return _refused("its answer has no results: multipart/related with application/dicom is wanted")
        sink = AnswerSink(self._settings, self._peer, row)
        with TemporaryFile(dir=self._settings.node.data_dir) as file:
            parts = WholeParts(file)
            parts.receive(answer)
            try:
                for number in range(len(parts)):
                    sink.check_file(parts.pieces(number))
            except FaultyInput as error:
                return _refused(f"object {number + 1} of its answer: {error}")
            for number in range(len(parts)):
                sink.take_file(parts.pieces(number))
        return (
            SendReport(SendStatus.STORED, "HTTP 200") if len(parts) else _refused("its answer has no object")
        )


def key_of(row: AwaitedAnswer) -> str:
    """Return the idempotency key of a study: the same for each try, another if it is sent anew."""
    return str(uuid5(NAMESPACE_OID, f"{row.study_instance_uid} {row.id} {row.began_at.isoformat()}"))


def _refused(why: str) -> SendReport:
    """Return the report for an answer that another request would not make better."""
    return SendReport(SendStatus.REFUSED, "", why)


def _stored(answer: requests.Response, objects: Sequence[Outgoing]) -> SendReport:
    """Return that the service has all objects, or what it says of the first that it did not take."""
    response = store_response(answer)
    reports = [stored_report(response, one.sop_instance_uid) for one in objects]
    taken = (SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY)
    return next((one for one in reports if one.status not in taken), reports[0])


def _wanted_wait(answer: requests.Response | None) -> float:
    """Return the seconds in Retry-After (RFC 9110 10.2.3), 0 without any. A date is not read."""
    given = (answer.headers.get("Retry-After", "") if answer is not None else "").strip()
    return min(float(given), _LONGEST_WAIT) if given.isascii() and given.isdigit() else 0


class StudyBody:
    """The body of a request with a whole study, read from its files as it is sent.

    ``objects``: at least one. Raises OSError, FaultyInput.
    """

    def __init__(self, objects: Sequence[Outgoing]) -> None:
        self.objects, self.boundary = objects, token_hex(16)
        self._parts = [self._part(one.path) for one in objects]
        self._end = f"\r\n--{self.boundary}--\r\n".encode()

    def __len__(self) -> int:
        return len(self._end) + sum(
            len(start) + path.stat().st_size - skipped for start, path, skipped in self._parts
        )

    def __iter__(self) -> Iterator[bytes]:
        for start, path, skipped in self._parts:
            yield start
            with path.open("rb") as file:
                file.seek(skipped)
                while block := file.read(_BLOCK):
                    yield block
        yield self._end

    def _part(self, path: Path) -> tuple[bytes, Path, int]:
        """Return what stands before the data set of a file, the file, and where its data set begins.

        The header is written anew: that of a received object says from whom it came.
        """
        with path.open("rb") as file:
            read = read_meta(file.read(META_BYTES))
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = read.sop_class_uid
        meta.MediaStorageSOPInstanceUID = read.sop_instance_uid
        meta.TransferSyntaxUID = read.transfer_syntax_uid
        meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        header = BytesIO()
        with quiet_pydicom():
            write_file_meta_info(header, meta)
        start = f"\r\n--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        return start + bytes(128) + b"DICM" + header.getvalue(), path, read.length
