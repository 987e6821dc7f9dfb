"""Notices of changes for open pages; liveness, readiness and metrics for programs.

A page loads itself again on a server-sent event. All open streams share one database query per second;
without an open stream there is no query.
"""

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import HTTPException, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.concurrency import run_in_threadpool

from dicom_console.views import changes, metrics
from dicom_console.web.access import ANYONE, needs
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces
from dicom_console.web.limits import port_of
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.database import Database

faces = Faces()

STREAMS, STREAMS_OF_A_SESSION = 40, 6
"""Open at the same time: together, and of one browser. Others see pages that stand still."""
POLL_SECONDS = 1.0
CHECK_SECONDS = 10.0
"""How often it is asked whether the session still lasts; each time the connection is tried, too."""
_THREADS = CapacityLimiter(2)  # of /readyz


class Live:
    """The open streams of server-sent events, counted by session, and the mark of the newest change, which
    they share.
    """

    def __init__(self) -> None:
        self.stops_when: Callable[[], bool] = lambda: False  # streams do not end by themselves
        self._open: Counter[str] = Counter()
        self._mark, self._asked_at = "", 0.0
        self._asking = asyncio.Lock()

    def has_place(self, token: str) -> bool:
        """Return whether one more stream may be opened, by the limits of the console and of the session
        ``token``.
        """
        return self._open.total() < STREAMS and self._open[token] < STREAMS_OF_A_SESSION

    @contextmanager
    def place(self, token: str) -> Iterator[None]:
        """Context manager that counts one open stream of the session ``token``."""
        self._open[token] += 1
        try:
            yield
        finally:
            self._open[token] -= 1
            self._open += Counter()  # forgets those without a stream

    async def mark(self, database: Database) -> str:
        """Return a text that changes with each change of the database, at most a second old."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= POLL_SECONDS:
                self._asked_at = time.monotonic()
                self._mark = await run_in_threadpool(changes.change_mark, database)
        return self._mark


@faces.page("GET", "/live", UserRole.VIEWER, counts=False)
async def live(request: CurrentRequest) -> Response:
    """Answer with a stream of server-sent events, one for each change.

    The event "away" says that the database does not answer, "ended" that the session is over.
    """
    streams: Live = request.http.app.state.live
    if not streams.has_place(request.token):
        raise HTTPException(503, "Too many pages are open: this one does not update by itself.")
    return StreamingResponse(
        _messages(request, streams), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _messages(request: ConsoleRequest, streams: Live) -> AsyncIterator[str]:
    """Yield the messages of one stream until the session or the console ends."""
    shown, checked_at = "", time.monotonic()
    database, idle = request.site.database, request.settings.console.idle_minutes
    with streams.place(request.token):
        yield "retry: 5000\n\n"
        while not streams.stops_when():
            mark = await streams.mark(database)
            if mark != shown:
                shown = mark
                yield "event: away\ndata:\n\n" if mark == changes.AWAY else f"data: {mark}\n\n"
            if time.monotonic() - checked_at >= CHECK_SECONDS:
                checked_at = time.monotonic()
                if not await run_in_threadpool(changes.session_lasts, database, request.token, idle):
                    yield "event: ended\ndata:\n\n"
                    return
                yield ":\n\n"
            await asyncio.sleep(POLL_SECONDS)


@faces.people.api_route("/healthz", methods=["GET", "HEAD"])
@needs(ANYONE)
async def healthz(request: CurrentRequest) -> Response:
    """Answer 200 while the console's process runs.

    The header X-Console identifies this process, so that a page notices when another has taken its place.
    """
    return PlainTextResponse("ok\n", headers={"X-Console": request.site.mark})


@faces.people.api_route("/readyz", methods=["GET", "HEAD"])
@needs(ANYONE)
async def readyz(request: CurrentRequest) -> Response:
    """Answer 200 if the node accepts objects, else 503 with the reason.

    It has threads of its own, which no page can occupy.
    """
    why = await run_sync(request.read, metrics.not_ready, request.settings, limiter=_THREADS)
    return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)


@faces.page("GET", "/metrics", ANYONE)
def numbers(request: CurrentRequest) -> Response:
    """Return all metrics in Prometheus' text format, to callers with the token or at the metrics port."""
    console, given = request.settings.console, request.http.headers.get("authorization", "")
    token = console.metrics_token.get_secret_value()
    has_token = bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    if not has_token and port_of(request.http.scope) != console.metrics_port:
        raise HTTPException(403, "This needs console.metrics_token, or is asked for at console.metrics_port.")
    durations: metrics.Durations = request.http.app.state.durations
    families: dict[str, GaugeMetricFamily] = {}
    with request.site.database.read() as session:
        for one in metrics.gauges(session, request.settings):
            labels = [name for name, _ in one.labels]
            family = GaugeMetricFamily(f"dicom_node_{one.name}", one.help, labels=labels)
            families.setdefault(one.name, family).add_metric([value for _, value in one.labels], one.value)
        durations.add_new(session)
    shown = generate_latest(SimpleNamespace(collect=families.values)) + generate_latest(durations.registry)
    return Response(shown, media_type=CONTENT_TYPE_PLAIN_0_0_4)
