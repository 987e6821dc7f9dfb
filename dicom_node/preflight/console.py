"""What ``[console]`` asks of the machine: its packages, an address that is safe without TLS, a free port."""

from __future__ import annotations

import ipaddress
import socket
from importlib.util import find_spec

from dicom_node.config.settings import ConsoleSettings, Settings
from dicom_node.model.roles import Role
from dicom_node.preflight.found import Found, Tried
from dicom_node.preflight.machine import check_certificates, port_fault
from dicom_node.processes import running

_PACKAGES = ("argon2", "fastapi", "jinja2", "prometheus_client", "python_multipart", "uvicorn")


def check_console(settings: Settings, role: Role) -> Found:
    """What keeps the console from being served where its settings say."""
    console = settings.console
    if not (console.enabled and role.receives):
        return
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        remedy = f"needs {', '.join(missing)}: pip install 'dicom-ai-node[console]'"
        yield "console.enabled", "true", remedy
    if console.tls:
        yield from check_certificates("console.tls", console.tls)
    elif not _is_this_machine(console.host):
        remedy = "passwords would cross the network unencrypted: add [console.tls], or keep 127.0.0.1"
        yield "console.host", repr(console.host), remedy
    if (console.host, console.port) == (settings.listener.host, settings.listener.port):
        yield "console.port", str(console.port), "is the listener's port: choose another"


def probe_console(settings: Settings, role: Role) -> Found:
    """Whether somebody else has the port."""
    console = settings.console
    if not (console.enabled and role.receives) or running(settings.node.data_dir):
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


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False
