"""What every answer says to a browser, and how much and how long a browser may send."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

COMING = 100
"""Requests that are still on their way, and connections without one; see TimedProtocol."""
COMING_FROM_ONE_ADDRESS = 20
"""The same of one address. A browser opens six connections; a proxy has the address of all its users."""
REQUESTS = 500
"""That are begun and not answered; further ones get 503, but for those of HEALTH."""
HEALTH = frozenset({"/healthz", "/readyz"})
"""Paths that are answered however much else is asked."""
WATCHED = HEALTH | {"/metrics"}
"""Paths for programs that watch the node: errors are text there, no pages."""
HEAD_SECONDS = 10.0
"""In which the head of a request must come whole."""
BODY_SECONDS = 30.0
"""In which the next piece of a request's body must come, and a body of no bytes whole."""
BODY_BYTES_PER_SECOND = 8192
"""A body may take a second more for each so many of its bytes: a form 38 s at most."""
YOUNG_SECONDS = 2.0
"""So long a connection keeps its place, one that is quick never loses it; while there are four times as many
connections as places at most."""
_CROWD = 4
FORM_BYTES = 64 * 1024
"""Largest body of a request, where a page does not take more."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_ONE_YEAR = "max-age=31536000"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def headers(*, tls: bool) -> Mapping[str, str]:
    """What every answer says to a browser; ``tls``: to come by TLS only, from now on."""
    return HEADERS | ({"Strict-Transport-Security": _ONE_YEAR} if tls else {})


def port_of(scope: Scope) -> int | None:
    """The port of ours that a request came to, whatever its Host header says."""
    _, port = scope.get("server") or ("", None)
    return int(port) if port else None


class Guarded:
    """ASGI middleware: the headers on every answer, the limits on every request."""

    def __init__(
        self, app: ASGIApp, *, tls: bool, bodies: Mapping[str, int], metrics_port: int | None
    ) -> None:
        """``bodies``: bytes of a request's body by path, where a page takes more than FORM_BYTES.
        ``metrics_port``: the port that answers what is WATCHED and nothing else.
        """
        self._app = app
        self._bodies = bodies
        self._metrics_port = metrics_port
        self._headers = headers(tls=tls)
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            return
        answer = partial(self._answer, send)
        if self._metrics_port and port_of(scope) == self._metrics_port and scope["path"] not in WATCHED:
            await PlainTextResponse("There is no such page at this port.\n", 404)(scope, receive, answer)
            return
        if self._requests >= REQUESTS and scope["path"] not in HEALTH:
            await PlainTextResponse("Too much is asked at once: try again.\n", 503)(scope, receive, answer)
            return
        body = _LimitedBody(receive, self._bodies.get(scope["path"], FORM_BYTES))
        self._requests += 1
        try:
            await self._app(scope, body.receive, answer)
        finally:
            self._requests -= 1

    async def _answer(self, send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(self._headers)
        await send(message)


class _LimitedBody:
    """A request's body as it comes."""

    def __init__(self, receive: Receive, largest: int) -> None:
        self._receive = receive
        self._left = largest
        self._ended = False

    async def receive(self) -> Message:
        """The next piece. Raises HTTPException for a body that is too large or whose sender is gone."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._ended:
            raise HTTPException(408, "The rest of the request did not arrive.")
        self._ended = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, "That is larger than this page takes.")
        return message


class TimedProtocol(H11Protocol):
    """Gives each request a time by which it must have come, and ends the connection then.

    When all places are taken, each newcomer displaces the connection that has been silent longest, never one
    that has just connected.
    """

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0  # when the connection began to wait for a request
    _credited = 0.0  # up to when what came is enough at BODY_BYTES_PER_SECOND
    _cycle: object = None  # whose body is counted
    _cycle_began = 0.0
    _bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A browser connected."""
        super().connection_made(transport)
        self._set_due()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._set_due(len(data))

    def on_response_complete(self) -> None:
        """A request is answered, and the next one may come."""
        self._stop_timer()
        super().on_response_complete()
        self._set_due()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._stop_timer()
        super().connection_lost(exc)

    def _set_due(self, size: int = 0) -> None:
        """``size``: bytes that came."""
        cycle, now = self.cycle, self.loop.time()
        if self.transport.is_closing():
            self._stop_timer()
        elif cycle is None or cycle.response_complete:
            if self._timer is None:
                self._end_after(now, HEAD_SECONDS)
        elif not cycle.more_body:
            self._stop_timer()
        else:
            if cycle is not self._cycle:
                self._cycle, self._cycle_began, self._bytes = cycle, now, 0
            self._bytes += size
            earned = self._cycle_began + self._bytes / BODY_BYTES_PER_SECOND
            self._end_after(min(now, earned), BODY_SECONDS)

    def _end_after(self, credited: float, seconds: float) -> None:
        if self._timer is None:
            self._since = self.loop.time()
        self._stop_timer()
        self._credited = credited
        self._timer = self.loop.call_at(credited + seconds, self._end)

    def _end(self) -> None:
        if self.flow.read_paused:  # what came is not read yet: the delay is ours
            self._end_after(self.loop.time(), BODY_SECONDS)
        else:
            self._cut()

    def _cut(self) -> None:
        self._stop_timer()
        if self.cycle is not None and not self.cycle.response_started:
            self.transport.write(_TOO_SLOW)
            self.cycle.disconnected = True  # the page that reads the body ends at once
            self.cycle.message_event.set()
        self.transport.close()

    def _make_room(self) -> None:
        """End the slowest, where too many are coming."""
        young = self.loop.time() - YOUNG_SECONDS
        coming = [one for one in self.connections if isinstance(one, TimedProtocol) and one._timer]
        coming.sort(key=lambda one: one._credited)
        mine = [one for one in coming if one._address == self._address]
        for crowd, most in ((mine, COMING_FROM_ONE_ADDRESS), (coming, COMING)):
            for place, one in enumerate(crowd[: max(0, len(crowd) - most)]):
                if one._since < young or place < len(crowd) - _CROWD * most:
                    one._cut()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
