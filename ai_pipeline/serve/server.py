"""Run the service: start the cleaning processes, then listen."""

import asyncio
import logging
import resource
import socket
import tempfile
from functools import partial

import uvicorn

from ai_pipeline.serve import guard
from ai_pipeline.serve.app import Cleans, create_app
from ai_pipeline.serve.guard import TimedProtocol
from ai_pipeline.serve.processes import CleaningProcesses
from ai_pipeline.serve.settings import ServeSettings

_LOGGER = logging.getLogger(__name__)
_GRACE_SECONDS = 5
_HEADERS = [
    ("Connection", "close"),  # so that each connection has one head, which is timed
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
]


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart if the models cannot be loaded, OSError if the
    certificate cannot be used, and SystemExit if the address cannot be.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.WARNING)  # it logs the names of files
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    # Cleaning processes may open files of this folder only, not others' temporary ones.
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-serve-") as folder:
        tempfile.tempdir = folder
        cleaning = CleaningProcesses(settings)
        try:
            if lacks := cleaning.start():
                _LOGGER.warning("this machine cannot take from cleaning processes: %s", lacks)
            server = server_of(settings, cleaning)
            scheme = "https" if settings.certificate else "http"
            _LOGGER.info(
                "serving at %s://%s:%d, not for diagnostic use", scheme, settings.host, settings.port
            )
            server.run()
        finally:
            cleaning.close()
            tempfile.tempdir = None


class _Server(uvicorn.Server):
    """uvicorn's server, for which TLS handshakes end in time, too."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        if self.config.is_ssl:
            loop = asyncio.get_running_loop()
            begin = partial(loop.create_server, ssl_handshake_timeout=guard.HEAD_SECONDS)
            loop.create_server = begin  # type: ignore[method-assign]
        await super().startup(sockets)


def server_of(settings: ServeSettings, cleaning: Cleans) -> uvicorn.Server:
    """The web server, which has not begun to listen."""
    config = uvicorn.Config(
        create_app(settings, cleaning),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
        loop="asyncio",
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # it has addresses and queries
        server_header=False,
        proxy_headers=False,
        headers=_HEADERS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return _Server(config)
