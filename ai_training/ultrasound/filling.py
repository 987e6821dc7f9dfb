"""``ai-pipeline evaluate inpaint``: how holes are filled.

Synthetic marks of the held-out style family are drawn on test frames. Every figure is computed per picture,
over the true mask (pixels that were drawn on, whatever was masked) and over the whole picture; intervals are
95 % by bootstrap over frames. KID compares squares around marks in the feature space of EfficientNet-Lite0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from skimage.metrics import structural_similarity
from sklearn.metrics.pairwise import polynomial_kernel

from ai_pipeline.burnin.find.annotation import Mask, Picture
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.tools import Classical, Inpainter, NetworkInpainter, on_onnx
from ai_pipeline.models import registry
from ai_pipeline.models.registry import Card
from ai_training.base import Report, silent
from ai_training.metrics import Floats, interval, mean_interval, patient_weights
from ai_training.networks import SIDE, Perception
from ai_training.ultrasound.marks import burned_frames
from ai_training.ultrasound.overlays.burning import BurnIn
from ai_training.ultrasound.overlays.hands import HELD_OUT
from ai_training.ultrasound.overlays.scenes import clean_frames
from ai_training.ultrasound.removal import Masker
from ai_training.ultrasound.speckle import COMPARED

NETWORKS = ("unet", "vae", "oci-gan")
CLASSICAL = ("telea", "navier-stokes")


def cards_with_compared(models_dir: Path | None = None) -> dict[str, Card]:
    """The model cards of :func:`ai_pipeline.models.registry.cards` and those of models for comparison, sorted
    by id. A card in ``models_dir`` replaces one of the same id. Raises CardError if one cannot be read.
    """
    known = {card.id: card for folder in (COMPARED, models_dir) for card in registry.cards(folder)}
    return dict(sorted(known.items()))


def inpainters(known: Mapping[str, Card], threads: int) -> list[Inpainter]:
    """The inpainters of :data:`NETWORKS` whose model cards are ``known``, and :data:`CLASSICAL`. Raises
    CardError.
    """
    networks = (
        NetworkInpainter(name, on_onnx(registry.read(card.file("inpainter")), threads))
        for name in NETWORKS
        if (card := known.get(f"ultrasound-inpaint-{name}"))
    )
    return [*networks, *map(Classical, CLASSICAL)]


FIGURES = ("mae", "mse", "psnr", "ssim")
PLACES = ("inside", "whole")
UNCLEANED = "uncleaned"
REFERENCE = "navier-stokes"
FILLING_SEED = 104729
HALVES = 100
LARGEST_PSNR = 60.0
"""What a perfect fill counts (dB): rounding alone gives 59."""


def evaluate_inpaint(
    data: Path,
    inpainters: Sequence[Inpainter],
    planned: Masker | None,
    *,
    pictures: int = 200,
    split: str = "test",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure how well ``inpainters`` fill holes, compared with the uncleaned picture; ``planned`` gives the
    mask that the node would remove. Without ``planned`` there are no rows with a detected mask; pictures that
    the node refuses are left out of those rows and counted. Raises DataMissing.
    """
    perception, refused = Perception(), 0
    measured: dict[str, list[MeasuredPicture]] = {"given": [], "detected": []}
    files: list[str] = []
    for frame, burned in burned_frames(data, clean_frames(split), pictures, FILLING_SEED, HELD_OUT):
        if not burned.objects:
            continue
        report(len(files) / pictures, f"picture {len(files) + 1}")
        files.append(frame.file)
        holes = {"given": grown(burned.mask > 0)}  # and their soft edges and the ringing of compression
        if planned:
            hole = planned(burned.image)
            holes |= {} if hole is None else {"detected": hole}
            refused += hole is None
        squares = squares_of(burned)
        truth = _features(perception, burned.clean, squares)
        for mask, hole in holes.items():
            made = {UNCLEANED: burned.image} | {way.name: way.fill(burned.image, hole) for way in inpainters}
            values = {name: figures(one, burned.clean, burned.owners > 0) for name, one in made.items()}
            features = {name: _features(perception, one, squares) for name, one in made.items()}
            measured[mask].append(MeasuredPicture(frame.file, truth, values, features))
    return {
        "set": f"{len(files)} pictures on {len(set(files))} {split} frames, style {HELD_OUT.name}",
        "split": split,
        "refused": refused,
        "reference": REFERENCE,
        "rows": [row for mask, found in measured.items() if found for row in _summary(mask, found)],
    }


class MeasuredPicture(NamedTuple):
    """The figures of one picture with one mask.

    ``frame``: its name; ``truth``: features of the unmarked picture's squares, for KID; ``values`` and
    ``features``: for each way of filling the figures of :func:`figures`, and the features of its squares.
    """

    frame: str
    truth: npt.NDArray[np.float32]
    values: Mapping[str, npt.NDArray[np.float64]]
    features: Mapping[str, npt.NDArray[np.float32]]


def figures(filled: Picture, truth: Picture, mask: Mask) -> npt.NDArray[np.float64]:
    """How close the ``filled`` picture is to the ``truth``: ``[2, 4]``, in ``mask`` and over the whole
    picture, MAE (0..255), MSE (0..1), PSNR (dB) and SSIM.

    SSIM is that of the luminances (Wang et al. 2004: Gaussian window, sigma 1.5, range 255).
    """
    difference = filled.astype(np.float64) - truth
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (filled, truth)]
    choices = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, similarity = structural_similarity(*grey, data_range=255, full=True, **choices)  # type: ignore[no-untyped-call]
    rows = []
    for place in (mask, np.ones_like(mask)):
        error = float(np.square(difference[place] / 255).mean())
        psnr = LARGEST_PSNR if error == 0 else min(LARGEST_PSNR, -10 * np.log10(error))
        rows.append([float(np.abs(difference[place]).mean()), error, psnr, float(similarity[place].mean())])
    return np.array(rows)


def kernel_distances(made: npt.NDArray[np.float32], real: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The distance (KID) of the features ``made`` of filled pictures from the features ``real`` of unmarked
    ones, ``[pictures, squares, C]`` each, for :data:`HALVES` random halves of the pictures, the same for
    every way of filling.

    The unbiased squared MMD with the kernel (x·y / C + 1)³ (Binkowski et al. 2018). In every half, made and
    real squares come from different pictures: two squares of one picture share all that surrounds the hole.
    """
    random = np.random.default_rng(FILLING_SEED)
    values = np.zeros(HALVES)
    for number in range(HALVES):
        order = random.permutation(len(made))
        parts = made[order[: len(made) // 2]], real[order[len(made) // 2 :]]
        one, other = (part.reshape(-1, made.shape[-1]).astype(np.float64) for part in parts)
        for sample in (one, other):
            similar = polynomial_kernel(sample)  # of that degree, scale and offset
            values[number] += (similar.sum() - np.trace(similar)) / (len(sample) * (len(sample) - 1))
        values[number] -= 2 * polynomial_kernel(one, other).mean()
    return values


def squares_of(picture: BurnIn) -> list[tuple[slice, slice]]:
    """Squares of :data:`SIDE` pixels around marks, the same in every run."""
    rows, columns = picture.owners.shape
    places = np.random.default_rng(FILLING_SEED).choice(np.argwhere(picture.owners), 4)
    squares = []
    for row, column in places.tolist():
        top = int(np.clip(row - SIDE // 2, 0, max(0, rows - SIDE)))
        left = int(np.clip(column - SIDE // 2, 0, max(0, columns - SIDE)))
        squares.append((slice(top, top + SIDE), slice(left, left + SIDE)))
    return squares


def _summary(mask: str, found: Sequence[MeasuredPicture]) -> Iterator[dict[str, Any]]:
    """The figures of each way of filling with this kind of mask."""
    weights = patient_weights([one.frame for one in found])
    real = np.stack([one.truth for one in found])
    names = found[0].values
    values = {name: np.stack([one.values[name] for one in found]) for name in names}
    kid = {name: kernel_distances(np.stack([one.features[name] for one in found]), real) for name in names}
    for name in names:
        row: dict[str, Any] = {"mask": mask, "name": name, "pictures": len(found)}
        row |= {where: _by_figure(values[name][:, place], weights) for place, where in enumerate(PLACES)}
        row["kid"] = _percentiles(kid[name])
        if REFERENCE in names and name not in {UNCLEANED, REFERENCE}:
            difference = values[name] - values[REFERENCE]
            for place, where in enumerate(PLACES):
                row[where]["difference"] = _by_figure(difference[:, place], weights)
            row["kid_difference"] = _percentiles(kid[name] - kid[REFERENCE])
        yield row


def _by_figure(values: npt.NDArray[np.float64], weights: Floats) -> dict[str, Any]:
    """The mean of each figure, with its interval."""
    return {figure: mean_interval(values[:, k], weights).as_list(6) for k, figure in enumerate(FIGURES)}


def _percentiles(values: npt.NDArray[np.float64]) -> list[float]:
    """The mean with the 2.5 and 97.5 percentiles."""
    return interval(float(values.mean()), values).as_list(6)


def _features(
    perception: Perception, picture: Picture, squares: list[tuple[slice, slice]]
) -> npt.NDArray[np.float32]:
    """The ImageNet features of squares of a picture, by which pictures are compared (KID)."""
    cuts = [picture[square] for square in squares]
    padded = [np.pad(cut, ((0, SIDE - cut.shape[0]), (0, SIDE - cut.shape[1]), (0, 0))) for cut in cuts]
    with torch.inference_mode():
        pictures = torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return np.asarray(perception.pooled(pictures).numpy(), np.float32)


def inpaint_figures(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of :func:`evaluate_inpaint` for each inpainter's card, by the model card's id."""
    cards: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        card = cards.setdefault(f"ultrasound-inpaint-{row['name']}", {"set": result["set"]})
        card[row["mask"]] = {key: value for key, value in row.items() if key not in {"mask", "name"}}
    return {name: {result["split"]: figures} for name, figures in cards.items()}
