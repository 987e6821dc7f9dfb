"""Headers of every answer, and limits on the size and duration of requests."""

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import ClassVar

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

Network = IPv4Network | IPv6Network

COMING = 100
"""Requests that are still on their way, connections without one, and answers that nobody takes; see
TimedProtocol."""
COMING_FROM_ONE_ADDRESS = 20
"""The same of one address. A browser opens six connections; a proxy that is not trusted has the address of
all its users."""
REQUESTS = 500
"""That are begun and not answered; further ones get 503, but for those of HEALTH."""
REQUESTS_FROM_ONE_ADDRESS = REQUESTS // 2
"""The same of one address, so that others are answered beside it."""
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
ANSWER_SECONDS = 30.0
"""In which the next piece of an answer must be taken, once more of it waits than a connection holds."""
UNSENT_BYTES = 128 * 1024
"""That the system keeps of answers for a connection. By itself Linux keeps up to 4 MB for one that reads
nothing, and tells of what was read only after a third of that."""
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
_WITH_PORT = re.compile(r"^(?:([\d.]+):\d+|\[([^]]*)\](?::\d+)?)$")
_ONE_YEAR = "max-age=31536000"
_AT_ONCE = struct.pack("ii", 1, 0)  # what the system keeps of the answer is dropped, too (man 7 socket)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def headers(*, tls: bool) -> Mapping[str, str]:
    """Return the security headers of every response.

    ``tls``: with the one that makes browsers use TLS only.
    """
    return HEADERS | ({"Strict-Transport-Security": _ONE_YEAR} if tls else {})


def port_of(scope: Scope) -> int | None:
    """Return the local port at which a request arrived, whatever its Host header says; None if unknown."""
    _, port = scope.get("server") or ("", None)
    return int(port) if port else None


def address_of(scope: Scope, trusted: Sequence[Network]) -> str:
    """Return the network address of the client of a request.

    Proxies in ``trusted`` append their client's address to X-Forwarded-For, so the client is the last entry
    there that is no such proxy; entries before it may be invented.
    """
    host, _ = scope.get("client") or ("", None)
    address = str(host)
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    passed = [_WITH_PORT.sub(r"\1\2", one.strip()) for one in ",".join(given).split(",")]
    while passed and is_in(trusted, address) and _ip(passed[-1]):
        address = passed.pop()
    return str(_ip(address) or address)


def is_in(networks: Sequence[Network], address: str) -> bool:
    """Return whether the address lies in one of the networks."""
    ip = _ip(address)
    return ip is not None and any(ip in network for network in networks)


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text states (IPv4 if it is one written as IPv6); None if it
    states none.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


@dataclass
class Guarded:
    """ASGI middleware that adds the security headers to every response, and limits number and size of
    requests.

    ``bodies``: largest request body in bytes by path, where it is more than FORM_BYTES (a path that ends with
    / is for all below it); ``metrics_port``: a port that serves only the paths in WATCHED, None for none;
    ``proxies``: networks of trusted proxies.
    """

    app: ASGIApp
    tls: bool
    bodies: Mapping[str, int]
    metrics_port: int | None
    proxies: Sequence[Network] = ()
    requests: Counter[str] = field(default_factory=Counter)
    """Begun and not answered, by address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it if a limit is reached."""
        if scope["type"] != "http":
            return

        async def answer(message: Message) -> None:
            """Add the security headers to the response, and send it on."""
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers(tls=self.tls))
            await send(message)

        if self.metrics_port and port_of(scope) == self.metrics_port and scope["path"] not in WATCHED:
            await PlainTextResponse("There is no such page at this port.\n", 404)(scope, receive, answer)
            return
        address = address_of(scope, self.proxies)
        scope["client"] = (address, 0)
        count = self.requests
        is_busy = count[address] >= REQUESTS_FROM_ONE_ADDRESS or count.total() >= REQUESTS
        if is_busy and scope["path"] not in HEALTH:
            await PlainTextResponse("Too much is asked at once: try again.\n", 503)(scope, receive, answer)
            return
        folder = scope["path"][: scope["path"].rfind("/") + 1]
        largest = self.bodies.get(scope["path"]) or self.bodies.get(folder, FORM_BYTES)
        count[address] += 1
        try:
            # Of what has no body nothing is read: that its sender left is no fault of the answer.
            has_body = scope["method"] not in ("GET", "HEAD")
            await self.app(scope, _limited(receive, largest) if has_body else receive, answer)
        finally:
            count[address] -= 1
            if not count[address]:
                del count[address]


def _limited(receive: Receive, left: int) -> Receive:
    """Return a replacement of ASGI's ``receive`` that allows ``left`` more bytes of the request's body.

    It raises HTTPException if the body is larger, or the client is gone before its end.
    """
    ended = False

    async def limited() -> Message:
        """Return the next part of the request's body, after counting its bytes."""
        nonlocal ended, left
        message = await receive()
        if message["type"] == "http.disconnect" and not ended:
            raise HTTPException(408, "The rest of the request did not arrive.")
        ended = not message.get("more_body", False)
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, "That is larger than this page takes.")
        return message

    return limited


class TimedProtocol(H11Protocol):
    """HTTP connection (uvicorn's H11Protocol) with time limits for the arrival of requests and the reading of
    responses.

    If too many connections wait at once, the slowest is cut, unless it is very young.
    """

    proxies: ClassVar[Sequence[Network]] = ()
    """Each has the connections of many visitors: they are counted among all, not by its address."""
    _timer: asyncio.TimerHandle | None = None
    _since = 0.0  # when the connection began to wait for a request
    _credited = 0.0  # up to when what came is enough at BODY_BYTES_PER_SECOND
    _cycle: object = None  # whose body is counted
    _cycle_began = 0.0
    _bytes = 0
    _unsent = 0  # bytes of an answer that waited when the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, and the time for its first request."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._set_due()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Process bytes of a request; the more arrive, the more time the request gets."""
        super().data_received(data)
        self._set_due(len(data))

    def on_response_complete(self) -> None:
        """Finish a response, and begin the time for the next request."""
        self._stop_timer()
        super().on_response_complete()
        self._set_due()

    def pause_writing(self) -> None:
        """Begin the time for the client to read the response, since the send buffer is full."""
        super().pause_writing()
        self._set_due()
        self._make_room()

    def resume_writing(self) -> None:
        """End the time for the client to read the response, since it has read a part."""
        super().resume_writing()
        if not self._is_incomplete:
            self._stop_timer()
        self._set_due()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection and its timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _set_due(self, size: int = 0) -> None:
        """Set the timer to the limit for what the connection waits for now, or stop it if it waits for
        nothing. ``size``: number of bytes just received.
        """
        cycle, now = self.cycle, self.loop.time()
        if self._waits_for_reader:
            if self._timer is None:
                self._end_after(now, ANSWER_SECONDS)
        elif self.transport.is_closing():
            self._stop_timer()
        elif cycle is None or cycle.response_complete:
            if self._timer is None:
                self._end_after(now, HEAD_SECONDS)
        elif not self._is_incomplete:
            self._stop_timer()
        else:
            if cycle is not self._cycle:
                self._cycle, self._cycle_began, self._bytes = cycle, now, 0
            self._bytes += size
            earned = self._cycle_began + self._bytes / BODY_BYTES_PER_SECOND
            self._end_after(min(now, earned), BODY_SECONDS)

    def _end_after(self, credited: float, seconds: float) -> None:
        """Set the timer to ``seconds`` after ``credited``, a time of the event loop's clock that moves on
        while the client sends.
        """
        if self._timer is None:
            self._since = self.loop.time()
        self._stop_timer()
        self._credited = credited
        self._unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_at(credited + seconds, self._end)

    @property
    def _waits_for_reader(self) -> bool:
        """Whether the connection waits for the client to read the response."""
        if self.transport.is_closing():
            return bool(self.transport.get_write_buffer_size())
        return self.flow.write_paused and not self._is_incomplete

    @property
    def _has_read_enough(self) -> bool:
        """Whether the client has read enough of the response since the timer was set."""
        taken = self._unsent - self.transport.get_write_buffer_size()
        return taken >= ANSWER_SECONDS * BODY_BYTES_PER_SECOND

    @property
    def _is_incomplete(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete

    def _end(self) -> None:
        """Called by the timer: cut the connection, or set the timer again if the client was quick enough."""
        if self.flow.read_paused and not self._waits_for_reader:  # what came is not read yet
            self._end_after(self.loop.time(), BODY_SECONDS)
        elif self._waits_for_reader and self._has_read_enough:
            self._end_after(self.loop.time(), ANSWER_SECONDS)
        else:
            self._cut()

    def _cut(self) -> None:
        """Cut the connection; a request that has no response yet gets status 408 first."""
        self._stop_timer()
        if self.cycle is not None and not self.cycle.response_started:
            self.transport.write(_TOO_SLOW)
            self.cycle.disconnected = True  # the page that reads the body ends at once
            self.cycle.message_event.set()
        if self.transport.get_write_buffer_size():  # nobody takes it: to close would wait for that
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()
        self.transport.close()

    def _make_room(self) -> None:
        """Cut the slowest connections if more than allowed wait, in all or of this client's address."""
        young = self.loop.time() - YOUNG_SECONDS
        coming = [one for one in self.connections if isinstance(one, TimedProtocol) and one._timer]
        coming.sort(key=lambda one: one._credited)
        is_proxy = is_in(self.proxies, self._address)
        mine = [] if is_proxy else [one for one in coming if one._address == self._address]
        for crowd, most in ((mine, COMING_FROM_ONE_ADDRESS), (coming, COMING)):
            for place, one in enumerate(crowd[: max(0, len(crowd) - most)]):
                if one._since < young or place < len(crowd) - _CROWD * most:
                    one._cut()

    @property
    def _address(self) -> str:
        """Network address of the client; "" if unknown."""
        return self.client[0] if self.client else ""

    def _stop_timer(self) -> None:
        """Cancel the timer, if it is set."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
