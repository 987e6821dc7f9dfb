"""What stands before every request: token, limits in bytes, time and number, and counts of requests."""

import asyncio
import hmac
import logging
import time
from dataclasses import dataclass, field
from typing import Final, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ai_pipeline.serve.settings import ServeSettings

_LOGGER = logging.getLogger(__name__)
HEAD_SECONDS = 10.0
"""In which a TLS handshake must end, and the head of a request must come."""
CLOSE_SECONDS = 60.0
"""In which the last bytes of an answer, 1 MiB at most, must be taken."""
MOST_IDLE = 256
"""Connections without a request."""
_NO_TOKEN = "this needs a token: Authorization: Bearer …"
PATHS: Final = (
    "/clean",
    "/studies",
    "/deidentify-image",
    "/reporting",
    "/health",
    "/metrics",
    "/openapi.json",
)
"""What is served; other paths are counted and logged together, as they may hold anything."""
OPEN: Final = "/health"
"""The path that needs no token and is answered however much else is asked."""


class Metrics:
    """Counts for ``/metrics``; no label holds anything of a request but its path."""

    def __init__(self) -> None:
        """Begin at 0, in a registry of their own."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ai_pipeline_serve_requests", "Requests answered; status 0: the caller was gone.",
            ["path", "status"], registry=self.registry,
        )  # fmt: skip
        self.objects = Counter(
            "ai_pipeline_serve_objects", "Images by what came of them.", ["outcome"], registry=self.registry
        )
        self.seconds = Histogram(
            "ai_pipeline_serve_seconds", "Seconds from a request to the end of its answer.", ["path"],
            buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300), registry=self.registry,
        )  # fmt: skip
        self.begun = Gauge(
            "ai_pipeline_serve_requests_begun", "Requests begun and not answered.", registry=self.registry
        )


@dataclass
class Guard:
    """ASGI middleware that refuses what is beyond the settings, before anything of a body is read."""

    app: ASGIApp
    settings: ServeSettings
    metrics: Metrics
    begun: int = field(default=0)
    """Requests with a body that are not answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        began, status, due = time.perf_counter(), 0, 0.0

        async def answer(message: Message) -> None:
            """Send a part of the answer, which must be taken as a whole in time."""
            nonlocal status, due
            if message["type"] == "http.response.start":
                status = message["status"]
                due = asyncio.get_running_loop().time() + self.settings.seconds
            async with asyncio.timeout_at(due):
                await send(message)

        self.begun += 1
        self.metrics.begun.set(self.begun)
        try:
            if refusal := self._refusal(scope):
                await refusal(scope, receive, answer)
            else:
                await self.app(scope, self._limited(receive), answer)
        except Exception as error:  # noqa: BLE001  (a defect, whose text may quote anything)
            _LOGGER.error("%s failed: %s", path, type(error).__name__)
            if not status:
                await JSONResponse({"detail": "Internal server error."}, 500)(scope, receive, answer)
        finally:
            self.begun -= 1
            self.metrics.begun.set(self.begun)
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            _LOGGER.info("%s: status %d after %.2f s", path, status, seconds)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that is not let in; None for one that is."""
        if scope["path"] == OPEN:
            return None
        headers = dict(scope["headers"])
        if not self._has_token(headers.get(b"authorization", b"")):
            return JSONResponse({"detail": _NO_TOKEN}, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self.settings.body_mib << 20:
            return JSONResponse({"detail": self._too_large}, 413)
        if self.begun > self.settings.requests:
            text = f"{self.settings.requests} requests are under way: try again when one is answered"
            return JSONResponse({"detail": text}, 429, {"Retry-After": "5"})
        return None

    def _has_token(self, given: bytes) -> bool:
        """Whether the header Authorization bears our token, if there is one."""
        if self.settings.token is None:
            return True
        scheme, _, token = given.partition(b" ")
        wanted = self.settings.token.get_secret_value().encode()
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), wanted)

    @property
    def _too_large(self) -> str:
        """Why a body is refused."""
        return f"the body is larger than {self.settings.body_mib} MiB"

    def _limited(self, receive: Receive) -> Receive:
        """Return a replacement of ASGI's ``receive`` that allows a body its bytes and seconds. It raises
        HTTPException for one with more.
        """
        left, ended = self.settings.body_mib << 20, False
        due = asyncio.get_running_loop().time() + self.settings.seconds

        async def limited() -> Message:
            """Return the next part of the body."""
            nonlocal left, ended
            try:
                async with asyncio.timeout_at(None if ended else due):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come in {self.settings.seconds:g} s") from None
            ended = not message.get("more_body", False)
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, self._too_large)
            return message

        return limited


class TimedProtocol(H11Protocol):
    """An HTTP connection (uvicorn's H11Protocol) that does not last without end.

    It is cut if no whole head of a request comes in time, if its last bytes are not taken, and, while it has
    no request, if it is the oldest of more than MOST_IDLE.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, and the time for its request."""
        super().connection_made(transport)
        self._began, self._was_closing = self.loop.time(), False
        self._timer = self.loop.call_later(HEAD_SECONDS, self._cut_if_late)
        protocols = cast("set[TimedProtocol]", self.connections)
        idle = [other for other in protocols if other.cycle is None and not other.transport.is_closing()]
        if len(idle) > MOST_IDLE:  # who comes with a request is served, however many come without
            min(idle, key=lambda other: other._began).transport.abort()

    def _cut_if_late(self) -> None:
        """Cut the connection if it has no request, or was closing when it was last looked at."""
        if self.cycle is None or self._was_closing:
            self.transport.abort()
            return
        self._was_closing = self.transport.is_closing()
        self._timer = self.loop.call_later(CLOSE_SECONDS, self._cut_if_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection and its timer."""
        self._timer.cancel()
        super().connection_lost(exc)
