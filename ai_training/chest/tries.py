"""Possible improvements of the chest classifier, tried on the validation split; the network's trunk stays
frozen.

Tried are means of the outputs for several views of a film, and new linear heads on frozen features.
Everything is fitted on the train split, with the strengths of heads chosen there by folds of patients. The
test split is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import Engine, OnnxRuntime
from ai_training.chest.batches import Targets
from ai_training.chest.fit import UNFAIR
from ai_training.chest.views import (
    LungBoxes,
    View,
    imagenet_trunk,
    lung_boxes,
    pooled,
    shipped_head,
    shipped_trunk,
)
from ai_training.metrics import (
    Interval,
    within_source_auc,
    within_source_difference,
    within_source_interval,
)
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_images
from ai_training.sets.images import ChestImage

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.intp]
STRENGTHS = (1e-2, 1e-1, 1.0, 10.0)
"""Ridge per image, of features with spread 1."""
FOLDS = 5
IMAGENET_SIDE = 256
WHOLE = View(224)
TRIED_VIEWS = {
    "mirror image alone": (View(224, mirrored=True),),
    "mean with the mirror image": (WHOLE, View(224, mirrored=True)),
    "256 pixels alone": (View(256),),
    "mean with 256 pixels": (WHOLE, View(256)),
    "288 pixels alone": (View(288),),
    "mean with 288 pixels": (WHOLE, View(288)),
    "320 pixels alone": (View(320),),
    "mean with 320 pixels": (WHOLE, View(320)),
    "lungs alone": (View(224, lungs=True),),
    "mean with the lungs": (WHOLE, View(224, lungs=True)),
    "mean of film and lungs, both also mirrored": (
        WHOLE,
        View(224, mirrored=True),
        View(224, lungs=True),
        View(224, lungs=True, mirrored=True),
    ),
    "mean with the lungs and 256 pixels": (WHOLE, View(224, lungs=True), View(256)),
}
HEADS = ((WHOLE,), (WHOLE, View(288)))
"""Views whose features a new head of the shipped network reads."""


@dataclass(frozen=True, slots=True)
class TriedRow:
    """One row of the table. ``auc``: mean within sources; ``difference``: to the shipped network, paired.

    ``single``: the same mean on films with exactly one label, each label against the other labels; ``cost``:
    milliseconds per film, of the forward passes alone.
    """

    name: str
    auc: Interval
    difference: Interval | None
    single: float
    single_difference: Interval | None
    cost: float


class Seer:
    """Features of the adults' images of both splits in any view; each is computed once."""

    def __init__(
        self,
        images: Mapping[str, Sequence[ChestImage]],
        card: Card,
        anatomy: Card,
        cache: Path,
        report: Report = silent,
    ) -> None:
        assert card.input is not None, card.name
        self._images, self._cache, self._report = images, cache, report
        self._chain = card.input.chain
        self._lungs = LungBoxes(anatomy, 1)
        self.networks: dict[str, Engine] = {"shipped": OnnxRuntime(shipped_trunk(card), 1)}

    def features(self, network: str, view: View, split: str) -> Floats:
        """The pooled features of ``split`` in one view by the network named ``network``."""
        images = self._images[split]
        boxes = (
            lung_boxes(images, self._lungs, self._cache, self._report)
            if view.lungs
            else [(0, 0, 1, 1)] * len(images)
        )
        named = (network, self.networks[network])
        return pooled(images, boxes, named, view, self._chain, self._cache, self._report)

    def cost(self, network: str, view: View, runs: int = 9) -> float:
        """Milliseconds on one core for one film: the shortest of ``runs``, as other work may slow some of
        them.
        """
        engine, film = self.networks[network], np.zeros((1, 3, view.side, view.side), np.float32)
        found: list[float] = []
        for _ in range(runs):
            start = time.thread_time()
            engine(film)
            found.append((time.thread_time() - start) * 1000)
        return min(found)


def try_all(
    data: Path,
    card: Card,
    anatomy: Card,
    cache: Path,
    imagenet: Mapping[str, Path] | None = None,
    report: Report = silent,
) -> list[TriedRow]:
    """Measure every try on the adults of the validation split. ``cache`` keeps the views and features.

    ``imagenet``: checkpoints of other EfficientNets, by name (``efficientnet-lite2``), for heads on their
    frozen features. No cost includes the outlines of the lungs, which the node finds anyway. Raises
    DataMissing.
    """
    adults = [image for image in chest_images(data) if image.adult]
    images = {split: [image for image in adults if image.split == split] for split in ("train", "val")}
    seer = Seer(images, card, anatomy, cache, report)
    weights, bias = shipped_head(card)
    first = seer.features("shipped", WHOLE, "val") @ weights.T + bias
    scores: dict[str, Floats] = {"shipped": first}
    costs = {"shipped": seer.cost("shipped", WHOLE)}
    for name, views in TRIED_VIEWS.items():
        seen = [seer.features("shipped", view, "val") @ weights.T + bias for view in views]
        scores[name] = np.asarray(np.mean(seen, axis=0))
        costs[name] = sum(seer.cost("shipped", view) for view in views)
    heads = {
        "ridge on " + " and ".join(f"{view.side} pixels" for view in views): ("shipped", views)
        for views in HEADS
    }
    for network, checkpoint in (imagenet or {}).items():
        trunk = imagenet_trunk(network, checkpoint, IMAGENET_SIDE, cache / f"{network}.onnx")
        seer.networks[network] = OnnxRuntime(trunk, 1)
        heads[f"ridge on {network} of ImageNet"] = (network, (View(IMAGENET_SIDE),))
    targets = Targets.from_images(images["train"], [()] * len(images["train"]))
    for name, (network, views) in heads.items():
        learned, asked = (
            np.concatenate([seer.features(network, view, split) for view in views], axis=1)
            for split in ("train", "val")
        )
        strength = chosen_strength(learned, targets, images["train"], ridge_head)
        scores[name] = ridge_head(learned, targets, strength)(asked)
        costs[name] = sum(seer.cost(network, view) for view in views)
        scores[f"{name}, mean with the shipped head"] = mean_of(first, scores[name])
        beside = 0.0 if network == "shipped" else costs["shipped"]
        costs[f"{name}, mean with the shipped head"] = costs[name] + beside
    truth = Targets.from_images(images["val"], [()] * len(images["val"])).hard
    return judge(images["val"], truth, scores, costs)


def judge(
    images: Sequence[ChestImage], truth: Floats, scores: Mapping[str, Floats], costs: Mapping[str, float]
) -> list[TriedRow]:
    """A row for each of ``scores [N, labels]``; each is compared with the first one."""
    sources = np.array([image.source for image in images])
    patients = [image.patient for image in images]
    one = np.flatnonzero(truth.sum(1) == 1)
    first = next(iter(scores.values()))
    rows: list[TriedRow] = []
    for name, score in scores.items():
        compared = score is not first
        alone = truth[one], score[one], first[one], sources[one], [patients[row] for row in one]
        rows.append(
            TriedRow(
                name,
                within_source_interval(truth, score, sources, patients, left_out=UNFAIR),
                within_source_difference(truth, score, first, sources, patients, left_out=UNFAIR)
                if compared
                else None,
                within_source_auc(alone[0], alone[1], alone[3], left_out=UNFAIR),
                within_source_difference(*alone, left_out=UNFAIR) if compared else None,
                costs[name],
            )
        )
    return rows


def mean_of(*scores: Floats) -> Floats:
    """The mean of several scores, each in units of its spread over these images, label by label."""
    return np.asarray(np.mean([score / score.std(0) for score in scores], axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class RidgeHead:
    """A linear head ``[C + 1, labels]``, whose last row is the bias, on features in units of their spread."""

    centre: Floats
    spread: Floats
    weights: Floats

    def __call__(self, features: Floats) -> Floats:
        return np.asarray(_with_one((features - self.centre) / self.spread) @ self.weights)


def ridge_head(features: Floats, targets: Targets, strength: float) -> RidgeHead:
    """Two ridge regressions merged into one head, as in training: on NIH labels and on a teacher's log-odds.

    Each is divided by the spread of its output, so that both have the same weight.
    """
    centre, spread = features.mean(0), features.std(0) + 1e-6
    inputs = _with_one((features - centre) / spread)
    known = targets.taught[:, 0] > 0
    weights = _unit(inputs, _ridge(inputs, targets.hard, strength))
    if known.any():
        weights = weights + _unit(inputs, _ridge(inputs[known], targets.odds[known], strength))
    return RidgeHead(centre, spread, weights)


def chosen_strength(
    features: Floats,
    targets: Targets,
    images: Sequence[ChestImage],
    fitted: Callable[[Floats, Targets, float], RidgeHead],
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """The strength with the best mean AUC within sources over folds of the patients of ``images``."""
    folds = folds_of([image.patient for image in images])
    sources = np.array([image.source for image in images])
    found: dict[float, float] = {}
    for strength in strengths:
        score = np.zeros_like(targets.hard)
        for fold in range(FOLDS):
            inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            part = fitted(features[inside], rows_of(targets, inside), strength)(features[outside])
            score[outside] = (part - part.mean(0)) / (part.std(0) + 1e-6)
        found[strength] = within_source_auc(targets.hard, score, sources, left_out=UNFAIR)
    return max(found, key=lambda strength: found[strength])


def folds_of(patients: Sequence[str], seed: int = 1) -> Rows:
    """The fold of each image, 0 to 4; all images of a patient are in one fold."""
    names, patient = np.unique(np.array(patients), return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(names)) % FOLDS, np.intp)[patient]


def rows_of(targets: Targets, rows: Rows) -> Targets:
    """The part of ``targets`` that belongs to the images ``rows``."""
    return Targets(
        targets.hard[rows],
        targets.soft[rows],
        targets.odds[rows],
        targets.taught[rows],
        targets.header[rows],
        tuple(targets.boxes[row] for row in rows),
    )


def as_table(rows: Sequence[TriedRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| tried | mean AUC | difference | films with one label | difference there | ms a film |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row.name,
            _shown(row.auc),
            _shown(row.difference, sign=True),
            f"{row.single:.3f}".lstrip("0"),
            _shown(row.single_difference, sign=True),
            f"{row.cost:.0f}" if row.cost == row.cost else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(found: Interval | None, *, sign: bool = False) -> str:
    if found is None:
        return ""
    value, low, high = (
        format(part, "+.3f" if sign else ".3f").replace("0.", ".", 1)
        for part in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]"


def _ridge(inputs: Floats, wanted: Floats, strength: float) -> Floats:
    """Least squares with a penalty on all but the bias (the last column)."""
    penalty = np.full(inputs.shape[1], strength * len(inputs))
    penalty[-1] = 0
    squares = inputs.T @ inputs
    squares[np.diag_indices_from(squares)] += penalty.astype(squares.dtype)
    return np.asarray(np.linalg.solve(squares, inputs.T @ wanted))


def _unit(inputs: Floats, weights: Floats) -> Floats:
    return np.asarray(weights / ((inputs @ weights).std(0) + 1e-6))


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1), features.dtype)], axis=1)
