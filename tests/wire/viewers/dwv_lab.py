"""dwv as npm gives it, in Chromium; ``make viewers`` puts it into ``build/dwv``, without it tests skip."""

import http.server
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from tests.wire.viewers.ohif_lab import CHECKOUT, serving

DWV = CHECKOUT / "build" / "dwv"
_PAGE = Path(__file__).parent / "dwv"
_TYPES = {".html": "text/html", ".js": "text/javascript"}

needs_dwv = pytest.mark.skipif(
    not (DWV / "konva.js").is_file(), reason=f"needs dwv of npm in {DWV}: `make viewers` puts it there"
)


@contextmanager
def opened(chromium: Chromium, files: Sequence[Path], picture: Path | None) -> Iterator[Page]:
    """A page of dwv with these DICOM files, one after the other; it draws ``picture``."""
    with _served(files) as address:
        page = chromium.new_page(viewport={"width": 600, "height": 500})
        try:
            page.goto(f"{address}/index.html?files={len(files)}")
            page.wait_for_function("window.loaded.length + window.failed.length >= window.wanted")
            yield page
            if picture:
                page.screenshot(path=picture)
        finally:
            page.close()


@contextmanager
def _served(files: Sequence[Path]) -> Iterator[str]:
    """Address of the page, of dwv, and of the ``files`` by their numbers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.split("?")[0].lstrip("/")
            places = (files[int(name)],) if name.isdecimal() else (_PAGE / name, DWV / name)
            found = next((one for one in places if one.is_file()), None)
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", _TYPES.get(Path(name).suffix, "application/octet-stream"))
            self.end_headers()
            if found:
                self.wfile.write(found.read_bytes())

    with serving(Handler) as address:
        yield address
