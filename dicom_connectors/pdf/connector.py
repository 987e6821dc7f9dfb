"""A page as PDF, by reportlab: its text can be searched, and the same page gives the same bytes."""

from datetime import UTC, datetime
from importlib.util import find_spec

from PIL import Image

from ai_pipeline.images.render import FONT, MARGIN, PageLayout
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.uids import MODEL_NAME
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.people.preflight import Found

_POINT = 0.45
"""Points (1/72 inch) of a pixel of the page: it fits on A4 and Letter, with letters of 14 and 19 points."""
_A4 = (595.28, 841.89)
_FONT_NAME = "DejaVuSansCondensed"
_GREY = 0.6


def check(settings: Settings) -> Found:
    """Yield the peers that are to get results as PDF while the library reportlab is not installed."""
    for peer in settings.peers:
        if ResultKind.PDF in peer.results and find_spec("reportlab") is None:
            remedy = "pdf needs reportlab: pip install 'dicom-ai-node[pdf]'"
            yield f"peers.{peer.name}.results", ", ".join(peer.results), remedy


def as_pdf(page: PageLayout, title: str, at: datetime) -> bytes:
    """Return the summary page as a PDF file, black on one white A4 sheet.

    ``title``: the document's title, which viewers show, so it must not name the patient; ``at``: time of
    creation, with time zone. Raises ResultRefused if reportlab is not installed.
    """
    if find_spec("reportlab") is None:
        raise ResultRefused("a PDF needs reportlab: pip install 'dicom-ai-node[pdf]'")
    from reportlab import rl_config
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfbase.pdfmetrics import getRegisteredFontNames, registerFont
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    rl_config.useA85 = 0  # text in place of bytes would make it a quarter larger
    if _FONT_NAME not in getRegisteredFontNames():  # to read the font takes as long as to write the page
        registerFont(TTFont(_FONT_NAME, str(FONT)))
    sheet = _A4 if page.height > page.width else _A4[::-1]
    canvas = Canvas("", pagesize=sheet, pageCompression=1, invariant=1, lang="en")
    canvas.setTitle(title)
    canvas.setSubject(title)
    canvas.setAuthor(MODEL_NAME)
    canvas.setCreator(MODEL_NAME)
    canvas.setDateFormatter(lambda *_: f"D:{at.astimezone(UTC):%Y%m%d%H%M%S}Z")
    canvas.translate((sheet[0] - page.width * _POINT) / 2, (sheet[1] + page.height * _POINT) / 2)
    canvas.scale(_POINT, -_POINT)  # pixels of the page from here on, from its top
    canvas.setStrokeGray(_GREY)
    for row in page.rules:
        canvas.line(MARGIN, row, page.width - MARGIN, row)
    for left, top, right, bottom in page.frames:
        canvas.rect(left, top, right - left, bottom - top)
    canvas.scale(1, -1)
    for pixels, left, top in page.pictures:
        rows, columns = pixels.shape[:2]
        canvas.drawImage(ImageReader(Image.fromarray(pixels)), left, -top - rows, columns, rows)
    for one in page.texts:
        canvas.setFont(_FONT_NAME, one.size)
        canvas.drawString(one.left, -one.baseline, one.text)
    return bytes(canvas.getpdfdata())
