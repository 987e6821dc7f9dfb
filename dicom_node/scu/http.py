"""HTTP with deadlines: sessions that can be cut off, and the meaning of a failed request for the outbox."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.poolmanager import PoolManager, ProxyManager

from dicom_node.config.settings import Settings
from dicom_node.scu.connections import MAXIMUM_ANSWER_BYTES, Connections
from dicom_node.scu.destination import (
    CUT_OFF,
    NOT_TRIED,
    Confirmation,
    Outgoing,
    Presence,
    SendReport,
    SendStatus,
    hangs,
)
from dicom_node.scu.statuses import http_report

CONNECT_SECONDS = 10.0


class BoundedSession(requests.Session):
    """A session whose ``connections`` can be cut, and whose answers have a largest size.

    Streamed answers are read by who asked for them, and bounded there.
    """

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections
        self.adapters.clear()
        for scheme in ("https://", "http://"):
            super().mount(scheme, _Adapter(connections))

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        """Take no adapters of others: clients bring theirs for retries, and those belong to the outbox."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Raises requests.ConnectionError for an answer that is too long, or was cut off before its end.

        A redirect is an error (requests.HTTPError): an object goes to the address of the settings only.
        """
        streamed = options.get("stream", False)
        response = super().send(request, **{**options, "stream": True, "allow_redirects": False})
        if response.is_redirect:
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


class HttpDestination(ABC):
    """What the ends over HTTP share: a request per object, so that each has its own answer and deadline."""

    def __init__(self, settings: Settings) -> None:
        self._outbox = settings.outbox
        self._connections = Connections(settings.outbox.answer_seconds)
        self._session = BoundedSession(self._connections)

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send one object after the other; after the first that is unreachable, the rest are not tried."""
        reports: list[SendReport] = []
        for item in objects:
            if reports and reports[-1].status is SendStatus.UNREACHABLE:
                reports.append(reports[-1])
            else:
                reports.append(NOT_TRIED if hangs(reports) else self._store(item))
        return reports

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Ask for each object; after the first question that was cut off, the rest are not asked."""
        answers: list[Confirmation] = []
        for item in objects:
            hung = bool(answers) and answers[-1].presence is Presence.HUNG
            answers.append(answers[-1] if hung else self._look(item))
        return answers

    def close(self) -> None:
        """End for good what is under way, from any thread."""
        self._connections.close()

    def _within(self, item: Outgoing) -> AbstractContextManager[None]:
        """The time that this object may take to be sent or fetched."""
        return self._connections.within(self._outbox.seconds_for(item.path.stat().st_size))

    @abstractmethod
    def _store(self, item: Outgoing) -> SendReport: ...

    @abstractmethod
    def _look(self, item: Outgoing) -> Confirmation: ...


class _Adapter(HTTPAdapter):
    """Tells ``connections`` of each connection that is opened."""

    def __init__(self, connections: Connections) -> None:
        pools = (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool))
        self._pools = {scheme: _watched(pool, connections) for scheme, pool in pools}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _watched(pool: type[HTTPConnectionPool], connections: Connections) -> type[HTTPConnectionPool]:
    class Watched(pool.ConnectionCls):  # type: ignore[misc, name-defined]  # a class attribute of urllib3
        def connect(self) -> None:
            super().connect()
            connections.opened(self.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": Watched})


def status_of(error: requests.RequestException) -> int | None:
    """The HTTP status of a refused request, None when there was no answer."""
    return error.response.status_code if error.response is not None else None


def problem(error: requests.RequestException, connections: Connections) -> SendReport:
    """The report for any failure of ``requests``, without its text, which may quote the answer."""
    status = status_of(error)
    if isinstance(error, requests.HTTPError) and status is not None:
        return http_report(status)
    if connections.timed_out or isinstance(error, requests.ReadTimeout):
        return CUT_OFF
    if isinstance(error, requests.JSONDecodeError):
        return SendReport(SendStatus.RETRY, "", "the answer is not JSON: is the URL right?")
    return SendReport(SendStatus.UNREACHABLE, "", "no connection")


def unanswered(report: SendReport) -> Confirmation:
    """The answer to a question that failed as ``report`` says."""
    hung = report.status is SendStatus.HUNG
    return Confirmation(Presence.HUNG if hung else Presence.UNKNOWN, f"query: {report.text}")
