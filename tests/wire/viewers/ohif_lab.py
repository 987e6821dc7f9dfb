"""OHIF as npm gives it, in Chromium, with an Orthanc behind it; what its first viewport shows.

``make viewers`` unpacks OHIF into ``build/ohif`` (its hash is checked); without it tests skip.
"""

import http.server
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, sync_playwright

from tests.wire.orthanc_lab import Orthanc

_HERE = Path(__file__).parent
CHECKOUT = _HERE.parents[2]
OHIF = Path(os.environ.get("OHIF", CHECKOUT / "build" / "ohif" / "package" / "dist"))
"""Folder ``dist`` of the package @ohif/app."""
EXTENSION = CHECKOUT / "examples" / "ohif" / "dist" / "plane-images.js"
SECONDS = 60
"""That OHIF may take to show something."""
# WebGL in software for OHIF's images alone: the browser's own drawing by it starves the page.
_GRAPHICS = (
    *("--disable-gpu", "--disable-gpu-compositing"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
}
_SHAPES = (_HERE / "shapes.js").read_text(encoding="utf-8")
_MASK = (_HERE / "mask.js").read_text(encoding="utf-8")
_CONFIG = (_HERE / "app_config.js").read_text(encoding="utf-8")
_THUMBNAIL = '[data-cy^="study-browser-thumbnail"]'

needs_ohif = pytest.mark.skipif(
    not (OHIF / "index.html").is_file(),
    reason=f"needs OHIF of npm in {OHIF}: `make viewers` unpacks it, with npm (OHIF=DIR: another)",
)
needs_extension = pytest.mark.skipif(
    not EXTENSION.is_file(), reason="needs the built extension: `make viewers` builds examples/ohif"
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """A drawn line: its points (column, row) in pixels of ``image`` (an image ID of Cornerstone)."""

    image: str
    points: Sequence[Point]


class Ohif:
    """OHIF at ``address``, in a browser; a new page for each question, so that nothing is left of another."""

    def __init__(self, chromium: Chromium, address: str, pictures: Path | None) -> None:
        self._chromium, self._address, self._pictures = chromium, address, pictures

    @contextmanager
    def opened(self, study: str, series: int | None = None, picture: str = "") -> Iterator[Page]:
        """The study, and of it the series of that Series Number, as after a double click."""
        page = self._chromium.new_page(viewport={"width": 900, "height": 600})
        page.set_default_timeout(1000 * SECONDS)
        try:
            page.goto(f"{self._address}/viewer?StudyInstanceUIDs={study}", wait_until="load")
            page.wait_for_function("window.cornerstone?.getRenderingEngines().length > 0")
            _until(lambda: _images(page), "a first image")
            if series is not None:
                page.locator(_THUMBNAIL).filter(has_text=f"S:{series}").first.dispatch_event("dblclick")
            yield page
            if picture and self._pictures:
                if (tour := page.get_by_text("Skip all")).count():  # OHIF's help for a first visit
                    tour.first.dispatch_event("click")
                    tour.first.wait_for(state="detached")
                time.sleep(3)  # until the image is drawn in its last size
                page.screenshot(path=self._pictures / f"viewer-ohif-{picture}.png")
        finally:
            page.close()


@contextmanager
def chromium_with_webgl() -> Iterator[Chromium]:
    """Debian's browser without a window; a process has one at a time."""
    with sync_playwright() as playwright:
        program = "/usr/bin/chromium-headless-shell"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *_GRAPHICS])
        yield browser
        browser.close()


@contextmanager
def ohif_before(orthanc: Orthanc, chromium: Chromium, extension: bool = False) -> Iterator[Ohif]:
    """OHIF before that Orthanc, with or without our extension.

    Pictures of what tests see go to the folder that the environment variable PICTURES names.
    """
    pictures = os.environ.get("PICTURES")
    with _served(orthanc, extension) as address:
        yield Ohif(chromium, address, Path(pictures) if pictures else None)


def shapes(page: Page, are_right: Callable[[list[Shape]], bool]) -> list[Shape]:
    """The lines that the viewport shows, once they are right; after a while as they are then."""
    end = time.monotonic() + SECONDS
    while True:
        found = [Shape(one["image"], [(x, y) for x, y in one["points"]]) for one in page.evaluate(_SHAPES)]
        if (found and are_right(found)) or time.monotonic() > end:
            return found
        time.sleep(0.3)


def labels(page: Page, *words: str) -> str:
    """The texts drawn over the viewport, once each of ``words`` is among them."""
    script = "() => [...document.querySelectorAll('svg text')].map(one => one.textContent).join('\\n')"

    def drawn() -> str | None:
        text = str(page.evaluate(script))
        return text if all(one in text for one in words) else None

    return str(_until(drawn, f"the labels {words}"))


def text_of(page: Page, words: str) -> str:
    """All words of the page, once these are among them."""
    page.get_by_text(words).first.wait_for()
    return page.inner_text("body")


def mask(page: Page) -> dict[str, Any]:
    """The box (left, top, right, bottom) and the size of the segmentation over the shown image, in pixels."""
    found: dict[str, Any] = _until(lambda: page.evaluate(_MASK), "a segmentation")
    return found


def _images(page: Page) -> list[str]:
    script = """() => window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports())
        .map(viewport => viewport.getCurrentImageId?.()).filter(Boolean)"""
    found: list[str] = page.evaluate(script)
    return found


def _until(look: Any, what: str) -> Any:
    """What ``look`` returns, once it is true."""
    end = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < end, f"OHIF shows not in {SECONDS} s: {what}"
        time.sleep(0.3)
    return found


@contextmanager
def _served(orthanc: Orthanc, extension: bool) -> Iterator[str]:
    """OHIF's files and Orthanc's DICOMweb from one address of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/dicom-web/"):
                self._answer(*_of_orthanc(orthanc, self.path, self.headers))
            elif path == "/app-config.js":
                ours = EXTENSION.read_text(encoding="utf-8") if extension else ""
                self._answer(200, f"{ours}\n{_CONFIG}".encode(), "text/javascript")
            else:
                file = OHIF / path.lstrip("/")
                known = file.is_file() and OHIF.resolve() in file.resolve().parents
                file = file if known else OHIF / "index.html"
                kind = _TYPES.get(file.suffix, "application/octet-stream")
                self._answer(200, file.read_bytes(), kind)

        def _answer(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            # OHIF's workers share memory: browsers allow it only so.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            with suppress(ConnectionError):  # the page was closed
                self.wfile.write(data)

    with serving(Handler) as address:
        yield address


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A web server of this machine; yields its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _of_orthanc(orthanc: Orthanc, path: str, headers: Message) -> tuple[int, bytes, str]:
    """Status, body and type of Orthanc's answer; its addresses of bulk data lead back to this server."""
    asked = urllib.request.Request(orthanc.url + path, headers={"Accept": headers.get("Accept", "*/*")})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            data, kind = answer.read(), answer.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        return error.code, error.read(), "application/json"
    if "json" in kind:
        data = data.replace(b"http://127.0.0.1/dicom-web", b"/dicom-web")
    return 200, data, kind
