"""HL7 messages for tests, and a sender that speaks MLLP, none of it by our own code."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

START, END = b"\x0b", b"\x1c\x0d"


def message(
    kind: str = "ADT^A40",
    patient: str = "NEW^^^HOSP",
    former: str = "OLD^^^HOSP",
    *,
    number: str = "1",
    name: str = "",
    born: str = "",
    sex: str = "",
    more: str = "",
    version: str = "2.5.1",
    charset: str = "",
) -> bytes:
    """A message, with MRG if ``former`` is given. ``more``: further segments, each with its end."""
    lines = [
        f"MSH|^~\\&|RIS|HOSP|AI|HOSP|20260301120000||{kind}|{number}|P|{version}||||||{charset}",
        "EVN||20260301120000",
        f"PID|1||{patient}||{name}||{born}|{sex}",
    ]
    if former and kind != "ADT^A08":
        lines.append(f"MRG|{former}")
    return ("".join(f"{line}\r" for line in lines) + more).encode("latin-1" if "8859" in charset else "utf-8")


def framed(data: bytes) -> bytes:
    return START + data + END


class Sender:
    """A connection to an HL7 listener."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._rest = b""

    def send(self, data: bytes) -> list[str]:
        """Send one message; returns MSA of its acknowledgement, field by field."""
        self.socket.sendall(framed(data))
        return self.answer()

    def answer(self) -> list[str]:
        """MSA of the next acknowledgement; [] if the connection ended."""
        while END not in self._rest:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return []
            if not data:
                return []
            self._rest += data
        block, _, self._rest = self._rest.partition(END)
        lines = block.removeprefix(START).decode().split("\r")
        return next(line.split("|") for line in lines if line.startswith("MSA"))


@contextmanager
def sender(port: int, host: str = "127.0.0.1", seconds: float = 20.0) -> Iterator[Sender]:
    with socket.create_connection((host, port), seconds) as connection:
        yield Sender(connection)


def hl7_config(port: int, more: str = "") -> str:
    """The table of the settings. ``more``: further keys of it."""
    return (
        f'[hl7]\nport = {port}\nsenders = {{ ris = ["127.0.0.1"] }}\nassigning_authority = "HOSP"\n{more}\n'
    )


def send_until_acknowledged(port: int, data: bytes, seconds: float = 300) -> None:
    """Send a message again and again until it is acknowledged, as an interface engine does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), sender(port) as ris:
            if ris.send(data)[1:2] == ["AA"]:
                return
        time.sleep(0.2)
    raise AssertionError("no acknowledgement")
