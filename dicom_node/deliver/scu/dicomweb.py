"""DICOMweb (PS3.18): STOW-RS and QIDO-RS by dicomweb-client as destination; QIDO-RS and WADO-RS to fetch.

Archives over HTTP: QIDO-RS and WADO-RS (PS3.18 10.6, 10.4).
Part 10 files are streamed to the sink: no file is parsed here or held in memory.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from urllib3.exceptions import HTTPError

from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import PeerUnreachable, SpoolError
from dicom_node.deliver.scu.http import (
    CONNECT_SECONDS,
    FAULTY_ANSWER,
    NO_STUDY,
    UNREADABLE,
    HttpCaller,
    HttpDestination,
    problem,
    status_of,
)
from dicom_node.deliver.scu.interfaces import (
    STUDY_KEYS,
    Check,
    Confirmation,
    FoundStudies,
    ObjectSink,
    Outgoing,
    Presence,
    Retrieved,
    RetrieveStatus,
    SendReport,
    SendStatus,
    StudyQuery,
    Taking,
    shown,
    store_report,
)

_SOP_CLASS, _SOP_INSTANCE = "00080016", "00080018"
_UNNAMED = SendReport(SendStatus.VERIFY, "HTTP 200", "the answer does not name the object")


class DicomwebDestination(HttpDestination):
    """A DICOMweb server at a base URL such as https://host/dicom-web."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._is_queried = peer.may_be_asked
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())
        # Study Instance UIDs come from modalities, and some write components with leading zeros.
        self._client = DICOMwebClient(
            peer.url.rstrip("/"),
            session=self._session,
            permissive_uid=True,
            timeout=(CONNECT_SECONDS, settings.outbox.answer_seconds),
        )
        # Retries belong to the outbox, which counts and shows them.
        self._client.set_http_retry_params(retry=False)

    def test(self) -> list[Check]:
        """Search for an object that cannot exist: tests whether the server answers and lets the node in."""

        def ask() -> list[Check]:
            self._search(generate_uid())
            return [Check("QIDO-RS", True, "search answered")]

        return self._checked("QIDO-RS", ask)

    def _store(self, item: Outgoing) -> SendReport:
        report = _stored(self._client.store_instances([dcmread(item.path)]), item.sop_instance_uid)
        return UNREADABLE if report is _UNNAMED and not self._is_queried else report

    def _delete(self, item: Outgoing) -> None:
        self._client.delete_instance(item.study_instance_uid, item.series_instance_uid, item.sop_instance_uid)

    def _look(self, item: Outgoing) -> Confirmation:
        answers = self._search(item.sop_instance_uid, item.study_instance_uid, item.series_instance_uid)
        if answers is None:
            return NO_STUDY
        for answer in answers:
            if not (uid := _value(answer, _SOP_INSTANCE)):
                raise ValueError("an answer names no object")
            if uid == item.sop_instance_uid:
                return shown(item, _value(answer, _SOP_CLASS))
        return Confirmation(Presence.NOT_FOUND, "the destination does not show it")

    def _search(self, instance: str, *inside: str) -> list[dict[str, Any]] | None:
        """What is found of this UID; None where the server does not know the study, or has no search."""
        try:
            filters = {"SOPInstanceUID": instance}
            return list(self._client.search_for_instances(*inside, search_filters=filters))
        except requests.HTTPError as error:
            if status_of(error) != 404:
                raise
            return None

    def _problem(self, error: requests.RequestException) -> SendReport:
        """A 409 says in its body why each instance failed (PS3.18 10.5.3)."""
        if error.response is not None and status_of(error) == 409:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # any idea of a body
                for failed in Dataset.from_json(error.response.json()).get("FailedSOPSequence") or ():
                    return _failure(failed)
        return super()._problem(error)


def _stored(answer: Dataset, uid: str) -> SendReport:
    """Read the Store Instances Response (PS3.18 I.2) to one object: stored is what it names as stored."""
    for failed in answer.get("FailedSOPSequence") or ():
        return _failure(failed)
    for stored in answer.get("ReferencedSOPSequence") or ():
        if warning := stored.get("WarningReason"):
            return store_report(int(warning))
        if stored.get("ReferencedSOPInstanceUID") == uid:
            return SendReport(SendStatus.STORED, "HTTP 200", "stored")
    return _UNNAMED


def _failure(failed: Dataset) -> SendReport:
    reason = failed.get("FailureReason")
    if not reason:
        return SendReport(SendStatus.REFUSED, "HTTP 409", "refused without a reason")
    return store_report(int(reason))


def _value(answer: dict[str, Any], tag: str) -> str:
    return str((answer.get(tag, {}).get("Value") or [""])[0])


_Answer = TypeVar("_Answer")
_PAGE = 1000
_PAGES = 100
_BLOCK = 2**16
_WADO = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_BODY_PART = f"{tag_for_keyword('BodyPartExamined'):08X}"
_TAGS = {keyword: f"{tag_for_keyword(keyword):08X}" for keyword in STUDY_KEYS}


class DicomwebArchive(HttpCaller):
    """A DICOMweb server at a base URL such as https://host/dicom-web; every call has a deadline."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._peer = peer
        self._url = peer.url.rstrip("/")
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())

    def find(self, query: StudyQuery) -> FoundStudies:
        """Ask for studies. Raises PeerUnreachable."""
        return self._answer(lambda: FoundStudies.fitting(query, self._search(query)))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """Ask for series. Raises PeerUnreachable."""
        found = self._answer(lambda: {text.strip().upper() for text in self._body_parts(study_instance_uid)})
        return frozenset(found - {""})

    def _answer(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            with self._connections.within(self._outbox.answer_seconds):
                return ask()
        except requests.RequestException as error:
            report = problem(error, self._connections)
            raise PeerUnreachable(f"{self._peer.name}: {report.code} {report.text}") from None
        except FAULTY_ANSWER:
            raise PeerUnreachable(f"{self._peer.name}: {UNREADABLE.text}") from None

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Get all objects of a study within ``retrieve_minutes`` of the peer."""
        taking = Taking()
        try:
            with (
                self._connections.within(self._peer.retrieve_seconds),
                self._get(f"/studies/{study_instance_uid}", _WADO, stream=True) as answer,
            ):
                boundary = boundary_of(answer.headers.get("Content-Type", ""))
                for part in Parts(answer.raw.stream(_BLOCK, decode_content=False), boundary):
                    taking.take(sink.take_file, part)
        except requests.RequestException as error:
            return replace(self._failure(error), objects=taking.taken)
        except SpoolError as error:
            return Retrieved(RetrieveStatus.RETRY, taking.taken, str(error))
        except (HTTPError, MalformedMultipart):
            cut = "cut off: too slow" if self._connections.timed_out else "its answer ended early"
            return Retrieved(RetrieveStatus.RETRY, taking.taken, cut)
        except FAULTY_ANSWER:
            return Retrieved(RetrieveStatus.REFUSED, taking.taken, UNREADABLE.text)
        status, text = RetrieveStatus.RETRIEVED, ""
        if taking.refused:
            text = f"{taking.refused} objects were not taken: their class, transfer syntax or size"
            status = RetrieveStatus.INCOMPLETE
        elif not taking.taken:
            status, text = RetrieveStatus.ABSENT, "the peer sent nothing of this study"
        return Retrieved(status, taking.taken, text)

    def test(self) -> list[Check]:
        """Search for a study that cannot exist."""
        try:
            self.find(StudyQuery(study_instance_uid="2.25.0"))
        except PeerUnreachable as error:
            return [Check("QIDO-RS", False, str(error).removeprefix(f"{self._peer.name}: "))]
        return [Check("QIDO-RS", True, "search answered")]

    def _get(self, path: str, accept: str, **options: Any) -> requests.Response:
        headers = {"Accept": accept}
        if options.get("stream"):
            headers["Accept-Encoding"] = "identity"  # what is packed has no size that can be limited
        timeout = (CONNECT_SECONDS, self._outbox.answer_seconds)
        answer = self._session.get(f"{self._url}{path}", headers=headers, timeout=timeout, **options)
        answer.raise_for_status()
        return answer

    def _rows(self, path: str, **params: Any) -> Any:
        """A search (PS3.18 10.6); its answer has no body where nothing matches."""
        answer = self._get(path, "application/dicom+json", params=params)
        return answer.json() if answer.status_code != 204 and answer.content else []

    def _failure(self, error: requests.RequestException) -> Retrieved:
        report = problem(error, self._connections)
        status = {
            SendStatus.UNREACHABLE: RetrieveStatus.UNREACHABLE,
            SendStatus.REFUSED: RetrieveStatus.REFUSED,
        }.get(report.status, RetrieveStatus.RETRY)
        if status_of(error) == 404:
            return Retrieved(RetrieveStatus.ABSENT, text="the peer has no such study")
        return Retrieved(status, text=f"{report.code} {report.text}".strip())

    def _search(self, query: StudyQuery) -> Iterator[dict[str, str]]:
        asked = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        keys = {key: value for key, value in asked.items() if value} | {"limit": str(_PAGE)}
        also = [
            _TAGS["StudyDescription"],
            _TAGS["ModalitiesInStudy"],
            _TAGS["NumberOfStudyRelatedInstances"],
            _TAGS["IssuerOfPatientID"],
        ]
        for page in range(_PAGES):
            rows = self._rows("/studies", **keys, offset=str(page * _PAGE), includefield=also)
            if not isinstance(rows, list):
                raise TypeError("no list of studies")
            yield from (_json_texts(row) for row in rows)
            if len(rows) < _PAGE:
                return

    def _body_parts(self, study_instance_uid: str) -> Iterator[str]:
        path = f"/studies/{study_instance_uid}/series"
        for row in self._rows(path, includefield=_BODY_PART, limit=str(_PAGE)):
            yield from map(_json_text, row.get(_BODY_PART, {}).get("Value") or [])


def _json_texts(row: Any) -> dict[str, str]:
    """The values of STUDY_KEYS in DICOM JSON (PS3.18 F); a study that is faulty has none."""
    try:
        return {
            key: "\\".join(map(_json_text, row.get(tag, {}).get("Value") or [])) for key, tag in _TAGS.items()
        }
    except FAULTY_ANSWER:
        return {}


def _json_text(value: Any) -> str:
    if isinstance(value, dict):
        groups = [str(value.get(key, "")) for key in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


LONGEST_HEAD = 16 * 1024
"""Bytes before the content of one part."""
_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))""", re.IGNORECASE)


class MalformedMultipart(ValueError):
    """The answer is no multipart message, or ends early."""


def boundary_of(content_type: str) -> bytes:
    """The boundary in a Content-Type. Raises MalformedMultipart."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or found is None:
        raise MalformedMultipart("not a multipart answer")
    return (found[1] or found[2]).encode("ascii", "replace")


class Parts:
    """The parts of one message. Each must be read completely before the next one."""

    def __init__(self, pieces: Iterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # the first delimiter may stand at the very begin

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        """Each part as pieces of its content. Raises MalformedMultipart."""
        for _ in self._content():  # the preamble
            pass
        while self._has_next():
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > LONGEST_HEAD:
                    raise MalformedMultipart("the headers of a part do not end")
                self._read()
            self._buffer = self._buffer[end + 4 :]
            content = self._content()
            yield content
            for _ in content:
                pass

    def _content(self) -> Iterator[bytes]:
        """Up to the next delimiter, which is dropped."""
        while (at := self._buffer.find(self._delimiter)) < 0:
            safe = len(self._buffer) - len(self._delimiter) + 1
            if safe > 0:
                piece, self._buffer = self._buffer[:safe], self._buffer[safe:]
                yield piece
            self._read()
        piece, self._buffer = self._buffer[:at], self._buffer[at + len(self._delimiter) :]
        if piece:
            yield piece

    def _has_next(self) -> bool:
        while len(self._buffer) < 2:
            self._read()
        return not self._buffer.startswith(b"--")

    def _read(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise MalformedMultipart("the answer ended early")
        self._buffer += piece
