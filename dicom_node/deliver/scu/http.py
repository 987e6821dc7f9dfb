"""HTTP with deadlines: sessions that can be cut off, and the outcome of a failed request for the outbox."""

import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError

from ai_pipeline.errors import disk_fault
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import Unavailable
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import (
    CUT_OFF,
    DELETED,
    MAXIMUM_ANSWER_BYTES,
    NO_HANDSHAKE,
    NO_STUDY_THERE,
    Check,
    Confirmation,
    Connections,
    Outgoing,
    PeerCaller,
    Presence,
    SendReport,
    SendStatus,
    send_each,
)

_T = TypeVar("_T")
CONNECT_SECONDS = 10.0
_SMALLEST_PAGE = 10
_LIMIT_REFUSED = (400, 413, 416, 422)
UNREADABLE = SendReport(
    SendStatus.REFUSED, "", "it answers, but not as this kind of server does: correct url or transport"
)
_NOT_WHOLE = SendReport(
    SendStatus.RETRY, "", "its answer ended, though it says that there is more: raise its limits of results"
)
# Other warnings of this number (that something is deprecated) say nothing of the rows.
_MORE = re.compile(r"\b299\b.*(additional|more|exceed|limit|truncat|incomplete|partial)", re.IGNORECASE)
NO_STUDY = Confirmation(Presence.NOT_FOUND, "the destination does not show its study")
_REFUSED = frozenset(
    f"HTTP {code}" for code in (400, 401, 403, 405, 422, 501)
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
    """An HTTP session whose ``connections`` can be cut, and whose answers have a largest size.

    Streamed answers are read and limited by the caller.
    """

    def __init__(self, connections: Connections, authorities: Path | None = None) -> None:
        """Prepare a session whose sockets are registered with ``connections``.

        ``authorities``: a PEM file of the CAs that it trusts; None for those of the environment
        (REQUESTS_CA_BUNDLE) or of the system.
        """
        super().__init__()
        self._connections, self._authorities = connections, authorities
        self.says_more = ""
        """Header by which the last answer says that it is not all: "Link" (next) or "Warning" (299); "" for
        none.
        """
        self.adapters.clear()
        for scheme in ("https://", "http://"):
            super().mount(scheme, _Adapter(connections))

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        """Do nothing: adapters of client libraries are ignored, as they would retry, and retries are the
        outbox's task.
        """

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> dict[str, Any]:
        """Add what the environment says to the options of a request, but no CAs beside those of the
        configuration.
        """
        trusted = str(self._authorities) if self._authorities else verify
        return super().merge_environment_settings(url, proxies, stream, trusted, cert)

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
        self.says_more = _says_more(response)
        return response


def _says_more(response: requests.Response) -> str:
    """The header by which an answer says that it is not all: "Link" to a next page (RFC 8288), "Warning" 299
    (PS3.18 8.3.4.4: more results than the server returns); "" for none.
    """
    if _MORE.search(response.headers.get("Warning", "")):
        return "Warning"
    return "Link" if "next" in response.links else ""


class NotWhole(requests.RequestException):
    """A search ended although the server says that there is more."""


class HttpCaller(PeerCaller):
    """Base class of clients that call one peer by HTTP."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        """Prepare calls to the URL of ``peer``, with its user name and password if it has any."""
        super().__init__(peer, settings)
        self._outbox, self._url = settings.outbox, peer.url.rstrip("/")
        self._timeout = (CONNECT_SECONDS, settings.outbox.answer_seconds)
        self._session = BoundedSession(self._connections, peer.authorities)
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())

    def _called(self, ask: Callable[[], _T], seconds: float = 0) -> _T | SendReport:
        """Call ``ask``, which makes HTTP requests; returns its value, or a report of its failure.

        It is ended after ``seconds`` (0: ``outbox.answer_seconds``).
        """
        try:
            with self._connections.within(seconds or self._outbox.answer_seconds):
                return ask()
        except requests.RequestException as error:
            return self._problem(error)
        except FAULTY_ANSWER:
            return UNREADABLE

    def _answer(self, ask: Callable[[], _T]) -> _T:
        """Call ``ask``, which makes HTTP requests; returns its value. Raises Unavailable for any failure."""
        answer = self._called(ask)
        if isinstance(answer, SendReport):
            raise Unavailable(f"{self._peer.name}: {f'{answer.code} {answer.text}'.strip()}")
        return answer

    def _checked(self, name: str, test: Callable[[], list[Check]]) -> list[Check]:
        """Run a test of the peer; returns its results, or one failed result with the reason. ``name``: the
        test's name.
        """
        found = self._called(test)
        return [Check(name, False, found.text)] if isinstance(found, SendReport) else found

    def _problem(self, error: requests.RequestException) -> SendReport:
        """The report for a failed request, without the error's text, which may quote the answer."""
        status = status_of(error)
        if isinstance(error, requests.HTTPError) and status is not None:
            return http_report(status)
        if self._connections.timed_out or isinstance(error, requests.Timeout):
            return self._time_is_over(error)
        if isinstance(error, requests.JSONDecodeError):
            return UNREADABLE
        if isinstance(error, NotWhole):
            return _NOT_WHOLE
        if fault := disk_fault(error, beside_network=True):
            return SendReport(SendStatus.RETRY, "", fault)
        why = self._connections.refused or tls_refusal(error)
        begun = self._connections.has_sent
        why = why or ("it gave no complete answer" if begun else "no connection")
        return SendReport(SendStatus.UNREACHABLE, "", why, begun)

    def _time_is_over(self, error: requests.RequestException) -> SendReport:
        """The report for a request whose time is over, by how far it came."""
        if self._connections.shakes_hands:
            return SendReport(SendStatus.UNREACHABLE, "", NO_HANDSHAKE)
        if self._connections.timed_out or isinstance(error, requests.ReadTimeout):
            return CUT_OFF
        return SendReport(SendStatus.UNREACHABLE, "", "no connection")


class HttpDestination(HttpCaller, ABC):
    """Base class of destinations over HTTP: one request per object, each with its own answer and deadline."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send one object after the other; once the peer is unreachable or hangs, the rest is not tried."""
        return send_each(objects, partial(self._about, self._store))

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query for each object whether the peer has it; if one query is cut off, no further one is tried."""
        answers: list[Confirmation] = []
        for item in objects:
            hung = bool(answers) and answers[-1].presence is Presence.HUNG
            answers.append(answers[-1] if hung else self._ask_about(self._query, item))
        return answers

    def remove(self, item: Outgoing) -> Outcome:
        """Delete this very object, but not another one with its UID, and query whether it is gone.

        Returns DELETED, Done if it was not there, NO_STUDY_THERE, Failed if a repetition would change
        nothing, Retry if waiting may help.
        """
        seen, done = self._ask_about(self._remains, item), Done()
        if seen == NO_STUDY:  # an address that leads elsewhere answers so, too
            return NO_STUDY_THERE
        if seen.presence is Presence.FOUND:
            done = DELETED
            failed = self._about(self._delete, item)
            if failed is not None:
                why = f"{failed.code} {failed.text}".strip()
                return Failed(why) if failed.code in _REFUSED else Retry(why)
            seen = self._ask_about(self._remains, item)
        if seen.presence is Presence.DIFFERENT:
            return Failed(seen.text)
        if seen.presence is Presence.NOT_FOUND and seen != unanswered(UNREADABLE):
            return done
        return Retry(seen.text or "it is still there")

    def _about(self, ask: Callable[[Outgoing], _T], item: Outgoing) -> _T | SendReport:
        """Call ``ask(item)`` within the time allowed for an object of its size; returns its value, or a
        report of its failure.
        """
        return self._called(partial(ask, item), self._outbox.seconds_for(item.path.stat().st_size))

    def _ask_about(self, look: Callable[[Outgoing], Confirmation], item: Outgoing) -> Confirmation:
        """Call ``look``, which queries the peer for the object ``item``, within a deadline for its size;
        returns its outcome, "unknown" after a failure.
        """
        answer = self._about(look, item)
        return unanswered(answer) if isinstance(answer, SendReport) else answer

    # These raise requests.RequestException, and FAULTY_ANSWER; their time is limited.

    @abstractmethod
    def _store(self, item: Outgoing) -> SendReport:
        """Upload one object; returns the peer's answer."""

    @abstractmethod
    def _delete(self, item: Outgoing) -> None:
        """Delete one object at the peer."""

    @abstractmethod
    def _query(self, item: Outgoing) -> Confirmation:
        """Query whether the peer has this object."""

    def _remains(self, item: Outgoing) -> Confirmation:
        """Query whether the peer still has the object that is to be deleted."""
        return self._query(item)


def paged(
    session: BoundedSession, ask: Callable[..., Sequence[_T]], most: int, limit: int = 1000
) -> Iterator[_T]:
    """Yield the rows of a search (PS3.18 8.3.4), whatever number a server puts in a page, until a page has
    nothing new; at most ``most`` and a page.

    ``ask`` returns a page by the keys ``limit`` (None: as many as the server likes) and ``offset``.
    ``limit``: how many rows are asked for at first, 0: none is named; a limit that the server refuses is made
    smaller. ``session``: by which it asks. Raises what ``ask`` raises, and NotWhole at an end before which
    the server says that there is more: but a link from a full page may lead to none.
    """
    seen, is_full, says_more = set[int](), True, ""
    while len(seen) < most:
        try:
            page = ask(limit=limit or None, offset=len(seen) or None)
        except requests.HTTPError as error:
            refused = status_of(error)
            if not is_full and refused in (404, *_LIMIT_REFUSED):  # no further rows, or it knows no offset
                break
            if refused not in _LIMIT_REFUSED or not limit:
                raise
            limit = limit // 4 if limit > _SMALLEST_PAGE else 0
            continue
        known, is_full, said = len(seen), 0 < limit <= len(page), session.says_more
        for row in page:
            if (key := hash(repr(row))) not in seen:
                seen.add(key)
                yield row
        if len(seen) == known:
            says_more = says_more or said
            break
        says_more = "" if is_full and said == "Link" else said
    else:
        return  # as many as we want
    if says_more:
        raise NotWhole


class _Adapter(HTTPAdapter):
    """An HTTP adapter that registers each new connection with ``connections``, so that it can be cut."""

    def __init__(self, connections: Connections) -> None:
        """Prepare an adapter whose sockets are registered with ``connections``."""
        super().__init__()
        self._watched = {
            pool: _watched(pool.ConnectionCls, connections)
            for pool in (HTTPConnectionPool, HTTPSConnectionPool)
        }

    def get_connection_with_tls_context(self, *request: Any, **options: Any) -> Any:
        """The connection pool for a request, whose connections register themselves."""
        pool = super().get_connection_with_tls_context(*request, **options)
        pool.ConnectionCls = self._watched[type(pool)]
        return pool


def _watched(connection: Any, connections: Connections) -> Any:
    """Make a subclass of this urllib3 connection class that registers each socket it opens with
    ``connections``.
    """

    class Watched(connection):  # type: ignore[misc]
        """A connection that checks the peer's address and registers its socket."""

        def _new_conn(self) -> socket.socket:
            """Open a socket to the checked address of the host."""
            name = self._dns_host  # type: ignore[has-type]  # of urllib3
            if self.proxy is None:  # a proxy is of this machine's environment, and calls from where it is
                self._dns_host = connections.address_of(name)
            try:
                opened = cast(socket.socket, super()._new_conn())
                connections.shakes_hands = isinstance(self, HTTPSConnection)
                return opened
            finally:
                self._dns_host = name  # by which the certificate is checked

        def connect(self) -> None:
            """Connect and register the socket."""
            super().connect()
            connections.shakes_hands = False
            connections.opened(self.sock)

        def send(self, data: Any) -> None:
            """Send bytes, and note that the peer may have them."""
            super().send(data)
            connections.has_sent = True

    return Watched


def status_of(error: requests.RequestException) -> int | None:
    """The HTTP status of a refused request; None if no answer came."""
    return error.response.status_code if error.response is not None else None


def http_report(code: int) -> SendReport:
    """The report for an HTTP status of a request that failed."""
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
    """The outcome of a query for an object that failed with ``report``: unknown or hung. An answer that
    cannot be read counts as "not found", because waiting would not change it.
    """
    if report is UNREADABLE:  # waiting does not cure it: it counts as not shown, and that has an end
        return Confirmation(Presence.NOT_FOUND, f"query: {report.text}")
    hung = report.status is SendStatus.HUNG
    return Confirmation(Presence.HUNG if hung else Presence.UNKNOWN, f"query: {report.text}")
