"""What every answer says to a browser, and how much and how long a browser may send."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 100
"""At the same time; further ones get 503."""
HEAD_SECONDS = 10.0
"""In which the head of a request must come whole."""
BODY_SECONDS = 30.0
"""In which the next piece of a request's body must come."""
FORM_BYTES = 64 * 1024
"""Of a request's body, where a page does not take more."""

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


def headers(*, tls: bool) -> Mapping[str, str]:
    """What every answer says to a browser; ``tls``: to come by TLS only, from now on."""
    return HEADERS | ({"Strict-Transport-Security": _ONE_YEAR} if tls else {})


class Guarded:
    """ASGI middleware: the headers on every answer, the limits on every request."""

    def __init__(self, app: ASGIApp, *, tls: bool, bodies: Mapping[str, int]) -> None:
        """``bodies``: bytes of a request's body by path, where a page takes more than FORM_BYTES."""
        self._app = app
        self._bodies = bodies
        self._headers = headers(tls=tls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] == "http":
            body = _LimitedBody(receive, self._bodies.get(scope["path"], FORM_BYTES))
            await self._app(scope, body.receive, partial(self._answer, send))

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
        """The next piece. Raises HTTPException for a body that is too large or does not come."""
        try:
            # After the body one waits for the browser to go away: as long as the answer takes.
            message = await asyncio.wait_for(self._receive(), None if self._ended else BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, "The rest of what was sent did not come.") from None
        self._ended = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, "That is larger than this page takes.")
        return message


class TimedProtocol(H11Protocol):
    """Closes a connection on which the head of a request does not come whole in HEAD_SECONDS."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A browser connected."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
