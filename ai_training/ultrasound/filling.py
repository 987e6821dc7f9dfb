"""``ai-pipeline evaluate inpaint``: how good each way of filling holes is, with intervals.

Synthetic marks of the held-out style family are drawn on test frames. Every figure is computed per picture,
over the true mask (pixels that were drawn on, whatever was masked) and over the whole picture; intervals are
95 % by bootstrap over frames. KID compares squares around
marks in the feature space of EfficientNet-Lite0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ai_pipeline.burnin.fill import Classical, Inpainter, NetworkInpainter, on_onnx
from ai_pipeline.burnin.find.annotation import Mask, Picture
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.models import registry
from ai_pipeline.models.card import Card
from ai_training.base import Report, silent
from ai_training.metrics import Floats, mean_interval, patient_weights
from ai_training.networks.backbones import SIDE, Perception
from ai_training.ultrasound.marks import burned_frames
from ai_training.ultrasound.overlays import HELD_OUT, BurnIn, CleanFrame, clean_frames
from ai_training.ultrasound.removal import OUTLINE, beside, outlined, save, stacked, titled

NETWORKS = ("unet", "vae", "oci-gan")
CLASSICAL = ("telea", "navier-stokes")
COMPARED = Path(__file__).parent / "compared"


def cards_with_compared(models_dir: Path | None = None) -> dict[str, Card]:
    """The cards of :func:`ai_pipeline.models.registry.cards` and those for comparison, sorted by id.

    A card in ``models_dir`` replaces one of the same id. Raises CardError if one cannot be read.
    """
    known = {card.id: card for folder in (COMPARED, models_dir) for card in registry.cards(folder)}
    return dict(sorted(known.items()))


def inpainters(known: Mapping[str, Card], threads: int) -> list[Inpainter]:
    """The inpainters of :data:`NETWORKS` whose cards are ``known``, and :data:`CLASSICAL`.
    Raises CardError.
    """
    ways: list[Inpainter] = []
    for name in NETWORKS:
        card = known.get(f"ultrasound-inpaint-{name}")
        if card is not None:
            ways.append(NetworkInpainter(name, on_onnx(registry.read(card.file("inpainter")), threads)))
    return [*ways, *map(Classical, CLASSICAL)]


Planned = Callable[[Picture], Mask | None]
FIGURES = ("mae", "mse", "psnr", "ssim")
PLACES = ("inside", "whole")
UNCLEANED = "uncleaned"
REFERENCE = "navier-stokes"
SEED = 104729
SQUARES = 4
"""Squares per picture that KID is taken on."""
HALVES = 100
LARGEST_PSNR = 60.0
"""What a perfect fill counts (dB): rounding alone gives 59."""


@dataclass(slots=True)
class Measured:
    """The figures of one inpainter with one kind of mask: ``[pictures, places, figures]`` as in
    :func:`figures`, and features of the squares for KID.
    """

    rows: list[npt.NDArray[np.float64]] = field(default_factory=list)
    features: list[npt.NDArray[np.float32]] = field(default_factory=list)


@dataclass(slots=True)
class Masked:
    """The results of all inpainters with one kind of mask: their figures, the truth's features,
    the frames.
    """

    ways: dict[str, Measured] = field(default_factory=dict)
    truth: list[npt.NDArray[np.float32]] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)


def evaluate_inpaint(
    data: Path,
    inpainters: Sequence[Inpainter],
    planned: Planned | None,
    *,
    pictures: int = 200,
    split: str = "test",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure ``inpainters`` and the uncleaned picture; ``planned`` gives the mask that the node would
    remove.

    Without ``planned`` there are no rows with a detected mask; pictures that the node refuses are left out of
    those rows and counted. Raises DataMissing.
    """
    found = {"given": Masked()} | ({} if planned is None else {"detected": Masked()})
    perception, refused, shown = Perception(), 0, []
    for number, (frame, picture) in enumerate(measured_pictures(data, pictures, split)):
        report(number / pictures, f"picture {number + 1}")
        squares = squares_of(picture)
        shown.append(frame.file)
        for mask, masked in found.items():
            hole = given_mask(picture) if mask == "given" or planned is None else planned(picture.image)
            if hole is None:
                refused += 1
                continue
            masked.frames.append(frame.file)
            masked.truth.append(_features(perception, picture.clean, squares))
            for name, filled in fills(picture.image, hole, inpainters).items():
                measured = masked.ways.setdefault(name, Measured())
                measured.rows.append(figures(filled, picture.clean, picture.owners > 0))
                measured.features.append(_features(perception, filled, squares))
    return {
        "set": f"{len(shown)} pictures on {len(set(shown))} {split} frames, style {HELD_OUT.name}",
        "split": split,
        "refused": refused,
        "reference": REFERENCE,
        "rows": [row for mask, masked in found.items() if masked.frames for row in _summary(mask, masked)],
    }


def measured_pictures(data: Path, pictures: int, split: str) -> Iterator[tuple[CleanFrame, BurnIn]]:
    """Up to ``pictures`` synthetic pictures that carry a mark, in a style that no network has seen."""
    burned = burned_frames(data, clean_frames(split), pictures, SEED, HELD_OUT)
    return ((frame, picture) for frame, picture in burned if picture.objects)


def given_mask(picture: BurnIn) -> Mask:
    """The mask of the drawn marks, grown by their soft edges and the ringing of compression."""
    return grown(picture.mask > 0)


def fills(picture: Picture, hole: Mask, inpainters: Sequence[Inpainter]) -> dict[str, Picture]:
    """The unchanged picture, and the picture filled by each inpainter, by name."""
    return {UNCLEANED: picture} | {way.name: way.fill(picture, hole) for way in inpainters}


def figures(filled: Picture, truth: Picture, mask: Mask) -> npt.NDArray[np.float64]:
    """The figures ``[2, 4]``: MAE (0..255), MSE (0..1), PSNR (dB), SSIM; in the mask and over the whole
    picture.
    """
    difference = filled.astype(np.float64) - truth
    similarity = structural_similarity(filled, truth)
    rows = []
    for place in (mask, np.ones_like(mask)):
        error = float(np.square(difference[place] / 255).mean())
        psnr = LARGEST_PSNR if error == 0 else min(LARGEST_PSNR, -10 * np.log10(error))
        rows.append([float(np.abs(difference[place]).mean()), error, psnr, float(similarity[place].mean())])
    return np.array(rows)


def structural_similarity(one: Picture, other: Picture) -> npt.NDArray[np.float64]:
    """SSIM per pixel of the luminances (Wang et al. 2004: Gaussian window, sigma 1.5, range 255)."""
    from skimage.metrics import structural_similarity as ssim

    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)]
    choices = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, similarity = ssim(*grey, data_range=255, full=True, **choices)  # type: ignore[no-untyped-call]
    return np.asarray(similarity, np.float64)


def kernel_distances(
    made: npt.NDArray[np.float32], real: npt.NDArray[np.float32], seed: int = SEED
) -> npt.NDArray[np.float64]:
    """KID of :data:`HALVES` random halves of the pictures: the same halves for every way of filling.

    The unbiased squared MMD with the kernel (x·y / C + 1)³ (Binkowski et al. 2018). In every half, made and
    real squares come from different pictures: two squares of one picture share all that surrounds the hole.
    """
    random = np.random.default_rng(seed)
    values = []
    for _ in range(HALVES):
        order = random.permutation(len(made))
        half = len(made) // 2
        one, other = (part.reshape(-1, made.shape[-1]) for part in (made[order[:half]], real[order[half:]]))
        values.append(_unbiased_mmd(one.astype(np.float64), other.astype(np.float64)))
    return np.array(values)


def squares_of(picture: BurnIn) -> list[tuple[slice, slice]]:
    """Squares of :data:`SIDE` pixels around marks, the same in every run."""
    rows, columns = picture.owners.shape
    random = np.random.default_rng(SEED)
    places = random.choice(np.flatnonzero(picture.owners), SQUARES)
    squares = []
    for place in places:
        row, column = np.unravel_index(int(place), (rows, columns))
        top = int(np.clip(int(row) - SIDE // 2, 0, max(0, rows - SIDE)))
        left = int(np.clip(int(column) - SIDE // 2, 0, max(0, columns - SIDE)))
        squares.append((slice(top, top + SIDE), slice(left, left + SIDE)))
    return squares


def _summary(mask: str, masked: Masked) -> Iterator[dict[str, Any]]:
    weights = patient_weights(masked.frames)
    real = np.stack(masked.truth)
    distances = {
        name: kernel_distances(np.stack(measured.features), real) for name, measured in masked.ways.items()
    }
    for name, measured in masked.ways.items():
        values = np.stack(measured.rows)
        row: dict[str, Any] = {"mask": mask, "name": name, "pictures": len(values)}
        compared = REFERENCE in masked.ways and name not in {UNCLEANED, REFERENCE}
        for place, where in enumerate(PLACES):
            row[where] = _by_figure(values[:, place], weights)
            if compared:
                reference = np.stack(masked.ways[REFERENCE].rows)
                row[where]["difference"] = _by_figure(values[:, place] - reference[:, place], weights)
        row["kid"] = _percentiles(distances[name])
        if compared:
            row["kid_difference"] = _percentiles(distances[name] - distances[REFERENCE])
        yield row


def _by_figure(values: npt.NDArray[np.float64], weights: Floats) -> dict[str, Any]:
    return {figure: mean_interval(values[:, k], weights).as_list(6) for k, figure in enumerate(FIGURES)}


def _percentiles(values: npt.NDArray[np.float64]) -> list[float]:
    """The mean with the 2.5 and 97.5 percentiles."""
    return [round(float(value), 6) for value in (values.mean(), *np.percentile(values, (2.5, 97.5)))]


def _features(
    perception: Perception, picture: Picture, squares: list[tuple[slice, slice]]
) -> npt.NDArray[np.float32]:
    cuts = [picture[square] for square in squares]
    padded = [np.pad(cut, ((0, SIDE - cut.shape[0]), (0, SIDE - cut.shape[1]), (0, 0))) for cut in cuts]
    with torch.inference_mode():
        pictures = torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return np.asarray(perception.pooled(pictures).numpy(), np.float32)


def _unbiased_mmd(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    def kernel(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3, np.float64)

    within = 0.0
    for sample in (one, other):
        similar = kernel(sample, sample)
        within += (similar.sum() - np.trace(similar)) / (len(sample) * (len(sample) - 1))
    return float(within - 2 * kernel(one, other).mean())


SHOWN, CUT = 6, 200
"""Pictures of each set in a report, and the side of the detail that is shown (pixels)."""


def write_grids(
    folder: Path, data: Path, ways: Sequence[Inpainter], planned: Planned | None, split: str
) -> None:
    """Write the first pictures of each set: the square with most marks, filled in every way, with the truth.

    Below it the same with the mask that the node would remove, if there is one.
    """
    shown: Counter[str] = Counter()
    for number, (frame, burned) in enumerate(measured_pictures(data, 200, split)):
        shown[frame.source] += 1
        if shown[frame.source] > SHOWN or not burned.mask.any():
            continue
        cut = densest(burned.owners > 0, CUT)
        found = planned(burned.image) if planned else None
        rows = []
        for title, hole in (("given", given_mask(burned)), ("detected", found)):
            if hole is not None:
                made = fills(burned.image, hole, ways) | {"truth": burned.clean}
                made[f"{title} mask"] = outlined(burned.image, [(hole, OUTLINE)], 1)
                rows.append(beside([titled(picture[cut], name) for name, picture in made.items()]))
        save(folder / f"grid-{number:02}.png", stacked(rows))


def densest(mask: Mask, most: int) -> tuple[slice, slice]:
    """The square of ``most`` pixels a side that holds most of the mask."""
    rows, columns = mask.shape
    side = min(most, rows), min(most, columns)
    sums = np.pad(np.cumsum(np.cumsum(mask.astype(np.int64), 0), 1), ((1, 0), (1, 0)))
    windows = (
        sums[side[0] :, side[1] :]
        - sums[: -side[0], side[1] :]
        - sums[side[0] :, : -side[1]]
        + sums[: -side[0], : -side[1]]
    )
    top, left = np.unravel_index(int(np.argmax(windows)), windows.shape)
    return slice(int(top), int(top) + side[0]), slice(int(left), int(left) + side[1])
