"""The console without a port: the real application on a real database, asked by a client in this process."""

import asyncio
import html
import re
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr
from starlette.routing import BaseRoute

from ai_pipeline.models.registry import SHIPPED
from dicom_console.app import create_app
from dicom_console.web.access import Site
from dicom_console.web.limits import TimedProtocol
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import EventRow
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import audit, users
from tests.inbox_lab import Inbox
from tests.rows import Stored
from tests.waiting import wait_until

PASSWORD = "correct horse battery"
OWN_MODEL = "chest-efficientnet-lite0/9.9"
"""A model of the site's own: the shipped one under another version."""


@cache
def quick_hasher() -> PasswordHasher:
    """Argon2 without its cost, which tests would pay a hundred times."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all requests: Starlette's client starts one in a thread of its own for each."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class _InProcess(httpx2.BaseTransport):
    """Asks an application, as from this address and port; what it raises is an answer of status 500."""

    def __init__(self, app: FastAPI, caller: tuple[str, int]) -> None:
        async def at_port_80(scope: Any, receive: Any, send: Any) -> None:
            host, port = scope["server"]
            await app({**scope, "server": (host, port or 80)}, receive, send)

        self._transport = httpx2.ASGITransport(at_port_80, raise_app_exceptions=False, client=caller)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return asyncio.run_coroutine_threadsafe(self._ask(request), _loop()).result()

    async def _ask(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._transport.handle_async_request(request)
        body = b"".join([part async for part in answer.stream])  # type: ignore[union-attr]
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=httpx2.ByteStream(body))


def client_of(
    app: FastAPI, url: str = "http://testserver", caller: str = "testclient", **headers: str
) -> httpx2.Client:
    """Asks the application at this URL."""
    return httpx2.Client(transport=_InProcess(app, (caller, 50000)), base_url=url, headers=headers)


@contextmanager
def serving(app: FastAPI) -> Iterator[tuple[uvicorn.Server, int]]:
    """The application at a real port, with the server that runs it."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=TimedProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_until(lambda: server.started, 60, "started")
    yield server, listening.getsockname()[1]
    server.should_exit = True
    thread.join(20)


class Browser:
    """A browser: keeps its cookies, sends what a page's form holds."""

    def __init__(self, app: FastAPI) -> None:
        self.client = client_of(app)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content = b""
        self._tokens: dict[str, str] = {}

    @property
    def text(self) -> str:
        """What was answered last."""
        return self.content.decode()

    def get(self, path: str) -> int:
        """The status of the answer."""
        return self._keep(self.client.get(path))

    def page(self, path: str) -> str:
        """The text of a page, which is there."""
        assert self.get(path) == 200, (path, self.status)
        return self.text

    def post(
        self, path: str, csrf: str | None = None, headers: Mapping[str, str] | None = None, **fields: str
    ) -> int:
        """Send a form with the token that its page had, and return the status."""
        token = self.token() if csrf is None else csrf
        return self._keep(self.client.post(path, data={"csrf": token, **fields}, headers=headers))

    def upload(self, *files: tuple[str, bytes], to: str = "/upload", **fields: str) -> int:
        """Send files, by the names that they have here, with the fields of the form."""
        sent = [("files", (name, data, "application/octet-stream")) for name, data in files]
        return self._keep(self.client.post(to, data={"csrf": self.token(), **fields}, files=sent))

    def follow(self) -> int:
        """Go where the last answer leads."""
        return self.get(self.headers["location"])

    def token(self) -> str:
        """The CSRF token of this browser's forms, asked for once by its cookies."""
        if (kept := self._tokens.get(self._cookies())) is None:
            self.get("/sign-in")
            kept = self._tokens[self._cookies()] = self.field("csrf")
        return kept

    def _cookies(self) -> str:
        return str(list(self.client.cookies.jar))

    def field(self, name: str) -> str:
        """The value of a field that the page holds."""
        found = re.search(rf'name="{re.escape(name)}" value="([^"]+)"', self.text)
        assert found, self.text
        return found[1]

    def fault(self, field: str) -> str:
        """What is said to be wrong beside a field."""
        found = re.search(rf'id="fault-{re.escape(field)}">([^<]*)<', self.text)
        return html.unescape(found[1]) if found else ""

    def sign_in(self, name: str, password: str = PASSWORD) -> int:
        """The status: 303 when it worked."""
        return self.post("/sign-in", name=name, password=password)

    def _keep(self, answer: object) -> int:
        self.status, self.headers, self.content = answer.status_code, answer.headers, answer.content  # type: ignore[attr-defined]
        return self.status


class ConsoleLab(Stored):
    """A console whose users bear the names of their roles (:func:`add_users`)."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.app = create_app(settings, database)
        self.cookie = Site(settings, database).cookie

    def browser(self, user: str | None = None) -> Browser:
        """A new one, signed in if a user is given."""
        browser = Browser(self.app)
        assert not user or browser.sign_in(user) == 303, browser.text
        return browser

    def at(self, path: str, role: UserRole) -> Browser:
        """A browser of a user of this role, with this page."""
        browser = self.browser(role)
        browser.get(path)
        return browser

    def audit_rows(self) -> list[dict[str, Any]]:
        """What the audit says, the newest first."""
        return list(map(dict, self.read(audit.rows)))

    def take(self, settings: Settings) -> None:
        """Go on with these settings."""
        self.settings = settings
        self.app.state.site = replace(self.app.state.site, settings=settings)

    def change(self, section: str, **values: object) -> None:
        """Go on with other values of a section of the settings."""
        changed = getattr(self.settings, section).model_copy(update=values)
        self.take(self.settings.model_copy(update={section: changed}))

    def audited(self, action: str) -> list[dict[str, object]]:
        """What the audit says of each act of this kind, the newest first."""
        return audited(self.database, action)


def console_of(node: Any) -> ConsoleLab:
    """The console on the database of a node without a network."""
    return ConsoleLab(node.settings, node.database)


class Program:
    """Asks with the token of a user."""

    def __init__(self, console: ConsoleLab, role: UserRole) -> None:
        self.token = users.add_token(console.settings, role.value, "a test", 1)
        self.client = console.browser().client

    def ask(self, method: str, path: str, **how: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.client.request(method, f"/api/v1{path}", headers=headers, **how)
        return answer.status_code, answer.json() if answer.content else None


def audited(database: Database, action: str) -> list[dict[str, object]]:
    """The fields of what was noted as this action, the newest first."""
    with database.read() as session:
        return [row["fields"] for row in audit.rows(session) if row["action"] == action]


def config_file(settings: Settings, further: str = "", *, port: int = 1) -> Path:
    """A configuration of this node for the command line, with a PACS at the port."""
    file = settings.node.data_dir / "node.toml"
    file.write_text(
        f'[node]\ndata_dir = "{settings.node.data_dir}"\n{further}[[peers]]\nname = "pacs"\n'
        f'ae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\nmay = ["receive"]\n',
        encoding="utf-8",
    )
    return file


def add_users(settings: Settings) -> None:
    """One of each role."""
    for role in UserRole:
        users.add_user(settings, role.value, role, PASSWORD)


def own_model(folder: Path) -> None:
    """Put the site's own model there."""
    name, version = OWN_MODEL.split("/")
    own = folder / name / version
    own.mkdir(parents=True)
    lines = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    kept = [f'version = "{version}"' if line.startswith("version = ") else line for line in lines]
    (own / "card.toml").write_text("\n".join(kept), encoding="utf-8")
    for part in SHIPPED.parent.joinpath("weights").glob(f"{name}*"):
        shutil.copy(part, own)


def routes(found: list[BaseRoute], prefix: str = "") -> Iterator[APIRoute]:
    """The endpoints of an application, those of its routers too."""
    for route in found:
        if isinstance(route, APIRoute):
            yield route
        else:
            inner = getattr(route, "original_router", None)
            assert inner is not None, f"{route} is no endpoint that this test knows"
            yield from routes(inner.routes)


def happened(inbox: Inbox, kind: events.EventType, minutes_ago: float, **fields: Any) -> None:
    """An event of so many minutes ago."""
    inbox.add(EventRow(at=utc_now() - timedelta(minutes=minutes_ago), number=kind.number, fields=fields))


def entered_in(inbox: Inbox) -> str:
    """The newest file of what was entered; "" without one."""
    return "".join(file.read_text() for file in sorted(inbox.folder.glob("entered/*.toml"))[-1:])


def numbers(console: ConsoleLab) -> tuple[int, str]:
    """Status and text of /metrics, asked for with the token."""
    console.change("console", metrics_token=SecretStr("t0ken"))
    answer = console.browser().client.get("/metrics", headers={"Authorization": "Bearer t0ken"})
    return answer.status_code, answer.text
