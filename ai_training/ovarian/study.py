"""How cleaning affects the classifier: every frame unchanged, cleaned in several ways, and as probes.

Each picture is scored by the network of the fold that has not seen its frame; the logits are kept, so that
``ai-pipeline evaluate ovarian`` prints every table from them. For a network with mean pooling and one linear
layer, class activation maps equal Grad-CAM up to a factor (R. Selvaraju et al., ICCV 2017, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ai_pipeline.burnin.fill.inpainters import Inpainter
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import usable_cores
from ai_pipeline.models.preprocess import enlarge, normalise, reduce
from ai_pipeline.ovarian.classifier import OvarianClassifier, heatmap
from ai_training.networks.ovarian import CystClassifier
from ai_training.ovarian import predictions
from ai_training.ovarian.fit import FOLD_RUNS, OvarianRecipe, trained_classifier
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import (
    CHAIN,
    FEW_MARKS,
    LABELS,
    MEAN,
    SCALE,
    OvarianFrame,
    folds,
    grey,
    ovarian_frames,
)
from ai_training.ultrasound.inpaint.compared import cards_with_compared, inpainters
from ai_training.ultrasound.marks.maskers import network_mask
from ai_training.ultrasound.overlays import HELD_OUT, burn_in

ORIGINAL, OURS = "original", "ours (OCI-GAN type)"
FILLED_BY = {
    OURS: "oci-gan",
    "Telea": "telea",
    "Navier-Stokes": "navier-stokes",
    "U-Net": "unet",
    "VAE": "vae",
}
CLEANED = tuple(FILLED_BY)
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
class _Square:
    """A variant as the networks see it: ``picture [side, side]``; where lesion (None: not known) and marks
    lie on the network's input ``[size, size]``."""

    picture: Picture
    lesion: Mask | None
    marks: Mask


def run(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    report: Report = silent,
) -> Path:
    """Score all variants with the networks of the recipe's seed in ``out``; returns the file of scores.

    Frames come in a random order. Scores are saved on the way and not computed again, so an interrupted run
    leaves a random part and can continue. Each picture is scored without its mirror image. Raises
    DataMissing, OSError.
    """
    frames, tools = ovarian_frames(data), shared_tools()
    fold = folds(frames)
    networks = [trained_classifier(out / f"seed-{recipe.seed}" / name, recipe) for name in FOLD_RUNS]
    path = out / predictions.FOLDER.name / predictions.STUDY
    path.parent.mkdir(parents=True, exist_ok=True)
    logits, shares = _scored(path, frames)
    order = np.random.default_rng(recipe.seed).permutation(len(frames)).tolist()
    todo = [row for row in order if np.isnan(logits[VARIANTS.index(ORIGINAL), row]).any()]
    for done, row in enumerate(todo, start=1):
        report(done / len(todo), f"frame {done} of {len(todo)}")
        frame = frames[row]
        shown = squares(frame, row, tools, recipe.size)
        numbers = [VARIANTS.index(name) for name in shown]
        seen = _seen(networks[fold[row]], recipe.size, list(shown.values()), frame.label)
        logits[numbers, row], shares[numbers, row] = seen
        if done % SAVED_EVERY == 0 or done == len(todo):
            _save(path, frames, logits, shares)
    return path


def _scored(path: Path, frames: Sequence[OvarianFrame]) -> tuple[Floats, Floats]:
    """Logits ``[V, N, labels]`` and shares ``[V, N, 2]`` of the file; NaN where nothing is scored."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            same = found["files"].tolist() == [frame.name for frame in frames]
            if same and found["names"].tolist() == list(VARIANTS):
                return found["logits"].astype(np.float32), found["shares"].astype(np.float32)
    shape = (len(VARIANTS), len(frames))
    return np.full((*shape, len(LABELS)), np.nan, np.float32), np.full((*shape, 2), np.nan, np.float32)


def squares(frame: OvarianFrame, row: int, tools: Tools, size: int) -> dict[str, _Square]:
    """The variants of one frame (see :func:`variants` and :func:`truths`), each as a square network input, by
    name.
    """
    lesion, made = frame.lesion(), variants(frame, tools)
    if frame.yellow <= FEW_MARKS:
        made |= truths(frame, row, tools)
    return {
        name: _Square(
            reduce(grey(picture), CHAIN)[0],
            _on_square(lesion, size) if picture.shape[:2] == lesion.shape else None,
            _on_square(marks, size),
        )
        for name, (picture, marks) in made.items()
    }


def pictures(data: Path, card: Card, out: Path, most: int, report: Report = silent) -> list[Path]:
    """Write ``most`` random frames of the test split into ``out``: the frame, and the activation of its own
    class on the original and on the frame as we clean it. The lesion is outlined in green, marks in white.
    Raises DataMissing.

    The activation is that of the shipped model, which was trained on these frames: it shows where the model
    looks, not how well it does.
    """
    out.mkdir(parents=True, exist_ok=True)
    tools, classifier = shared_tools(), OvarianClassifier(card)
    frames = [frame for frame in ovarian_frames(data) if frame.split == "test"]
    chosen = np.random.default_rng(1).permutation(len(frames))[:most].tolist()
    made = []
    for done, frame in enumerate(frames[row] for row in chosen):
        report(done / most, "pictures")
        picture, lesion = frame.rgb(), frame.lesion()
        marks = network_mask(picture, tools)
        both = [picture, tools.filler.fill(picture, marks)]
        sides = [_under_activation(one, classifier, frame.label, lesion, marks) for one in both]
        path = out / f"{Path(frame.name).stem}.png"
        cv2.imwrite(str(path), np.hstack([side[..., ::-1] for side in (both[0], *sides)]))
        made.append(path)
    return made


def _under_activation(
    picture: Picture, classifier: OvarianClassifier, label: int, lesion: Mask, marks: Mask
) -> Picture:
    """RGB, with the shares of the activation that lie in lesion and marks below."""
    values = heatmap(classifier.analyse(picture), label).values
    colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    drawn = cv2.addWeighted(picture, 0.6, np.ascontiguousarray(colours), 0.4, 0)
    for mask, colour in ((lesion, (0, 255, 0)), (marks, (255, 255, 255))):
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, colour, 1)
    total = max(float(values.sum()), 1e-6)
    inside = (float(values[mask].sum()) / total for mask in (lesion, marks))
    words = "lesion {:.0%}, marks {:.0%}".format(*inside)
    cv2.putText(drawn, words, (6, drawn.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
    return np.asarray(drawn, np.uint8)


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


def variants(frame: OvarianFrame, tools: Tools) -> dict[str, tuple[Picture, Mask]]:
    """Variants of a frame by name: the original, cleaned in each way, and probes (such as marks only).

    Each variant comes with the mask of drawn marks that the mark detector found in the original.
    """
    picture = frame.rgb()
    marks, lesion = network_mask(picture, tools), frame.lesion()
    made = {ORIGINAL: picture} | {name: way.fill(picture, marks) for name, way in ways().items()}
    made["marks only"] = np.where(marks[..., None], picture, np.uint8(0))
    made["lesion blacked out"] = np.where(lesion[..., None], np.uint8(0), picture)
    crop = _around(lesion)
    return {name: (one, marks) for name, one in made.items()} | {"lesion crop": (picture[crop], marks[crop])}


def truths(frame: OvarianFrame, row: int, tools: Tools) -> dict[str, tuple[Picture, Mask]]:
    """A frame without yellow marks: unchanged, with synthetic marks, and with these marks cleaned away by our
    inpainter; each with the mask of the drawn marks.
    """
    burned = burn_in(frame.rgb(), HELD_OUT, (row,))
    drawn = burned.owners > 0
    cleaned = tools.filler.fill(burned.image, network_mask(burned.image, tools))
    shown = {CLEAN: burned.clean, MARKED: burned.image, MARKED_CLEANED: cleaned}
    return {name: (picture, drawn) for name, picture in shown.items()}


@cache
def ways() -> dict[str, Inpainter]:
    """The inpainters that fill the marks, by their names in :data:`CLEANED`."""
    known = {way.name: way for way in inpainters(cards_with_compared(), usable_cores())}
    return {shown: known[name] for shown, name in FILLED_BY.items()}


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


def _seen(network: CystClassifier, size: int, shown: Sequence[_Square], label: int) -> tuple[Floats, Floats]:
    """Logits ``[V, labels]``, and the shares ``[V, 2]`` of the label's activation in lesion and marks."""
    inputs = normalise(np.stack([enlarge(one.picture, size) for one in shown]), MEAN, SCALE)
    with torch.inference_mode():
        logits, features = network(torch.from_numpy(inputs))
        weights = network.head.weight[label][:, None, None]
        activation = torch.relu((features * weights).sum(1)).numpy()
    shares = np.full((len(shown), 2), np.nan, np.float32)
    for row, (one, layer) in enumerate(zip(shown, activation, strict=True)):
        fine = cv2.resize(layer, (size, size), interpolation=cv2.INTER_LINEAR)
        total = max(float(fine.sum()), 1e-6)
        for column, mask in enumerate((one.lesion, one.marks)):
            if mask is not None:
                shares[row, column] = float(fine[mask].sum()) / total
    return logits.numpy(), shares


def _on_square(mask: Mask, size: int) -> Mask:
    """A mask of a picture on the square that the network sees."""
    side = CHAIN.side
    scale = side / max(mask.shape)
    height, width = (max(1, round(length * scale)) for length in mask.shape)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR) >= 0.5)
