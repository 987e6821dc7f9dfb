"""The console without a port: the real application on a real database, asked by a client in this process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from dicom_console.app import create_app
from dicom_console.web.access import Site
from dicom_node.config.settings import Settings
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.store.database import Database

PASSWORD = "correct horse battery"


@cache
def quick_hasher() -> PasswordHasher:
    """Argon2 without its cost, which tests would pay a hundred times."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Browser:
    """A browser: keeps its cookies, sends what a page's form holds."""

    def __init__(self, app: FastAPI) -> None:
        self.client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content = b""

    @property
    def text(self) -> str:
        """What was answered last."""
        return self.content.decode()

    def get(self, path: str) -> int:
        """The status of the answer."""
        return self._keep(self.client.get(path))

    def post(
        self, path: str, csrf: str | None = None, headers: Mapping[str, str] | None = None, **fields: str
    ) -> int:
        """Send a form with the token that its page had, and return the status."""
        token = self.token() if csrf is None else csrf
        return self._keep(self.client.post(path, data={"csrf": token, **fields}, headers=headers))

    def upload(self, *files: tuple[str, bytes], **fields: str) -> int:
        """Send files, by the names that they have here."""
        token = self.token()
        sent = [("files", (name, data, "application/octet-stream")) for name, data in files]
        return self._keep(self.client.post("/upload", data={"csrf": token, **fields}, files=sent))

    def follow(self) -> int:
        """Go where the last answer leads."""
        return self.get(self.headers["location"])

    def token(self) -> str:
        """The CSRF token of this browser's forms."""
        self.get("/sign-in")
        found = re.search(r'name="csrf" value="(\w+)"', self.text)
        assert found, self.text
        return found[1]

    def sign_in(self, name: str, password: str = PASSWORD) -> int:
        """The status: 303 when it worked."""
        return self.post("/sign-in", name=name, password=password)

    def _keep(self, answer: object) -> int:
        self.status, self.headers, self.content = answer.status_code, answer.headers, answer.content  # type: ignore[attr-defined]
        return self.status


class ConsoleLab:
    """A console whose users bear the names of their roles (:func:`add_users`)."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.app = create_app(settings, database)
        self.cookie = Site(settings, database).cookie

    def browser(self, role: UserRole | None = None) -> Browser:
        """A new one, signed in if a role is given."""
        browser = Browser(self.app)
        if role:
            assert browser.sign_in(role.value) == 303, browser.text
        return browser


def add_users(settings: Settings) -> None:
    """One of each role."""
    for role in UserRole:
        users.add_user(settings, role.value, role, PASSWORD)


def routes(found: list[BaseRoute], prefix: str = "") -> Iterator[APIRoute]:
    """The endpoints of an application, those of its routers too."""
    for route in found:
        if isinstance(route, APIRoute):
            yield route
        else:
            inner = getattr(route, "original_router", None)
            assert inner is not None, f"{route} is no endpoint that this test knows"
            yield from routes(inner.routes)
