"""``ai-pipeline evaluate despeckle``: speckle, and filters that remove it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ai_pipeline.contract import ModelRef
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import Card, find, load, read
from ai_pipeline.networks.heads import HeadModel
from ai_training.base import DataMissing, Report, followed, silent
from ai_training.fetal import ID as HEADS
from ai_training.fetal import head_images
from ai_training.metrics import Bools, dice, mean_interval, patient_weights
from ai_training.sets.files import Singles

SIGMAS = (0.10, 0.25, 0.50, 0.75)
"""Scales of the Rayleigh factor in the published work."""
WIDE = 256
"""Pixels across of the published pictures."""
RANGE_DB = 60.0
"""Dynamic range between black and white."""


MODEL = "ultrasound-despeckle-residual"
STEP = 8
"""Rows and columns of the network's input are multiples of this."""


@dataclass(frozen=True, slots=True)
class Despeckler:
    """Removes speckle by a network. ``engine``: ``[1, 1, rows, columns]`` 0..1 → ``despeckled`` of the same
    size. ``strength``, 0 to 1: the weight of the network's output against the picture.
    """

    engine: Callable[[Singles], Mapping[str, Any]]
    strength: float
    ref: ModelRef

    @staticmethod
    def from_card(card: Card, threads: int = 0) -> Despeckler:
        """Load the despeckler with the weights and the strength that ``card`` names. Raises CardError."""
        network = OnnxRuntime(read(card.file("despeckler")), threads)
        return Despeckler(network, float(card.details["despeckler"]["strength"]), card.ref)

    @staticmethod
    def active(models_dir: Path | None = None) -> Despeckler:
        """Load the despeckler of the model :data:`MODEL`. Raises CardError."""
        return Despeckler.from_card(find(MODEL, models_dir))

    def picture(self, shares: Singles) -> Singles:
        """Return the picture ``shares`` ``[rows, columns]``, 0 to 1, with less speckle."""
        rows, columns = shares.shape
        padded = np.pad(shares, ((0, -rows % STEP), (0, -columns % STEP)), "edge")[None, None]
        made = self.engine(np.ascontiguousarray(padded, np.float32))["despeckled"][0, 0, :rows, :columns]
        return np.asarray(shares + np.float32(self.strength) * (made - shares), np.float32)


def reduced(picture: Singles) -> Singles:
    """Reduce a picture to a width of :data:`WIDE` pixels."""
    size = WIDE, round(picture.shape[0] * WIDE / picture.shape[1])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def rayleigh(picture: Singles, sigma: float, random: np.random.Generator) -> Singles:
    """Add speckle by the published model: each pixel times a factor of mean 1 with the spread of a Rayleigh
    distribution of scale ``sigma``. The noise is white and multiplies logarithms as if they were echoes, so
    it differs from what scanners show.
    """
    drawn = random.rayleigh(sigma, picture.shape)
    factor = 1 + drawn - sigma * np.sqrt(np.pi / 2)
    return np.asarray(np.clip(picture * factor, 0, 1), np.float32)


def scattered(
    picture: Singles, random: np.random.Generator, axial: float = 0.8, lateral: float = 1.4
) -> Singles:
    """Add speckle by a physical model: scatterers of random phase, seen through a point spread function, as
    an envelope. The picture's decibels become amplitudes of complex Gaussian scatterers (J. Goodman, 1975),
    blurred with Gaussians of ``axial`` and ``lateral`` pixels. The envelope, scaled to the same mean power,
    becomes decibels.
    """
    noise = random.standard_normal((2, *picture.shape)).astype(np.float32) / np.float32(np.sqrt(2))
    field = [_spread(part * amplitude(picture), axial, lateral) for part in noise]
    point = np.zeros((33, 33), np.float32)
    point[16, 16] = 1
    energy = float(np.square(_spread(point, axial, lateral)).sum())
    return decibels(np.asarray(np.hypot(*field) / np.sqrt(energy), np.float32))


def amplitude(picture: Singles) -> Singles:
    """Convert grey levels (0 to 1) to relative echo amplitudes: 1 is white, black is :data:`RANGE_DB`
    below.
    """
    return np.asarray(np.power(10.0, (picture - 1) * (RANGE_DB / 20)), np.float32)


def decibels(amplitudes: Singles) -> Singles:
    """Convert echo amplitudes to grey levels: the inverse of :func:`amplitude`, cut off at black and
    white.
    """
    return np.clip(1 + 20 / RANGE_DB * np.log10(np.maximum(amplitudes, 1e-6)), 0, 1).astype(np.float32)


def _spread(part: Singles, axial: float, lateral: float) -> Singles:
    """Blur a picture by a point spread function."""
    return np.asarray(cv2.GaussianBlur(part, (0, 0), lateral, sigmaY=axial), np.float32)


Filter = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""A picture 0 to 1 → the same with less speckle, of the same size."""


FLOOR = 1 / 255
"""Added before logarithms: the smallest step of a picture."""


def bilateral(picture: Singles) -> Singles:
    """Apply a bilateral filter, 9 pixels wide; differences above the noise keep their edges."""
    return np.asarray(cv2.bilateralFilter(picture, 9, 2 * spread(picture), 3), np.float32)


def non_local_means(picture: Singles) -> Singles:
    """Apply non-local means (A. Buades et al., CVPR 2005): 7 × 7 patches, searched in 21 × 21 pixels."""
    bytes_ = np.asarray(np.clip(picture * 255, 0, 255), np.uint8)
    return np.asarray(cv2.fastNlMeansDenoising(bytes_, None, 255 * spread(picture), 7, 21) / 255, np.float32)


def bm3d_of_logarithm(picture: Singles) -> Singles:
    """Apply BM3D (K. Dabov et al., TIP 2007) to the picture's logarithm, in which speckle is a sum. Needs the
    package ``bm3d``, which is free for non-commercial use only.
    """
    import bm3d

    logarithm = np.log(picture + FLOOR)
    filtered = bm3d.bm3d(logarithm, spread(logarithm))
    return np.asarray(np.clip(np.exp(filtered) - FLOOR, 0, 1), np.float32)


def spread(picture: Singles) -> float:
    """Estimate the standard deviation of white noise from the finest diagonal wavelets (D. Donoho, 1994); at
    least .01.
    """
    diagonal = picture[:-1:2, :-1:2] - picture[1::2, :-1:2] - picture[:-1:2, 1::2] + picture[1::2, 1::2]
    shown = np.abs(diagonal[diagonal != 0])  # not the black around the image
    return max(float(np.median(shown)) / 2 / 0.6745, 0.01) if len(shown) else 0.01


def filters() -> Mapping[str, Filter]:
    """The installed filters by name. BM3D is left out if its package is not installed."""
    found: dict[str, Filter] = {
        "median": partial(cv2.medianBlur, ksize=5),
        "bilateral": bilateral,
        "non-local means": non_local_means,
    }
    return {**found, "BM3D": bm3d_of_logarithm} if find_spec("bm3d") else found


COMPARED = Path(__file__).parent / "compared"
"""The cards of networks that no pipeline runs."""


def autoencoders() -> dict[str, Filter]:
    """The autoencoders as filters, by the loss that trained them. Raises CardError."""
    return {
        f"DiConvAE, {card.architecture.removeprefix('diconvae-')}": Despeckler.from_card(card).picture
        for card in map(load, sorted(COMPARED.glob("*despeckle*.toml")))
    }


def head_scores(
    data: Path, model: HeadModel, split: str, filtered: Filter, report: Report
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Outline all heads of ``split`` in filtered pictures, even those that the domain gate refuses, and
    compare the outlines with the truth.

    ``filtered``: the filter, which takes and returns pictures 0 to 1. Returns the patients, and ``[3,
    heads]``: Dice, error of the circumference in mm, and outlined area divided by true area.
    """
    images, rows = head_images(data, split), []
    for image in followed(images, report, "heads after the filter"):
        picture, head = image.read()
        seen = np.clip(filtered(picture.astype(np.float32) / np.float32(255)), 0, 1)
        outline = model.outline(np.rint(seen * 255).astype(np.uint8))
        mask = outline.area.mask(*head.shape) if outline.area else np.zeros_like(head)
        measured = outline.measured.circumference * image.pixel_mm if outline.measured else 0.0
        rows.append((dice(mask, head), abs(measured - image.circumference), mask.sum() / head.sum()))
    return [image.patient for image in images], np.array(rows, np.float64).T


SIDE = 24
"""Pixels of a square in which speckle is measured."""


def texture(before: Singles, after: Singles, head: Bools) -> dict[str, float]:
    """The amount of speckle and of edges in a picture (0 to 1) ``after`` a filter, compared with ``before``.

    ``enl``: equivalent number of looks, mean² over variance of the echoes' power (full speckle: 1). ``cnr``:
    contrast between the inside and the outside of the head, divided by their spread. ``edges``: correlation
    of the gradients along the skull with the unfiltered gradients, up to 1; a blur raises ENL and lowers
    ``edges``.
    """
    power = np.square(amplitude(after), dtype=np.float64)
    places = _even_squares(before)
    looks = [float(power[place].mean() ** 2 / max(power[place].var(), 1e-12)) for place in places]
    near = cv2.dilate(head.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
    inner = cv2.erode(head.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    outer = near & ~(cv2.dilate(head.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & (before > 0.02)
    contrast = abs(after[inner].mean() - after[outer].mean())
    ring = cv2.morphologyEx(head.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((15, 15), np.uint8)) > 0
    return {
        "enl": float(np.median(looks)),
        "cnr": float(contrast / np.sqrt(after[inner].var() + after[outer].var() + 1e-9)),
        "edges": float(np.corrcoef(_gradient(before)[ring], _gradient(after)[ring])[0, 1]),
    }


def _even_squares(picture: Singles) -> list[tuple[slice, slice]]:
    """The squares of tissue whose halves differ least in the unfiltered picture."""
    found = []
    for top in range(0, picture.shape[0] - SIDE + 1, SIDE):
        for left in range(0, picture.shape[1] - SIDE + 1, SIDE):
            place = slice(top, top + SIDE), slice(left, left + SIDE)
            part = picture[place]
            if 0.1 < part.mean() < 0.8 and (part < 0.02).mean() < 0.02:
                quarters = cv2.resize(part, (2, 2), interpolation=cv2.INTER_AREA)
                found.append((float(np.ptp(quarters)), place))
    if not found:
        return [(slice(None), slice(None))]
    return [place for _, place in sorted(found, key=lambda pair: pair[0])[:8]]


def _gradient(picture: Singles) -> Singles:
    """The steepness of grey levels at each pixel."""
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.asarray(np.hypot(across, down), np.float32)


def evaluate(
    data: Path, split: str, frames: int, models_dir: Path | None = None, report: Report = silent
) -> dict[str, Any]:
    """Compare filters and networks that remove speckle; returns all figures: noise on ``frames`` frames of
    ``split``, and texture and heads on all its frames. Raises DataMissing.
    """
    images = head_images(data, split)
    chosen = images[:: max(1, len(images) // frames)][:frames]
    if not chosen:
        raise DataMissing(f"{data} has no fetal heads in the split {split}")
    heads, weights = [image.read()[1] for image in chosen], patient_weights([one.patient for one in chosen])
    pictures = [image.read()[0].astype(np.float32) / np.float32(255) for image in chosen]
    shipped = Despeckler.active(models_dir)
    full = Despeckler(shipped.engine, 1.0, shipped.ref)
    ours = {"residual": full.picture} | (
        {"residual, as it ships": shipped.picture} if shipped.strength < 1 else {}
    )
    tried: dict[str, Filter] = {"none": np.asarray, **filters(), **ours, **autoencoders()}
    textures = {}
    for name, made in tried.items():
        report(0.0, f"texture, {name}")
        pairs = zip(pictures, heads, strict=True)
        rows = [texture(picture, np.clip(made(picture), 0, 1), head) for picture, head in pairs]
        textures[name] = {key: _mean([row[key] for row in rows], weights) for key in rows[0]}
    # The shipped segmenter, taught by raw frames, on what each filter leaves; differences are paired.
    segmenter = HeadModel.of(find(HEADS))
    scores = {
        name: head_scores(data, segmenter, split, made, report)
        for name, made in tried.items()
        if name != "BM3D"  # it takes ten seconds a frame
    }
    patients, (raw, *_) = scores["none"]
    by_patient = patient_weights(patients)
    return {
        "model": shipped.ref.id,
        "version": shipped.ref.version,
        "strength": shipped.strength,
        "split": split,
        "frames": len(chosen),
        "noise": {name: _noise(made, pictures, weights, report) for name, made in tried.items()},
        "texture": textures,
        "heads": {
            name: {
                "dice": _mean(overlap, by_patient),
                "difference": _mean(overlap - raw, by_patient),
                "error": _mean(error, by_patient),
                "area": _mean(area, by_patient),
            }
            for name, (_, (overlap, error, area)) in scores.items()
        },
    }


def _noise(made: Filter, pictures: Sequence[Singles], weights: Any, report: Report) -> dict[str, Any]:
    """Add speckle to ``pictures``, filter them by ``made``, and measure PSNR (dB) and SSIM against the frames
    without speckle, at a width of :data:`WIDE` pixels; also the seconds per frame.
    """
    found: dict[str, Any] = {}
    for name in (*map(str, SIGMAS), "physical"):
        random = np.random.default_rng(5)
        psnr, ssim, seconds = [], [], []
        for picture in followed(pictures, report, f"speckle {name}"):
            below = reduced(picture)
            noisy = scattered(below, random) if name == "physical" else rayleigh(below, float(name), random)
            began = time.perf_counter()
            cleaned = np.clip(made(noisy), 0, 1)
            seconds.append(time.perf_counter() - began)
            psnr.append(peak_signal_noise_ratio(below, cleaned, data_range=1))  # type: ignore[no-untyped-call]
            ssim.append(structural_similarity(below, cleaned, data_range=1))  # type: ignore[no-untyped-call]
        found[name] = {"psnr": _mean(psnr, weights), "ssim": _mean(ssim, weights)}
        found["seconds"] = round(float(np.median(seconds)), 4)
    return found


def _mean(values: npt.ArrayLike, weights: Any) -> list[float]:
    """The mean with its interval."""
    return mean_interval(np.asarray(values, np.float64), weights).as_list()
