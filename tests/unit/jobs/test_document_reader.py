"""The text of a PDF of a program, on real documents: the text layer, and what a page shows."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from dicom_node.jobs.worker import document_reader
from dicom_node.jobs.worker.document_reader import read_document
from dicom_node.jobs.worker.program_answer import read_text

Pages = Sequence[Callable[[Canvas], object]]


def no_text(_picture: npt.NDArray[np.uint8]) -> list[str]:
    return []


def pdf(*pages: Callable[[Canvas], object], size: tuple[float, float] = (595, 842)) -> bytes:
    """A document of these pages (points)."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=size)
    for draw in pages:
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def says(text: str) -> Callable[[Canvas], object]:
    """A page with this line."""
    return lambda canvas: canvas.drawString(72, 700, text)


def shows(text: str) -> Callable[[Canvas], object]:
    """A page that is only a picture of this line."""
    picture = Image.new("L", (900, 120), 255)
    ImageDraw.Draw(picture).text((20, 30), text, 0, ImageFont.load_default(48))
    return lambda canvas: canvas.drawImage(ImageReader(picture), 72, 600, 450, 60)


def test_the_text_of_all_pages_is_read() -> None:
    found = read_document(pdf(says("Lung volume 4.2 l"), says("Not for diagnostic use")), no_text)
    assert found == ["Lung volume 4.2 l", "Not for diagnostic use"]


def test_each_page_is_read_as_a_picture_too() -> None:
    seen: list[npt.NDArray[np.uint8]] = []

    def read(picture: npt.NDArray[np.uint8]) -> list[str]:
        seen.append(picture.copy())
        return ["seen"]

    assert read_document(pdf(says("one"), says("two")), read) == ["one", "two", "seen", "seen"]
    assert [one.shape for one in seen] == [(1755, 1240)] * 2, "150 dots an inch"
    assert seen[0].min() < 100, "letters"
    assert seen[0].max() > 200, "paper"


def test_a_name_in_a_picture_is_read_by_our_own_reader() -> None:
    found = " ".join(read_document(pdf(shows("MUELLER HANS")), read_text)).upper()
    assert "MUELLER" in found


def test_a_poster_is_drawn_smaller() -> None:
    seen: list[tuple[int, ...]] = []
    read_document(pdf(says("one"), size=(14_400, 14_400)), lambda one: seen.append(one.shape) or [])
    assert max(seen[0]) <= document_reader._LONGEST_SIDE


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"%PDF-1.4\n%%EOF", id="no page"),
        pytest.param(pdf(*[says("x")] * 21), id="21 pages"),
        pytest.param(pdf(says("x"))[:300], id="cut off"),
    ],
)
def test_what_is_no_document_within_limits_is_not_read(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"document|page"):
        read_document(document, no_text)


def test_a_document_of_many_bytes_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_reader, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="MiB"):
        read_document(pdf(says("x")), no_text)


def test_a_document_of_endless_text_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_reader, "MOST_TEXT", 10)
    with pytest.raises(ValueError, match="characters"):
        read_document(pdf(says("eight 8"), says("eight 8")), no_text)
