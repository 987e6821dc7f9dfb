"""Run the console's process: ``python -m dicom_console``.

The process reads its configuration from the first line of standard input: JSON, written by the node that
starts it. It writes ``{"console": address}`` to standard output when it serves, else ``{"cannot_start":
reason}``. After SIGTERM, SIGHUP or the end of standard input it finishes the answers under way and ends. With
the argument ``--beside`` it serves at the same address as its predecessor until the node ends the
predecessor.
"""

import errno
import json
import os
import signal
import socket
import ssl
import sys
import tempfile

import uvicorn

from dicom_console.app import create_app
from dicom_console.web.limits import TimedProtocol
from dicom_node.base import logs
from dicom_node.base.config.settings import ConsoleSettings, Settings
from dicom_node.base.errors import ExitCode, NodeError
from dicom_node.base.processes import limit_memory, settings_line, watch_parent
from dicom_node.people import open_database

_GRACE_SECONDS = 5
_BUSY_SECONDS = 10.0  # for which a page waits for other writers of SQLite before it says so


def main() -> int:
    """Run the console's web server until a signal arrives or standard input closes; return the exit
    status.
    """
    settings = Settings.model_validate_json(settings_line())
    logs.configure(settings.node.log_level, f"console {os.getpid()}", as_json=settings.log.format == "json")
    limit_memory(settings.workers.memory_mib)
    # What a browser sends lies here while it comes, in files without a name.
    tempfile.tempdir = str(settings.node.data_dir.resolve())
    try:
        return _serve(settings)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except NodeError as error:
        reason = str(error)
    print(json.dumps({"cannot_start": reason}), flush=True)
    return ExitCode.UNAVAILABLE


def _serve(settings: Settings) -> int:
    """Serve the pages until a signal arrives; return the exit status.

    Raises OSError if address or certificates cannot be used, and NodeError.
    """
    with open_database(settings, _BUSY_SECONDS) as database:
        app = create_app(settings, database)
        console = settings.console
        TimedProtocol.proxies = console.trusted_proxies
        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        ports = [console.port, *([console.metrics_port] if console.metrics_port else [])]
        listening = [_listening_socket(console.host, port, beside="--beside" in sys.argv) for port in ports]
        config.load()
        config.ssl = _tls(console)
        server = uvicorn.Server(config)
        app.state.live.stops_when = lambda: server.should_exit

        def stop(*_: object) -> None:
            """Let the server finish the requests under way and end (called for a signal or a closed standard
            input).
            """
            server.should_exit = True

        signal.signal(signal.SIGHUP, stop)
        watch_parent(stop)
        host, port = listening[0].getsockname()[:2]
        print(json.dumps({"console": f"{host}:{port}", "pid": os.getpid()}), flush=True)
        server.run(sockets=listening)
    return ExitCode.OK


def _listening_socket(host: str, port: int, *, beside: bool) -> socket.socket:
    """Return a socket that listens at ``host`` and ``port``.

    ``beside``: the console's former process may still listen there; otherwise a port in use is refused.
    Raises OSError that names the settings.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not beside:  # shared with a predecessor only: another node of this user is no such
            socket.create_server(address, family=family).close()
        return socket.create_server(address, family=family, reuse_port=True)
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
        settings = "console.host, console.port, console.metrics_port"
        raise OSError(error.errno, f"port {port} of {host}: {why} ({settings})") from None


def _tls(console: ConsoleSettings) -> ssl.SSLContext | None:
    """Return the TLS settings of the web server; None if the console is served without TLS."""
    if console.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(console.tls.certificate, console.tls.private_key)
    if console.tls.trusted:
        context.load_verify_locations(console.tls.trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


if __name__ == "__main__":
    sys.exit(main())
