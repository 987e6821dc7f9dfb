"""``ai-pipeline evaluate chest``: compute the figures of a card again from its weights.

Everything is fixed (weights, images, bootstrap draw), so two runs print the same numbers. Figures are of
adults, the intended use; the headline figures are also given with children."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage.feature import hog as describe
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.classifier import Analysis, Classifier, ScoredBox, heatmap
from ai_pipeline.models.registry import Chain, find
from ai_training import calibration, metrics
from ai_training.base import DataMissing, Report, silent
from ai_training.chest.gates import drawn_from, gate_figures
from ai_training.chest.ship import box_mask
from ai_training.detect import constant, place_figures
from ai_training.evaluation import figures, operating_points
from ai_training.evaluation.figures import ENOUGH, Scored, curves, run, scored
from ai_training.metrics import Floats, mean_interval, patient_weights
from ai_training.sets.chest import chest_set, label_matrix, reduced_images, soft_matrix
from ai_training.sets.images import LABELS, YOUNGEST, ChestImage, ChestSet, TruthBox, corners, read_grey
from ai_training.text import without_nan

SOFT_WEIGHT = 0.7  # as the network's
CHAIN = Chain()  # 128 pixels a side, whatever the network sees: one baseline for all models
MOST = 6000  # images that kernel ridge learns from; its time grows with the cube
SEED = 1
ALPHA, WIDTH = 3.0, 1.5  # ridge, kernel width over dimension: the best of 4 × 3 on validation (.658)


def hog_scores(
    train: Sequence[ChestImage],
    train_pixels: npt.NDArray[np.uint8],
    pixels: npt.NDArray[np.uint8],
    cache: Path,
) -> Floats:
    """Scores ``[N, labels]`` of images reduced by ``CHAIN``: kernel ridge regression on HOG.

    Trained on ``train`` only, with hard and soft labels like the network; stored in ``cache`` under a hash of
    the images.
    """
    digest = hashlib.sha256(train_pixels.tobytes() + pixels.tobytes() + f"{ALPHA} {WIDTH}".encode())
    stored = cache / f"hog-{digest.hexdigest()[:16]}.npy"
    if stored.exists():
        return np.asarray(np.load(stored))
    scaler = StandardScaler()
    known = scaler.fit_transform(hog(train_pixels))
    model = KernelRidge(alpha=ALPHA, kernel="rbf", gamma=WIDTH / known.shape[1])
    hard, soft = label_matrix(train), soft_matrix(train)
    target = np.where(np.isnan(soft), hard, (hard + SOFT_WEIGHT * soft) / (1 + SOFT_WEIGHT))
    model.fit(known, target - target.mean(0))
    scores = np.asarray(model.predict(scaler.transform(hog(pixels))))
    cache.mkdir(parents=True, exist_ok=True)
    np.save(stored, scores)
    return scores


def hog(pixels: npt.NDArray[np.uint8]) -> Floats:
    """The histograms of oriented gradients of pictures ``[N, side, side]``: cells of 16 pixels, blocks of 2 ×
    2 cells, 9 directions.
    """
    return np.stack([describe(image, pixels_per_cell=(16, 16), cells_per_block=(2, 2)) for image in pixels])


def demographic_scores(train: Sequence[ChestImage], images: Sequence[ChestImage]) -> Floats:
    """Scores ``[N, labels]`` of a logistic regression on age, sex and view, without the image."""
    known, asked = (
        np.array([(one.age, one.age**2, one.sex == "F", one.view == "AP") for one in part], np.float64)
        for part in (train, images)
    )
    truth = label_matrix(train)
    scores = np.zeros((len(images), len(LABELS)))
    for label in np.flatnonzero(truth.min(0) < truth.max(0)):  # where there is something to learn from
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores[:, label] = model.fit(known, truth[:, label]).decision_function(asked)
    return scores


def source_scores(train: Sequence[ChestImage], images: Sequence[ChestImage]) -> Floats:
    """Scores ``[N, labels]`` of a classifier that knows only the folder and repository of an image.

    The score is the rate of each label in the train images of the same origin; if there are none, in all of
    them.
    """
    truth = label_matrix(train)
    usual = truth.mean(0)
    rows: dict[tuple[str, str], list[int]] = {}
    for row, image in enumerate(train):
        rows.setdefault((image.source, image.repository), []).append(row)
    # One image of the usual rates more: an origin with two images is no proof.
    rates = {origin: (truth[found].sum(0) + usual) / (len(found) + 1) for origin, found in rows.items()}
    return np.array([rates.get((image.source, image.repository), usual) for image in images])


BOX_FIGURES = ("iou_at_least_0.1", "iou_at_least_0.3", "iou_at_least_0.5", "mean_t", "mean_iou", "pointing")
"""Names in a chest card of :data:`ai_training.detect.PLACE_NAMES`."""


def box_scores(
    known: Sequence[TruthBox], asked: Sequence[TruthBox], classifier: Classifier
) -> dict[str, Any]:
    """IoU and pointing game over the boxes ``asked``, each predicted for its own label.

    ``model`` and ``constant`` (the one of ``known`` that overlaps the label's others best, and where most of
    them overlap), with intervals by patient and the paired difference.
    """
    analyses = {path: classifier.analyse(read_grey(path)) for path in {box.path for box in asked}}
    found = [_located(classifier, analyses[box.path], box.label) for box in asked]
    fixed = {
        label: replace(
            place, point=_peak(np.sum([box_mask(b, 64) for b in known if b.label == label], axis=0))
        )
        for label, place in constant(known).items()
    }
    truth = [corners(box) for box in asked]
    model, prior = (
        place_figures(truth, places) for places in (found, [fixed.get(box.label) for box in asked])
    )
    weights = patient_weights([box.patient for box in asked])
    return {"boxes": len(asked)} | {
        name: {
            "model": mean_interval(model[:, k], weights).as_list(),
            "constant": mean_interval(prior[:, k], weights).as_list(),
            "difference": mean_interval(model[:, k] - prior[:, k], weights).as_list(),
        }
        for k, name in enumerate(BOX_FIGURES)
    }


def _located(classifier: Classifier, analysis: Analysis, label: str) -> ScoredBox | None:
    """The model's box and the peak of its heat map."""
    index = [known.name for known in classifier.card.labels].index(label)
    activation = classifier.activation(analysis, index)
    if activation is None or (region := classifier.box(activation, index)) is None:
        return None
    left, top, right, bottom = (edge / analysis.columns for edge in region.bounds)
    peak = _peak(cv2.blur(heatmap(activation).values, (9, 9)))
    return ScoredBox((left, top, right, bottom), peak, 0.0)


def _peak(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    row, column = divmod(int(np.argmax(values)), values.shape[1])
    return (column + 0.5) / len(values), (row + 0.5) / len(values)


def evaluate_chest(
    data: Path,
    split: str = "test",
    *,
    model: str = CLASSIFIER.shipped,
    models_dir: Path | None = None,
    cache: Path | None = None,
    threads: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Figures of a chest model on ``split`` (``test`` or ``val``) of ``data``; all intervals are 95 %.

    ``data``: as :func:`chest_set` takes it. Labels are matched by name; a label that card or data lack is
    left out. ``cache`` keeps reduced images, outputs and the baseline between runs. A figure that cannot be
    computed is None. Raises ``DataMissing``, or ``CardError``.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        classifier = Classifier(find(model, models_dir), threads=threads)
        job = _Evaluation(data, split, classifier, chest_set(data), cache or Path(scratch), report)
        return {key: without_nan(value) for key, value in job.result().items()}


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """One evaluation: of which model on which images, and where intermediate results are stored."""

    data: Path
    split: str
    classifier: Classifier
    found: ChestSet
    cache: Path
    report: Report

    def result(self) -> dict[str, Any]:
        everyone = self._run(self.split)
        adults = everyone.where(image.adult for image in everyone.images)
        if not adults.images or not adults.names:
            raise DataMissing(f"{self.data}: no adult of split {self.split} with a label that the card knows")
        main = adults.where(image.source == self.found.main for image in adults.images)
        train = [image for image in self.found.images if image.split == "train" and image.adult]
        scores, card, apart = self._baselines(train, adults), self.classifier.card, self._apart(adults)
        inside = [row for row, image in enumerate(adults.images) if image.source == self.found.main]
        rates = label_matrix(train).mean(0)[list(adults.columns)] if train else None
        head = figures.headline(main, {k: v[inside] for k, v in scores.items() if k != "source"})
        for row in head["labels"]:
            # Above .5 also in what others measured, where they did.
            elsewhere = card.details.get("external", {}).get("auc", {}).get(row["label"])
            row["supported"] &= elsewhere is None or elsewhere[1] > 0.5
        supported = [row["label"] for row in head["labels"] if row["supported"]]
        result = {
            "model": {
                "id": card.id,
                "version": card.version,
                "sha256": card.ref.sha256,
                "card_sha256": card.sha256,
            },
            "split": self.split,
            "data": {"set": self.found.name, "main": self.found.main, "notes": list(self.found.notes)},
            "labels": list(adults.names),
            "labels_left_out": [name for name in self.found.labels if name not in adults.names],
            "main": head,
            "with_children": self._with_children(everyone),
            "called": figures.called(main, supported, rates),
            "operating_points": self._operating_points(adults, supported),
            "permuted_labels": figures.permuted(main),
            "within_source": self._within_source(adults, scores),
            "sources": figures.by_source(adults, self.found.left_out),
            "probes": self._probes(adults, scores),
            "calibration": {
                name: {
                    "natural_prevalence": name in self.found.natural,
                    **calibration.calibration(part.truth, part.chance, part.names, part.weights(), ENOUGH),
                }
                for name, part in apart.items()
            },
            "subgroups": {name: figures.subgroups(part) for name, part in apart.items()},
            "teacher": figures.beside_teacher(
                adults, {self.found.main: head["labels_counted"]}, self.found.left_out
            ),
            "boxes": self._boxes(),
            "gate": gate_figures(self.data, self.classifier, self.split, self.report),
            "curves": {name: curves(part, ENOUGH) for name, part in apart.items()},
        }
        self.report(1.0, "done")
        return result

    def _run(self, split: str) -> Scored:
        images = [image for image in self.found.images if image.is_in(split)]
        logits, _ = run(self.classifier, images, self.cache, self.report)
        return scored(images, logits, self.classifier.card.labels, self.found.labels)

    def _operating_points(self, adults: Scored, shown: Sequence[str]) -> dict[str, Any]:
        """The card's operating points, else new ones from the adults of the validation split, and what calls
        at them are worth here."""
        card = self.classifier.card
        chosen = card.details.get("operating_points", {})
        if not chosen and any(image.split == "val" and image.adult for image in self.found.images):
            validation = self._run("val")
            seen = validation.where(image.adult for image in validation.images)
            chosen = operating_points.choose_points(seen, shown)
        having = replace(card, details={**card.details, "operating_points": chosen})
        return {"chosen": chosen, "tested": operating_points.measured(adults, having, shown)}

    def _baselines(self, train: Sequence[ChestImage], adults: Scored) -> dict[str, Floats]:
        """Scores ``[N, K]`` of what the network has to beat; none without train images."""
        if not train:
            return {}
        self.report(0.0, "training the baselines")
        taught = drawn_from(train, MOST, np.random.default_rng(SEED))
        pixels, asked = (reduced_images(part, CHAIN, self.cache) for part in (taught, adults.images))
        known = {
            "hog": hog_scores(taught, pixels, asked, self.cache),
            "age_sex_view": demographic_scores(train, adults.images),
            "source": source_scores(train, adults.images),
        }
        return {name: scores[:, list(adults.columns)] for name, scores in known.items()}

    def _with_children(self, everyone: Scored) -> dict[str, Any]:
        """The headline without the intended use: what other work on these images reports."""
        main = everyone.where(image.source == self.found.main for image in everyone.images)
        counted = main.with_positives(ENOUGH)
        pooled = main.truth, main.logit, counted, main.weights()
        return {
            **figures.size(main),
            "under_16_or_of_unknown_age": sum(not image.adult for image in main.images),
            "youngest": YOUNGEST,
            "labels_counted": [main.names[k] for k in counted],
            "mean_auc": metrics.mean_auc_interval(*pooled).as_list(),
        }

    def _within_source(self, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """Mean of the AUCs of every label in every source, with at least 15 positives each."""
        sources = np.array([image.source for image in adults.images])
        left_out = {
            (source, adults.names.index(name)) for source, name in self.found.left_out if name in adults.names
        }
        fair = (sources, adults.patients, ENOUGH, left_out)
        result: dict[str, Any] = {"cells": len(metrics.cells(adults.truth, sources, ENOUGH, left_out))}
        for name, other in {"model": adults.logit, **scores}.items():
            result[name] = metrics.within_source_interval(adults.truth, other, *fair).as_list()
            difference = metrics.within_source_difference(adults.truth, adults.logit, other, *fair)
            result |= {} if name == "model" else {f"difference_to_{name}": difference.as_list()}
        return result

    def _probes(self, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """What can be guessed without the image, all sources pooled: why no such figure is a headline."""
        counted = adults.with_positives(ENOUGH)
        result: dict[str, Any] = {}
        for name in ("source", "age_sex_view"):
            if name in scores:
                pooled = adults.truth, scores[name], counted, adults.weights()
                result[name] = {
                    "mean_pooled_auc": metrics.mean_auc_interval(*pooled).as_list(),
                    "pooled_auc": {
                        adults.names[k]: round(metrics.auc(adults.truth[:, k], scores[name][:, k]), 4)
                        for k in counted
                    },
                }
        return result

    def _apart(self, adults: Scored) -> dict[str, Scored]:
        """The sets that are never pooled: the main one and those of natural prevalence."""
        names = dict.fromkeys((self.found.main, *self.found.natural))
        parts = {name: adults.where(image.source == name for image in adults.images) for name in names}
        return {name: part for name, part in parts.items() if part.images}

    def _boxes(self) -> dict[str, Any] | None:
        labels = {label.name for label in self.classifier.card.labels}
        boxes = [box for box in self.found.boxes if box.adult and box.label in labels]
        asked = [box for box in boxes if box.split == self.split]
        places = any(weights.role == "boxes" for weights in self.classifier.card.weights)
        if not asked or not places:
            return None
        self.report(0.5, "placing boxes")
        return box_scores([box for box in boxes if box.split == "train"], asked, self.classifier)
