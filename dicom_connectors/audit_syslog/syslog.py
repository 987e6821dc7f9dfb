"""Syslog (RFC 5424) as PS3.15 A.6 and A.7 require it, over TLS (RFC 5425) or UDP (RFC 5426)."""

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from dicom_connectors.audit_syslog.settings import AuditSettings
from dicom_node.deliver.scu import Connections

_T = TypeVar("_T")
LARGEST_DATAGRAM = 65_000
"""Bytes; IPv4 takes 65,507. A longer message is not sent by UDP: cut short, no parser would read it."""
_PRIORITY = 10 * 8 + 5  # facility security/authorization, severity notice


def frame(message: bytes, at: datetime, host: str) -> bytes:
    """A syslog message with a MSGID for its content; the text begins with a byte order mark."""
    head = f"<{_PRIORITY}>1 {at:%Y-%m-%dT%H:%M:%S.%fZ} {host} dicom-node {os.getpid()} DICOM+RFC3881 - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + message


def send(settings: AuditSettings, frames: Sequence[bytes]) -> None:
    """Send all frames. Raises OSError; some frames may have arrived then.

    Over TLS the frames count as sent when the server has read up to the end of the connection.
    """
    host, _, port = settings.syslog.rpartition(":")
    place = host.strip("[]"), int(port)
    if settings.transport == "udp":
        _send_datagrams(place, frames)
        return
    connections = Connections(settings.seconds)
    with connections.within(settings.seconds):
        _send_stream(settings, place, frames, connections)
    if connections.timed_out:
        raise TimeoutError("cut off")


def _send_datagrams(place: tuple[str, int], frames: Sequence[bytes]) -> None:
    family, kind, _, _, address = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sender:
        for one in frames:
            sender.sendto(one, address)


def _send_stream(
    settings: AuditSettings, place: tuple[str, int], frames: Sequence[bytes], connections: Connections
) -> None:
    context = ssl.create_default_context(cafile=settings.authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        context.load_cert_chain(settings.certificate)
    with socket.create_connection(place, settings.seconds) as connection:
        connections.opened(connection)
        tls = _Tls(context, connection, place[0])
        tls.send(b"".join(b"%d %s" % (len(one), one) for one in frames))
        tls.end()


class _Tls:
    """TLS whose bytes we move ourselves: an ``SSLSocket`` that ends takes a refusal for the server's own end.

    Every method raises OSError.
    """

    def __init__(self, context: ssl.SSLContext, connection: socket.socket, host: str) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._finish(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
            self._connection.sendall(self._outgoing.read())

    def end(self) -> None:
        """Send close_notify, and wait for the server's, which RFC 5425 4.4 requires.

        A server that ends the connection without it (rsyslog does) has read to the end, too. Raises OSError
        where the server left data unread, or where it refuses our certificate only now: in TLS 1.3 it may do
        so after the handshake.
        """
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()  # nothing is read here: what the server says about the messages is read below
        self._connection.sendall(self._outgoing.read())
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while self._finish(lambda: self._tls.read(4096)):
                pass

    def _finish(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._connection.sendall(self._outgoing.read())
                if data := self._connection.recv(16384):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._connection.sendall(self._outgoing.read())
                return result
