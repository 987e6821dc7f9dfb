"""Requirements of ``[console]``: its packages, an address that is safe without TLS, a free port."""

from __future__ import annotations

import ipaddress
import socket

from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config.settings import ConsoleSettings, Settings
from dicom_node.connectors import every
from dicom_node.errors import StorageError
from dicom_node.model.roles import Role
from dicom_node.preflight.found import Found, Tried
from dicom_node.preflight.machine import check_certificates, port_fault
from dicom_node.processes import console_program, running
from dicom_node.store.database import Database, sqlite_file
from dicom_node.store.tables import UserAccount


def check_console(settings: Settings, role: Role) -> Found:
    """Mistakes that prevent the console from being served at its configured address."""
    console = settings.console
    if role is Role.CONSOLE and not console.enabled:
        yield "console.enabled", "false", "this machine has nothing else to do: set it to true"
    if not (console.enabled and role.may_serve_console):
        return
    if not console_program():
        remedy = "needs the package dicom-ai-node-console: pip install -c constraints.txt ./dicom_console"
        yield "console.enabled", "true", remedy
    if console.tls:
        yield from check_certificates("console.tls", console.tls)
    elif not _is_this_machine(console.host):
        remedy = "passwords would cross the network unencrypted: add [console.tls], or keep 127.0.0.1"
        yield "console.host", repr(console.host), remedy
    if role.receives and (console.host, console.port) == (settings.listener.host, settings.listener.port):
        yield "console.port", str(console.port), "is the listener's port: choose another"
    if console.metrics_port:
        if console.metrics_port in (console.port, settings.listener.port):
            yield "console.metrics_port", str(console.metrics_port), "is taken by the node: choose another"
        elif not _is_this_machine(console.host):
            text = f"whoever reaches port {console.metrics_port} reads /metrics: for your monitoring alone"
            yield Tried("console", False, text)
    if not _is_this_machine(console.host) and not console.hosts:
        text = "asked for by its address only: list the names that browsers use in console.hosts"
        yield Tried("console", False, text)
    for find in every("checks.console"):
        yield from find(settings)
    if not _has_users(settings):
        yield Tried("console", False, "nobody can sign in yet: dicom-node users add NAME --role admin")


def probe_console(settings: Settings, role: Role) -> Found:
    """Whether another process uses the console's port."""
    console = settings.console
    if not (console.enabled and role.may_serve_console) or running(settings.node.data_dir):
        return
    try:
        address = socket.getaddrinfo(console.host, console.port, type=socket.SOCK_STREAM)[0]
    except OSError:
        yield "console.host", repr(console.host), "is not an address of this machine"
        return
    problem = port_fault("console.port", console.port, address)
    yield problem or Tried("console", True, f"{address_of(console)} is free")
    if console.metrics_port:
        place = socket.getaddrinfo(console.host, console.metrics_port, type=socket.SOCK_STREAM)[0]
        if problem := port_fault("console.metrics_port", console.metrics_port, place):
            yield problem


def address_of(console: ConsoleSettings) -> str:
    """The console's URL for a browser."""
    host = f"[{console.host}]" if ":" in console.host else console.host
    return f"{'https' if console.tls else 'http'}://{host}:{console.port}/"


def _has_users(settings: Settings) -> bool:
    """Whether anybody can sign in; True where the database cannot be asked, which another check reports."""
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
