"""Frames of received images and of results as PNG, decoded where an exploited decoder can do no harm."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import cv2
from sqlalchemy.orm import Session

from ai_pipeline.errors import PixelError
from ai_pipeline.images.codestreams import JPEG_2000
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import ObjectRole
from dicom_node.base.store.tables import Instance, ReceivedObject, Result

LARGEST = 1600
"""Pixels of the longer side: a preview is no image to read from."""
_QUICK = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
"""A film of 1,600 × 1,600 takes 80 ms, where Pillow's quickest PNG takes 230, and no more bytes."""
SIDE = 96
"""Pixels of the longer side of a picture in a list."""
_THUMBNAILS = 2000  # kept in memory, of about 3 KiB each; never in a file
_decoders = threading.Semaphore(2)
_one_thumbnail = threading.Semaphore(1)  # the picture that somebody reads is decoded beside it


class PictureKind(StrEnum):
    """Which table a picture comes from; the value is part of its address."""

    IMAGES = "images"
    """Received."""
    RESULTS = "results"
    """Built here."""
    RECEIVED = "received"
    """Every version that came, also one that is not in force."""


_TABLES: Final[Mapping[PictureKind, Any]] = {
    PictureKind.IMAGES: Instance,
    PictureKind.RESULTS: Result,
    PictureKind.RECEIVED: ReceivedObject,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A file whose pixels or content the user may see.

    ``study``: number of its study; ``kind``: the kind of result, or "image".
    """

    path: Path
    study: int
    kind: str


def find(session: Session, settings: Settings, which: PictureKind, number: int) -> Shown:
    """Return the file of the row ``number`` in the table for ``which``.

    Raises NotFound, also if its file was deleted.
    """
    row: Instance | Result | ReceivedObject | None = session.get(_TABLES[which], number)
    is_aside = isinstance(row, Instance) and row.role is ObjectRole.ASIDE
    there = row is not None and not row.purged and not is_aside
    path = Files(settings).if_here(session, row.path) if row is not None and there else None
    if row is None or row.study_id is None or path is None:
        raise NotFound("there is no such image or result, or no longer")
    return Shown(path, row.study_id, row.kind.value if isinstance(row, Result) else "image")


def frames(shown: Shown) -> int:
    """Return the number of frames of an image. Raises NotFound if the image cannot be read."""
    with two_at_a_time():
        return open_dicom(shown.path).header.frames


def png(shown: Shown, frame: int, longest: int = LARGEST) -> bytes:
    """Return a frame (from 1) as PNG, with the grey levels that a viewer shows first; its longer side has at
    most ``longest`` pixels.

    Raises NotFound if it cannot be decoded.
    """
    with two_at_a_time():
        return _encoded(shown.path, frame, longest, ".png", _QUICK)


def _encoded(path: Path, frame: int, longest: int, suffix: str, how: tuple[int, ...]) -> bytes:
    """Return a frame (from 1) in the picture format ``suffix``, its longer side at most ``longest`` pixels.

    ``how``: OpenCV's options for the format.
    """
    image = open_dicom(path)
    sides, most = (image.header.rows, image.header.columns), min(max(longest, 16), LARGEST)
    # A JPEG 2000 is decoded smaller where that is quicker, its shorter side with at least so many pixels.
    shorter_side = -(-most * min(sides) // max(sides)) if image.transfer_syntax in JPEG_2000 else 0
    picture = image.display(frame - 1, shorter_side)
    scale = most / max(picture.shape[:2])
    if scale < 1:
        rows, columns = (max(round(side * scale), 1) for side in picture.shape[:2])
        picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    blue_first = picture[..., ::-1] if picture.ndim == 3 else picture
    done, data = cv2.imencode(suffix, blue_first, how)
    if not done:
        raise NotFound("this image cannot be shown")
    return data.tobytes()


def thumbnail(shown: Shown) -> bytes:
    """Return the first frame as JPEG of at most SIDE pixels. Raises NotFound if it cannot be decoded."""
    try:
        return _thumbnail(shown.path)
    except (OSError, PixelError, MemoryError):
        raise NotFound("this image cannot be shown") from None


@lru_cache(_THUMBNAILS)
def _thumbnail(path: Path) -> bytes:
    """Return the first frame of a file as a small JPEG; the newest are cached."""
    with _one_thumbnail:
        return _encoded(path, 1, SIDE, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 80))


@contextmanager
def two_at_a_time() -> Iterator[None]:
    """Context manager for decoding: at most two images are decoded at a time, which bounds memory.

    Raises NotFound for an image that cannot be decoded.
    """
    try:
        with _decoders:
            yield
    except (OSError, PixelError, MemoryError):
        raise NotFound("this image cannot be shown") from None
