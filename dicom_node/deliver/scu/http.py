"""HTTP with deadlines: sessions that can be cut off, and the outcome of a failed request for the outbox.

DICOMweb (PS3.18): STOW-RS and QIDO-RS by dicomweb-client as destination; QIDO-RS and WADO-RS to fetch. Part
10 files are streamed to the sink: no file is parsed here or held in memory.
"""

import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar, cast

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import PeerUnreachable, SpoolError
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.deliver.scu import (
    CUT_OFF,
    MAXIMUM_ANSWER_BYTES,
    STUDY_KEYS,
    Check,
    Confirmation,
    Connections,
    FoundStudies,
    ObjectSink,
    Outgoing,
    PeerCaller,
    Presence,
    Retrieved,
    RetrieveStatus,
    SendReport,
    SendStatus,
    StudyQuery,
    Taking,
    send_each,
    shown,
    store_report,
)

_T = TypeVar("_T")
CONNECT_SECONDS = 10.0
UNREADABLE = SendReport(
    SendStatus.REFUSED, "", "it answers, but not as this kind of server does: correct url or transport"
)
NO_STUDY = Confirmation(Presence.NOT_FOUND, "the destination does not show its study")
_REFUSED = frozenset(
    f"HTTP {code}" for code in (400, 401, 403, 405, 410, 422, 501)
)  # answers to a request to delete that stay
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


class HttpCaller(PeerCaller):
    """Calls one peer by HTTP."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._outbox, self._url = settings.outbox, peer.url.rstrip("/")
        self._timeout = (CONNECT_SECONDS, settings.outbox.answer_seconds)
        self._session = BoundedSession(self._connections)
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())

    def _called(self, ask: Callable[[], _T], seconds: float = 0) -> _T | SendReport:
        """What ``ask`` returns in its time (0: ``outbox.answer_seconds``), or its failure."""
        try:
            with self._connections.within(seconds or self._outbox.answer_seconds):
                return ask()
        except requests.RequestException as error:
            return self._problem(error)
        except FAULTY_ANSWER:
            return UNREADABLE

    def _answer(self, ask: Callable[[], _T]) -> _T:
        """What ``ask`` returns. Raises PeerUnreachable for any failure."""
        answer = self._called(ask)
        if isinstance(answer, SendReport):
            raise PeerUnreachable(f"{self._peer.name}: {f'{answer.code} {answer.text}'.strip()}")
        return answer

    def _checked(self, name: str, test: Callable[[], list[Check]]) -> list[Check]:
        """What a test found, or why it failed."""
        found = self._called(test)
        return [Check(name, False, found.text)] if isinstance(found, SendReport) else found

    def _problem(self, error: requests.RequestException) -> SendReport:
        """The report for any failure, without the error's text, which may quote the answer."""
        status = status_of(error)
        if isinstance(error, requests.HTTPError) and status is not None:
            return http_report(status)
        if self._connections.timed_out or isinstance(error, requests.ReadTimeout):
            return CUT_OFF
        if isinstance(error, requests.JSONDecodeError):
            return UNREADABLE
        return SendReport(SendStatus.UNREACHABLE, "", self._connections.refused or "no connection")


class HttpDestination(HttpCaller, ABC):
    """Base of the destinations over HTTP: one request per object, each with its own answer and deadline."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send one object after the other; if one finds the peer unreachable, the rest is not tried."""
        return send_each(objects, partial(self._about, self._store))

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query for each object; if one query is cut off, the rest is not tried."""
        answers: list[Confirmation] = []
        for item in objects:
            hung = bool(answers) and answers[-1].presence is Presence.HUNG
            answers.append(answers[-1] if hung else self._seen(self._look, item))
        return answers

    def remove(self, item: Outgoing) -> Outcome:
        """Delete this object, but no other object with its UID, and query whether it is gone."""
        seen = self._seen(self._remains, item)
        if seen == NO_STUDY:  # an address that leads elsewhere answers so, too
            return Failed(f"{seen.text}: look there")
        if seen.presence is Presence.FOUND:
            failed = self._about(self._delete, item)
            if failed is not None:
                why = f"{failed.code} {failed.text}".strip()
                return Failed(why) if failed.code in _REFUSED else Retry(why)
            seen = self._seen(self._remains, item)
        if seen.presence is Presence.DIFFERENT:
            return Failed(seen.text)
        if seen.presence is Presence.NOT_FOUND and seen != unanswered(UNREADABLE):
            return Done()
        return Retry(seen.text or "it is still there")

    def _about(self, ask: Callable[[Outgoing], _T], item: Outgoing) -> _T | SendReport:
        """The answer about an object in the time that it may take to be sent or fetched, or its failure."""
        return self._called(partial(ask, item), self._outbox.seconds_for(item.path.stat().st_size))

    def _seen(self, look: Callable[[Outgoing], Confirmation], item: Outgoing) -> Confirmation:
        answer = self._about(look, item)
        return unanswered(answer) if isinstance(answer, SendReport) else answer

    # These raise requests.RequestException, and FAULTY_ANSWER; their time is limited.

    @abstractmethod
    def _store(self, item: Outgoing) -> SendReport: ...

    @abstractmethod
    def _delete(self, item: Outgoing) -> None: ...

    @abstractmethod
    def _look(self, item: Outgoing) -> Confirmation: ...

    def _remains(self, item: Outgoing) -> Confirmation:
        """Whether it is still to be deleted."""
        return self._look(item)


class _Adapter(HTTPAdapter):
    """Tells ``connections`` of each connection that is opened."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._watched = {
            pool: _watched(pool.ConnectionCls, connections)
            for pool in (HTTPConnectionPool, HTTPSConnectionPool)
        }

    def get_connection_with_tls_context(self, *request: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*request, **options)
        pool.ConnectionCls = self._watched[type(pool)]
        return pool


def _watched(connection: Any, connections: Connections) -> Any:
    class Watched(connection):  # type: ignore[misc]
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

    return Watched


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


def unanswered(report: SendReport) -> Confirmation:
    """The answer to a query that failed with ``report``."""
    if report is UNREADABLE:  # waiting does not cure it: it counts as not shown, and that has an end
        return Confirmation(Presence.NOT_FOUND, f"query: {report.text}")
    hung = report.status is SendStatus.HUNG
    return Confirmation(Presence.HUNG if hung else Presence.UNKNOWN, f"query: {report.text}")


_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_RETRIEVED = {
    SendStatus.UNREACHABLE: RetrieveStatus.UNREACHABLE,
    SendStatus.REFUSED: RetrieveStatus.REFUSED,
}
_SOP_CLASS, _SOP_INSTANCE = "00080016", "00080018"
_UNNAMED = SendReport(SendStatus.VERIFY, "HTTP 200", "the answer does not name the object")


class DicomwebDestination(HttpDestination):
    """A DICOMweb server at a base URL such as https://host/dicom-web."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        # Study Instance UIDs come from modalities, and some write components with leading zeros.
        self._client = DICOMwebClient(
            self._url,
            session=self._session,
            permissive_uid=True,
            timeout=self._timeout,
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
        return UNREADABLE if report is _UNNAMED and not self._peer.may_be_asked else report

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
    if reason := failed.get("FailureReason"):
        return store_report(int(reason))
    return SendReport(SendStatus.REFUSED, "HTTP 409", "refused without a reason")


def _value(answer: dict[str, Any], tag: str) -> str:
    return str((answer.get(tag, {}).get("Value") or [""])[0])


_PAGE = 1000
_PAGES = 100
_BLOCK = 2**16
_WADO = {
    "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
    "Accept-Encoding": "identity",  # what is packed has no size that can be limited
}
_BODY_PART = f"{tag_for_keyword('BodyPartExamined'):08X}"
_TAGS = {keyword: f"{tag_for_keyword(keyword):08X}" for keyword in STUDY_KEYS}


class DicomwebArchive(DicomwebDestination):
    """A DICOMweb server that is asked for studies; every call has a deadline."""

    def find(self, query: StudyQuery) -> FoundStudies:
        """Ask for studies. Raises PeerUnreachable."""
        return self._answer(lambda: FoundStudies.fitting(query, self._studies(query)))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """Ask for series. Raises PeerUnreachable."""

        def ask() -> frozenset[str]:
            rows = self._client.search_for_series(study_instance_uid, fields=[_BODY_PART], limit=_PAGE)
            return frozenset(text.strip().upper() for row in rows for text in _json_texts(row, _BODY_PART))

        return self._answer(ask) - {""}

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Get all objects of a study within ``retrieve_minutes`` of the peer."""
        taking = Taking()
        url = f"{self._url}/studies/{study_instance_uid}"
        try:
            with (
                self._connections.within(self._peer.retrieve_seconds),
                self._session.get(url, headers=_WADO, timeout=self._timeout, stream=True) as answer,
            ):
                answer.raise_for_status()
                for _, pieces in groupby(parts_of(answer), key=itemgetter(0)):
                    taking.take(sink.take_file, map(itemgetter(1), pieces))
        except requests.RequestException as error:
            return self._failure(error, taking.taken)
        except (SpoolError, HTTPError, FormParserError):
            cut = "cut off: too slow" if self._connections.timed_out else "its answer ended early"
            return Retrieved(RetrieveStatus.RETRY, taking.taken, taking.stopped or cut)
        except FAULTY_ANSWER:
            return Retrieved(RetrieveStatus.REFUSED, taking.taken, UNREADABLE.text)
        if taking.refused:
            text = f"{taking.refused} objects were not taken: their class, transfer syntax or size"
            return Retrieved(RetrieveStatus.INCOMPLETE, taking.taken, text)
        if taking.taken:
            return Retrieved(RetrieveStatus.RETRIEVED, taking.taken)
        return Retrieved(RetrieveStatus.ABSENT, 0, "the peer sent nothing of this study")

    def _failure(self, error: requests.RequestException, taken: int) -> Retrieved:
        if status_of(error) == 404:
            return Retrieved(RetrieveStatus.ABSENT, text="the peer has no such study")
        report = self._problem(error)
        status = _RETRIEVED.get(report.status, RetrieveStatus.RETRY)
        return Retrieved(status, taken, f"{report.code} {report.text}".strip())

    def _studies(self, query: StudyQuery) -> Iterator[dict[str, str]]:
        """The answers to a search (PS3.18 10.6) as values of STUDY_KEYS; one that is faulty has none."""
        asked = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        filters = {key: value for key, value in asked.items() if value}
        for page in range(_PAGES):
            rows = self._client.search_for_studies(
                limit=_PAGE, offset=page * _PAGE, fields=list(_TAGS.values()), search_filters=filters
            )
            for row in rows:
                try:
                    yield {key: "\\".join(_json_texts(row, tag)) for key, tag in _TAGS.items()}
                except FAULTY_ANSWER:
                    yield {}
            if len(rows) < _PAGE:
                return


def _json_texts(row: Any, tag: str) -> list[str]:
    """The values of an attribute in DICOM JSON (PS3.18 F)."""
    values = row.get(tag, {}).get("Value") or []
    return [
        "=".join(str(value.get(group, "")) for group in _NAME_GROUPS).rstrip("=")
        if isinstance(value, dict)
        else ("" if value is None else str(value))
        for value in values
    ]


def parts_of(answer: requests.Response) -> Iterator[tuple[int, bytes]]:
    """The content of a multipart answer (RFC 2046 5.1) as it arrives: pieces with the number of their part.

    Raises FormParserError for another answer, and for one that ends early.
    """
    kind, options = parse_options_header(answer.headers.get("Content-Type"))
    if not kind.startswith(b"multipart/") or not options.get(b"boundary"):
        raise FormParserError("not a multipart answer")
    read: list[bytes | None] = []  # None: the end of a part
    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_data": lambda data, start, end: read.append(data[start:end]),
            "on_part_end": lambda: read.append(None),
        },
    )
    number = 0
    for block in answer.raw.stream(_BLOCK, decode_content=False):
        parser.write(block)
        for piece in read:
            if piece is None:
                number += 1
            else:
                yield number, piece
        read.clear()
        if parser.state is MultipartState.END:
            return
    raise FormParserError("the answer ended early")
