"""Syslog (RFC 5424) as PS3.15 A.6 and A.7 ask for it, over TLS (RFC 5425) or UDP (RFC 5426)."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from dicom_node.config.sections import AuditSettings
from dicom_node.scu.connections import Connections

LARGEST_DATAGRAM = 65_000
"""Bytes; IPv4 takes 65,507."""
_PRIORITY = 10 * 8 + 5  # facility security/authorization, severity notice


def frame(message: bytes, at: datetime, host: str) -> bytes:
    """A syslog message: its MSGID says what is in it; the text begins with a byte order mark."""
    head = f"<{_PRIORITY}>1 {at:%Y-%m-%dT%H:%M:%S.%fZ} {host} dicom-node {os.getpid()} DICOM+RFC3881 - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + message


def send(settings: AuditSettings, frames: Sequence[bytes]) -> None:
    """Send all of them, or raise OSError: then some may have arrived.

    Over TLS they count as sent when the server has read to the end of the connection.
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
            sender.sendto(one[:LARGEST_DATAGRAM], address)


def _send_stream(
    settings: AuditSettings, place: tuple[str, int], frames: Sequence[bytes], connections: Connections
) -> None:
    context = ssl.create_default_context(cafile=settings.authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        context.load_cert_chain(settings.certificate)
    with socket.create_connection(place, settings.seconds) as plain:
        connections.opened(plain)
        wrapped = context.wrap_socket(
            plain, server_hostname=place[0], do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        with wrapped:
            connections.opened(wrapped)
            wrapped.do_handshake()
            wrapped.sendall(b"".join(b"%d %s" % (len(one), one) for one in frames))
            _await_end(wrapped, settings.seconds)


def _await_end(connection: ssl.SSLSocket, seconds: float) -> None:
    """Say that no more comes (close_notify), and wait for the server's own, which RFC 5425 4.4 asks of it.

    Raises OSError where none comes: it went away with something unread, or refuses us after all, as by TLS
    1.3 a server may after the handshake that knows no certificate of ours.
    """
    connection.settimeout(0)
    try:
        # Nobody can have answered yet: what is there already is a refusal, which unwrap takes for an end.
        connection.unwrap()
    except ssl.SSLWantReadError:
        connection.settimeout(seconds)
    else:
        raise ConnectionError("refused after the handshake")
    with suppress(ssl.SSLZeroReturnError):
        while connection.recv(4096):
            pass
