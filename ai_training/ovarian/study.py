"""What cleaning does to the classifier: every frame as it is, cleaned in several ways, and as probes see it.

Each picture is scored by the network of the fold that has not seen its frame; the logits are kept, so that
``ai-pipeline evaluate ovarian`` prints every table from them. Class activation maps of a network with mean
pooling and one linear layer are Grad-CAM but for a factor (R. Selvaraju et al., ICCV 2017, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ai_pipeline.burnin.fill.inpainters import Classical, Inpainter
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.models.preprocess import enlarge, normalise, reduce
from ai_training.networks.ovarian import CystClassifier
from ai_training.ovarian import predictions
from ai_training.ovarian.fit import OvarianRecipe, fitted
from ai_training.ovarian.frames import (
    CHAIN,
    FEW_MARKS,
    LABELS,
    MEAN,
    SCALE,
    OvarianFrame,
    folds,
    grey,
    ovarian_frames,
)  # fmt: skip
from ai_training.progress import Report, silent
from ai_training.ultrasound.marks.maskers import network_mask
from ai_training.ultrasound.overlays import HELD_OUT, burn_in

ORIGINAL, OURS = "original", "ours (OCI-GAN type)"
CLEANED = (OURS, "Telea", "Navier-Stokes")
PROBES = ("marks only", "lesion blacked out", "lesion crop")
CLEAN, MARKED, MARKED_CLEANED = "clean", "marked", "marked, then cleaned"
TRUTH = (CLEAN, MARKED, MARKED_CLEANED)
"""Of the frames without yellow marks: as they are, with synthetic marks, with those cleaned away by ours."""
VARIANTS = (ORIGINAL, *CLEANED, *PROBES, *TRUTH)
SAVED_EVERY = 20
"""Frames between two savings."""
ROOM = 0.1
"""What a crop shows beyond the box of the lesion, as a share of the box."""
Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _ScoredPicture:
    """What a fold's network makes of a picture: logits, and shares of the activation in lesion and marks."""

    logits: Floats
    in_lesion: float
    in_marks: float


def run(
    data: Path, out: Path, recipe: OvarianRecipe, report: Report = silent, *, most: int | None = None
) -> Path:
    """Score all variants with the networks in ``out``; returns the file.

    The frames are taken in a random order, ``most`` of them; what is scored is saved on the way, so an
    interrupted run leaves a random part. Raises DataMissing, OSError.
    """
    frames = ovarian_frames(data)
    fold = folds(frames)
    networks = [fitted(out / f"seed-{recipe.seed}" / str(number), recipe) for number in range(fold.max() + 1)]
    tools = shared_tools()
    logits = np.full((len(VARIANTS), len(frames), len(LABELS)), np.nan, np.float32)
    shares = np.full((len(VARIANTS), len(frames), 2), np.nan, np.float32)
    path = out / predictions.FOLDER.name / predictions.STUDY
    path.parent.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(recipe.seed).permutation(len(frames))[:most]
    for done, row in enumerate(order.tolist(), start=1):
        frame, network = frames[row], networks[fold[row]]
        report(done / len(order), f"frame {done} of {len(order)}")
        lesion = frame.lesion()
        for name, (picture, marks) in variants(frame, row, tools).items():
            number = VARIANTS.index(name)
            place = lesion if picture.shape[:2] == lesion.shape else None
            seen = _seen(network, recipe.size, picture, place, marks, frame.label)
            logits[number, row], shares[number, row] = seen.logits, (seen.in_lesion, seen.in_marks)
        if done % SAVED_EVERY == 0 or done == len(order):
            _save(path, frames, logits, shares)
    return path


def _save(path: Path, frames: Sequence[OvarianFrame], logits: Floats, shares: Floats) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        names=np.array(VARIANTS),
        files=np.array([frame.name for frame in frames]),
        logits=logits.astype(np.float16),
        shares=shares.astype(np.float16),
    )
    partial.replace(path)


def variants(frame: OvarianFrame, row: int, tools: Tools) -> dict[str, tuple[Picture, Mask]]:
    """The pictures of one frame by variant, each with the mask of its marks as the detector has it."""
    picture = frame.rgb()
    marks, lesion = network_mask(picture, tools), frame.lesion()
    made = {ORIGINAL: picture} | {name: way.fill(picture, marks) for name, way in _ways(tools).items()}
    made["marks only"] = np.where(marks[..., None], picture, np.uint8(0))
    made["lesion blacked out"] = np.where(lesion[..., None], np.uint8(0), picture)
    found = {name: (one, marks) for name, one in made.items()}
    crop = _around(lesion)
    found["lesion crop"] = picture[crop], marks[crop]
    if frame.yellow <= FEW_MARKS:
        burned = burn_in(picture, HELD_OUT, (row,))
        drawn = burned.owners > 0
        planned = network_mask(burned.image, tools)
        cleaned = tools.filler.fill(burned.image, planned)
        found |= {
            CLEAN: (burned.clean, drawn),
            MARKED: (burned.image, drawn),
            MARKED_CLEANED: (cleaned, drawn),
        }
    return found


def _ways(tools: Tools) -> dict[str, Inpainter]:
    return {OURS: tools.filler, "Telea": Classical("telea"), "Navier-Stokes": Classical("navier-stokes")}


def _around(lesion: Mask) -> tuple[slice, slice]:
    """The box of the lesion with some room; all of a frame without one."""
    if not lesion.any():
        return slice(None), slice(None)
    left, top, width, height = cv2.boundingRect(lesion.astype(np.uint8))
    across, down = round(ROOM * width), round(ROOM * height)
    return (
        slice(max(top - down, 0), top + height + down),
        slice(max(left - across, 0), left + width + across),
    )


def _seen(
    network: CystClassifier, size: int, picture: Picture, lesion: Mask | None, marks: Mask, label: int
) -> _ScoredPicture:
    """``lesion`` None: its place in the picture is not known."""
    reduced, _ = reduce(grey(picture), CHAIN)
    with torch.inference_mode():
        images = torch.from_numpy(normalise(enlarge(reduced, size)[None], MEAN, SCALE))
        logits, features = network(images)
        weights = network.head.weight[label][:, None, None]
        activation = torch.relu((features[0] * weights).sum(0)).numpy()
    fine = cv2.resize(activation, (size, size), interpolation=cv2.INTER_LINEAR)
    total = max(float(fine.sum()), 1e-6)
    inside = [
        float("nan") if mask is None else float(fine[_square(mask, size)].sum()) / total
        for mask in (lesion, marks)
    ]
    return _ScoredPicture(logits[0].numpy(), *inside)


def _square(mask: Mask, size: int) -> Mask:
    """A mask of a picture on the square that the network sees."""
    side = CHAIN.side
    scale = side / max(mask.shape)
    height, width = (max(1, round(length * scale)) for length in mask.shape)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR) >= 0.5)
