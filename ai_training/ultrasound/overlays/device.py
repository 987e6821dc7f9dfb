"""Changes that a device makes to a picture before and after writing on it: surround, tint, flow; scaling,
JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Picture
from ai_training.ultrasound.overlays.words import Random

INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST)
FLOW_SIDE = 12  # cells of the coarse random field that colour flow is cut from


@dataclass(frozen=True, slots=True)
class Storing:
    """How a picture is stored: scaled by ``factor``, then JPEG of ``quality`` (None: lossless)."""

    factor: float
    interpolation: int
    quality: int | None
    whole_chroma: bool

    @staticmethod
    def draw(random: Random) -> Storing:
        """Draw a way of storing: two of five are scaled after writing, three of five are compressed."""
        factor = float(random.uniform(0.6, 1.5)) if random.random() < 0.4 else 1.0
        quality = int(random.integers(60, 97)) if random.random() < 0.6 else None
        return Storing(factor, int(random.choice(INTERPOLATIONS)), quality, bool(random.random() < 0.5))

    def scaled(self, picture: Picture) -> Picture:
        if self.factor == 1.0:
            return picture
        size = tuple(round(side * self.factor) for side in (picture.shape[1], picture.shape[0]))
        return np.asarray(cv2.resize(picture, size, interpolation=self.interpolation), np.uint8)

    def compressed(self, picture: Picture) -> Picture:
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
    """A whole picture made of a clean part: each at times cut to a sector, on black, tinted, with flow."""
    if random.random() < 0.5:
        part = np.ascontiguousarray(part[:, ::-1])
    factor = float(random.uniform(0.8, 2.0)) if min(part.shape[:2]) < 300 else float(random.uniform(0.7, 1.3))
    part = _resized(part, factor)
    if random.random() < 0.35:
        part = part * _sector(part.shape[:2], random)[..., None]
    if random.random() < 0.15:
        part = _with_flow(part, random)
    if random.random() < 0.25:
        tint = 1 - random.uniform(0, 0.25, 3)
        part = np.rint(part * (tint / tint.max())).astype(np.uint8)
    return _surrounded(part, random) if random.random() < 0.5 else np.ascontiguousarray(part)


def _resized(picture: Picture, factor: float) -> Picture:
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8)


def _sector(shape: tuple[int, ...], random: Random) -> npt.NDArray[np.uint8]:
    """1 inside a fan whose edges lie at the picture's sides."""
    rows, columns = shape
    mask = np.zeros((rows, columns), np.uint8)
    apex = columns // 2, -int(rows * random.uniform(0.05, 0.5))
    radius = rows - apex[1]
    spread = float(random.uniform(28, 65))
    cv2.ellipse(mask, apex, (radius, radius), 90, -spread, spread, 1, -1)
    cv2.circle(mask, apex, -apex[1] + int(rows * random.uniform(0, 0.12)), 0, -1)
    return mask


def _surrounded(part: Picture, random: Random) -> Picture:
    rows, columns = part.shape[:2]
    above, below = (int(rows * share) for share in random.uniform(0, 0.22, 2))
    left, right = (int(columns * share) for share in random.uniform(0, 0.25, 2))
    level = int(random.choice([0, 0, 0, 2, 12]))
    framed = cv2.copyMakeBorder(part, above, below, left, right, cv2.BORDER_CONSTANT, value=(level,) * 3)
    return np.asarray(framed, np.uint8)


def _with_flow(part: Picture, random: Random) -> Picture:
    """Red-yellow and blue-cyan patches as colour Doppler paints them: coloured, and no mark."""
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
