"""``ai-pipeline evaluate despeckle``: speckle, edges, seconds, and the effect on a later segmentation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.fetal_head.outline import HeadModel
from ai_pipeline.models.registry import find
from ai_training.despeckle.afterwards import Filter
from ai_training.despeckle.afterwards.heads import head_scores
from ai_training.despeckle.classical import filters
from ai_training.despeckle.compared import autoencoders
from ai_training.despeckle.regions import Texture, texture
from ai_training.despeckle.speckle import SIGMAS, rayleigh, reduced, scattered
from ai_training.errors import DataMissing
from ai_training.fetal.data import head_images
from ai_training.fetal.export import ID as HEADS
from ai_training.metrics import mean_interval, patient_weights
from ai_training.progress import Report, silent
from ai_training.text import NOT_DIAGNOSTIC, interval

Floats = npt.NDArray[np.float32]
SLOW = ("BM3D",)
"""Filters that outline no heads here: ten seconds a frame."""


@dataclass(frozen=True, slots=True)
class _Frame:
    patient: str
    picture: Floats
    head: npt.NDArray[np.bool_]


def evaluate(
    data: Path, split: str, frames: int, models_dir: Path | None = None, report: Report = silent
) -> dict[str, Any]:
    """All figures: noise on ``frames`` frames of ``split``, the others on all of its frames. Raises
    DataMissing.
    """
    images = head_images(data, split)[:: max(1, len(head_images(data, split)) // frames)][:frames]
    if not images:
        raise DataMissing(f"{data} has no fetal heads in the split {split}")
    chosen = []
    for image in images:
        picture, head = image.read()
        chosen.append(_Frame(image.patient, picture.astype(np.float32) / np.float32(255), head))
    despeckler = Despeckler.active(models_dir)
    tried = {"none": lambda picture: picture, **filters(), **_networks(models_dir)}
    return {
        "model": despeckler.ref.id,
        "version": despeckler.ref.version,
        "strength": despeckler.strength,
        "split": split,
        "frames": len(chosen),
        "noise": {name: _noise(made, chosen, report) for name, made in tried.items()},
        "texture": {name: _texture(made, chosen, report) for name, made in tried.items()},
        "heads": _heads(data, split, {n: made for n, made in tried.items() if n not in SLOW}, report),
    }


def _networks(models_dir: Path | None) -> dict[str, Filter]:
    """Ours at full strength and as it ships; the published autoencoders that were trained."""
    shipped = Despeckler.active(models_dir)
    found: dict[str, Filter] = {"residual": Despeckler(shipped.engine, 1.0, shipped.ref).picture}
    if shipped.strength < 1:
        found["residual, as it ships"] = shipped.picture
    return found | autoencoders()


def _noise(made: Filter, frames: Sequence[_Frame], report: Report) -> dict[str, Any]:
    """PSNR (dB) and SSIM against the frame that the speckle was put on, :data:`speckle.WIDE` pixels wide."""
    found: dict[str, Any] = {}
    for name in (*map(str, SIGMAS), "physical"):
        random = np.random.default_rng(5)
        psnr, ssim, seconds = [], [], []
        for number, frame in enumerate(frames):
            report(number / len(frames), f"speckle {name}")
            below = reduced(frame.picture)
            noisy = scattered(below, random) if name == "physical" else rayleigh(below, float(name), random)
            began = time.perf_counter()
            cleaned = np.clip(made(noisy), 0, 1)
            seconds.append(time.perf_counter() - began)
            psnr.append(-10 * math.log10(float(np.mean((cleaned - below) ** 2))))
            ssim.append(float(structural_similarity(below, cleaned, data_range=1)))  # type: ignore[no-untyped-call]
        found[name] = {"psnr": _mean(psnr, frames), "ssim": _mean(ssim, frames)}
        found["seconds"] = round(float(np.median(seconds)), 4)
    return found


def _texture(made: Filter, frames: Sequence[_Frame], report: Report) -> dict[str, Any]:
    """ENL, CNR and edges of the frames as they came."""
    rows: list[Texture] = []
    for number, frame in enumerate(frames):
        report(number / len(frames), "texture")
        rows.append(texture(frame.picture, np.clip(made(frame.picture), 0, 1), frame.head))
    return {name: _mean([getattr(row, name) for row in rows], frames) for name in ("enl", "cnr", "edges")}


def _heads(data: Path, split: str, tried: Mapping[str, Filter], report: Report) -> dict[str, Any]:
    """The shipped segmenter, taught by raw frames, on what each filter leaves; differences are paired."""
    model = HeadModel.of(find(HEADS))
    scores = {name: head_scores(data, model, split, made, report) for name, made in tried.items()}
    raw = scores["none"]
    weights = patient_weights(raw.patients)
    return {
        name: {
            "dice": mean_interval(np.array(one.dice), weights).as_list(),
            "difference": mean_interval(np.array(one.dice) - np.array(raw.dice), weights).as_list(),
            "error": mean_interval(np.array(one.error), weights).as_list(),
            "area": mean_interval(np.array(one.area), weights).as_list(),
        }
        for name, one in scores.items()
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The tables as lines for a terminal."""
    lines = [f"{result['model']} {result['version']}, {result['split']}, strength {result['strength']:g}"]
    lines += [f"PSNR dB / SSIM on {result['frames']} frames, against frames that have speckle of their own"]
    for name, row in result["noise"].items():
        cells = [f"{row[s]['psnr'][0]:.2f}/{row[s]['ssim'][0]:.3f}" for s in (*map(str, SIGMAS), "physical")]
        lines.append(f"  {name:32} {'  '.join(cells)}  {row['seconds'] * 1000:.0f} ms")
    lines += ["ENL, CNR, edges kept, frames as they came"]
    for name, row in result["texture"].items():
        cells = [interval(row[key], 2) for key in ("enl", "cnr", "edges")]
        lines.append(f"  {name:32} {'  '.join(cells)}")
    lines += ["Dice of heads, difference to raw, circumference mm, area ratio"]
    for name, row in result["heads"].items():
        cells = [interval(row[key], 4 if key in {"dice", "difference"} else 2) for key in row]
        lines.append(f"  {name:32} {'  '.join(cells)}")
    return "\n".join([*lines, NOT_DIAGNOSTIC])


def _mean(values: Sequence[float], frames: Sequence[_Frame]) -> list[float]:
    weights = patient_weights([frame.patient for frame in frames])
    return mean_interval(np.array(values), weights).as_list()
