"""``ai-pipeline train ovarian`` and ``evaluate ovarian``: classifier, gate and outline of the lesion.

Frames with class and lesion mask are those of MMOTU (Q. Zhao et al., arXiv 2207.06799). Five folds by group
of near-duplicates, then the network that ships. Figures are of the committed predictions of the folds.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Self, cast

import cv2
import numpy as np
import numpy.typing as npt
import tomlkit
import torch
from efficientnet_lite_pytorch import EfficientNet
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import Dataset

from ai_pipeline.contract import BURNED_IN
from ai_pipeline.errors import PixelError
from ai_pipeline.images.coordinates import UPRIGHT
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models.registry import Card, Chain, enlarge, find, normalise, reduce
from ai_pipeline.networks.gate import FeatureGate
from ai_pipeline.ovarian.pipeline import SURE, Outliner, OvarianClassifier, PixelGate, dice
from ai_training.base import DataMissing, Report, followed, silent
from ai_training.cards import changed_card, export, new_card, store_in_half, weights_row
from ai_training.chest import directions_of, drawn_from, files_of_split, linear_head
from ai_training.engine import (
    Plan,
    Recipe,
    RecipeRun,
    TrainingRun,
    Validation,
    best_of,
    input_of,
    run_options,
    seed_all,
)
from ai_training.metrics import (
    Floats,
    Interval,
    auc_interval,
    brier,
    calibration_error,
    interval,
    mean_auc,
    mean_auc_interval,
    mean_interval,
    patient_weights,
    slope_and_intercept,
)
from ai_training.networks import (
    HEADS,
    MEAN,
    NAME,
    SCALE,
    OutlineNetwork,
    Probabilities,
    export_outline_network,
    fill_from,
    fuse,
    imagenet_file,
    less_dice,
    licence_from,
    outline_network,
    start_described,
)
from ai_training.sets import OVARIAN, OVARY, Grey, ImageSet, MaskFile, SetImage, Singles, named_set, read_rgb

SET = "us_ovarian"
LABELS = OVARIAN
"""In the order of the networks' outputs."""
MALIGNANT = ("High-grade_Serous_Cystadenoma",)
NEOPLASMS = (
    "Serous_Cystadenoma",
    "Teratoma",
    "Theca_Cell_Tumor",
    "Mucinous_Cystadenoma",
    *MALIGNANT,
)
"""Tumours, in contrast to endometriotic and simple cysts and to normal ovaries."""
NORMAL = "Ovary_Normal"
FOLDS, FOLD_SEED = 5, 0
CHAIN = Chain(side=208, blur=0.0, jpeg_quality=95, low=0.0, high=99.5)
FEW_MARKS = 30
"""Yellow pixels up to which a frame counts as one without yellow marks (the set's own limit)."""


@dataclass(frozen=True, slots=True)
class OvarianFrame:
    """A frame of :data:`SET`. ``name``: its file in the set; ``label``: index into :data:`LABELS`.

    ``group``: near-duplicates share it; ``split``: train, val or test by group; ``yellow``: number of yellow
    pixels in the published frame, above :data:`FEW_MARKS` if they were not counted.
    """

    name: str
    picture: Path
    mask: MaskFile
    label: int
    group: str
    split: str
    yellow: int

    def rgb(self) -> Grey:
        """Read the frame as RGB ``[rows, columns, 3]``. Raises DataMissing."""
        return read_rgb(self.picture)

    def lesion(self) -> npt.NDArray[np.bool_]:
        """Read the mask ``[rows, columns]`` of the lesion, or of the ovary in a normal frame. Raises
        DataMissing.
        """
        return self.mask.read()


def ovarian_set(data: Path) -> ImageSet:
    """The set of ovaries that ``data`` names. Raises DataMissing."""
    return named_set(data, SET, OVARY)


def ovarian_frames(data: Path) -> tuple[OvarianFrame, ...]:
    """All frames of the set, in its order. Raises DataMissing, also if a frame has no class or mask."""
    return tuple(map(_frame, ovarian_set(data).images))


def _frame(image: SetImage) -> OvarianFrame:
    """Convert an image of a set to a frame. Raises DataMissing."""
    known = [label for label in LABELS if label in image.labels]
    if len(known) != 1 or len(image.masks) != 1:
        raise DataMissing(f"{image.path}: a mask and one of {', '.join(LABELS)} were expected")
    [mask] = image.masks.values()
    yellow = int(image.measures.get("yellow_overlay_px", FEW_MARKS + 1))
    return OvarianFrame(
        image.name, image.path, mask, LABELS.index(known[0]), image.patient, image.split, yellow
    )


def folds(frames: Sequence[OvarianFrame]) -> npt.NDArray[np.intp]:
    """The cross-validation fold of each frame, 0 to :data:`FOLDS` - 1: groups stay together, every class is
    spread evenly.
    """
    found = np.zeros(len(frames), np.intp)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    labels = [frame.label for frame in frames]
    groups = [frame.group for frame in frames]
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
        found[held_out] = fold
    return found


def grey(picture: Grey) -> Grey:
    """Convert a displayed picture, RGB or grey, to grey levels ``[rows, columns]``."""
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def reduced(pictures: Sequence[Grey]) -> Grey:
    """Reduce displayed pictures by the preprocessing :data:`CHAIN` to ``[N, side, side]``."""
    return np.stack([reduce(grey(picture), CHAIN)[0] for picture in pictures])


class LiteTrunk(nn.Module):
    """The backbone EfficientNet-Lite0 without its classifier: ``[N, 3, size, size]`` → feature maps ``[N, C,
    h, w]``. The first layer and the first ``frozen`` blocks do not learn.
    """

    def __init__(self, size: int, frozen: int) -> None:
        """``size``: side of the input in pixels."""
        super().__init__()
        self.network = EfficientNet.from_name(NAME, image_size=size)
        self.channels = int(self.network._fc.in_features)
        self.network._fc = nn.Identity()
        self.frozen = frozen
        self._kept = [self.network._conv_stem, self.network._bn0, *self.network._blocks[:frozen]]
        for part in self._kept:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        for part in self._kept:
            part.eval()
        return self

    def frozen_layers(self, images: Tensor) -> Tensor:
        """The feature maps after the frozen blocks of the network, which are not trained."""
        net = self.network
        with torch.no_grad():
            x = net._swish(net._bn0(net._conv_stem(images)))
            for block in net._blocks[: self.frozen]:
                x = block(x)
        return cast(Tensor, x)

    def trained_layers(self, x: Tensor) -> Tensor:
        """The last feature maps, from the output ``x`` of :meth:`frozen_layers`."""
        net = self.network
        for index, block in enumerate(net._blocks[self.frozen :], start=self.frozen):
            x = block(x, drop_connect_rate=0.2 * index / len(net._blocks))
        return cast(Tensor, net._swish(net._bn1(net._conv_head(x))))


class CystClassifier(nn.Module):
    """The classifier of ovarian frames: backbone, mean over its feature maps, linear layer. It returns
    ``logits [N, labels]`` and ``features [N, C, h, w]``.
    """

    def __init__(self, trunk: LiteTrunk, labels: int, dropout: float = 0.3) -> None:
        """``labels``: the number of classes."""
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(trunk.channels, labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features of ``images``."""
        return self.trained_layers(self.trunk.frozen_layers(images))

    def trained_layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of ``forward``, from the output ``x`` of the frozen layers."""
        features = self.trunk.trained_layers(x)
        return self.head(self.dropout(features.mean((2, 3)))), features


class CystEnsemble(nn.Module):
    """Mean of networks that share their frozen layers, each run on the picture and its mirror image.

    Takes images ``[N, 3, size, size]``. Returns ``logits [N, labels]``; ``features [N, C, h, w]`` of the
    first network; ``places [N, labels, h, w]``, the class activation map of each label (Zhou et al., CVPR
    2016), whose mean is the logit without its bias. Maps of mirror images are flipped back first.
    """

    def __init__(self, networks: Sequence[CystClassifier]) -> None:
        """Join the trained ``networks``."""
        super().__init__()
        self.networks = tuple(networks)
        self.parts = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, features and places of ``images``."""
        return self.trained_layers(self.frozen_layers(images), self.frozen_layers(images.flip(3)))

    def frozen_layers(self, images: Tensor) -> Tensor:
        """The output of the frozen layers, which all networks share."""
        return self.networks[0].trunk.frozen_layers(images)

    def trained_layers(self, upright: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of ``forward``, from the outputs of :meth:`frozen_layers` for images (``upright``) and
        for their mirror images.
        """
        seen, count = torch.cat([upright, mirrored]), upright.shape[0]  # not len(): it may be symbolic
        found = [network.trained_layers(seen) for network in self.networks]
        logits = torch.stack([one for one, _ in found]).mean(0)
        places = torch.stack(
            [
                nn.functional.conv2d(maps, network.head.weight[:, :, None, None])
                for network, (_, maps) in zip(self.networks, found, strict=True)
            ]
        ).mean(0)
        of_both = (found[0][1], places)
        features, places = ((one[:count] + one[count:].flip(3)) / 2 for one in of_both)
        return (logits[:count] + logits[count:]) / 2, features, places


Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
RIGHT = 0.8
"""Least share of answers that are right, where the model answers."""
MISSED = 0.02
"""Share of the frames whose own class may be called absent."""


@dataclass(frozen=True, slots=True, eq=False)
class VectorScaling:
    """A calibration: softmax(``slope`` · logit + ``intercepts``), with one slope for all classes (C. Guo et
    al., ICML 2017: vector scaling with tied slopes).
    """

    slope: float
    intercepts: Doubles

    def __call__(self, logits: Doubles) -> Doubles:
        """Convert ``logits [N, labels]`` to probabilities with the sum 1."""
        return np.asarray(softmax(self.slope * logits + self.intercepts, axis=1))


def scaled(logits: Doubles, truth: Ints) -> VectorScaling:
    """Fit the calibration that makes the labels ``truth [N]`` most likely."""
    labels, rows = logits.shape[1], np.arange(len(truth))

    def loss(parameters: Doubles) -> float:
        """The negative log-likelihood of slope and intercepts, with a penalty."""
        found = softmax(parameters[0] * logits + parameters[1:], axis=1)[rows, truth]
        # The squared intercepts count too: small classes must not run away.
        return float(-np.log(np.maximum(found, 1e-12)).mean() + 0.02 * (parameters[1:] ** 2).mean())

    best = minimize(loss, np.array([1.0, *np.zeros(labels)]), method="L-BFGS-B").x
    return VectorScaling(float(best[0]), best[1:] - best[1:].mean())


def cross_fitted(logits: Doubles, truth: Ints, folds: Ints) -> Doubles:
    """Calibrate ``logits`` fold by fold, each by a calibration fitted to the other folds."""
    found = np.zeros_like(logits)
    for fold in np.unique(folds):
        others = folds != fold
        found[~others] = scaled(logits[others], truth[others])(logits[~others])
    return found


def answer_threshold(probabilities: Doubles, truth: Ints) -> float:
    """The least probability of the likeliest class at which a share :data:`RIGHT` of the frames at or above
    it is classified rightly.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    order = np.argsort(-sure, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= RIGHT)
    return float(sure[order][enough[-1]]) if len(enough) else 1.0


def absence_threshold(probabilities: Doubles, truth: Ints) -> float:
    """The threshold below which the true class of a share :data:`MISSED` of the frames lies."""
    return float(np.quantile(probabilities[np.arange(len(truth)), truth], MISSED))


FOLDER = Path(__file__).parent / "held_out"
TABLE, GATE = "out_of_fold.csv", "gate.csv"


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The predictions for N frames by networks that were not trained on them: ``folds [N]``, ``logits [seeds,
    N, labels]``.
    """

    frames: tuple[OvarianFrame, ...]
    folds: Ints
    logits: Doubles

    @property
    def labels(self) -> Ints:
        """The true label of each frame, ``[N]``."""
        return np.array([frame.label for frame in self.frames], np.intp)

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each frame."""
        return tuple(frame.group for frame in self.frames)

    @property
    def mean(self) -> Doubles:
        """The mean logits over the seeds, ``[N, labels]``."""
        return np.asarray(self.logits.mean(0))


def write_predictions(held_out: HeldOut, folder: Path = FOLDER) -> Path:
    """Write the predictions as a CSV table with a row for each seed and frame; returns its path."""
    rows = [
        ("seed", "file", "fold", *LABELS),
        *(
            (seed, frame.name, fold, *(f"{value:.4f}" for value in row))
            for seed, logits in enumerate(held_out.logits, start=1)
            for frame, fold, row in zip(held_out.frames, held_out.folds, logits, strict=True)
        ),
    ]
    return _write_table(folder / TABLE, rows)


def _write_table(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write rows as CSV; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_predictions(frames: Sequence[OvarianFrame], folder: Path = FOLDER, name: str = TABLE) -> HeldOut:
    """Read the predictions for ``frames`` from the table. Raises DataMissing if a frame is missing."""
    rows: dict[str, Mapping[str, dict[str, str]]] = {}
    with (folder / name).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["seed"], {})[row["file"]] = row  # type: ignore[index]
    try:
        found = [[seed[frame.name] for frame in frames] for seed in rows.values()]
    except KeyError as error:
        raise DataMissing(f"{name} has no prediction of {error}: another version of the set?") from error
    logits = np.array([[[float(row[label]) for label in LABELS] for row in seed] for seed in found])
    return HeldOut(tuple(frames), np.array([int(row["fold"]) for row in found[0]], np.intp), logits)


OTHERS = ("us_fetal_head", "us_fetal_planes", "us_breast", "cxr_nih")
"""Sets of pictures that are no ovaries; each with splits of its own."""
DICOM = "dicom"
"""Ultrasound files of all kinds (echocardiograms, spectra, fetuses): judged, never learned from."""
MOST, DIRECTIONS = 150, 48
INSIDE = 0.995
"""Share of the training frames that lies inside the limits of either part."""
TRUE_POSITIVE_RATE = 0.975
"""Share of the frames that were held out that the gate lets through."""
FRAMES = "us_ovarian"


def other_pictures(data: Path, split: str, seed: int = 1) -> dict[str, list[Grey]]:
    """At most :data:`MOST` pictures of each set in :data:`OTHERS`, and for the split ``test`` also of
    :data:`DICOM`.

    Raises DataMissing if a picture cannot be read.
    """
    random = np.random.default_rng(seed)
    found = {
        name: [grey(read_rgb(path)) for path in drawn_from(files_of_split(data / name, split), MOST, random)]
        for name in OTHERS
    }
    for path in sorted((data / DICOM / "files").glob("*.dcm")) if split == "test" else ():
        with suppress(PixelError):
            if (image := open_dicom(path)).header.modality == "US":
                found.setdefault(DICOM, []).append(grey(image.display()))
    return {name: pictures for name, pictures in found.items() if pictures}


def fit_gate(frames: Singles, others: Mapping[str, Singles], seed: int = 1) -> FeatureGate:
    """Fit the domain gate to mean features ``[N, C]`` of training frames and of other pictures; its limit is
    1. Without other pictures the gate has only the directions, and a limit in their units.
    """
    plain = directions_of(frames, min(DIRECTIONS, len(frames)))
    if not others:
        return plain
    head = linear_head({UPRIGHT.name: frames, **others}, seed)
    limits = (
        # Frames that a network was not trained on lie farther from its training frames than these do.
        float(np.quantile(plain.residual(frames), INSIDE)) * 1.5,
        # -log of the probability of a frame, at least: .5, where any classifier would say yes.
        max(float(np.quantile(head.distance(frames), INSIDE)), 0.7),
    )
    return replace(plain, head=replace(head, limits=limits))


def write_gate(rows: Iterable[tuple[str, str, int, float]], path: Path) -> None:
    """Write a table of how the domain gates of the folds judge frames: rows with set, file, fold and distance
    (accepted up to 1).
    """
    lines = ((name, picture, fold, f"{distance:.4f}") for name, picture, fold, distance in rows)
    _write_table(path, [("set", "file", "fold", "distance"), *lines])


def gate_limit(path: Path) -> float:
    """The distance within which a share :data:`TRUE_POSITIVE_RATE` of the held-out frames lies, from the
    table ``path`` of :func:`write_gate`.
    """
    return float(np.quantile(_distances(path), TRUE_POSITIVE_RATE))


def gate_figures(
    path: Path, classifier: OvarianClassifier, data: Path, report: Report = silent
) -> dict[str, Any]:
    """The share of the pictures of each set that the domain gate accepts, with its exact interval over
    pictures. Frames are judged by the gates of folds that have not seen them (table ``path``), other pictures
    of the test splits by the gate of ``classifier``. Raises DataMissing.
    """
    limit = classifier.card.gate.threshold if classifier.card.gate else 1.0
    others, gate = other_pictures(data, "test"), PixelGate(classifier)
    passed = {FRAMES: _distances(path) <= limit}
    for name in followed(tuple(others), report, "the gate on other pictures"):
        passed[name] = np.array([gate.refused(one, classifier.analyse(one)) is None for one in others[name]])
    result = {}
    for name, found in passed.items():
        sure = binomtest(int(found.sum()), len(found)).proportion_ci()
        shares = Interval(float(found.mean()), float(sure.low), float(sure.high)).as_list()
        result[name] = {"pictures": len(found), "passed": shares}
    return result


def _distances(path: Path) -> npt.NDArray[np.float64]:
    """The distance of each held-out frame from the training frames, from the table of :func:`write_gate`."""
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row["distance"]) for row in csv.DictReader(file) if row["set"] == FRAMES])


ALL = "all"
"""Folder of the run that sees every frame."""
FOLD_RUNS = tuple(map(str, range(FOLDS)))
Both = tuple[Tensor, Tensor]
"""What the frozen part makes of pictures, and of their mirror images."""


@dataclass(frozen=True, slots=True)
class OvarianRecipe:
    """All settings of a run.

    ``epochs``: passes over its training frames;
    ``frozen``: first blocks of EfficientNet-Lite0 that keep their weights; ``balance``: exponent of a class's
    count by which its frames are drawn less often (0: all frames equally often, 1: all classes equally
    often). The frozen part runs on ``copies`` of each frame, once for all runs.
    For a copy: ``rotation`` in degrees, the rest as shares of the picture or of its grey levels.
    """

    architecture: str = NAME
    size: int = 192
    frozen: int = 11
    epochs: float = 16.0
    batch: int = 32
    seed: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.2
    smoothing: float = 0.1
    balance: float = 0.5
    copies: int = 6
    ema: float = 0.98
    rotation: float = 12.0
    scale: float = 0.2
    stretch: float = 0.08
    shift: float = 0.08
    contrast: float = 0.2


def train(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int] = (1,),
    runs: Sequence[str] = (*FOLD_RUNS, ALL),
    report: Report = silent,
    *,
    pixels: Grey | None = None,
) -> None:
    """Train ``runs`` (numbers of folds, or :data:`ALL`) into ``out/seed-S/``; complete runs there are not
    repeated.

    ``pixels``: reduced pictures ``[N, side, side]`` to use in place of the frames.

    All seeds share the augmented copies. Each run writes ``best.pt``, and for a fold
    ``validation.npz`` with ``rows`` and ``logits`` of its frames. Raises DataMissing, or ExperimentError if a
    folder holds a run of another recipe.
    """
    frames = ovarian_frames(data)
    fold = folds(frames)
    if pixels is None:
        pixels = reduced([frame.rgb() for frame in frames])
    seen = _seen_copies(pixels, recipe, report)
    for seed, name in product(seeds, runs):
        folder, own = out / f"seed-{seed}" / name, replace(recipe, seed=seed)
        run = _OvarianRun(folder, own, pixels, frames, _outside(name, fold), seen)
        report(0.0, f"seed {seed}, {name}: {run.plan.iterations} steps\n")
        run.finish(report, resume=run.begun)


def _outside(run: str, fold: Ints) -> npt.NDArray[np.bool_]:
    """Which frames the training run ``run`` (number of a fold, or :data:`ALL`) does not train on."""
    return np.asarray(fold == (-1 if run == ALL else int(run)))


def new_classifier(recipe: OvarianRecipe) -> CystClassifier:
    """Create the network of ``recipe`` with ImageNet weights. Raises ExperimentError."""
    trunk = LiteTrunk(recipe.size, recipe.frozen)
    fill_from(trunk.network, imagenet_file(), NAME, HEADS)
    return CystClassifier(trunk, len(LABELS))


def trained_classifier(folder: Path, recipe: OvarianRecipe) -> CystClassifier:
    """Load the network of a training run in ``folder``, ready for inference."""
    return best_of(new_classifier(recipe), folder)


def ensemble(out: Path, recipe: OvarianRecipe, seeds: Sequence[int], name: str) -> CystEnsemble:
    """Load the networks of all seeds for the run ``name`` below ``out``, ready for inference."""
    return CystEnsemble([trained_classifier(out / f"seed-{seed}" / name, recipe) for seed in seeds]).eval()


def outputs_of(network: CystEnsemble, pixels: Grey, size: int, batch: int = 16) -> tuple[Singles, Singles]:
    """Logits ``[N, labels]`` and mean features ``[N, C]`` for reduced pictures ``[N, side, side]``. ``size``:
    side of the input; ``batch``: pictures run at once.
    """
    return outputs_above(network, frozen_outputs(network, pixels, size, batch))


def frozen_outputs(network: CystEnsemble, pixels: Grey, size: int, batch: int = 16) -> list[Both]:
    """The outputs of the frozen layers, which all folds share, for reduced pictures ``pixels`` and for their
    mirror images, in batches. ``size``: side of the network's input.
    """
    found = []
    for start in range(0, len(pixels), batch):
        squares = np.stack([enlarge(one, size) for one in pixels[start : start + batch]])
        with torch.inference_mode():
            images = _seen_by(network, squares)
            found.append((network.frozen_layers(images), network.frozen_layers(images.flip(3))))
    return found


def outputs_above(network: CystEnsemble, lower: Sequence[Both]) -> tuple[Singles, Singles]:
    """The result of :func:`outputs_of`, computed from the outputs of :func:`frozen_outputs` (``lower``)."""
    logits, features = [np.zeros((0, len(LABELS)), np.float32)], []
    for upright, mirrored in lower:
        with torch.inference_mode():
            found, maps, _ = network.trained_layers(upright, mirrored)
        logits.append(found.cpu().numpy())
        features.append(maps.mean((2, 3)).cpu().numpy())
    return np.concatenate(logits), np.concatenate(features) if features else np.zeros((0, 0), np.float32)


class OvarianBatches(Dataset[tuple[Tensor, Tensor]]):
    """The training batches of a run; item i is outputs of the frozen layers ``[B, C, h, w]``, taken from
    ``seen [N, copies, C, h, w]``, and labels ``[B]``, drawn from (seed, i) alone.
    """

    def __init__(self, recipe: OvarianRecipe, labels: Ints, rows: Ints, seen: Tensor) -> None:
        """``labels [N]``: the classes; ``rows``: the frames that may be drawn."""
        self._recipe, self._labels, self._rows, self._seen = recipe, labels, rows, seen
        odds = np.bincount(labels[rows], minlength=len(LABELS))[labels[rows]] ** -recipe.balance
        self._odds = odds / odds.sum()

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
        random = np.random.default_rng((self._recipe.seed, iteration))
        rows = random.choice(self._rows, self._recipe.batch, p=self._odds)
        labels = torch.from_numpy(self._labels[rows])
        chosen = random.integers(self._recipe.copies, size=len(rows))
        return self._seen[rows, chosen].float(), labels


def _seen_copies(pixels: Grey, recipe: OvarianRecipe, report: Report) -> Tensor:
    """Run the frozen layers on random copies of each frame in ``pixels``; returns their outputs ``[N, copies,
    C, h, w]`` (float16).
    """
    network = new_classifier(recipe).eval().to(run_options().chosen_device())
    found = []
    for number in followed(range(len(pixels)), report, "copies through the frozen part"):
        random = np.random.default_rng((recipe.seed, number, recipe.copies))
        copies = np.stack([augmented(pixels[number], recipe, random) for _ in range(recipe.copies)])
        found.append(network.trunk.frozen_layers(_seen_by(network, copies)).half().contiguous().cpu())
    return torch.stack(found)


def _seen_by(network: nn.Module, squares: Grey) -> Tensor:
    """Convert pictures of the network's size to its input."""
    return input_of(network, normalise(squares, MEAN, SCALE)).contiguous(memory_format=torch.channels_last)


def augmented(picture: Grey, how: OvarianRecipe, random: np.random.Generator) -> Grey:
    """Make a random copy ``[size, size]``: perhaps mirrored, turned, scaled, shifted, with other gamma and
    gain.
    """
    matrix = motion(picture.shape[0], how, random)
    moved = cv2.warpAffine(picture, matrix, (how.size, how.size), flags=cv2.INTER_AREA)
    return exposed(np.asarray(moved, np.uint8), how, random)


def motion(side: int, how: OvarianRecipe, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random 2 × 3 matrix that maps pixel centres of a picture of ``side`` pixels to those of a network
    input. ``how``: how far it may turn, scale and shift.
    """
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = how.size / side * np.exp(random.uniform(-how.scale, how.scale))
    wide, high = zoom * np.exp(random.uniform(-how.stretch, how.stretch, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (wide, high)
    if random.random() < 0.5:
        turn[:, 0] *= -1
    centre = np.full(2, (how.size - 1) / 2) + random.uniform(-how.shift, how.shift, 2) * how.size
    return np.column_stack([turn, centre - turn @ np.full(2, (side - 1) / 2)])


def exposed(picture: Grey, how: OvarianRecipe, random: np.random.Generator) -> Grey:
    """Return ``picture`` with a random gamma and gain, within the limits of ``how``."""
    gamma = np.exp(random.uniform(-how.contrast, how.contrast) * 2)
    gain = np.exp(random.uniform(-how.contrast, how.contrast))
    levels = 255.0 * gain * (np.arange(256) / 255.0) ** gamma
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8)[picture])


class _OvarianRun(TrainingRun):
    """One training run of the classifier of ovarian frames."""

    CHOSEN_BY = "iteration"  # the last is kept: nothing is chosen by frames that were held out

    def __init__(
        self,
        out: Path,
        recipe: OvarianRecipe,
        pixels: Grey,
        frames: Sequence[OvarianFrame],
        held_out: npt.NDArray[np.bool_],
        seen: Tensor,
    ) -> None:
        """Prepare the run: ``pixels``: reduced frames; ``held_out``: the frames not to train on; ``seen``:
        the frozen layers' outputs for copies of all frames.
        """
        seed_all(recipe.seed)
        self.recipe, self.pixels, self.seen = recipe, pixels, seen
        self.labels = np.array([frame.label for frame in frames], np.intp)
        self.rows, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        network = new_classifier(recipe)
        steps = max(1, round(recipe.epochs * len(self.rows) / recipe.batch))
        plan = Plan(
            iterations=steps,
            learning_rate=recipe.learning_rate,
            warm_up=recipe.warm_up,
            validate_every=steps,
            ema=recipe.ema,
            weight_decay=recipe.weight_decay,
        )
        super().__init__(out, json.dumps(asdict(recipe)), plan, network)

    def examples(self) -> OvarianBatches:
        """The training batches."""
        return OvarianBatches(self.recipe, self.labels, self.rows, self.seen)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        network = cast(CystClassifier, self.network)
        with self.autocast():
            logits, _ = network.trained_layers(images)
        return cross_entropy(logits.float(), labels, label_smoothing=self.recipe.smoothing)

    def validate(self) -> Validation:
        """Measure the accuracy on the frames that are held out."""
        network = CystEnsemble([cast(CystClassifier, self.average.eval())])
        logits, _ = outputs_of(network, self.pixels[self.held_out], self.recipe.size)
        right = (
            float((logits.argmax(1) == self.labels[self.held_out]).mean()) if len(logits) else float("nan")
        )
        arrays: dict[str, npt.NDArray[Any]] = {"rows": self.held_out, "logits": logits} if len(logits) else {}
        figures = {"iteration": self.done, "accuracy": right}
        return Validation(figures, f"held out accuracy {right:.3f}", self.average.state_dict(), arrays)


OUTLINES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineRecipe(Recipe):
    """The settings of a training run of the outline network. ``frozen``: first blocks that do not learn;
    ``copies``: how far copies of frames differ.
    """

    size: int = 192
    frozen: int = 5
    iterations: int = 160
    batch: int = 16
    weight_decay: float = 0.02
    workers: int = 0
    ema: float = 0.98
    validate_every: int = 80
    copies: OvarianRecipe = field(default_factory=OvarianRecipe)


def train_and_ship(
    data: Path, out: Path, epochs: float | None, seeds: Sequence[int], threads: int, report: Report = silent
) -> Path:
    """Train the classifier of ovarian frames for every fold and on all frames, once for each of ``seeds``,
    and the outline network, and export both; returns the path of the model card. Complete parts in ``out``
    are not trained again. ``epochs``: passes over the frames (the outline network's steps change in the same
    proportion); None: as the released model. Raises DataMissing, ExperimentError.
    """
    torch.set_num_threads(threads)
    recipe, outline = OvarianRecipe(), OutlineRecipe(threads=threads)
    if epochs:
        share = epochs / recipe.epochs
        recipe = replace(recipe, epochs=epochs)
        steps, every = (
            max(1, round(share * count)) for count in (outline.iterations, outline.validate_every)
        )
        outline = replace(outline, iterations=steps, validate_every=every)
    train(data, out, recipe, seeds, report=report)
    run = _OutlineRun(data, out / "outline", outline)
    run.finish(report, resume=run.begun)
    return ship(data, out, recipe, outline, seeds, report)


def pairs_of(frames: Sequence[OvarianFrame]) -> tuple[Grey, Grey]:
    """Reduced frames and their masks (0, 255), ``[N, side, side]`` each."""
    pictures, masks = [], []
    for frame in frames:
        picture, place = reduce(grey(frame.rgb()), CHAIN)
        lesion = frame.lesion()
        rows, columns = round(place.e * lesion.shape[0]), round(place.a * lesion.shape[1])
        mask = np.zeros_like(picture)
        top, left = round(place.f), round(place.c)
        small = cv2.resize(lesion.astype(np.uint8) * 255, (columns, rows), interpolation=cv2.INTER_AREA)
        mask[top : top + rows, left : left + columns] = small
        pictures.append(picture)
        masks.append(mask)
    return np.stack(pictures), np.stack(masks)


class OutlineBatches(Dataset[tuple[Tensor, Tensor]]):
    """The training batches of a run; item i is images ``[B, 3, size, size]`` and masks ``[B, 1, size, size]``
    0 to 1, drawn from (seed, i) alone.
    """

    def __init__(self, recipe: OutlineRecipe, pictures: Grey, masks: Grey) -> None:
        """``pictures``, ``masks``: reduced frames and their masks, ``[N, side, side]``."""
        self._recipe, self._pictures, self._masks = recipe, pictures, masks

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
        how, size = self._recipe.copies, self._recipe.size
        random = np.random.default_rng((self._recipe.seed, iteration))
        images, masks = [], []
        for row in random.choice(len(self._pictures), self._recipe.batch):
            matrix = motion(self._pictures.shape[1], how, random)
            moved = (
                cv2.warpAffine(part[row], matrix, (size, size), flags=cv2.INTER_LINEAR)
                for part in (self._pictures, self._masks)
            )
            picture, mask = (np.asarray(part, np.uint8) for part in moved)
            images.append(exposed(picture, how, random))
            masks.append(mask.astype(np.float32)[None] / 255)
        return torch.from_numpy(normalise(np.stack(images), MEAN, SCALE)), torch.from_numpy(np.stack(masks))


class _OutlineRun(RecipeRun[OutlineRecipe]):
    """One training run of the outline network."""

    CHOSEN_BY = "dice"

    def __init__(self, data: Path, out: Path, recipe: OutlineRecipe) -> None:
        """Read the frames of the splits train and val."""
        super().__init__(out, recipe)
        frames = ovarian_frames(data)
        self.pairs = pairs_of([frame for frame in frames if frame.split == "train"])
        self.checked = pairs_of([frame for frame in frames if frame.split == "val"])

    def new_network(self) -> OutlineNetwork:
        """The network before its first step, its first blocks frozen."""
        network = outline_network(OUTLINES)
        for part in (network.stem, network.norm, *network.blocks[: self.recipe.frozen]):
            part.requires_grad_(False)
        return network

    def examples(self) -> OutlineBatches:
        """The training batches."""
        return OutlineBatches(self.recipe, *self.pairs)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch: cross-entropy of every pixel plus one minus Dice."""
        images, masks = batch
        with self.autocast():
            logits = self.network(images.contiguous(memory_format=torch.channels_last)).float()
        return (
            binary_cross_entropy_with_logits(logits, masks) + less_dice(torch.sigmoid(logits), masks).mean()
        )

    def validate(self) -> Validation:
        """Measure the mean Dice on the validation split."""
        found = [self._dice(picture, mask) for picture, mask in zip(*self.checked, strict=True)]
        mean = float(np.mean(found))
        return Validation({"dice": mean}, f"Dice {mean:.4f}", self.average.state_dict())

    def _dice(self, picture: Grey, mask: Grey) -> float:
        """The Dice coefficient of the network's outline of ``picture`` with the true outline ``mask``."""
        size = self.recipe.size
        values = normalise(enlarge(picture, size)[None], MEAN, SCALE)
        with torch.inference_mode():
            logits = self.average.eval()(input_of(self.average, values))[0, 0].cpu().numpy()
        return dice(logits >= np.log(SURE / (1 - SURE)), enlarge(mask, size) > 127)


ID = "ovarian-efficientnet-lite0"
VERSION, LOOKS = "3", 3
"""Of the card; how often its held-out frames have been scored by now: once for each version."""
MEANINGS = {
    "Chocolate_Cyst": "Endometriotic (chocolate) cyst of ovary",
    "Serous_Cystadenoma": "Serous cystadenoma of ovary",
    "Teratoma": "Teratoma of ovary",
    "Theca_Cell_Tumor": "Theca cell tumour of ovary",
    "Simple_Cyst": "Simple cyst of ovary",
    "Ovary_Normal": "Ovary without lesion",
    "Mucinous_Cystadenoma": "Mucinous cystadenoma of ovary",
    "High-grade_Serous_Cystadenoma": "High-grade serous tumour of ovary",
}
"""Code Meanings of the classes, which are the manifest's; the values are of our own scheme."""


def ship(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    outline: OutlineRecipe,
    seeds: Sequence[int],
    report: Report = silent,
) -> Path:
    """Write predictions, domain gate, networks and model card into ``out`` from the finished runs below it;
    returns the card's path. Raises DataMissing, or OSError if a run is missing.
    """
    held_out = predict(data, out, recipe, seeds, report)
    classifier = ensemble(out, recipe, seeds, ALL)
    fuse(classifier)
    example = (torch.zeros(2, 3, recipe.size, recipe.size),)
    batch, outputs = {"images": {0: Dim("batch")}}, ("logits", "features", "places")
    export(classifier, example, batch, outputs, out / f"{ID}.onnx")
    store_in_half(out / f"{ID}.onnx")
    outliner = Probabilities(best_of(OutlineNetwork(OUTLINES), out / "outline")).eval()
    side, path = outline.size, out / f"{ID}.outline.onnx"
    export_outline_network(outliner, (side, side), ("lesion",), path, "pictures")
    return write_card(out, ovarian_set(data).title, held_out, recipe, outline)


def predict(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int],
    report: Report = silent,
) -> HeldOut:
    """Predict each frame by the networks and domain gates of folds that have not seen it; write the
    predictions, and the released domain gate, below ``out``.
    """
    frames = ovarian_frames(data)
    pixels, fold = reduced([frame.rgb() for frame in frames]), folds(frames)
    logits = np.full((len(seeds), len(frames), len(LABELS)), np.nan)
    for number in followed(range(FOLDS), report, "held-out frames"):
        rows = np.flatnonzero(fold == number)
        networks = [ensemble(out, recipe, [seed], str(number)) for seed in seeds]
        seen = frozen_outputs(networks[0], pixels[rows], recipe.size)
        for place, network in enumerate(networks):
            logits[place, rows] = outputs_above(network, seen)[0]
    held_out = HeldOut(tuple(frames), fold, logits)
    write_predictions(held_out, out / FOLDER.name)
    _gates(data, out, recipe, seeds, held_out, pixels, report)
    return held_out


def write_card(
    folder: Path, title: str, held_out: HeldOut, recipe: OvarianRecipe, outline: OutlineRecipe
) -> Path:
    """Write the model card beside the weights in ``folder``; returns its path. ``title``: the training set;
    ``held_out``: the predictions to which thresholds are fitted. ``ai-pipeline evaluate ovarian`` adds the
    figures.
    """
    limit = round(gate_limit(folder / FOLDER.name / GATE), 4)
    truth, logits = held_out.labels, held_out.mean
    scaling = scaled(logits, truth)
    judged = cross_fitted(logits, truth, held_out.folds)
    present, absent = answer_threshold(judged, truth), absence_threshold(judged, truth)
    about = {
        "task": "eight classes of the ovary or its lesion in single ultrasound frames, and its outline",
        "architecture": f"{recipe.architecture} with a head for eight classes; outline: anatomy-unet",
        "licence": licence_from(start_described(), "trunks"),
        "intended_use": (
            "Research and development: to show a second diagnostic pipeline at work on ultrasound frames of "
            "the female pelvis. Not for diagnostic use, not for triage, not to exclude cancer."
        ),
        "limits": [
            "Not for diagnostic use. Not cleared by any authority.",
            "One hospital, and no patient identifiers: frames of one patient that look different may be "
            "on both sides of a split, so the figures may flatter.",
            "Trained and measured on frames in which somebody had chosen an ovary and often measured it; "
            "other frames of an examination were not there.",
            "36 frames of the malignant class in 32 groups: what it is worth is not known, and it is hidden.",
            "Every lesion that is none of the classes gets one of them, or none.",
            "The outline is of the lesion that fills most of the frame; a second one is left out.",
        ],
    }
    tables: dict[str, Mapping[str, Any]] = {
        "input": {
            "size": recipe.size,
            "channels": 3,
            "mean": MEAN,
            "scale": SCALE,
            "photometric": "MONOCHROME2",
            "chain": asdict(CHAIN),
        },
        "outputs": {"place_kind": "activation"},
        "gate": {"role": "gate", "threshold": limit, "true_positive_rate": TRUE_POSITIVE_RATE},
        "calibration": {
            "calibrated": True,
            "method": "softmax(slope · logit + intercept), fitted to out-of-fold predictions of all frames",
            "thresholds": (
                f"present: the likeliest class, from the probability on from which {RIGHT:.0%} of such "
                f"answers are right, but never a normal ovary; absent: {MISSED:.0%} of the frames have their "
                "own class below it; both on probabilities that were fitted to other folds"
            ),
            "prevalence": {
                label: round(float((truth == index).mean()), 4) for index, label in enumerate(LABELS)
            },
        },
        "training": {
            "data": [f"{title}, classes and masks"],
            "frames": len(truth),
            "groups": len(set(held_out.groups)),
            "seeds": len(held_out.logits),
            "views": "picture and mirror image, the mean of their logits",
            "held_out_looks": LOOKS,
            "start": start_described(),
            "recipe": asdict(recipe),
            "outline": outline.described(),
        },
    }
    made_by = "Model card of the ovarian pipeline: `ai-pipeline train ovarian`."
    path = new_card(folder, ID, made_by, "classifier", about, tables, VERSION)
    with changed_card(path) as card:
        for role, file in (("gate", f"{ID}.gate.npz"), ("outline", f"{ID}.outline.onnx")):
            cast(Any, card["weights"]).append(weights_row(role, folder / file))
        labels = card["labels"] = tomlkit.aot()
        for label, intercept in zip(LABELS, scaling.intercepts.tolist(), strict=True):
            code = {
                "value": label.upper().replace("-", "_")[:16].strip("_"),  # VR SH
                "scheme": BURNED_IN.scheme,
                "meaning": MEANINGS[label],
                "source": "private: PS3.16 has no concept of it, and no SNOMED CT release to check one "
                "against was at hand",
            }
            row = {
                "name": label,
                "code": code,
                "site": {
                    "value": "15497006",
                    "scheme": "SCT",
                    "meaning": "Ovary",
                    "source": "PS3.16 CID 7151",
                },
                "supported": label not in MALIGNANT,
                "threshold": round(present, 4),
                "absent_below": round(absent, 4),
                "slope": round(scaling.slope, 5),
                "intercept": round(intercept, 5),
            }
            labels.append(tomlkit.item(row))
    return path


def _gates(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int],
    held_out: HeldOut,
    pixels: Grey,
    report: Report,
) -> None:
    """Fit the domain gate of each run below ``out``. The gate of a fold is measured on the frames that the
    fold left out (``held_out``); the gate of all frames is released. ``pixels``: reduced frames.
    """
    names = np.array([frame.name for frame in held_out.frames])
    # The frozen part is the same in all networks: what it makes of the pictures is made once.
    below = ensemble(out, recipe, seeds[:1], ALL)
    seen = frozen_outputs(below, pixels, recipe.size)
    shown = {
        name: frozen_outputs(below, reduced(pictures), recipe.size)
        for name, pictures in other_pictures(data, "train").items()
    }
    rows: list[tuple[str, str, int, float]] = []
    for name in (*FOLD_RUNS, ALL):
        report(0.0, f"gate, {name}\n")
        network = ensemble(out, recipe, seeds[:1], name)  # features are the first network's
        features = outputs_above(network, seen)[1]
        others = {key: outputs_above(network, lower)[1] for key, lower in shown.items()}
        outside = _outside(name, held_out.folds)
        made = fit_gate(features[~outside], others)
        if name == ALL:
            (out / f"{ID}.gate.npz").write_bytes(made.to_bytes())
            continue
        found = zip(names[outside], made.distance(features[outside]), strict=True)
        rows += [(FRAMES, picture, int(name), distance) for picture, distance in found]
    write_gate(rows, out / FOLDER.name / GATE)


MARGIN = 0.02
"""Largest loss of macro AUC by cleaning that counts as none."""
EVERY_LABEL = tuple(range(len(LABELS)))


def classification(held_out: HeldOut) -> dict[str, Any]:
    """The figures of predictions for unseen frames: AUC, accuracy, calibration, risk, coverage, two binary
    tasks.
    """
    truth, weights = held_out.labels, patient_weights(held_out.groups)
    found = cross_fitted(held_out.mean, truth, held_out.folds)
    hot = np.eye(len(LABELS))[truth]
    sure, right = found.max(1), (found.argmax(1) == truth).astype(np.float64)
    slopes, intercepts = slope_and_intercept(right, sure, weights)
    slope, intercept = slope_and_intercept(right, sure, np.ones((1, len(truth))))
    return {
        "frames": len(truth),
        "groups": len(set(held_out.groups)),
        "seeds": len(held_out.logits),
        "macro_auc": mean_auc_interval(hot, found, EVERY_LABEL, weights).as_list(),
        "macro_auc_of_seeds": [
            round(mean_auc(hot, cross_fitted(one, truth, held_out.folds), EVERY_LABEL), 4)
            for one in held_out.logits
        ],
        "macro_auc_of_folds": [
            round(mean_auc(hot[held_out.folds == fold], found[held_out.folds == fold], EVERY_LABEL), 4)
            for fold in np.unique(held_out.folds)
        ],
        "accuracy": mean_interval(right, weights).as_list(),
        "labels": {
            label: {
                "frames": int(hot[:, k].sum()),
                "auc": auc_interval(hot[:, k], found[:, k], weights).as_list(),
            }
            for k, label in enumerate(LABELS)
        },
        "confusion": np.array(
            [np.bincount(found[truth == k].argmax(1), minlength=len(LABELS)) for k in EVERY_LABEL]
        ).tolist(),
        # Of the likeliest class: whether it is right as often as its probability says.
        "calibration": {
            "ece": round(calibration_error(right, sure), 4),
            "brier": round(brier(right, sure), 4),
            "slope": interval(float(slope[0]), slopes).as_list(),
            "intercept": interval(float(intercept[0]), intercepts).as_list(),
        },
        "risk_coverage": risk_coverage(found, right, weights),
        "binary": {
            "malignant": binary(found, hot, [LABELS.index(one) for one in MALIGNANT], held_out, weights),
            "neoplasm": binary(found, hot, [LABELS.index(one) for one in NEOPLASMS], held_out, weights),
        },
    }


def risk_coverage(found: Floats, right: Floats, weights: Floats) -> list[dict[str, Any]]:
    """The model's accuracy if it only classifies a share of the frames, the surest: for each share the least
    probability and the share that is right. ``found``: probabilities; ``right``: whether each frame is
    classified rightly; ``weights``: those of resamples.
    """
    sure, rows = found.max(1), []
    for coverage in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        cut = float(np.quantile(sure, 1 - coverage))
        answered = (sure >= cut).astype(np.float64)
        value = float((right * answered).sum() / answered.sum())
        resampled = (weights @ (right * answered)) / (weights @ answered)
        row = {"coverage": round(float(answered.mean()), 3), "least_probability": round(cut, 4)}
        rows.append({**row, "right": interval(value, resampled).as_list()})
    return rows


def answer_figures(held_out: HeldOut, threshold: float, absent_below: float) -> dict[str, Any]:
    """The figures of decisions at ``threshold`` (present) and ``absent_below``, with probabilities calibrated
    on the other folds. A normal ovary and a malignant lesion are never called present.
    """
    truth, weights = held_out.labels, patient_weights(held_out.groups)
    found = cross_fitted(held_out.mean, truth, held_out.folds)
    best = found.argmax(1)
    sure = found.max(1) >= threshold
    called = sure & ~np.isin(best, [LABELS.index(one) for one in (*MALIGNANT, NORMAL)])
    right = called & (best == truth)
    own = found[np.arange(len(truth)), truth]
    malignant = np.isin(truth, [LABELS.index(one) for one in MALIGNANT])
    normal = sure & (best == LABELS.index(NORMAL))
    return {
        "answered": mean_interval(called.astype(np.float64), weights).as_list(),
        "right": _right_of(called, right, weights)["right"],
        "own_class_called_absent": mean_interval((own < absent_below) * 1.0, weights).as_list(),
        "malignant_called_another_class": [int((called & malignant).sum()), int(malignant.sum())],
        "by_class": {
            label: _right_of(called & (best == k), right, weights)
            for k, label in enumerate(LABELS)
            if (called & (best == k)).any()
        },
        "would_be_normal": {
            **_right_of(normal, best == truth, weights),
            "malignant": int((normal & malignant).sum()),
        },
    }


def _right_of(called: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_], weights: Floats) -> dict[str, Any]:
    """The number of frames that were ``called`` some class, and the share of these that is ``right``, with
    its interval over the resamples ``weights``.
    """
    value = float((called & right).sum() / max(called.sum(), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (weights @ (called & right)) / (weights @ called)
    return {"frames": int(called.sum()), "right": interval(value, drawn).as_list()}


def binary(
    found: Floats, hot: Floats, positive: Sequence[int], held_out: HeldOut, weights: Floats
) -> dict[str, Any]:
    """The columns of the published table for the task of telling the classes ``positive`` from the others;
    the threshold of each fold is chosen by Youden's J on the other folds. ``found [N, K]``: probabilities;
    ``hot [N, K]``: the truth, 1 for the frame's class and 0 for others; ``weights``: those of resamples.
    Figures ``*_at_31`` are re-weighted to the published share of positives, 31 %.
    """
    truth, score = hot[:, positive].sum(1), found[:, positive].sum(1)
    called = np.zeros(len(truth), np.bool_)
    for fold in np.unique(held_out.folds):
        inside = held_out.folds == fold
        false_rate, true_rate, cuts = roc_curve(truth[~inside], score[~inside])
        called[inside] = score[inside] >= cuts[int(np.argmax(true_rate - false_rate))]
    counts = np.stack([truth * called, truth * ~called, (1 - truth) * called, (1 - truth) * ~called])
    once, drawn = _columns(counts.sum(1)[None]), _columns(weights @ counts.T)
    return {
        "positives": int(truth.sum()),
        "auc": auc_interval(truth, score, weights).as_list(),
        **{name: interval(float(once[name][0]), drawn[name]).as_list() for name in once},
    }


def _columns(counts: Floats) -> dict[str, Floats]:
    """The figures of the published table from counts: true positives, false negatives, false positives, true
    negatives.
    """
    tp, fn, fp, tn = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, specificity = tp / (tp + fn), tn / (tn + fp)
        # Share of positives that the published table implies (OCI-GAN).
        p = 0.31
        ppv = recall * p / (recall * p + (1 - specificity) * (1 - p))
        return {
            "recall": recall,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp + tn) / counts.sum(1),
            "ppv_at_31": ppv,
            "npv_at_31": specificity * (1 - p) / (specificity * (1 - p) + (1 - recall) * p),
            "f1_at_31": 2 * ppv * recall / (ppv + recall),
        }


def evaluate(data: Path, models_dir: Path | None, report: Report = silent) -> dict[str, Any]:
    """Measure the ovarian model; returns all figures. The outline, and the domain gate on other pictures, are
    measured with the model card's networks on the test splits; all other figures come from the committed
    predictions of the folds. ``models_dir``: folder of a site's own models. Raises DataMissing, CardError.
    """
    frames, card = ovarian_frames(data), find(ID, models_dir)
    held_out = read_predictions(frames)
    points = card.labels[0]
    return {
        "model": card.id,
        "version": card.version,
        "cross_validation": classification(held_out),
        "answers": answer_figures(held_out, points.threshold, points.absent_below),
        "gate": gate_figures(FOLDER / GATE, OvarianClassifier(card), data, report),
        "outline": outlines([frame for frame in frames if frame.split == "test"], card, report),
    }


def outlines(frames: Sequence[OvarianFrame], card: Card, report: Report = silent) -> dict[str, Any]:
    """The Dice of the outlines that the model of ``card`` shows, against the masks of ``frames``; how many
    outlines it withholds, and why.
    """
    classifier, outliner = OvarianClassifier(card), Outliner(card)
    found, groups, faults = [], [], Counter[str]()
    for number, frame in enumerate(frames):
        report(number / len(frames), "outlines")
        outline = outliner.outline(classifier.analyse(frame.rgb()))
        if outline.mask is None:
            faults[outline.fault] += 1
            continue
        found.append(dice(outline.mask, frame.lesion()))
        groups.append(frame.group)
    values = np.array(found)
    return {
        "frames": len(frames),
        "shown": len(found),
        "dice": mean_interval(values, patient_weights(groups)).as_list(),
        "median": round(float(np.median(values)), 4),
        "below_half": int((values < 0.5).sum()),
        "withheld": dict(faults),
    }
