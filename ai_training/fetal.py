"""``ai-pipeline train fetal`` and ``evaluate fetal``: a network that outlines fetal heads, and its gate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.utils.data import Dataset

from ai_pipeline.contract import ModelRef
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find
from ai_pipeline.networks.heads import (
    COLUMNS,
    GRID,
    ROWS,
    HeadLimits,
    HeadModel,
    HeadOutline,
    ellipse_of,
    fit_to_input,
    head_mask,
    values,
)
from ai_training.base import DataMissing, ExperimentError, Report, followed, silent
from ai_training.cards import new_card
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.metrics import Bools, agreement, dice, mean_of, patient_weights, share
from ai_training.networks import (
    HeadNetwork,
    Probabilities,
    export_outline_network,
    less_dice,
    licence_from,
    outline_network,
    start_described,
)
from ai_training.sets.files import Grey, Singles, read_grey
from ai_training.sets.images import FETAL, ImageSet, MaskFile, SetImage
from ai_training.sets.layouts import named_set, part_of_set

HEADS, PLANES = "us_fetal_head", "us_fetal_planes"
OTHERS = ("us_ovarian", "us_breast", "cxr_nih")
PIXEL = ("pixel_mm", "pixel_mm_at_512")


@dataclass(frozen=True, slots=True)
class HeadImage:
    """A frame of :data:`HEADS` with the sonographer's outline. ``pixel_mm``: side of a pixel of the file in
    mm; ``circumference``: that of the sonographer's outline, mm.
    """

    name: str
    patient: str
    picture: Path
    mask: MaskFile
    pixel_mm: float
    circumference: float

    def read(self) -> tuple[Grey, Bools]:
        """Read the grey picture and the head's mask, both ``[rows, columns]``. Raises DataMissing."""
        picture = read_grey(self.picture)
        return picture, self.mask.read(picture.shape)


def head_set(data: Path) -> ImageSet:
    """The set of outlined heads that ``data`` names. Raises DataMissing."""
    return named_set(data, HEADS, FETAL)


def head_images(data: Path, split: str) -> tuple[HeadImage, ...]:
    """The outlined heads of ``split`` (train, val, test). Raises DataMissing."""
    return tuple(_head(image) for image in head_set(data).images if image.split == split)


def learned_from(data: Path) -> list[str]:
    """The sets of images in ``data`` from which the network learns and what each teaches, as lines for the
    model card. Raises DataMissing.
    """
    others = [name for name in OTHERS if part_of_set(data / name, "train")]
    return [
        f"{head_set(data).title} (train): outlines of heads; parts of its frames beside the head as no head",
        *([f"{PLANES} (train): heads without outline"] if part_of_set(data / PLANES, "train") else []),
        *([f"{', '.join(others)} (train): no heads"] if others else []),
    ]


def _head(image: SetImage) -> HeadImage:
    """Convert an image of a set to one with an outlined head. Raises DataMissing."""
    try:
        [mask] = image.masks.values()
        pixel = next(image.measures[name] for name in PIXEL if name in image.measures)
        return HeadImage(
            image.name, image.patient, image.path, mask, pixel, image.measures["head_circumference_mm"]
        )
    except (ValueError, StopIteration, KeyError) as error:
        wanted = f"mask, {' or '.join(PIXEL)} and head_circumference_mm"
        raise DataMissing(f"{image.path}: {wanted} were expected") from error


def without_head(picture: Grey, head: Bools, random: np.random.Generator) -> Grey:
    """Cut a random part out of ``picture``, a fifth to a half as wide, at most a fiftieth of which shows the
    ``head``: the first such part that is not mostly black, else the least black one; a black picture if the
    head is everywhere.
    """
    rows, columns = picture.shape
    best, least = np.zeros((ROWS, COLUMNS), np.uint8), 1.0
    for _ in range(60):
        width = int(columns * random.uniform(0.2, 0.5))
        height = min(int(width * random.uniform(0.5, 0.9)), rows)
        top, left = random.integers(0, rows - height + 1), random.integers(0, columns - width + 1)
        part = slice(top, top + height), slice(left, left + width)
        if head[part].mean() > 0.02:
            continue
        black = float((picture[part] < 8).mean())
        if black < least:
            best, least = picture[part], black
        if black < 0.6:
            break
    return best


@dataclass(frozen=True, slots=True)
class HeadAugment:
    """How far an augmented copy may differ. ``rotation`` in degrees; the rest as shares of the picture or of
    its greys.

    ``blurred``, ``written``: the share of copies with less sharpness, and with letters and lines drawn on
    them.
    """

    rotation: float = 25.0
    smaller: float = 0.45
    larger: float = 0.25
    stretch: float = 0.06
    shift: float = 0.12
    gamma: float = 0.5
    contrast: float = 0.3
    noise: float = 10.0
    blurred: float = 0.3
    written: float = 0.3


@dataclass(frozen=True, slots=True)
class HeadMix:
    """The composition of a training batch: outlined heads, standard planes of another source, pictures
    without a head.
    """

    heads: int = 5
    planes: int = 1
    others: int = 2


class HeadBatches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """The training batches of a run; item i is inputs ``[B, 3, ROWS, COLUMNS]``, heads ``[B, ROWS, COLUMNS]``
    0..1, whether there is a head ``[B]``, and whether its outline is known ``[B]``. Every batch draws its
    random numbers from (seed, i) alone.
    """

    def __init__(self, data: Path, mix: HeadMix, how: HeadAugment, seed: int) -> None:
        """Read the images that ``data`` names. ``mix``: composition of a batch; ``how``: how far copies may
        differ from the images; ``seed``: of what is drawn at random.
        """
        self._heads = [image.read() for image in head_images(data, "train")]
        self._planes = part_of_set(data / PLANES, "train")
        self._others = [images for name in OTHERS if (images := part_of_set(data / name, "train"))]
        self._mix, self._how, self._seed = mix, how, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
        random = np.random.default_rng((self._seed, iteration))
        drawn = []
        planes = self._mix.planes if self._planes else 0
        for row in random.choice(len(self._heads), self._mix.heads + self._mix.planes - planes).tolist():
            drawn.append((*self._heads[row], True, True))
        for row in random.choice(len(self._planes) or 1, planes).tolist():
            drawn.append((*_blank(read_grey(self._planes[row].path)), True, False))
        for _ in range(self._mix.others):
            if random.random() < 0.5 and self._others:  # half of them another organ, if there is any
                images = self._others[int(random.integers(len(self._others)))]
                picture = read_grey(images[int(random.integers(len(images)))].path)
            else:
                picture = without_head(*self._heads[int(random.integers(len(self._heads)))], random)
            drawn.append((*_blank(picture), False, True))
        copies = [augment(picture, head, self._how, random) for picture, head, _, _ in drawn]
        inputs = torch.from_numpy(values(np.stack([picture for picture, _ in copies])))
        heads = torch.from_numpy(np.stack([head for _, head in copies]))
        present, known = (torch.tensor([float(one[index]) for one in drawn]) for index in (2, 3))
        return inputs, heads, present, known


def plain(image: HeadImage) -> tuple[Singles, Bools]:
    """Prepare an image without augmentation: the network's input ``[3, ROWS, COLUMNS]``, and the head's mask
    in the source ``[rows, columns]``.
    """
    picture, head = image.read()
    return values(fit_to_input(picture)[0][None])[0], head


def augment(
    picture: Grey, head: Bools, how: HeadAugment, random: np.random.Generator
) -> tuple[Grey, Singles]:
    """Make a randomly moved and mirrored copy of ``picture`` with changed grey levels, ``[ROWS, COLUMNS]``,
    and its head 0..1.
    """
    matrix, scale = _motion(picture.shape, how, random)
    if random.random() < how.written:
        picture = _written(picture, random)
    if scale < 1:  # what reducing by area would do
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.4 / scale), np.uint8)
    moved = cv2.warpAffine(picture, matrix, (COLUMNS, ROWS))
    there = cv2.warpAffine(head.astype(np.float32), matrix, (COLUMNS, ROWS))
    return _exposed(np.asarray(moved, np.uint8), how, random), np.asarray(there, np.float32)


def _motion(
    shape: tuple[int, ...], how: HeadAugment, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], float]:
    """A random map (2 × 3) from source to input pixels (in coordinates of pixel centres), and by how much it
    enlarges.
    """
    rows, columns = shape
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = min(ROWS / rows, COLUMNS / columns) * np.exp(random.uniform(-how.smaller, how.larger))
    wide, high = zoom * np.exp(random.uniform(-how.stretch, how.stretch, 2))
    turn = np.array(
        [[np.cos(angle) * wide, -np.sin(angle) * high], [np.sin(angle) * wide, np.cos(angle) * high]]
    )
    turn *= np.where(random.random(2) < 0.5, -1.0, 1.0)[None]  # a fetus lies either way
    size = np.array([COLUMNS, ROWS])
    centre = size / 2 + random.uniform(-how.shift, how.shift, 2) * size
    offset = centre - turn @ (np.array([columns, rows]) / 2)
    offset += turn @ np.full(2, 0.5) - 0.5
    return np.column_stack([turn, offset]), float(zoom)


def _written(picture: Grey, random: np.random.Generator) -> Grey:
    """Make a copy with letters and a line, as scanners and sonographers draw them."""
    picture = picture.copy()
    rows, columns = picture.shape
    for _ in range(int(random.integers(1, 5))):
        text = "".join(random.choice(list("ABDEFHIMPRTX0123456789. "), int(random.integers(2, 12))))
        at = int(random.integers(columns)), int(random.integers(rows))
        face = int(random.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
        size = columns / 512 * random.uniform(0.3, 0.7)
        cv2.putText(picture, text, at, face, size, int(random.integers(120, 256)), 1, cv2.LINE_AA)
    ends = random.integers(0, (columns, rows), (2, 2))
    if random.random() < 0.3:
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), int(random.integers(120, 256)), 1)
    return picture


def _exposed(picture: Grey, how: HeadAugment, random: np.random.Generator) -> Grey:
    """Make a copy with another gain, sharpness and noise, as far as ``how`` allows."""
    grey = (picture / np.float32(255)) ** np.float32(np.exp(random.uniform(-how.gamma, how.gamma)))
    grey = grey * np.float32(np.exp(random.uniform(-how.contrast, how.contrast)))
    if random.random() < how.blurred:
        grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(0.4, 1.5))
    speckle = random.normal(0, random.uniform(0, how.noise) / 255, grey.shape).astype(np.float32)
    return np.asarray(np.clip(grey + speckle * np.sqrt(grey), 0, 1) * 255, np.uint8)


def _blank(picture: Grey) -> tuple[Grey, Bools]:
    """Pair a picture with an empty mask."""
    return picture, np.zeros(picture.shape, np.bool_)


OPEN = HeadLimits(
    present=0.0,
    shape=0.0,
    spread=math.inf,
    roundness=(0.0, 1.0),
    outside=1.0,
    unevenness=(0.0, 0.0),
    inset=0.0,
)
"""Limits that refuse nothing: for the figures that limits are fitted to."""
KEPT = 1.0
"""Per cent of validation heads that each of the limits on shape and spread may refuse."""
HERE = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def fit_limits(data: Path, model: HeadModel, report: Report = silent) -> HeadLimits:
    """Fit the limits within which a head is measured for the network of ``model``, whose own limits must be
    :data:`OPEN`. Raises DataMissing, or ExperimentError if the network outlines no head.
    """
    heads = [image.read()[0] for image in head_images(data, "val")]
    heads += [read_grey(image.path) for image in part_of_set(data / PLANES, "val")]
    others = [picture for name in (*OTHERS, "") for picture in headless(data, name, "val")]
    seen = [model.find(picture) for picture in followed(heads, report, "limits of the gate")]
    scores = [model.find(picture).present for picture in followed(others, report, "limits of the gate")]
    round_, insets = [], []
    for image in head_images(data, "train"):
        picture, head = image.read()
        ellipse = ellipse_of(head, HERE)
        assert ellipse is not None
        round_.append(ellipse.short / ellipse.long)
        # By how many pixels of the network's input the reference runs inside its own mask.
        inside = ellipse.circumference - image.circumference / image.pixel_mm
        insets.append(inside / (2 * math.pi) * fit_to_input(picture)[1].a)
    outlined = [one for one in seen if one.area is not None]
    if not outlined:
        raise ExperimentError("the network outlines no head of the validation split: train it longer")
    return HeadLimits(
        # Half of a hundredth of the pictures without a head may score higher.
        present=_rounded(max(0.5, float(np.percentile(scores, 99.5)))),
        shape=_rounded(float(np.percentile([one.shape for one in outlined], KEPT)), up=False),
        spread=_rounded(float(np.percentile([one.spread for one in outlined], 100 - KEPT))),
        roundness=(_rounded(min(round_) - 0.03, up=False), 1.0),
        outside=_rounded(float(np.percentile([one.outside for one in outlined], 100 - KEPT))),
        unevenness=(_least_uneven(outlined, 0), _least_uneven(outlined, 1)),
        inset=round(float(np.median(insets)), 3),
    )


def _least_uneven(outlined: Sequence[HeadOutline], part: int) -> float:
    """The limit of unevenness inside (``part`` 0) or around (1) a head: a tenth below the evenest one; 0
    where no picture has such a place.
    """
    evenest = min(found.unevenness[part] for found in outlined)
    return _rounded(0.9 * evenest, up=False) if math.isfinite(evenest) else 0.0


def headless(data: Path, name: str, split: str) -> list[Grey]:
    """Pictures of ``split`` without a head: those of the set ``name`` in ``data``; if ``name`` is empty,
    parts of head frames beside the head.
    """
    if name:
        return [read_grey(image.path) for image in part_of_set(data / name, split)]
    random = np.random.default_rng(7)
    return [without_head(*image.read(), random) for image in head_images(data, split)]


def _rounded(value: float, *, up: bool = True) -> float:
    """``value`` rounded to three digits, up or down, so that less is refused. ``up``: larger values are
    refused.
    """
    return (math.ceil if up else math.floor)(value * 1000) / 1000


ID = "fetal-head-unet"


def write_card(
    folder: Path,
    limits: HeadLimits,
    training: Mapping[str, Any],
) -> Path:
    """Write the network's model card beside its weights in ``folder``; returns its path. ``training``: the
    card's table on the training. ``ai-pipeline evaluate fetal`` adds the test figures.
    """
    about = {
        "task": "outline of a fetal head in ultrasound, for head circumference, BPD and OFD",
        "architecture": "head-unet",
        "licence": licence_from(start_described()),
        "intended_use": (
            "To measure the head of a fetus in a still picture of the plane for biometry, by an ellipse that "
            "a sonographer checks."
        ),
        "limits": [
            "Taught by the frames of one hospital and two kinds of scanner; whether the plane is the "
            "standard one is not judged.",
            "Abdomen and femur of a fetus were in no set at hand: how often they are taken for a head is not "
            "known.",
            "The biparietal diameter is the ellipse's short axis, from outer to outer edge of the skull.",
        ],
    }
    tables = {
        "head": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(limits).items()},
        "calibration": {
            "calibrated": False,
            "method": "none: outlines, no probabilities; limits of the gate fitted on validation pictures",
        },
        "training": {**training, "start": start_described()},
    }
    made_by = "Model card of the network that outlines fetal heads: `ai-pipeline train fetal`."
    return new_card(folder, ID, made_by, "head", about, tables)


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe(Recipe):
    """The settings of a training run of the network for fetal heads. ``dice_weight``, ``present_weight``:
    weights of the Dice loss and of the loss for "there is a head", against the cross-entropy of the
    pixels.
    """

    iterations: int = 2000
    mix: HeadMix = field(default_factory=HeadMix)
    augment: HeadAugment = field(default_factory=HeadAugment)
    weight_decay: float = 0.02
    dice_weight: float = 1.0
    present_weight: float = 0.2
    validate_every: int = 200
    half: bool = True


def loss_of(found: tuple[Tensor, Tensor], batch: Batch, recipe: HeadRecipe) -> Tensor:
    """The training loss: cross-entropy of every pixel whose truth is known, one minus Dice of each head,
    cross-entropy of "there is a head". ``found``: the network's outputs for ``batch``.
    """
    (logits, seen), (_, heads, present, known) = found, batch
    pixels = cross_entropy(logits, heads, reduction="none").mean((1, 2))
    outlined = known * present
    apart = less_dice(torch.sigmoid(logits), heads)
    return (
        (pixels * known).sum() / known.sum().clamp(min=1)
        + recipe.dice_weight * (apart * outlined).sum() / outlined.sum().clamp(min=1)
        + recipe.present_weight * cross_entropy(seen, present)
    )


class _HeadRun(RecipeRun[HeadRecipe]):
    """One training run of the network for fetal heads."""

    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: HeadRecipe) -> None:
        """Read the outlined heads of the validation split."""
        super().__init__(out, recipe)
        self.data, self.validation = data, head_images(data, "val")

    def new_network(self) -> HeadNetwork:
        """The network before its first step."""
        return HeadNetwork(outline_network(1))

    def examples(self) -> HeadBatches:
        """The training batches."""
        return HeadBatches(self.data, self.recipe.mix, self.recipe.augment, self.recipe.seed)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one batch."""
        with self.autocast():
            logits, present = self.network(batch[0].contiguous(memory_format=torch.channels_last))
        return loss_of((logits.float(), present.float()), batch, self.recipe)

    def validate(self) -> Validation:
        """Measure Dice and error of the circumference on the validation split."""
        overlap, error = scores(cast(HeadNetwork, self.average).eval(), self.validation)
        figures = {"choice": overlap - error / 100, "dice": overlap, "circumference error": error}
        text = f"Dice {overlap:.4f}, circumference {error:.2f} mm off"
        return Validation(figures, text, self.average.state_dict())


def scores(network: HeadNetwork, images: Sequence[HeadImage]) -> tuple[float, float]:
    """Measure ``network``: the mean Dice of the ellipses and the mean absolute error of their circumferences,
    mm, by one variant per picture. A head that is not found counts as Dice 0 and an error of the whole
    circumference.
    """
    overlaps, errors = [], []
    for image in images:
        picture, head = image.read()
        small, to_input = fit_to_input(picture)
        with torch.inference_mode():
            found = torch.sigmoid(network(input_of(network, values(small[None])))[0])[0].cpu().numpy()
        ellipse = ellipse_of(head_mask(found), to_input.inverse().after(GRID))
        overlaps.append(dice(ellipse.mask(*head.shape), head) if ellipse else 0.0)
        measured = ellipse.circumference * image.pixel_mm if ellipse else 0.0
        errors.append(abs(measured - image.circumference))
    return float(np.mean(overlaps)), float(np.mean(errors))


def train_and_ship(
    data: Path, out: Path, recipe: HeadRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train the network for fetal heads, export it, fit its limits; returns the path of the model card.
    ``out`` receives checkpoints, weights and card. Raises DataMissing, or ExperimentError if ``resume`` finds
    a run with another recipe.
    """
    run, weights = _HeadRun(data, out, recipe), out / f"{ID}.onnx"
    graph = Probabilities(run.trained(report, resume=resume)).eval()
    export_outline_network(graph, (ROWS, COLUMNS), ("head", "present"), weights)
    engine = OnnxRuntime(weights.read_bytes(), recipe.threads)
    limits = fit_limits(data, HeadModel(engine, OPEN, ModelRef(ID, "1", "", "")), report)
    training = {"data": learned_from(data), "recipe": recipe.described(), "chosen": run.best}
    return write_card(out, limits, training)


BESIDE = f"{HEADS}, parts beside the head"


@dataclass(frozen=True, slots=True)
class HeadCase:
    """The result for one head. ``error``: its measured circumference minus the sonographer's, mm. ``fault``:
    why the model refuses to measure it, "" if it does not. If no head was outlined, Dice is 0 and the error
    is the whole circumference.
    """

    patient: str
    circumference: float
    dice: float
    error: float
    fault: str


def evaluate(data: Path, models_dir: Path | None, split: str, report: Report = silent) -> dict[str, Any]:
    """Measure the network for fetal heads on ``split`` (test, val); returns all figures. Intervals are 95 %,
    by bootstrap over examinations. ``models_dir``: folder of a site's own models. Raises DataMissing.
    """
    images = head_images(data, split)
    if not images:
        raise DataMissing(f"{data} has no fetal heads in the split {split}")
    model = HeadModel.of(find(ID, models_dir))
    cases = [measure(image, model) for image in followed(images, report, "fetal heads")]
    return {
        "model": model.ref.id,
        "version": model.ref.version,
        "split": split,
        **figures(cases),
        "gate": gate_figures(data, model, split, cases, report),
    }


def measure(image: HeadImage, model: HeadModel) -> HeadCase:
    """Measure ``image`` as the node does, and compare the result with its reference."""
    picture, head = image.read()
    found = model.outline(picture)
    if found.area is None or found.measured is None:
        return HeadCase(image.patient, image.circumference, 0.0, -image.circumference, found.fault)
    error = found.measured.circumference * image.pixel_mm - image.circumference
    return HeadCase(
        image.patient, image.circumference, dice(found.area.mask(*head.shape), head), error, found.fault
    )


def figures(cases: Sequence[HeadCase]) -> dict[str, Any]:
    """The figures of all heads, refused or not, and of the heads that the model measures."""
    passed = [case for case in cases if not case.fault]
    # Of a fetus of about 15 weeks or less.
    small = [case for case in cases if case.circumference < 120.0]

    def means(of: Sequence[HeadCase]) -> dict[str, Any]:
        """Mean Dice and mean absolute error of these heads, with intervals."""
        values = {"dice": [case.dice for case in of], "error": [abs(case.error) for case in of]}
        return {name: mean_of(found, [case.patient for case in of]) for name, found in values.items()}

    return {
        "images": len(cases),
        **means(cases),
        "measured": len(passed),
        "circumference": {**means(passed), **agreement(np.array([case.error for case in passed]), 2)},
        "small": {"images": len(small), **means(small)},
        "pairs": [[case.circumference, round(case.circumference + case.error, 2)] for case in cases],
    }


def gate_figures(
    data: Path, model: HeadModel, split: str, heads: Sequence[HeadCase], report: Report = silent
) -> dict[str, Any]:
    """For each set of pictures their number and the share that is measured as a head: it should be high for
    heads and 0 for all other pictures. ``data``: the folder of the sets. ``heads``: the results for the set
    of outlined heads.
    """
    found = {HEADS: _passed([case.patient for case in heads], [not case.fault for case in heads])}
    for name in (PLANES, *OTHERS, ""):
        pictures, called = headless(data, name, split), name or BESIDE
        images = part_of_set(data / name, split) if name else head_images(data, split)
        passed = [not model.outline(picture).fault for picture in followed(pictures, report, called)]
        if passed:
            found[called] = _passed([image.patient for image in images], passed)
    return found


def _passed(patients: Sequence[str], passed: Sequence[bool]) -> dict[str, Any]:
    """The number of images, and the share of them that is measured as a head (``passed``), with its interval
    over ``patients``.
    """
    hits = np.array(passed, np.bool_)
    found = share(hits, np.ones(len(hits), np.bool_), patient_weights(patients))
    return {"images": len(hits), "passed": found.as_list()}
