"""Reduce speckle in a cleaned ultrasound image: inside the image area, in grey pixels, by one network.

Only for ``ai-pipeline run --despeckle``: the change is too small to be worth a series at a PACS, and stronger
methods lose structure (docs/studies/despeckle.md).

The image must be verified to hold no text that had to be removed: that text would leave with the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ai_pipeline.burnin.cine import on_disk
from ai_pipeline.contract import (
    Code,
    DerivedImage,
    Floats,
    ImageHeader,
    ImageKind,
    ModelRef,
    PixelArray,
    Processing,
    Progress,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find, read

MODEL: Final = "ultrasound-despeckle-residual"
DESPECKLED: Final = Processing(
    "despeckled", "less speckle", Code("113087", "DCM", "Smoothing"), "not for measurement of texture"
)
STEP = 8
"""Rows and columns of the network's input are multiples of this."""
GREY = 12
"""Range of a pixel's three channels up to which it is grey (of 255): flow and coloured marks stay."""
TWO_DIMENSIONAL = 1
"""Region Spatial Format (0018,6012)."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two exclusive."""


@dataclass(frozen=True, slots=True)
class Despeckler:
    """Removes speckle. ``engine``: ``[1, 1, rows, columns]`` 0..1 → ``despeckled`` of the same size.
    ``strength``, 0 to 1: the weight of the engine's answer against the picture.
    """

    engine: Callable[[Floats], Mapping[str, Any]]
    strength: float
    ref: ModelRef

    @staticmethod
    def from_card(card: Card, threads: int = 0) -> Despeckler:
        """Load the despeckler with the weights and the strength that ``card`` names. Raises CardError."""
        network = OnnxRuntime(read(card.file("despeckler")), threads)
        return Despeckler(network, float(card.details["despeckler"]["strength"]), card.ref)

    @staticmethod
    def active(models_dir: Path | None = None) -> Despeckler:
        """The despeckler of the card :data:`MODEL`. Raises CardError."""
        return Despeckler.from_card(find(MODEL, models_dir))

    def picture(self, shares: Floats) -> Floats:
        """A picture ``[rows, columns]``, 0 to 1, with less speckle."""
        rows, columns = shares.shape
        padded = np.pad(shares, ((0, -rows % STEP), (0, -columns % STEP)), "edge")[None, None]
        made = self.engine(np.ascontiguousarray(padded, np.float32))["despeckled"][0, 0, :rows, :columns]
        return np.asarray(shares + np.float32(self.strength) * (made - shares), np.float32)

    def despeckle(
        self, cleaned: DerivedImage, header: ImageHeader, report: Progress, annotation: Sequence[Box] = ()
    ) -> DerivedImage:
        """All frames of ``cleaned`` with less speckle; the image must be verified. A cine is kept in a
        temporary file.

        Nothing changes inside the boxes of ``annotation``: thin letters and calipers would fade. Raises
        CleaningFailed for an image that was not verified, or whose samples are signed.
        """
        if cleaned.kind is not ImageKind.CLEANED or not cleaned.verified:
            raise CleaningFailed("speckle is reduced on verified cleaned images only")
        frames = cleaned.frames
        if frames.dtype.kind != "u":
            raise CleaningFailed("speckle is reduced on unsigned samples only")
        white = 255 if cleaned.photometric == "RGB" else 2**header.bits_stored - 1
        made = np.empty_like(frames) if len(frames) == 1 else on_disk(frames.shape, frames.dtype)
        for number, frame in enumerate(frames):
            report(number / len(frames), "despeckling")
            made[number] = self._frame(np.asarray(frame), header, white, cleaned.photometric, annotation)
        return DerivedImage(
            kind=ImageKind.PROCESSED,
            source_uid=cleaned.source_uid,
            frames=made,
            photometric=cleaned.photometric,
            description=f"speckle of the cleaned image reduced (strength {self.strength:g})",
            verified=True,
            models=(*cleaned.models, self.ref),
            processing=DESPECKLED,
        )

    def _frame(
        self,
        frame: PixelArray,
        header: ImageHeader,
        white: int,
        photometric: str,
        annotation: Sequence[Box],
    ) -> PixelArray:
        samples = frame.astype(np.float32)
        plane = samples.mean(2) if samples.ndim == 3 else samples
        shares = np.clip(plane / np.float32(white), 0, 1)
        inverted = photometric == "MONOCHROME1"
        made = np.zeros_like(shares)
        where = np.zeros(shares.shape, np.bool_)
        # In the two-dimensional regions of the header; without any, in the whole image.
        boxes = [one.box for one in header.ultrasound_regions if one.spatial_format == TWO_DIMENSIONAL]
        inside = [(x0, y0, min(x1, header.columns), min(y1, header.rows)) for x0, y0, x1, y1 in boxes]
        found = [box for box in inside if box[0] + STEP <= box[2] and box[1] + STEP <= box[3]]
        for left, top, right, bottom in found or [(0, 0, header.columns, header.rows)]:
            part = slice(top, bottom), slice(left, right)
            done = self.picture(1 - shares[part] if inverted else shares[part])
            made[part], where[part] = 1 - done if inverted else done, True
        for left, top, right, bottom in annotation:
            where[max(top, 0) : bottom, max(left, 0) : right] = False
        if samples.ndim == 3:
            where &= np.ptp(frame, axis=2) <= GREY
        where &= plane != (white if inverted else 0)  # what is black is background
        change = np.where(where, (made - shares) * np.float32(white), np.float32(0))
        changed = samples + (change[..., None] if samples.ndim == 3 else change)
        return np.clip(np.rint(changed), 0, white).astype(frame.dtype)
