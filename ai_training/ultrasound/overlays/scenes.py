"""The picture below: clean frames, sectors, flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Box, Picture, brightest
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.overlays.texts import Random


@dataclass(frozen=True, slots=True)
class CleanFrame:
    """A part of a public frame that has no annotation. ``box`` in pixels of the file; ``split`` as
    published.
    """

    source: str
    file: str
    split: str
    box: Box

    def read(self, data: Path) -> Picture:
        """The part as RGB ``[rows, columns, 3]``. Raises DataMissing if the file does not exist."""
        left, top, right, bottom = self.box
        return np.ascontiguousarray(read_rgb(data / self.source / self.file)[top:bottom, left:right])


def clean_frames(split: str) -> tuple[CleanFrame, ...]:
    """Read the list of clean frames of one split (train, val or test), in the order of the list."""
    return tuple(
        CleanFrame(row["source"], row["file"], row["split"], box_of(row))
        for row in rows(Path(__file__).parents[1] / "clean_frames.csv")
        if row["split"] == split
    )


def box_of(row: dict[str, str]) -> Box:
    """The box in the columns ``left`` to ``bottom`` of a list's row (pixels)."""
    return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])


def chroma(picture: Picture) -> Picture:
    """The difference between the largest and the smallest channel of each pixel (grey levels)."""
    return np.asarray(brightest(picture) - picture.min(axis=2), np.uint8)


FLOW_SIDE = 12  # cells of the coarse random field that colour flow is cut from


@dataclass(frozen=True, slots=True)
class Storing:
    """How a synthetic picture is stored: scaled by ``factor``, then JPEG of ``quality`` (None: lossless),
    with the colours at full resolution (``whole_chroma``) or at half.
    """

    factor: float
    interpolation: int
    quality: int | None
    whole_chroma: bool

    def scaled(self, picture: Picture) -> Picture:
        """The picture at the stored size."""
        size = tuple(round(side * self.factor) for side in (picture.shape[1], picture.shape[0]))
        return np.asarray(cv2.resize(picture, size, interpolation=self.interpolation), np.uint8)

    def compressed(self, picture: Picture) -> Picture:
        """The picture after JPEG, if it is stored so."""
        if self.quality is None:
            return picture
        sampling = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
            if self.whole_chroma
            else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        )
        choices = [cv2.IMWRITE_JPEG_QUALITY, self.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        _, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), choices)
        return np.asarray(cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def scene(part: Picture, random: Random) -> Picture:
    """Make a whole picture around the clean part ``part``: at random cut to a sector, placed on black,
    tinted, with colour flow.
    """
    if random.random() < 0.5:
        part = np.ascontiguousarray(part[:, ::-1])
    factor = float(random.uniform(0.8, 2.0)) if min(part.shape[:2]) < 300 else float(random.uniform(0.7, 1.3))
    size = round(part.shape[1] * factor), round(part.shape[0] * factor)
    part = np.asarray(
        cv2.resize(part, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC), np.uint8
    )
    if random.random() < 0.35:
        part = part * _sector(part.shape[:2], random)[..., None]
    if random.random() < 0.15:
        part = _with_flow(part, random)
    if random.random() < 0.25:
        tint = 1 - random.uniform(0, 0.25, 3)
        part = np.rint(part * (tint / tint.max())).astype(np.uint8)
    if random.random() < 0.5:
        rows, columns = part.shape[:2]
        above, below = (int(rows * share) for share in random.uniform(0, 0.22, 2))
        left, right = (int(columns * share) for share in random.uniform(0, 0.25, 2))
        level = int(random.choice([0, 0, 0, 2, 12]))
        part = cv2.copyMakeBorder(part, above, below, left, right, cv2.BORDER_CONSTANT, value=(level,) * 3)
    return np.ascontiguousarray(part)


def _sector(shape: tuple[int, ...], random: Random) -> npt.NDArray[np.uint8]:
    """The mask (1 inside) of a fan whose edges lie at the picture's sides."""
    rows, columns = shape
    mask = np.zeros((rows, columns), np.uint8)
    apex = columns // 2, -int(rows * random.uniform(0.05, 0.5))
    radius = rows - apex[1]
    spread = float(random.uniform(28, 65))
    cv2.ellipse(mask, apex, (radius, radius), 90, -spread, spread, 1, -1)
    cv2.circle(mask, apex, -apex[1] + int(rows * random.uniform(0, 0.12)), 0, -1)
    return mask


def _with_flow(part: Picture, random: Random) -> Picture:
    """Add red-yellow and blue-cyan patches as colour Doppler paints them, which are no marks."""
    rows, columns = part.shape[:2]
    coarse = random.normal(size=(FLOW_SIDE, FLOW_SIDE)).astype(np.float32)
    field = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(
        random.normal(size=(rows // 4 + 1, columns // 4 + 1)).astype(np.float32), (columns, rows)
    )
    field = field + 0.3 * fine
    threshold = float(np.quantile(np.abs(field), random.uniform(0.85, 0.98)))
    speed = np.clip((np.abs(field) - threshold) / max(1e-6, float(np.abs(field).max()) - threshold), 0, 1)
    level = (80 + 175 * speed)[..., None]
    towards = level * np.stack([np.ones_like(speed), speed, np.zeros_like(speed)], axis=2)
    away = level * np.stack([np.zeros_like(speed), speed, np.ones_like(speed)], axis=2)
    flow = np.where((field > 0)[..., None], towards, away)
    painted = (np.abs(field) > threshold)[..., None]
    return np.asarray(np.where(painted, flow, part), np.uint8)
