"""Events of a worklist manager by UPS-RS (PS3.18 11.10, 11.13): subscription, and a WebSocket (RFC 6455).

Only requests to cancel (Event Type ID 2, PS3.4 CC.2.4) are read, from messages in one frame of limited size.
"""

import base64
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import requests

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import Unavailable
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Connections, tls_context
from dicom_node.deliver.scu.http import CONNECT_SECONDS, FAULTY_ANSWER, BoundedSession

MAXIMUM_MESSAGE: Final = 2**16
CANCEL_REQUESTED: Final = 2
_MAXIMUM_HEAD = 2**14
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_MESSAGES_A_MINUTE = 600
_UID, _EVENT = "00001000", "00001002"
_WAIT_SECONDS = 1.0


class UpsEvents:
    """Client of the events of one worklist manager by UPS-RS: it subscribes to work items, and listens by
    WebSocket.

    For one thread; any thread may call ``close``.
    """

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        self._peer, self._seconds = peer, settings.outbox.answer_seconds
        local = not peer.entered or settings.console.local_peers
        self._connections = Connections(self._seconds, local=local)
        self._session = BoundedSession(self._connections)
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())
        self._title = quote(settings.node.ae_title.strip(), safe="")
        self._url = urlsplit(peer.url.rstrip("/"))

    def close(self) -> None:
        """Cut all calls under way; later calls fail too. Any thread may call it."""
        self._connections.close()

    def subscribe(self, uid: str) -> bool:
        """Subscribe to the events of the work item ``uid``; return whether the manager accepted it."""
        try:
            with self._connections.within(self._seconds):
                answer = self._session.post(
                    f"{self._url.geturl()}/workitems/{uid}/subscribers/{self._title}",
                    timeout=(CONNECT_SECONDS, self._seconds),
                )
            return answer.ok
        except requests.RequestException:
            return False

    def listen(self, goes_on: Callable[[], bool]) -> Iterator[str]:
        """Yield the UIDs of work items that somebody asks to cancel, until ``goes_on``, which is called about
        once a second, returns False.

        Raises Unavailable if the event channel cannot be opened, or ends.
        """
        try:
            with self._channel() as channel:
                began, messages = time.monotonic(), 0
                while goes_on():
                    message = channel.next_message()
                    messages += message is not None
                    if messages > _MESSAGES_A_MINUTE * (1 + (time.monotonic() - began) / 60):
                        raise Unavailable(f"{self._peer.name}: too many events")
                    if message and (uid := _uid_to_cancel(message)):
                        yield uid
        except (OSError, ValueError) as error:
            why = tls_refusal(error) or type(error).__name__
            raise Unavailable(f"{self._peer.name}: event channel: {why}") from None

    @contextmanager
    def _channel(self) -> "Iterator[_Channel]":
        """Context manager with an open WebSocket to the manager.

        Raises OSError or ValueError if it cannot be opened.
        """
        host, tls = self._url.hostname or "", self._url.scheme == "https"
        port = self._url.port or (443 if tls else 80)
        address = self._connections.address_of(host)
        with socket.create_connection((address, port), CONNECT_SECONDS) as plain:
            self._connections.opened(plain)
            context = tls_context(None, self._connections) if tls else None
            line = context.wrap_socket(plain, server_hostname=host) if context else plain
            with line:
                channel = _Channel(line)
                with self._connections.within(self._seconds):
                    channel.upgrade(self._handshake_headers(f"{host}:{port}" if self._url.port else host))
                yield channel

    def _handshake_headers(self, host: str) -> dict[str, str]:
        """Return the request line (under the key "") and the headers that open the WebSocket.

        ``host``: the value of Host.
        """
        headers = {"": f"GET {self._url.path}/subscribers/{self._title} HTTP/1.1", "Host": host}
        if self._peer.username:
            login = f"{self._peer.username}:{self._peer.password.get_secret_value()}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return headers


class _Channel:
    """The client's side of a WebSocket (RFC 6455), as far as events of work items need it."""

    def __init__(self, line: socket.socket) -> None:
        self._line, self._data = line, b""

    def upgrade(self, headers: dict[str, str]) -> None:
        """Change the connection to a WebSocket (RFC 6455 4.1).

        Raises OSError or ValueError if the server does not.
        """
        key = base64.b64encode(os.urandom(16))
        fixed = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        fixed |= {"Sec-WebSocket-Key": key.decode()}
        first, *rest = (f"{name}: {value}".removeprefix(": ") for name, value in (headers | fixed).items())
        self._line.sendall("\r\n".join([first, *rest, "", ""]).encode("latin-1"))
        while b"\r\n\r\n" not in self._data:
            self._receive_more()
            if len(self._data) > _MAXIMUM_HEAD:
                raise ValueError("endless headers")
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        if not head.startswith(b"HTTP/1.1 101") or accept not in head:
            raise ValueError("no WebSocket")

    def next_message(self) -> bytes | None:
        """Return the next text message; None if none came within a second.

        Raises OSError or ValueError when the connection ends.
        """
        self._line.settimeout(_WAIT_SECONDS)
        while (frame := self._frame()) is None:
            try:
                self._receive_more()
            except TimeoutError:
                return None
        kind, payload = frame
        if kind == _CLOSE:
            raise ValueError("closed")
        if kind == _PING:
            self._send(_PONG, payload)
        return payload if kind == _TEXT else None

    def _frame(self) -> tuple[int, bytes] | None:
        """Take the next whole frame from the received bytes; return (opcode, payload), or None if more bytes
        are needed.

        Raises ValueError for a frame of a kind that is not supported (RFC 6455 5.2).
        """
        if len(self._data) < 2:
            return None
        first, second = self._data[0], self._data[1]
        length, start = second & 0x7F, 2
        if not first & 0x80 or first & 0x70 or second & 0x80 or length == 127:
            raise ValueError("in several frames, masked, of an extension, or too long")
        if length == 126:
            if len(self._data) < 4:
                return None
            length, start = int.from_bytes(self._data[2:4], "big"), 4
        if len(self._data) < start + length:
            return None
        payload = self._data[start : start + length]
        self._data = self._data[start + length :]
        return first & 0x0F, payload

    def _send(self, kind: int, payload: bytes) -> None:
        """Send a frame with the opcode ``kind``, masked as RFC 6455 wants it from clients."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload[:125]))
        self._line.sendall(bytes([0x80 | kind, 0x80 | len(masked)]) + mask + masked)

    def _receive_more(self) -> None:
        """Receive more bytes. Raises ConnectionError if the server has ended the connection."""
        piece = self._line.recv(MAXIMUM_MESSAGE)
        if not piece:
            raise ConnectionError("ended")
        self._data += piece


def _uid_to_cancel(message: bytes) -> str:
    """Return the UID of the work item that an event message asks to cancel; "" for any other message."""
    try:
        given: Any = json.loads(message)
        given = given[0] if isinstance(given, list) else given
        kind, uid = given[_EVENT]["Value"][0], given[_UID]["Value"][0]
        return uid if kind == CANCEL_REQUESTED and isinstance(uid, str) and len(uid) <= 64 else ""
    except FAULTY_ANSWER:
        return ""
