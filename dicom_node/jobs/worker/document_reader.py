"""The text of a PDF that a program made: its text layer, and what each page shows, read as a picture.

Both are read: letters may be drawn as outlines or lie in a picture, and the text layer may say other words
than the page shows. PDFium is native code; it runs only in the process of one answer
(:mod:`.answer_process`), which can do nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MOST_BYTES: Final = 64 << 20
"""Bytes of a document."""
MOST_PAGES: Final = 20
MOST_TEXT: Final = 1 << 20
"""Characters of the text layers of all pages."""
_DOTS_PER_INCH: Final = 150
"""At which letters of 6 points are 12 pixels high: the least that the reader reads well."""
_LONGEST_SIDE: Final = 2_600
"""Pixels of the longer side of a page's picture; a poster is drawn smaller."""
_POINTS_PER_INCH: Final = 72  # ISO 32000-1, 8.3.2.3


def can_read() -> bool:
    """Whether PDFium is installed."""
    return find_spec("pypdfium2") is not None


def read_document(
    document: bytes, read_text: Callable[[npt.NDArray[np.uint8]], Sequence[str]]
) -> Sequence[str]:
    """Read all text of a PDF: its lines, page by page. ``read_text``: reads a picture ``[rows, columns]``.

    Raises ValueError for a document beyond the limits, and for one that cannot be opened or drawn.
    """
    if len(document) > MOST_BYTES:
        raise ValueError(f"the document has more than {MOST_BYTES >> 20} MiB")
    import pypdfium2

    try:
        with closing(pypdfium2.PdfDocument(document)) as opened:
            if not 0 < len(opened) <= MOST_PAGES:
                raise ValueError(f"the document has no page, or more than {MOST_PAGES}")
            if opened.count_attachments():
                raise ValueError("the document has an attached file")
            lines = list(_text_layers(opened))
            for page in opened:
                lines += read_text(_picture(page))
    except pypdfium2.PdfiumError as error:
        raise ValueError("the document cannot be opened or drawn") from error
    return lines


def _text_layers(document: Any) -> Iterator[str]:
    """Yield the lines of text in a PDF. Raises ValueError beyond the limit."""
    left = MOST_TEXT
    for page in document:
        text = page.get_textpage().get_text_range()
        left -= len(text)
        if left < 0:
            raise ValueError(f"the document has more than {MOST_TEXT} characters")
        yield from text.splitlines()


def _picture(page: Any) -> npt.NDArray[np.uint8]:
    """A page as it is shown, with its annotations, in grey. Raises ValueError for one without size."""
    width, height = page.get_size()
    if not (width > 0 and height > 0):
        raise ValueError("a page of the document has no size")
    scale = min(_DOTS_PER_INCH / _POINTS_PER_INCH, _LONGEST_SIDE / max(width, height))
    drawn = page.render(scale=scale, grayscale=True, may_draw_forms=False)
    samples: npt.NDArray[np.uint8] = drawn.to_numpy()
    return samples.reshape(samples.shape[:2])
