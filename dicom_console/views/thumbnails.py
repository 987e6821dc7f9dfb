"""Small pictures of images in lists: made once, kept in memory, never in a file."""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.limits import ImageLimits
from dicom_console.views.pictures import Shown, displayed
from dicom_node.config.settings import Settings
from dicom_node.errors import NotFound

SIDE = 96
"""Pixels of the longer side."""
_MOST = 2000  # of about 3 KiB each
_one_at_a_time = threading.Semaphore(1)  # the picture that somebody reads is decoded beside it


def jpeg(shown: Shown, settings: Settings) -> bytes:
    """The first frame as JPEG, at most SIDE pixels. Raises NotFound if it cannot be shown."""
    try:
        return _made(shown.path, settings.images.limits)
    except (OSError, PixelError, MemoryError):
        raise NotFound("this image cannot be shown") from None


@lru_cache(_MOST)
def _made(path: Path, limits: ImageLimits) -> bytes:
    with _one_at_a_time:
        picture = Image.fromarray(displayed(open_dicom(path, limits), 0, SIDE))
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return data.getvalue()
