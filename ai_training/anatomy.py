"""``ai-pipeline train anatomy`` and ``evaluate anatomy``: a network that outlines heart and lungs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from ai_pipeline.chest.anatomy import FINER, Anatomy, AnatomyModel, cardiothoracic, organ_masks
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import Chain, enlarge, find, normalise, reduce
from ai_training.base import DataMissing, Report, followed, silent
from ai_training.cards import new_card
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.metrics import agreement, dice, mean_of
from ai_training.networks import (
    MEAN,
    ORGANS,
    ORGANS_SIDE,
    SCALE,
    OutlineNetwork,
    Probabilities,
    export_outline_network,
    less_dice,
    licence_from,
    outline_network,
    start_described,
)
from ai_training.sets.files import Grey, Singles, read_grey
from ai_training.sets.images import CHEST, ImageSet, MaskFile, SetImage
from ai_training.sets.layouts import named_set
from ai_training.sets.tables import MASK

CHAIN = Chain(side=ORGANS_SIDE, low=1.0, high=99.0, blur=0.0, jpeg_quality=95)
EXCHANGED = {"w053": (2, 1, 0)}
"""Patient → the bits of heart, right and left lung, where the published mask has them in another order."""


@dataclass(frozen=True, slots=True)
class AnatomyImage:
    """A chest X-ray with a mask of each of :data:`ORGANS`."""

    name: str
    picture: Path
    masks: tuple[MaskFile, ...]

    def read(self) -> tuple[Grey, npt.NDArray[np.bool_]]:
        """Read the grey picture ``[rows, columns]`` and its organs ``[3, rows, columns]``. Raises
        DataMissing.
        """
        picture = read_grey(self.picture)
        return picture, np.stack([mask.read(picture.shape) for mask in self.masks])


def anatomy_set(data: Path) -> ImageSet:
    """The set with masks of heart and lungs that ``data`` names. Raises DataMissing."""
    return named_set(data, "cxr_anatomy", CHEST)


def anatomy_images(data: Path, split: str) -> tuple[AnatomyImage, ...]:
    """The images of ``split`` (train, val, test). Raises DataMissing, also if one has no mask."""
    return tuple(
        AnatomyImage(image.patient, image.path, _masks(image))
        for image in anatomy_set(data).images
        if image.split == split
    )


def _masks(image: SetImage) -> tuple[MaskFile, ...]:
    """The masks of heart, right and left lung of an image, as parts of its mask file. Raises DataMissing."""
    if MASK not in image.masks:
        raise DataMissing(f"{image.path} has no mask")
    order = EXCHANGED.get(image.patient, range(len(ORGANS)))
    return tuple(replace(image.masks[MASK], bits=1 << organ) for organ in order)


@dataclass(frozen=True, slots=True)
class Augment:
    """How far an augmented copy may differ. ``rotation`` in degrees; the rest as shares of the picture or of
    its greys.

    ``inverted``, ``framed``, ``blurred``, ``shaded``: the share of copies with inverted greys, with black
    borders as a collimator leaves them, with less sharpness, with a shadow across the picture.
    """

    rotation: float = 12.0
    scale: float = 0.3
    stretch: float = 0.12
    shift: float = 0.14
    gamma: float = 0.7
    contrast: float = 0.3
    noise: float = 8.0
    inverted: float = 0.08
    framed: float = 0.25
    blurred: float = 0.3
    shaded: float = 0.4


class AnatomyBatches(Dataset[tuple[Tensor, Tensor]]):
    """The training batches of a run; item i is images ``[B, 3, SIDE, SIDE]`` and organs ``[B, 3, SIDE,
    SIDE]``, 0..1 with soft edges. Every batch draws its random numbers from (seed, i) alone.
    """

    def __init__(self, images: Sequence[AnatomyImage], how: Augment, batch: int, seed: int) -> None:
        """Read ``images``. ``how``: how far copies may differ from them; ``batch``: images in a batch;
        ``seed``: of the random copies.
        """
        self._pairs = [image.read() for image in images]
        self._how, self._batch, self._seed = how, batch, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
        random = np.random.default_rng((self._seed, iteration))
        rows = random.choice(len(self._pairs), self._batch, replace=len(self._pairs) < self._batch)
        pairs = [self._pairs[row] for row in rows.tolist()]
        copies = [augment(picture, organs, self._how, random) for picture, organs in pairs]
        images = normalise(np.stack([picture for picture, _ in copies]), MEAN, SCALE)
        return torch.from_numpy(images), torch.from_numpy(np.stack([organs for _, organs in copies]))


def plain(image: AnatomyImage) -> tuple[Singles, Singles]:
    """Prepare an image without augmentation: the network's input ``[3, SIDE, SIDE]`` and the organs ``[3,
    SIDE, SIDE]``, 0..1.
    """
    picture, organs = image.read()
    reduced, affine = reduce(picture, CHAIN)
    matrix = np.array([[affine.a, 0, affine.c], [0, affine.e, affine.f]])
    return normalise(enlarge(reduced, ORGANS_SIDE)[None], MEAN, SCALE)[0], _moved(organs, matrix)


def augment(
    picture: Grey, organs: npt.NDArray[np.bool_], how: Augment, random: np.random.Generator
) -> tuple[Grey, Singles]:
    """Make a randomly turned, scaled and shifted copy of ``picture`` with changed grey levels, and its organs
    moved alike. ``how``: how far the copy may differ.
    """
    matrix = _motion(picture.shape, how, random)
    border = float(random.choice([0.0, float(np.median(picture))]))
    moved = cv2.warpAffine(picture, _centred(matrix), (ORGANS_SIDE, ORGANS_SIDE), borderValue=border)
    return _exposed(np.asarray(moved, np.uint8), how, random), _moved(organs, matrix)


def _motion(shape: tuple[int, ...], how: Augment, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random affine map (2 × 3) from source to input pixels: turned, scaled and shifted about the
    middle.
    """
    rows, columns = shape
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = ORGANS_SIDE / max(rows, columns) * np.exp(random.uniform(-how.scale, how.scale))
    wide, high = zoom * np.exp(random.uniform(-how.stretch, how.stretch, 2))
    turn = np.array(
        [[np.cos(angle) * wide, -np.sin(angle) * high], [np.sin(angle) * wide, np.cos(angle) * high]]
    )
    centre = np.full(2, ORGANS_SIDE / 2) + random.uniform(-how.shift, how.shift, 2) * ORGANS_SIDE
    return np.column_stack([turn, centre - turn @ (np.array([columns, rows]) / 2)])


def _moved(organs: npt.NDArray[np.bool_], matrix: npt.NDArray[np.float64]) -> Singles:
    """Transform the masks ``organs`` by ``matrix`` (in coordinates of pixel corners) to the input, with soft
    edges.
    """
    centred = _centred(matrix)
    return np.stack(
        [cv2.warpAffine(organ.astype(np.float32), centred, (ORGANS_SIDE, ORGANS_SIDE)) for organ in organs]
    )


def _centred(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert ``matrix``, a map in coordinates of pixel corners, to coordinates of pixel centres, which
    OpenCV uses.
    """
    centres = matrix.copy()
    centres[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    return centres


def _exposed(picture: Grey, how: Augment, random: np.random.Generator) -> Grey:
    """Make a copy with another exposure, sharpness, borders and noise, as far as ``how`` allows; its grey
    levels are stretched as in every input.
    """
    low, high = np.percentile(picture, (1, 99))
    grey = np.clip((picture - np.float32(low)) / np.float32(max(high - low, 1)), 0, 1)
    if random.random() < how.framed:
        top, bottom, left, right = (random.uniform(0, 0.12, 4) * ORGANS_SIDE).astype(int)
        kept = np.zeros_like(grey)
        kept[top : ORGANS_SIDE - bottom, left : ORGANS_SIDE - right] = 1
        grey = grey * kept
    if random.random() < how.shaded:
        down, across = np.meshgrid(*(np.linspace(-1, 1, ORGANS_SIDE, dtype=np.float32),) * 2, indexing="ij")
        slope = random.uniform(-0.35, 0.35, 2).astype(np.float32)
        grey = grey * (1 + slope[0] * down + slope[1] * across)
    grey = np.clip(grey, 0, 1) ** np.float32(np.exp(random.uniform(-how.gamma, how.gamma)))
    gain = np.exp(random.uniform(-how.contrast, how.contrast))
    middle = grey.mean()
    grey = (grey - middle) * np.float32(gain) + middle + np.float32(random.uniform(-0.1, 0.1))
    if random.random() < how.blurred:
        grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(0.4, 2.0))
    noise = random.normal(0, random.uniform(0, how.noise) / 255, grey.shape).astype(np.float32)
    grey = np.clip(grey + noise, 0, 1)
    if random.random() < how.inverted:
        grey = 1 - grey
    reduced, _ = reduce(np.asarray(grey * 255, np.uint8), CHAIN)
    return reduced


ID = "chest-anatomy-unet"
TOLERANCE = 0.03
"""Largest difference of the ratio between two variants of the picture."""


def write_card(folder: Path, training: Mapping[str, Any]) -> Path:
    """Write the network's model card beside its weights in ``folder``; returns its path. ``training``: the
    card's table on the training. ``ai-pipeline evaluate anatomy`` adds the test figures.
    """
    about = {
        "task": "outlines of heart and lungs in frontal chest X-rays, for the cardiothoracic ratio",
        "architecture": "anatomy-unet",
        "licence": licence_from(start_described()),
        "intended_use": (
            "To measure the cardiothoracic ratio of upright frontal chest X-rays of adults, by lines that a "
            "reader checks. Comparable on PA films only."
        ),
        "limits": [
            "Taught by masks of 157 chests of one set, two thirds of them with a ratio above .5.",
            "Outlines in a white or collapsed lung are a guess; such images are mostly, not always, refused.",
            "An effusion or a fat pad beside the heart is taken for heart: see docs/studies/anatomy.md.",
        ],
    }
    tables = {
        "input": {
            "size": ORGANS_SIDE,
            "channels": 3,
            "mean": MEAN,
            "scale": SCALE,
            "photometric": "MONOCHROME2",
            "chain": asdict(CHAIN),
        },
        "anatomy": {"organs": list(ORGANS), "tolerance": TOLERANCE},
        "calibration": {"calibrated": False, "method": "none: outlines, no probabilities"},
        "training": {**training, "start": start_described()},
    }
    made_by = "Model card of the network that outlines heart and lungs: `ai-pipeline train anatomy`."
    return new_card(folder, ID, made_by, "anatomy", about, tables)


GRID = Affine(1 / FINER, 0.0, 0.0, 0.0, 1 / FINER, 0.0)
"""From the fine grid of the masks to the network's input: measured there, the ratio is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnatomyRecipe(Recipe):
    """The settings of a training run of the network for heart and lungs. ``augment``: how far copies of
    images differ; ``dice_weight``: weight of the Dice loss against the cross-entropy.
    """

    iterations: int = 2000
    batch: int = 8
    augment: Augment = field(default_factory=Augment)
    weight_decay: float = 0.02
    dice_weight: float = 1.0
    validate_every: int = 100


def train(
    data: Path, out: Path, recipe: AnatomyRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train the network for heart and lungs, choose a checkpoint, export it; returns the path of the model
    card. ``out`` receives checkpoints, history, weights and card. Raises DataMissing, or ExperimentError if
    ``resume`` finds a run with another recipe.
    """
    run = _AnatomyRun(data, out, recipe)
    graph = Probabilities(run.trained(report, resume=resume)).eval()
    export_outline_network(graph, (ORGANS_SIDE, ORGANS_SIDE), ("organs",), out / f"{ID}.onnx")
    learned = [f"{anatomy_set(data).title} (train): masks of heart and lungs"]
    return write_card(out, {"data": learned, "recipe": recipe.described(), "chosen": run.best})


def loss_of(logits: Tensor, organs: Tensor, dice_weight: float) -> Tensor:
    """The training loss: cross-entropy of every pixel and organ, plus ``dice_weight`` times one minus Dice of
    each organ of each picture.
    """
    apart = less_dice(torch.sigmoid(logits), organs)
    return binary_cross_entropy_with_logits(logits, organs) + dice_weight * apart.mean()


def ratio(masks: npt.NDArray[np.bool_]) -> float:
    """The cardiothoracic ratio of organ masks on the fine grid (:data:`GRID`); NaN if an organ is missing."""
    measured = cardiothoracic(masks, GRID)
    return measured.ratio if measured else float("nan")


class _AnatomyRun(RecipeRun[AnatomyRecipe]):
    """One training run of the network for heart and lungs."""

    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: AnatomyRecipe) -> None:
        """Read the images of the splits train and val."""
        super().__init__(out, recipe)
        self.training = anatomy_images(data, "train")
        seen = ((values, organ_masks(organs)) for values, organs in map(plain, anatomy_images(data, "val")))
        self.validation = [(values, organs, ratio(organs)) for values, organs in seen]

    def new_network(self) -> OutlineNetwork:
        """The network before its first step."""
        return outline_network(len(ORGANS))

    def examples(self) -> AnatomyBatches:
        """The training batches."""
        return AnatomyBatches(self.training, self.recipe.augment, self.recipe.batch, self.recipe.seed)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch."""
        images, organs = batch
        with self.autocast():
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        return loss_of(logits.float(), organs, self.recipe.dice_weight)

    def validate(self) -> Validation:
        """Measure Dice and error of the ratio on the validation split."""
        found = scores(cast(OutlineNetwork, self.average).eval(), self.validation)
        text = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        # One point of Dice weighs as much as a hundredth of the ratio.
        choice = float(np.mean([found[name] for name in ORGANS])) - found["ratio error"]
        return Validation({"choice": choice, **found}, text, self.average.state_dict())


def scores(
    network: OutlineNetwork, cases: Sequence[tuple[Singles, npt.NDArray[np.bool_], float]]
) -> dict[str, Any]:
    """Measure ``network``: the mean Dice of each organ, and the mean absolute error of the ratio (1 if no
    ratio could be measured). ``cases``: for each image the network's input, its organs on the fine grid and
    the ratio of these.
    """
    dices, errors = [], []
    for values, organs, wanted in cases:
        with torch.inference_mode():
            found = torch.sigmoid(network(input_of(network, values[None])))[0].cpu().numpy()
        masks = organ_masks(found)
        dices.append(list(map(dice, masks, organs)))
        errors.append(abs(ratio(masks) - wanted))
    named = dict(zip(ORGANS, np.mean(dices, axis=0).tolist(), strict=True))
    return {**named, "ratio error": float(np.mean(np.nan_to_num(errors, nan=1.0)))}


HERE = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class AnatomyCase:
    """The result for one image: Dice of each organ, the reader's ratio (``truth``) and the measured one (NaN
    if missing), and why it is missing (``fault``).
    """

    name: str
    dice: list[float]
    truth: float
    measured: float
    fault: str


def evaluate(data: Path, models_dir: Path | None, split: str, report: Report = silent) -> dict[str, Any]:
    """Measure the network for heart and lungs on ``split`` (test, val); returns all figures. Intervals are 95
    %, by bootstrap over images, one image per patient. ``models_dir``: folder of a site's own models. Raises
    DataMissing.
    """
    images = anatomy_images(data, split)
    if not images:
        raise DataMissing(f"{data} has no chest with masks in the split {split}")
    model = AnatomyModel.from_card(find(ID, models_dir))
    cases = [measure(image, model) for image in followed(images, report, "heart and lungs")]
    return {"model": model.ref.id, "version": model.ref.version, "split": split, **figures(cases)}


def measure(image: AnatomyImage, model: AnatomyModel) -> AnatomyCase:
    """Measure ``image`` as the node does, and compare the result with the image's masks."""
    picture, organs = image.read()
    found = model.outline(picture)
    truth = cardiothoracic(organs, HERE)
    return AnatomyCase(
        image.name,
        list(map(dice, found.masks, on_grid(organs, found))),
        truth.ratio if truth else float("nan"),
        found.measured.ratio if found.measured else float("nan"),
        found.fault,
    )


def on_grid(organs: npt.NDArray[np.bool_], found: Anatomy) -> npt.NDArray[np.bool_]:
    """Resample masks ``organs [3, rows, columns]`` of the source image to the grid of the outlines
    ``found``.
    """
    there = found.from_grid.inverse()
    matrix = _centred(np.array([[there.a, there.b, there.c], [there.d, there.e, there.f]]))
    size = found.masks.shape[1:][::-1]
    return np.stack([cv2.warpAffine(organ.astype(np.float32), matrix, size) >= 0.5 for organ in organs])


def figures(cases: Sequence[AnatomyCase]) -> dict[str, Any]:
    """Dice over all images, agreement of the measured ratios with the readers', and why some images were not
    measured.
    """
    dices = np.array([case.dice for case in cases])
    measured = [case for case in cases if not np.isnan(case.measured - case.truth)]
    difference = np.array([case.measured - case.truth for case in measured])
    faults = [case.fault for case in cases if case.fault]
    return {
        "images": len(cases),
        "dice": {name: mean_of(dices[:, organ], range(len(cases))) for organ, name in enumerate(ORGANS)},
        "measured": len(measured),
        "not_measured": {fault: faults.count(fault) for fault in dict.fromkeys(faults)},
        "ratio": {
            "error": mean_of(np.abs(difference), range(len(measured))),
            **agreement(difference, 4),
        }
        if len(measured) > 1
        else None,
        "pairs": [[case.truth, case.measured] for case in measured],
    }
