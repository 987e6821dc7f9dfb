"""A mail server and a web server on ports of this machine that do what a test says, good or bad."""

import base64
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from werkzeug.wrappers import Request, Response

from tests.hostile.web import answering


@dataclass
class MailServer:
    """SMTP (RFC 5321) as far as a client needs it. ``answers``: other answers, by command."""

    answers: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    starttls: bool = False
    talks_without_end: bool = False
    seconds_between_bytes: float = 0.0
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["MailServer"]:
        """On a free port."""
        mail = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                # A client that goes away is no failure.
                with suppress(OSError, ValueError), ExitStack() as opened:
                    mail._talk(self.request, opened)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            yield self
            server.shutdown()

    def _talk(self, connection: socket.socket, opened: ExitStack) -> None:
        if self.tls and not self.starttls:
            connection = opened.enter_context(self.tls.wrap_socket(connection, server_side=True))
        file = connection.makefile("rwb")

        def say(text: str) -> None:
            data = text.replace("\n", "\r\n").encode() + b"\r\n"
            for piece in [data] if not self.seconds_between_bytes else [bytes([one]) for one in data]:
                time.sleep(self.seconds_between_bytes)
                file.write(piece)
                file.flush()

        say("220 mail.example.org")
        to: list[str] = []
        while line := file.readline(4096):
            command = line.split(b":")[0].split()[0].upper().decode()
            while self.talks_without_end:
                say("\n".join(["250-nothing to say " + "x" * 900] * 100))
            if command in self.answers:
                say(self.answers[command])
            elif command == "EHLO":
                offers = ["250-STARTTLS"] if self.starttls else ["250-AUTH PLAIN"]
                say("\n".join(["250-mail.example.org", *offers, "250 SIZE 1000000"]))
            elif command == "STARTTLS" and self.tls:
                say("220 go on")
                connection = opened.enter_context(self.tls.wrap_socket(connection, server_side=True))
                file = connection.makefile("rwb")
                self.starttls = False
            elif command == "AUTH":
                self.logins.append(base64.b64decode(line.split()[2]).decode())
                say("235 welcome")
            elif command == "DATA":
                say("354 go on")
                lines = []
                while (data := file.readline()) not in (b".\r\n", b""):
                    lines.append(data.removeprefix(b".") if data.startswith(b"..") else data)
                self.mails.append(message_from_bytes(b"".join(lines), policy=policy.default))
                self.recipients.append(to)
                to = []
                say("250 taken")
            elif command == "QUIT":
                say("221 bye")
                return
            else:
                if command == "RCPT":
                    to.append(line.split(b"<")[1].split(b">")[0].decode())
                say("250 ok")


@dataclass
class WebServer:
    """Takes POSTs. ``status``: what it answers; ``location``: where it leads to."""

    status: int = 200
    location: str = ""
    url: str = "http://127.0.0.1:1/hooks/KEY-IN-URL"
    """Of a hook whose address is its key."""
    calls: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["WebServer"]:
        """On a free port."""

        def answer(request: Request) -> Response:
            self.calls.append((dict(request.headers), json.loads(request.get_data())))
            return Response(status=self.status, headers={"Location": self.location} if self.location else {})

        with answering(answer) as (url, _):
            self.url = f"{url}/hooks/KEY-IN-URL"
            yield self
