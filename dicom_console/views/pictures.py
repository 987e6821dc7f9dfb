"""Frames of received images and of results as PNG, decoded where an exploited decoder can do no harm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import cv2
from sqlalchemy.orm import Session

from ai_pipeline.errors import PixelError
from ai_pipeline.images.codestreams import JPEG_2000
from ai_pipeline.images.decode import DicomImage, Picture, open_dicom
from dicom_node.config.settings import Settings
from dicom_node.errors import NotFound
from dicom_node.model.kinds import ObjectRole
from dicom_node.object_store.files import Files
from dicom_node.store.tables import Instance, ReceivedObject, Result

LARGEST = 1600
"""Pixels of the longer side: a preview is no image to read from."""
_QUICK = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
"""A film of 1,600 × 1,600 takes 80 ms, where Pillow's quickest PNG takes 230, and no more bytes."""
_decoders = threading.Semaphore(2)


class PictureKind(StrEnum):
    """The source of an object with pixels; the value is part of the address."""

    IMAGES = "images"
    """Received."""
    RESULTS = "results"
    """Built here."""
    RECEIVED = "received"
    """Every version that came, also one that is not in force."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An object that the user may look at. ``kind``: the kind of result, or "image"."""

    path: Path
    study: int
    kind: str


def find(session: Session, settings: Settings, which: PictureKind, number: int) -> Shown:
    """A received image or a result. Raises NotFound, also if its file was purged."""
    shown = {
        PictureKind.IMAGES: _image,
        PictureKind.RESULTS: _result,
        PictureKind.RECEIVED: _received,
    }[which](session, number)
    path = Files(settings).if_here(session, str(shown.path)) if shown else None
    if shown is None or path is None:
        raise NotFound("there is no such image or result, or no longer")
    return replace(shown, path=path)


def _image(session: Session, number: int) -> Shown | None:
    row = session.get(Instance, number)
    gone = row is None or row.purged or row.role is ObjectRole.ASIDE
    return None if row is None or gone else Shown(Path(row.path), row.study_id, "image")


def _result(session: Session, number: int) -> Shown | None:
    row = session.get(Result, number)
    gone = row is None or row.purged
    return None if row is None or gone else Shown(Path(row.path), row.study_id, row.kind.value)


def _received(session: Session, number: int) -> Shown | None:
    row = session.get(ReceivedObject, number)
    gone = row is None or row.purged or row.study_id is None
    return (
        None if row is None or row.study_id is None or gone else Shown(Path(row.path), row.study_id, "image")
    )


def frames(shown: Shown, settings: Settings) -> int:
    """The number of frames of an image. Raises NotFound if no frame can be shown."""
    with two_at_a_time():
        return open_dicom(shown.path, settings.images.limits).header.frames


def png(shown: Shown, settings: Settings, frame: int, longest: int = LARGEST) -> bytes:
    """A frame (from 1) as PNG, displayed as a viewer initially does, at most ``longest`` pixels. Raises
    NotFound.
    """
    return _encoded(shown, settings, frame, longest, ".png", _QUICK)


def jpeg(shown: Shown, settings: Settings, frame: int, quality: int) -> bytes:
    """The same as JPEG (``quality``: 1 to 100), at most LARGEST pixels. Raises NotFound."""
    return _encoded(shown, settings, frame, LARGEST, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, quality))


def _encoded(
    shown: Shown, settings: Settings, frame: int, longest: int, suffix: str, how: tuple[int, ...]
) -> bytes:
    with two_at_a_time():
        image = open_dicom(shown.path, settings.images.limits)
        sides, most = (image.header.rows, image.header.columns), min(max(longest, 16), LARGEST)
        picture = displayed(image, frame - 1, -(-most * min(sides) // max(sides)))
        scale = most / max(picture.shape[:2])
        if scale < 1:
            rows, columns = (max(round(side * scale), 1) for side in picture.shape[:2])
            picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
        blue_first = picture[..., ::-1] if picture.ndim == 3 else picture
        done, data = cv2.imencode(suffix, blue_first, how)
    if not done:
        raise NotFound("this image cannot be shown")
    return data.tobytes()


def displayed(image: DicomImage, frame: int, shorter_side: int) -> Picture:
    """A frame (from 0) as displayed; of a JPEG 2000, where that is quicker, perhaps a smaller one whose
    shorter side has at least so many pixels.
    """
    return image.display(frame, shorter_side if image.transfer_syntax in JPEG_2000 else 0)


@contextmanager
def two_at_a_time() -> Iterator[None]:
    """Limit decoding to two images at a time, which bounds memory. Raises NotFound for an undecodable
    image.
    """
    try:
        with _decoders:
            yield
    except (OSError, PixelError, MemoryError):
        raise NotFound("this image cannot be shown") from None
