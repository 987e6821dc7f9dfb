"""The service at a port, with cleaning that a test scripts."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any

import requests
from uvicorn import Server

from ai_pipeline.serve.server import server_of
from ai_pipeline.serve.settings import ServeSettings
from ai_pipeline.serve.tasks import Answer, Outcome, Task
from tests.ports import free_port
from tests.waiting import wait_until

CLEANED, UNCLEANED = b"cleaned", b"KOWALSKA MARIA"
"""What is handed back, and what never may be."""
DICOM = {"Content-Type": "application/dicom"}


@dataclass
class Scripted:
    """Answers each task with the next of ``answers``, the last one again and again; it writes a picture for
    every outcome, as a process that fails half-way may have.
    """

    answers: list[Answer] = field(
        default_factory=lambda: [Answer(Outcome.CLEANED, media_type="application/dicom")]
    )
    before: Callable[[], object] = lambda: None
    tasks: list[Task] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    cleaned: bytes = CLEANED
    late: int = 0
    """Tasks of callers that had stopped to wait."""

    def answer(self, task: Task, source: int, target: int, waits: Callable[[], bool]) -> Answer:
        if not waits():
            self.late += 1
            return Answer(Outcome.LATE, "nobody waits")
        self.tasks.append(task)
        self.received.append(os.pread(source, 2**20, 0))
        self.before()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        os.write(target, self.cleaned if answer.outcome is Outcome.CLEANED else UNCLEANED)
        return answer


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    port: int
    cleaning: Scripted
    server: Server

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def post(self, path: str, body: bytes = b"x", **headers: str) -> requests.Response:
        return requests.post(self.url + path, data=body, headers=DICOM | headers, timeout=60)

    def form(self, path: str, fields: dict[str, str], **headers: str) -> requests.Response:
        image = {"image": ("image.raw", b"pixels", "application/octet-stream")}
        return requests.post(self.url + path, data=fields, files=image, headers=headers, timeout=60)


@contextmanager
def served(
    *answers: Answer,
    before: Callable[[], object] = lambda: None,
    cleaning: Scripted | None = None,
    **settings: Any,
) -> Iterator[Service]:
    """The service with these settings in a thread of this process."""
    cleaning = cleaning or Scripted(list(answers), before)
    port = settings.setdefault("port", free_port())
    server = server_of(ServeSettings(**settings), cleaning)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), 60, "the service listens")
    scheme = "https" if "certificate" in settings else "http"
    try:
        yield Service(f"{scheme}://127.0.0.1:{port}", port, cleaning, server)
    finally:
        server.should_exit = True
        thread.join(30)


def parts_of(answer: requests.Response) -> list[Message]:
    """The parts of a multipart answer."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.content)
    assert message.is_multipart()
    return message.get_payload()  # type: ignore[return-value]


def content_of(part: Message) -> bytes:
    """The bytes of a part."""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content
