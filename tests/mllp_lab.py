"""A receiver of HL7 v2 over MLLP that is not ours: the asyncio server and the parser of python-hl7."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server

from dicom_node.base.config.settings import PeerSettings
from tests.ports import free_port

LOSE, WRONG_MESSAGE, SILENT = "lose", "wrong message", "silent"


@dataclass
class Receiver:
    """Stores what it parsed. ``answer``: an acknowledgement code, bytes, or LOSE, WRONG_MESSAGE, SILENT, by
    the message and how often its MSH-10 has come.
    """

    port: int = field(default_factory=free_port)
    answer: Callable[[hl7.Message, int], str | bytes] = lambda message, times: "AA"
    received: list[hl7.Message] = field(default_factory=list)
    connections: int = 0

    def peer(self, **settings: object) -> PeerSettings:
        """The receiver as a peer."""
        known = {"name": "ris", "ae_title": "RIS", "host": "127.0.0.1", "port": self.port}
        return PeerSettings.model_validate({**known, "may": ("receive",), "transport": "hl7", **settings})

    def numbers(self) -> list[str]:
        """MSH-10 of each message that came."""
        return [str(message["MSH"][0][10]) for message in self.received]

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        """Take the messages of one connection."""
        self.connections += 1
        try:
            while True:
                message = await reader.readmessage()
                self.received.append(message)
                times = self.numbers().count(str(message["MSH"][0][10]))
                answer = await asyncio.to_thread(self.answer, message, times)
                if answer == LOSE:
                    return
                if answer == SILENT:
                    await asyncio.sleep(3600)
                elif isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                    return
                else:
                    reply = message.create_ack("AA" if answer == WRONG_MESSAGE else answer)
                    if answer == WRONG_MESSAGE:
                        reply["MSA"][0][2] = "ANOTHER"
                    writer.writemessage(reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@contextmanager
def run_receiver(receiver: Receiver, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """The receiver, while the scope lasts."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await start_hl7_server(
            receiver.serve, "127.0.0.1", receiver.port, limit=2**20, encoding="utf-8", ssl=tls
        )
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()
        await asyncio.sleep(0.2)  # a connection that has just come is served, and so closed with the others

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop, stop = started.result(10)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
