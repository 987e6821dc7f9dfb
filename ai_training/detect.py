"""``ai-pipeline train detect`` and ``evaluate detect``: where a finding lies.

For every label the candidates are the boxes that radiologists drew for it in training images, each also moved
and stretched a little. A linear model reads the mean of the trunk's middle layers (their principal
components) inside a candidate and beside it on four sides, adds how usual the candidate is for its label
(kernel density of place and size), and learns to give a high probability to candidates that overlap the
truth. All labels share one weight vector, and each adds a small correction: 40 boxes cannot teach 160
weights. As the model is linear, it becomes five maps a label (:mod:`ai_pipeline.chest.classifier`), one
convolution of the network. One network locates: this head, or instead of it a YOLO (:mod:`ai_training.yolo`).

In five folds by patient it is compared with two boxes that know no image, the constant box and the centre. A
label passes if (1) the mean of T(IoU .1/.3/.5) is higher, with the whole 95 % interval of the paired
difference above 0; (2) pointing is no worse; (3) it touches at least half of the findings (T(IoU .1)), since
it is not enough to beat a baseline that never hits a nodule. The rule was fixed before the test boxes were
evaluated. A
label that does not pass gets no box."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ai_pipeline.chest.classifier import (
    CANDIDATES,
    NETWORK,
    PARTS,
    YOLO,
    BoxDetector,
    BoxHead,
    Candidates,
    DetectorInput,
    Places,
    ScoredBox,
    likeliest,
    mean_over,
    overlaps,
    part_rectangles,
    softmax,
)
from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import OnnxRuntime, usable_cores
from ai_pipeline.models.registry import SHIPPED, Card, network_input
from ai_training import cards
from ai_training.base import DataMissing, Report
from ai_training.cards import changed_card, weights_row
from ai_training.chest.card import forget_detector
from ai_training.chest.places import learn_choices, middle_maps
from ai_training.metrics import mean_interval, overlap, patient_weights
from ai_training.networks import PlacedClassifier, torch_network
from ai_training.sets.chest import chest_set
from ai_training.sets.files import Singles, read_grey, rows
from ai_training.sets.images import LABELS, TruthBox, corners
from ai_training.sets.splits import split_by_patient
from ai_training.sets.tables import listed_boxes
from ai_training.yolo import FILE, YoloRecipe, train_yolo

CUTS = (0.1, 0.3, 0.5)  # T(IoU), as the literature on these boxes has it (X. Wang et al., CVPR 2017)
PLACE_NAMES = ("T(IoU.1)", "T(IoU.3)", "T(IoU.5)", "mean T", "IoU", "pointing")
Corners = tuple[float, float, float, float]


def recipe(threads: int, *, yolo: bool) -> YoloRecipe | None:
    """The settings for training YOLOs, None without them (``yolo`` False). Also limits torch to ``threads``
    (0: all cores).
    """
    if threads:
        torch.set_num_threads(threads)
    return YoloRecipe(threads=threads or usable_cores()) if yolo else None


def detection_boxes(data: Path, more: Sequence[Path] = ()) -> tuple[TruthBox, ...]:
    """The boxes in ``data``, and the boxes in the lists ``more`` for images of ``data``.

    A box in several lists counts once. Labels that the classifier does not know (fractures, calcifications)
    and images that are not there are left out. Raises DataMissing if no box is left, or a list cannot be
    read.
    """
    found = chest_set(data)
    boxes = list(found.boxes)
    by_name = {image.path.stem: image for image in found.images}
    for path in more:
        listed = [
            TruthBox(box.label, box.corners, box.side, image)
            for file, box in listed_boxes(path)
            if (image := by_name.get(Path(file).stem))
        ]
        boxes += _new(boxes, listed)
    if not boxes:
        raise DataMissing(f"{data} holds no boxes: name a list with --boxes (docs/reference/data-sets.md)")
    return tuple(boxes)


def _new(known: Iterable[TruthBox], listed: Iterable[TruthBox]) -> Iterator[TruthBox]:
    """Yield the ``listed`` boxes that are not among the ``known`` ones."""
    there: dict[tuple[Path, str], list[tuple[float, float, float, float]]] = {}
    for box in known:
        there.setdefault((box.image.path, box.label), []).append(corners(box))
    for box in listed:
        others = there.setdefault((box.image.path, box.label), [])
        # Two boxes of one label that overlap so much are one.
        if all(overlap(corners(box), other) < 0.5 for other in others):
            others.append(corners(box))
            yield box


def place_figures(
    truth: Sequence[Corners], predictions: Sequence[ScoredBox | None]
) -> npt.NDArray[np.float64]:
    """Score each predicted place against the true boxes ``truth``: ``[boxes, 6]``, columns as
    :data:`PLACE_NAMES`; 0 without a prediction.
    """
    rows = np.zeros((len(truth), len(PLACE_NAMES)))
    for row, (wanted, place) in enumerate(zip(truth, predictions, strict=True)):
        if place is None:
            continue
        found = overlap(wanted, place.corners)
        reached = [float(found >= cut) for cut in CUTS]
        x, y = place.point
        inside = wanted[0] <= x <= wanted[2] and wanted[1] <= y <= wanted[3]
        rows[row] = (*reached, sum(reached) / len(CUTS), found, float(inside))
    return rows


def means(figures: npt.NDArray[np.float64], patients: Sequence[str]) -> dict[str, list[float]]:
    """The mean of each column of ``figures [boxes, 6]`` with its 95 % interval, resampled by patient. If
    ``figures`` is the difference of two tables, these are paired differences.
    """
    weights = patient_weights(patients)
    columns = enumerate(PLACE_NAMES)
    return {name: mean_interval(figures[:, column], weights).as_list() for column, name in columns}


Locator = Callable[[int, str], ScoredBox | None]
"""Predicts the likeliest box of a label in an image, which is named by its row in the maps or features that
the locator was created with; None for a label that it was not fitted to."""


def constant(boxes: Sequence[TruthBox]) -> dict[str, ScoredBox]:
    """One fixed box per label, the same for every image: a baseline for a detector."""
    places: dict[str, ScoredBox] = {}
    for label, known in _by_label(boxes).items():
        expected = overlaps(known).mean(1)
        best = int(np.argmax(expected))
        places[label] = _at(known[best], float(expected[best]))
    return places


def centre(boxes: Sequence[TruthBox]) -> dict[str, ScoredBox]:
    """A box of each label's usual size in the middle of the picture: a baseline for a detector."""
    places: dict[str, ScoredBox] = {}
    for label, known in _by_label(boxes).items():
        width, height = np.median(known[:, 2:] - known[:, :2], axis=0)
        box = np.array([0.5 - width / 2, 0.5 - height / 2, 0.5 + width / 2, 0.5 + height / 2], np.float32)
        expected = overlaps(np.vstack([box, known]))[0, 1:].mean()
        places[label] = _at(box, float(expected))
    return places


def _by_label(boxes: Sequence[TruthBox]) -> dict[str, Singles]:
    """The corners of the boxes of each label: ``[boxes, 4]``."""
    labels = sorted({box.label for box in boxes})
    return {k: np.array([corners(box) for box in boxes if box.label == k], np.float32) for k in labels}


def _at(box: Singles, score: float) -> ScoredBox:
    """The box ``box`` with this score, and its middle as the point."""
    left, top, right, bottom = (float(edge) for edge in box)
    found: Corners = (left, top, right, bottom)
    return ScoredBox(found, ((left + right) / 2, (top + bottom) / 2), score)


def read_images(card: Card, paths: Sequence[Path], report: Report) -> Singles:
    """The middle layers' output ``[N, C, h, w]`` of the classifier of ``card``, with the class activation,
    for the images in ``paths``. Raises DataMissing if one cannot be read.
    """
    wanted = card.input
    assert wanted is not None
    levels = wanted.mean[0], wanted.scale[0]
    return middle_maps(torch_network(card), paths, wanted.chain, wanted.size, levels, report)


class BoxNetwork(nn.Module):
    """The classifier's backbone and the box layer in one network: ``images [N, 3, size, size]`` → ``parts [N,
    labels, 5, h, w]``, one score map for each of :data:`PARTS` (the box and the strips beside it).
    """

    def __init__(self, trunk: PlacedClassifier, weights: Singles, bias: Singles) -> None:
        """``trunk``: the backbone; ``weights``, ``bias``: those of the box layer."""
        super().__init__()
        self.trunk = trunk
        self.labels = weights.shape[0] // len(PARTS)
        self.layer = nn.Conv2d(weights.shape[1], weights.shape[0], 1, bias=False)
        self.layer.weight = nn.Parameter(torch.from_numpy(weights.copy())[:, :, None, None])
        self.bias = nn.Parameter(torch.from_numpy(bias.copy()))

    def forward(self, images: Tensor) -> Tensor:
        """The score maps of ``images``."""
        maps: Tensor = self.layer(self.trunk.maps(images)[1]) + self.bias
        count, _, height, width = maps.shape
        return maps.reshape(count, self.labels, len(PARTS), height, width)


PLACE_WIDTH, SIZE_WIDTH = 0.08, 0.3  # of the kernels: shares of the side, and of the logarithm of a size


@dataclass(frozen=True, slots=True)
class BoxHeadRecipe:
    """How the weights that choose among candidate boxes are fitted; chosen by cross-validation on the train
    and val boxes (docs/studies).
    """

    components: int = 32
    moved: int = 4  # copies of each box
    shown: int = 60  # candidates of a training box
    steps: int = 100
    rate: float = 0.02
    decay: float = 0.05  # L2 of the shared weights …
    own: float = 4.0  # … and so many times more of each label's own
    trust: float = 0.7  # weight of the prior at the start
    sharpness: float = 3.0  # the target is the overlap with the truth to this power
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """A projection of the backbone's maps to fewer channels: ``(x - centre) @ weights``, minus the mean map
    ``usual``.
    """

    centre: Singles  # [C]
    weights: Singles  # [C, components]
    usual: Singles  # [components, h, w]

    @staticmethod
    def from_maps(maps: Singles, components: int) -> Basis:
        """The principal components of ``maps [N, C, h, w]``, with weak components amplified a little."""
        count, channels, height, width = maps.shape
        rows = maps.transpose(0, 2, 3, 1).reshape(-1, channels)
        centre, spread = rows.mean(0), rows.std(0)
        standard = (rows - centre) / spread
        variance, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        first = np.argsort(-variance)[:components]
        weights = (vectors[:, first] / variance[first] ** 0.25) / spread[:, None]
        usual = ((rows - centre) @ weights).reshape(count, height, width, -1).mean(0).transpose(2, 0, 1)
        return Basis(_single(centre), _single(weights), _single(usual))

    def __call__(self, maps: Singles) -> Singles:
        """Project ``maps [N, C, h, w]`` to ``[N, components, h, w]``."""
        moved = (maps.transpose(0, 2, 3, 1) - self.centre) @ self.weights
        return np.asarray(moved.transpose(0, 3, 1, 2) - self.usual, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class FittedHead:
    """A locator (gives a label's box in an image) that scores the candidate boxes of a label and takes the
    best one. ``weights [labels, parts, components]``: on the components of ``basis``. ``head``: the candidate
    boxes. ``maps``: the backbone's output for the images.
    """

    basis: Basis
    weights: Singles
    head: BoxHead
    maps: Singles  # [images, C, h, w]: what ``place`` looks up

    def place(self, image: int, label: str) -> ScoredBox | None:
        """The box of ``label`` in image number ``image``; None for a label without candidates."""
        if label not in self.head.candidates:
            return None
        number = self.head.labels.index(label)
        spoken = np.einsum("kc,chw->khw", self.weights[number], self.basis(self.maps[image][None])[0])
        own = self.head.candidates[label]
        sums = sum(
            mean_over(spoken[k][None], rectangles)[:, 0]
            for k, rectangles in enumerate(part_rectangles(own.boxes))
        )
        return self.head.choose(label, softmax(np.asarray(own.prior + sums, np.float32)))

    def layer(self) -> tuple[Singles, Singles]:
        """The fitted weights as one convolution of the backbone's maps: ``weights [labels·parts, C]`` and
        ``bias [labels·parts, h, w]``.
        """
        flat = self.weights.reshape(-1, self.weights.shape[2])
        weights = flat @ self.basis.weights.T
        bias = (
            -np.einsum("kc,chw->khw", flat, self.basis.usual) - (weights @ self.basis.centre)[:, None, None]
        )
        return _single(weights), _single(bias)


def fit(boxes: Sequence[TruthBox], rows: Sequence[int], maps: Singles, recipe: BoxHeadRecipe) -> FittedHead:
    """Fit the weights that choose among candidate boxes to ``boxes``; ``rows``: the index in ``maps [images,
    C, h, w]`` of each box's image.
    """
    random = np.random.default_rng(recipe.seed)
    basis = Basis.from_maps(maps[sorted(set(rows))], recipe.components)
    labels = sorted({box.label for box in boxes})
    numbers = np.array([labels.index(box.label) for box in boxes])
    truth = np.array([corners(box) for box in boxes], np.float32)
    candidates = {label: _candidates(truth[numbers == k], recipe, random) for k, label in enumerate(labels)}
    read = {row: basis(maps[row][None])[0] for row in set(rows)}
    inputs, priors, targets = [], [], []
    for box, number, row in zip(truth, numbers, rows, strict=True):
        own = candidates[labels[number]]
        chosen, wanted = _candidates_with_targets(box, own.boxes, recipe, random)
        inputs.append(
            np.concatenate([mean_over(read[row], part) for part in part_rectangles(own.boxes[chosen])], 1)
        )
        priors.append(own.prior[chosen])
        targets.append(wanted)
    spread = np.std(inputs, (0, 1))
    learned, trust = learn_choices(
        torch.from_numpy(np.stack(inputs) / spread),
        torch.from_numpy(np.stack(priors)),
        torch.from_numpy(np.stack(targets)),
        torch.from_numpy(numbers),
        asdict(recipe),
    )
    trusted = {name: Candidates(one.boxes, _single(trust * one.prior)) for name, one in candidates.items()}
    shape = (len(labels), len(PARTS), recipe.components)
    return FittedHead(basis, (learned.numpy() / spread).reshape(shape), BoxHead(trusted), maps)


def _candidates(boxes: Singles, recipe: BoxHeadRecipe, random: np.random.Generator) -> Candidates:
    """The candidate boxes of a label: its training boxes ``[N, 4]``, moved copies of them, and how usual each
    is.
    """
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    made = [boxes]
    for _ in range(recipe.moved):
        middle = centres + random.normal(0, 0.15, centres.shape) * sizes
        half = sizes * np.exp(random.normal(0, 0.2, sizes.shape)) / 2
        made.append(np.clip(np.concatenate([middle - half, middle + half], 1), 0, 1))
    every = np.concatenate(made).astype(np.float32)
    every = every[((every[:, 2:] - every[:, :2]) > 0.015).all(1)]

    def described(some: Singles) -> Singles:
        """The middle and the logarithm of the size of each box, in units in which distances are compared."""
        sizes = some[:, 2:] - some[:, :2]
        return np.concatenate(
            [(some[:, :2] + some[:, 2:]) / 2 / PLACE_WIDTH, np.log(np.maximum(sizes, 1e-3)) / SIZE_WIDTH], 1
        )

    distance = ((described(every)[:, None] - described(boxes)[None]) ** 2).sum(2)
    # Added so that no candidate is impossible.
    return Candidates(every, _single(np.log(np.exp(-distance / 2).mean(1) + 1e-4)))


def _candidates_with_targets(
    truth: Singles, boxes: Singles, recipe: BoxHeadRecipe, random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Singles]:
    """Indices of random candidate ``boxes`` for the training box ``truth``, a quarter of them the nearest,
    and the probability that each should get.
    """
    low, high = np.maximum(truth[:2], boxes[:, :2]), np.minimum(truth[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    overlap = common / (areas + np.prod(truth[2:] - truth[:2]) - common)
    nearest = np.argsort(-overlap)[: recipe.shown // 4]
    chosen = np.concatenate([nearest, random.choice(len(boxes), recipe.shown - len(nearest))])
    wanted = overlap[chosen] ** recipe.sharpness + 1e-6
    return chosen, _single(wanted / wanted.sum())


def _single(values: npt.ArrayLike) -> Singles:
    """Convert values to single precision."""
    return np.asarray(values, np.float32)


FOLDS = 5
SEED = 1


def folds(boxes: Sequence[TruthBox], count: int = FOLDS, seed: int = SEED) -> npt.NDArray[np.int64]:
    """The cross-validation fold of each box, 0 to ``count`` - 1: no patient is in two folds, and every label
    is spread evenly.
    """
    truth = np.zeros((len(boxes), len(LABELS)), np.float32)
    truth[np.arange(len(boxes)), [LABELS.index(box.label) for box in boxes]] = 1.0
    names = {str(fold): 1.0 / count for fold in range(count)}
    dealt = split_by_patient([box.image.patient for box in boxes], truth, names, seed)
    return np.array([int(name) for name in dealt], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class YoloLocator:
    """A YOLO in ONNX as a locator (gives a label's box in an image); images are indices into ``paths``. It
    needs no torch and no non-maximum suppression. ``card``: the classifier whose input and labels it has.
    """

    engine: OnnxRuntime
    card: Card
    paths: Sequence[Path]
    _seen: dict[int, Places] = field(default_factory=dict, init=False, repr=False)

    def place(self, image: int, label: str) -> ScoredBox | None:
        """The box of ``label`` with the highest score in image number ``image``; None if there is none."""
        if image not in self._seen:
            assert self.card.input is not None
            values, _ = network_input(read_grey(self.paths[image]), self.card.input)
            labels = [row.name for row in self.card.labels]
            self._seen[image] = likeliest(self.engine(values)["boxes"][0], labels, values.shape[-1]).get
        return self._seen[image](label)


def trained(
    boxes: Sequence[TruthBox], card: Card, folder: Path, recipe: YoloRecipe, paths: Sequence[Path]
) -> YoloLocator:
    """The YOLO in ``folder`` as a locator; it is trained on ``boxes`` first if it does not exist. ``card``:
    the classifier whose input it shares; ``paths``: the images of the locator. Raises FileExistsError if the
    YOLO in ``folder`` was trained in another way, or on other boxes.
    """
    path, note = folder / FILE, folder / "made_of.json"
    truth = sorted((box.image.name, box.label, *corners(box)) for box in boxes)
    settings = {name: value for name, value in asdict(recipe).items() if name != "threads"}
    boxes_hash = hashlib.sha256(json.dumps(truth).encode()).hexdigest()
    wanted = json.dumps({"classifier": card.id, "boxes": boxes_hash, **settings}, indent=1)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(wanted)
        train_yolo(boxes, card, folder, recipe)
    elif not note.exists() or note.read_text() != wanted:
        raise FileExistsError(
            f"{folder} holds a YOLO of other boxes or settings: remove it or name another --out"
        )
    return YoloLocator(OnnxRuntime(path.read_bytes(), recipe.threads), card, tuple(paths))


MEAN_T, POINTING = PLACE_NAMES.index("mean T"), PLACE_NAMES.index("pointing")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledBoxes:
    """Boxes drawn by readers, with the classifier's features ``maps`` of their images ``paths``. ``rows``:
    the index of each box's image.
    """

    boxes: tuple[TruthBox, ...]
    rows: tuple[int, ...]
    paths: tuple[Path, ...]
    maps: Singles

    @staticmethod
    def from_boxes(boxes: Sequence[TruthBox], card: Card, report: Report) -> LabelledBoxes:
        """Compute the features of the boxes' images by the classifier of ``card``."""
        paths = sorted({box.image.path for box in boxes})
        rows = tuple(paths.index(box.image.path) for box in boxes)
        return LabelledBoxes(tuple(boxes), rows, tuple(paths), read_images(card, paths, report))

    @property
    def patients(self) -> list[str]:
        """The patient of each box, in the order of ``boxes``."""
        return [box.image.patient for box in self.boxes]

    def of_boxes(self, found: Mapping[tuple[int, str], ScoredBox]) -> tuple[ScoredBox | None, ...]:
        """The prediction for each box, looked up by the box's image and label in ``found``."""
        return tuple(found.get((row, box.label)) for row, box in zip(self.rows, self.boxes, strict=True))


Predictions = Mapping[str, Mapping[tuple[int, str], ScoredBox]]
"""By locator, then by image and label: where the finding is."""


def cross_validated(
    case: LabelledBoxes, card: Card, yolos: tuple[Path, YoloRecipe] | None, report: Report
) -> Predictions:
    """Predictions for every box and image by locators that were fitted without the box's patient. ``yolos``:
    the folder with the YOLO of each fold, and how a missing one is trained: it stands first, the head beside
    it; None: the head alone.
    """
    fold = folds(case.boxes)
    image_fold = dict(zip(case.rows, fold, strict=True))  # a patient's images are all in one fold
    labels = sorted({box.label for box in case.boxes})
    found: dict[str, dict[tuple[int, str], ScoredBox]] = {}
    for number in range(FOLDS):
        report(number / FOLDS, "fitting the folds")
        known = [index for index in range(len(case.boxes)) if fold[index] != number]
        boxes, rows = [case.boxes[index] for index in known], [case.rows[index] for index in known]
        head = fit(boxes, rows, case.maps, BoxHeadRecipe())
        arms: dict[str, Locator] = {}
        if yolos:
            drawn = trained(boxes, card, yolos[0] / f"fold-{number + 1}", yolos[1], case.paths)
            arms["yolo"] = drawn.place
        arms |= {"head": head.place} | _baselines(boxes)
        images = [image for image, its in image_fold.items() if its == number]
        for arm, places in predicted(arms, images, labels).items():
            found.setdefault(arm, {}).update(places)
    return found


def predicted(arms: Mapping[str, Locator], images: Iterable[int], labels: Sequence[str]) -> Predictions:
    """The prediction of each locator in ``arms`` for every label in every image."""
    pairs = [(image, label) for image in images for label in labels]
    return {
        arm: {pair: place for pair in pairs if (place := locator(*pair)) is not None}
        for arm, locator in arms.items()
    }


def figures_of(case: LabelledBoxes, predictions: Predictions, *, decide: bool) -> dict[str, Any]:
    """All figures of the ``predictions``, as text and numbers. ``decide``: add whether the boxes of each
    label may be shown.
    """
    truth = [corners(box) for box in case.boxes]
    rows = {arm: place_figures(truth, case.of_boxes(found)) for arm, found in predictions.items()}
    labels = sorted({box.label for box in case.boxes})
    patients = np.array(case.patients)

    def part(chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """The figures of the chosen boxes alone."""
        mine = {arm: table[chosen] for arm, table in rows.items()}
        return {"boxes": int(chosen.sum()), **compared(mine, patients[chosen].tolist())}

    per_label: list[dict[str, Any]] = []
    for label in labels:
        chosen = np.array([box.label == label for box in case.boxes])
        if decide or chosen.sum() >= 15:
            per_label.append({"label": label, **part(chosen)})
    for entry in per_label if decide else ():
        entry.update(passes(entry))
    result: dict[str, Any] = {
        "boxes": len(case.boxes),
        "images": len(case.paths),
        "patients": len(set(case.patients)),
        "children": sum(not box.image.adult for box in case.boxes),
        **compared(rows, case.patients),
        "labels": per_label,
    }
    unseen = np.array([box.image.split == "val" for box in case.boxes])
    if decide and unseen.any() and not unseen.all():
        result["images that the classifier was not trained on"] = part(unseen)
    return result


def passes(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the first locator's boxes of a label may be shown, by its figures ``entry``; if not, why."""
    first = next(iter(entry["arms"]))
    for prior in ("constant", "centre"):
        difference = entry["differences"][f"{first} - {prior}"]
        name = PLACE_NAMES[MEAN_T]
        if not difference[name][1] > 0:
            low, high = difference[name][1:]
            return {"passes": False, "why": f"not surely above the {prior} box: {low:+.3f} to {high:+.3f}"}
        if difference[PLACE_NAMES[POINTING]][0] < 0:
            return {"passes": False, "why": f"points worse than the {prior} box"}
    touched = entry["arms"][first]["T(IoU.1)"][0]
    if touched < 0.5:
        return {"passes": False, "why": f"misses more than half of the findings: T(IoU.1) is {touched:.2f}"}
    return {"passes": True, "why": ""}


def compared(rows: Mapping[str, npt.NDArray[np.float64]], patients: Sequence[str]) -> dict[str, Any]:
    """The means of each locator's table ``[boxes, 6]``, and the paired differences of the first locator to
    the others.
    """
    first, *others = rows
    return {
        "arms": {arm: means(table, patients) for arm, table in rows.items()},
        "differences": {f"{first} - {arm}": means(rows[first] - rows[arm], patients) for arm in others},
    }


def evaluate(
    data: Path,
    split: str,
    card: Card,
    more: Sequence[Path],
    yolos: tuple[Path, YoloRecipe] | None,
    report: Report,
) -> dict[str, Any]:
    """Measure the box detector on ``split``: ``cv`` fits everything but the backbone again, ``test`` uses the
    shipped network. ``more``: further lists of boxes. ``yolos``: the folder with the YOLO of each fold, and
    how a missing one is trained; None: the head alone. Raises DataMissing or CardError.
    """
    boxes = detection_boxes(data, more)
    known = [box for box in boxes if box.image.split != "test"]
    asked = [box for box in boxes if box.image.split == "test"] if split == "test" else known
    if not asked:
        raise DataMissing(f"{data} has no boxes in the split {split}")
    case = LabelledBoxes.from_boxes(asked, card, report)
    if split == "cv":
        found = figures_of(case, cross_validated(case, card, yolos, report), decide=True)
    else:
        labels = sorted({box.label for box in asked})
        places = predicted(_shipped_locators(case.paths, known, card), range(len(case.paths)), labels)
        found = figures_of(case, places, decide=False) | opacities(data, card, known)
    return {"model": card.name, "split": split, **found}


OPACITY = "Pneumonia"
"""The label whose boxes are nearest to what the RSNA challenge's radiologists drew: opacities of lungs."""


def opacities(data: Path, card: Card, known: Sequence[TruthBox]) -> dict[str, Any]:
    """How the card's box of :data:`OPACITY` lies to the nearest opacity that the radiologists of the RSNA
    challenge drew (``cxr_labels/rsna_boxes.csv`` in ``data``: file name, and x, y, width, height in 512
    pixels), on films of patients without a box in ``known``. Empty without the list.
    """
    path, drawn = data / "cxr_labels" / "rsna_boxes.csv", defaultdict[str, list[Corners]](list)
    for row in rows(path) if path.is_file() else ():
        left, top, width, height = (float(row[key]) / 512.0 for key in "xywh")
        drawn[Path(row["nih_name"]).stem].append((left, top, left + width, top + height))
    learned = {box.image.patient for box in known}
    films = {image.path.stem: image for image in chest_set(data).images if image.patient not in learned}
    names = [name for name in drawn if name in films]
    if not names:
        return {}
    arms = _shipped_locators([films[name].path for name in names], known, card)
    tables = {
        arm: np.array(
            [place_figures(drawn[n], [place(k, OPACITY)] * len(drawn[n])).max(0) for k, n in enumerate(names)]
        )
        for arm, place in arms.items()
    }
    counts = {"films": len(names), "boxes": sum(len(drawn[name]) for name in names)}
    figures = compared(tables, [films[name].patient for name in names])
    return {"opacities that radiologists drew (RSNA)": counts | figures}


@dataclass(frozen=True, slots=True, eq=False)
class _Shipped:
    """The box detector of a model card as a locator (gives a label's box in an image)."""

    detector: BoxDetector
    images: Sequence[DetectorInput]

    def place(self, image: int, label: str) -> ScoredBox | None:
        """The box that the detector finds for ``label`` in image number ``image``; None if there is none."""
        prepared = self.images[image]
        found = self.detector.find(prepared, label)
        region = self.detector.in_source(found, prepared) if found else None
        if found is None or region is None:
            return None
        (left, top), (right, bottom) = region.points
        corners = (
            left / prepared.columns,
            top / prepared.rows,
            right / prepared.columns,
            bottom / prepared.rows,
        )
        return ScoredBox(corners, found.point, found.score)


def _baselines(boxes: Sequence[TruthBox]) -> dict[str, Locator]:
    """Two locators that do not look at the image, which every detector must beat."""
    usual, middle = constant(boxes), centre(boxes)
    return {"constant": lambda _, label: usual.get(label), "centre": lambda _, label: middle.get(label)}


def _shipped_locators(paths: Sequence[Path], known: Sequence[Any], card: Card) -> dict[str, Locator]:
    """The model card's detector as locator in the images ``paths``, and the baselines made of the boxes
    ``known``.
    """
    if not card.plays(NETWORK) and not card.plays(YOLO):
        raise CardError(f"{card.name} has no detector: make one with `ai-pipeline train detect`")
    detector = BoxDetector(card)
    prepared = [detector.prepare(read_grey(path)) for path in paths]
    name = "yolo" if card.plays(YOLO) else "head"
    return {name: _Shipped(detector, prepared).place} | _baselines(known)


def train_detector(
    data: Path, out: Path, card: Card, more: Sequence[Path], yolo: YoloRecipe | None, report: Report
) -> Path:
    """Train the box detector: cross-validate, decide for each label whether its boxes are shown, and fit to
    all train and val boxes; returns the new model card in ``out``. ``card``: the classifier whose backbone
    and labels are used; ``out`` gets a copy of all its weights. ``more``: further lists of boxes. ``yolo``:
    how the six YOLOs in ``out/yolo`` are trained (an existing one is not trained again), of which one is the
    detector; None: the head is. Raises DataMissing or CardError.
    """
    boxes = [box for box in detection_boxes(data, more) if box.image.split != "test"]
    case = LabelledBoxes.from_boxes(boxes, card, report)
    yolos = None if yolo is None else (out / "yolo", yolo)
    figures = figures_of(case, cross_validated(case, card, yolos, report), decide=True)
    out.mkdir(parents=True, exist_ok=True)
    if yolo is None:
        fitted = fit(case.boxes, case.rows, case.maps, BoxHeadRecipe())
        files = {NETWORK: out / f"{card.id}.detector.onnx", CANDIDATES: out / f"{card.id}.detector.npz"}
        export(torch_network(card), fitted, card, files[NETWORK])
        files[CANDIDATES].write_bytes(fitted.head.to_bytes())
    else:
        trained(case.boxes, card, out / "yolo" / "all", yolo, ())
        files = {YOLO: out / f"{card.id}.yolo.onnx"}
        shutil.copyfile(out / "yolo" / "all" / FILE, files[YOLO])
    for weights in card.weights:
        if weights.role not in {NETWORK, CANDIDATES, YOLO}:
            shutil.copyfile(weights.path, out / weights.path.name)
    path = out / (f"{card.id}.toml" if card.path.parent == SHIPPED else card.path.name)
    passed = {row["label"] for row in figures["labels"] if row["passes"]}
    with changed_card(card.path, path) as made:
        forget_detector(made)
        made["weights"].extend(weights_row(role, file) for role, file in files.items())
        for row in made["labels"]:
            row["detector"] = row["name"] in passed
        made["detection"] = _summary(figures)
    return path


def export(trunk: PlacedClassifier, fitted: FittedHead, card: Card, path: Path) -> None:
    """Write backbone and fitted box layer as ONNX: ``images [N, channels, size, size]`` → ``parts``."""
    assert card.input is not None
    weights, bias = fitted.layer()
    example = torch.zeros(2, card.input.channels, card.input.size, card.input.size)
    network = BoxNetwork(trunk, weights, bias).eval()
    shapes = {"images": {0: torch.export.Dim("batch")}}
    cards.export(network, (example,), shapes, ["parts"], path, f"{card.id}-detector")


def write_test_figures(card: Card, figures: dict[str, Any]) -> None:
    """Put the figures of ``ai-pipeline evaluate detect --split test`` over all labels into the file of
    ``card``.
    """
    with changed_card(card.path) as made:
        made["detection"]["test"] = _pooled(figures)


def _pooled(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures over all labels, for a model card; the difference is that of the first locator."""
    first = next(iter(figures["arms"]))
    return {
        "boxes": figures["boxes"],
        "patients": figures["patients"],
        **{arm: dict(values) for arm, values in figures["arms"].items()},
        "difference": dict(figures["differences"][f"{first} - constant"]),
    }


def _summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures for a model card: over all labels, and for each label whether its boxes are shown, or why
    not.
    """
    first = next(iter(figures["arms"]))
    return {
        "split": "five folds by patient of the train and val boxes",
        **_pooled(figures),
        "labels": [
            {
                "label": row["label"],
                "boxes": row["boxes"],
                "mean_T": row["arms"][first]["mean T"],
                "constant": row["arms"]["constant"]["mean T"],
                "difference": row["differences"][f"{first} - constant"]["mean T"],
                "passes": row["passes"],
                "why": row["why"],
            }
            for row in figures["labels"]
        ],
    }
