"""A web server that answers as a test says: werkzeug's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Nothing to tell."""


@contextmanager
def answering(
    answer: int | Callable[[Request], Response] = 200,
    body: bytes = b"",
    *,
    certificate: tuple[Path, Path] | None = None,
    **headers: str,
) -> Iterator[tuple[str, list[str]]]:
    """Its base URL and what was asked of it, as method and path.

    ``answer``: what answers, or the status of all answers, with body and headers; ``_`` in a header's name is
    a hyphen. ``certificate``: of TLS, with its key.
    """
    asked: list[str] = []

    @Request.application
    def application(request: Request) -> Response:
        asked.append(f"{request.method} {request.environ['RAW_URI']}")
        request.get_data()
        if callable(answer):
            return answer(request)
        return Response(body, answer, {name.replace("_", "-"): value for name, value in headers.items()})

    server = make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=_Quiet, ssl_context=certificate
    )
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
