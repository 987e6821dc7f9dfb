"""What ``[console]`` asks of the machine: its packages, an address that is safe without TLS, a free port."""

from __future__ import annotations

import ipaddress
import socket
from importlib.util import find_spec

from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config.settings import ConsoleSettings, Settings
from dicom_node.errors import StorageError
from dicom_node.model.roles import Role
from dicom_node.preflight.found import Found, Tried
from dicom_node.preflight.machine import check_certificates, port_fault
from dicom_node.processes import running
from dicom_node.store.accounts import UserAccount
from dicom_node.store.database import Database, sqlite_file

_PACKAGES = ("argon2", "fastapi", "jinja2", "prometheus_client", "python_multipart", "uvicorn")


def check_console(settings: Settings, role: Role) -> Found:
    """What keeps the console from being served where its settings say."""
    console = settings.console
    if role is Role.CONSOLE and not console.enabled:
        yield "console.enabled", "false", "this machine has nothing else to do: set it to true"
    if not (console.enabled and role.may_serve_console):
        return
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        remedy = f"needs {', '.join(missing)}: pip install 'dicom-ai-node[console]'"
        yield "console.enabled", "true", remedy
    if console.tls:
        yield from check_certificates("console.tls", console.tls)
    elif not _is_this_machine(console.host):
        remedy = "passwords would cross the network unencrypted: add [console.tls], or keep 127.0.0.1"
        yield "console.host", repr(console.host), remedy
    if role.receives and (console.host, console.port) == (settings.listener.host, settings.listener.port):
        yield "console.port", str(console.port), "is the listener's port: choose another"
    if not _has_users(settings):
        yield Tried("console", False, "nobody can sign in yet: dicom-node users add NAME --role admin")


def probe_console(settings: Settings, role: Role) -> Found:
    """Whether somebody else has the port."""
    console = settings.console
    if not (console.enabled and role.may_serve_console) or running(settings.node.data_dir):
        return
    try:
        address = socket.getaddrinfo(console.host, console.port, type=socket.SOCK_STREAM)[0]
    except OSError:
        yield "console.host", repr(console.host), "is no address of this machine"
        return
    problem = port_fault("console.port", console.port, address)
    yield problem or Tried("console", True, f"{address_of(console)} is free")


def address_of(console: ConsoleSettings) -> str:
    """What a person enters in a browser."""
    host = f"[{console.host}]" if ":" in console.host else console.host
    return f"{'https' if console.tls else 'http'}://{host}:{console.port}/"


def _has_users(settings: Settings) -> bool:
    """Also where the database cannot be asked: that is told elsewhere."""
    file = sqlite_file(settings.database_url)
    if file is not None and not file.exists():
        return False
    try:
        database = Database(settings.database_url)
        with database.read() as session:
            found = session.scalar(select(exists().where(UserAccount.id > 0)))
        database.dispose()
    except (SQLAlchemyError, ImportError, StorageError):
        return True
    return bool(found)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False
