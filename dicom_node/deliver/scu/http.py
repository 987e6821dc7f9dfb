"""HTTP with deadlines: sessions that can be cut off, and the outcome of a failed request for the outbox.

DICOMweb (PS3.18): STOW-RS and QIDO-RS by dicomweb-client as destination; QIDO-RS and WADO-RS to fetch.

Archives over HTTP: QIDO-RS and WADO-RS (PS3.18 10.6, 10.4).
Part 10 files are streamed to the sink: no file is parsed here or held in memory.
"""

import contextlib
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BytesIO
from typing import Any, TypeVar, cast

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.poolmanager import ProxyManager

from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import PeerUnreachable, SpoolError
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.deliver.scu import (
    CUT_OFF,
    MAXIMUM_ANSWER_BYTES,
    NOT_TRIED,
    STUDY_KEYS,
    Check,
    Confirmation,
    Connections,
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
    hangs,
    shown,
    store_report,
)

_T = TypeVar("_T")
CONNECT_SECONDS = 10.0
UNREADABLE = SendReport(
    SendStatus.REFUSED, "", "it answers, but not as this kind of server does: correct url or transport"
)
NO_STUDY = Confirmation(Presence.NOT_FOUND, "the destination does not show its study")
_REFUSED = frozenset({400, 401, 403, 405, 410, 422, 501})  # answers to a request to delete that stay
# What the clients raise on JSON of another shape and on XML that is none (ParseError is a SyntaxError).
FAULTY_ANSWER = (
    ArithmeticError,
    AttributeError,
    LookupError,
    SyntaxError,
    TypeError,
    ValueError,
    RecursionError,
)


# HTTP statuses that waiting (or a person's hand on a configuration) cures without another try being harmful.
_HTTP_RETRY = {
    401: "user name or password not accepted",
    403: "forbidden: is this user allowed to store?",
    404: "not found: is the URL right?",
    405: "no such service at this URL",
    407: "a proxy wants a password",
    408: "time-out",
    421: "wrong server",
    423: "locked",
    425: "too early",
    429: "too many requests",
}


class BoundedSession(requests.Session):
    """A session whose ``connections`` can be cut, and whose answers have a largest size.

    Streamed answers are read and limited by the caller.
    """

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections
        self.adapters.clear()
        for scheme in ("https://", "http://"):
            super().mount(scheme, _Adapter(connections))

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        """Ignore adapters of client libraries: they would retry, and retries are the outbox's task."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request. Raises requests.ConnectionError if the answer is too long, or was cut off.

        Any status 3xx is an error (requests.HTTPError), with or without an address: an object goes only to
        the configured address, and no 3xx says that it was stored.
        """
        streamed = options.get("stream", False)
        response = super().send(request, **{**options, "stream": True, "allow_redirects": False})
        if 300 <= response.status_code < 400:
            response.close()
            raise requests.HTTPError("redirected", response=response)
        if not streamed:
            try:
                whole = response.raw.read(MAXIMUM_ANSWER_BYTES + 1, decode_content=True)
            except HTTPError as error:
                raise requests.ConnectionError("the answer ended early") from error
            if len(whole) > MAXIMUM_ANSWER_BYTES:
                response.close()
                raise requests.ConnectionError("the answer is too long")
            response.raw.release_conn()
            response.raw = BytesIO(whole)
        if self._connections.timed_out:  # http.client takes the end of a connection for the end of headers
            response.close()
            raise requests.ConnectionError("cut off")
        return response


class HttpCaller:
    """Calls one peer by HTTP, with deadlines. For one thread; any thread may call ``close``."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        self._outbox = settings.outbox
        self._connections = Connections(
            settings.outbox.answer_seconds, local=not peer.entered or settings.console.local_peers
        )
        self._session = BoundedSession(self._connections)

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""
        self._connections.close()


class HttpDestination(HttpCaller, ABC):
    """Base of the destinations over HTTP: one request per object, each with its own answer and deadline."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send one object after the other; if one finds the peer unreachable, the rest is not tried."""
        reports: list[SendReport] = []
        for item in objects:
            if reports and reports[-1].status is SendStatus.UNREACHABLE:
                reports.append(reports[-1])
            else:
                reports.append(
                    NOT_TRIED if hangs(reports) else self._asked(self._store, item, lambda report: report)
                )
        return reports

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query for each object; if one query is cut off, the rest is not tried."""
        answers: list[Confirmation] = []
        for item in objects:
            hung = bool(answers) and answers[-1].presence is Presence.HUNG
            answers.append(answers[-1] if hung else self._asked(self._look, item, unanswered))
        return answers

    def remove(self, item: Outgoing) -> Outcome:
        """Delete this object, but no other object with its UID, and query whether it is gone."""
        try:
            seen = self._remaining(item)
            if seen == NO_STUDY:  # an address that leads elsewhere answers so, too
                return Failed(f"{seen.text}: look there")
            if seen.presence is Presence.FOUND:
                with self._within(item):
                    self._delete(item)
                seen = self._remaining(item)
        except requests.RequestException as error:
            report = problem(error, self._connections)
            why = f"{report.code} {report.text}".strip()
            return Failed(why) if status_of(error) in _REFUSED else Retry(why)
        except FAULTY_ANSWER:
            return Retry(UNREADABLE.text)
        if seen.presence is Presence.DIFFERENT:
            return Failed(seen.text)
        if seen.presence is Presence.NOT_FOUND and seen != unanswered(UNREADABLE):
            return Done()
        return Retry(seen.text or "it is still there")

    def _asked(self, ask: Callable[[Outgoing], _T], item: Outgoing, failed: Callable[[SendReport], _T]) -> _T:
        """The answer about an object in the time that it may take; any failure is one, too."""
        try:
            with self._within(item):
                return ask(item)
        except requests.RequestException as error:
            return failed(self._problem(error))
        except FAULTY_ANSWER:
            return failed(UNREADABLE)

    def _checked(self, name: str, test: Callable[[], list[Check]]) -> list[Check]:
        """What a test found, or why it failed."""
        try:
            with self._connections.within(self._outbox.answer_seconds):
                return test()
        except requests.RequestException as error:
            return [Check(name, False, self._problem(error).text)]
        except FAULTY_ANSWER:
            return [Check(name, False, UNREADABLE.text)]

    def _problem(self, error: requests.RequestException) -> SendReport:
        return problem(error, self._connections)

    def _within(self, item: Outgoing) -> AbstractContextManager[None]:
        """The time that this object may take to be sent or fetched."""
        return self._connections.within(self._outbox.seconds_for(item.path.stat().st_size))

    # These raise requests.RequestException, and FAULTY_ANSWER; their time is limited.

    @abstractmethod
    def _store(self, item: Outgoing) -> SendReport: ...

    @abstractmethod
    def _delete(self, item: Outgoing) -> None: ...

    @abstractmethod
    def _look(self, item: Outgoing) -> Confirmation: ...

    def _remaining(self, item: Outgoing) -> Confirmation:
        """Whether it is still to be deleted."""
        return self._asked(self._look, item, unanswered)


class _Adapter(HTTPAdapter):
    """Tells ``connections`` of each connection that is opened."""

    def __init__(self, connections: Connections) -> None:
        self._pools = {
            "http": _watched(HTTPConnectionPool, connections),
            "https": _watched(HTTPSConnectionPool, connections),
        }
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _watched(pool: type[HTTPConnectionPool], connections: Connections) -> type[HTTPConnectionPool]:
    class Watched(pool.ConnectionCls):  # type: ignore[misc, name-defined]  # a class attribute of urllib3
        def _new_conn(self) -> socket.socket:
            name = self._dns_host  # type: ignore[has-type]  # of urllib3
            if self.proxy is None:  # a proxy is of this machine's environment, and calls from where it is
                self._dns_host = connections.address_of(name)
            try:
                return cast(socket.socket, super()._new_conn())
            finally:
                self._dns_host = name  # by which the certificate is checked

        def connect(self) -> None:
            super().connect()
            connections.opened(self.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": Watched})


def status_of(error: requests.RequestException) -> int | None:
    """The HTTP status of a refused request, None without an answer."""
    return error.response.status_code if error.response is not None else None


def http_report(code: int) -> SendReport:
    """The report for an HTTP status of a failed request."""
    shown = f"HTTP {code}"
    if code in _HTTP_RETRY:
        return SendReport(SendStatus.RETRY, shown, _HTTP_RETRY[code])
    if 300 <= code < 400:
        return SendReport(
            SendStatus.RETRY, shown, "it points to another address, which is not followed: correct url"
        )
    if 400 <= code < 500:
        return SendReport(SendStatus.REFUSED, shown, "request refused")
    return SendReport(SendStatus.RETRY, shown, "the server has a problem")


def problem(error: requests.RequestException, connections: Connections) -> SendReport:
    """The report for any failure of ``requests``, without the error's text, which may quote the answer."""
    status = status_of(error)
    if isinstance(error, requests.HTTPError) and status is not None:
        return http_report(status)
    if connections.timed_out or isinstance(error, requests.ReadTimeout):
        return CUT_OFF
    if isinstance(error, requests.JSONDecodeError):
        return UNREADABLE
    return SendReport(SendStatus.UNREACHABLE, "", connections.refused or "no connection")


def unanswered(report: SendReport) -> Confirmation:
    """The answer to a query that failed with ``report``."""
    if report is UNREADABLE:  # waiting does not cure it: it counts as not shown, and that has an end
        return Confirmation(Presence.NOT_FOUND, f"query: {report.text}")
    hung = report.status is SendStatus.HUNG
    return Confirmation(Presence.HUNG if hung else Presence.UNKNOWN, f"query: {report.text}")


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
