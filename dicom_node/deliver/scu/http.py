"""HTTP with deadlines: sessions that can be cut off, and the outcome of a failed request for the outbox."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any, TypeVar, cast

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.poolmanager import ProxyManager

from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.deliver.scu.association import MAXIMUM_ANSWER_BYTES, Connections
from dicom_node.deliver.scu.interfaces import (
    CUT_OFF,
    NOT_TRIED,
    Check,
    Confirmation,
    Outgoing,
    Presence,
    SendReport,
    SendStatus,
    hangs,
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
