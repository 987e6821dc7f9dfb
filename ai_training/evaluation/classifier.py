"""The evaluation of a chest classifier, from its weights to the figures of its card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.registry import Chain, find
from ai_training import metrics
from ai_training.base import DataMissing, Report, silent
from ai_training.chest.gate import gate_figures
from ai_training.chest.transforms import drawn_from
from ai_training.evaluation.baselines import demographic_scores, hog_scores, source_scores
from ai_training.evaluation.boxes import box_scores
from ai_training.evaluation.operating_points import choose_points, measured_points, with_kept
from ai_training.evaluation.report import report_films
from ai_training.evaluation.scores import Scored, run, scored
from ai_training.evaluation.tables import (
    ENOUGH,
    beside_teacher,
    by_source,
    call_figures,
    headline,
    opinions,
    permuted,
    size,
    subgroups,
)
from ai_training.metrics import Floats
from ai_training.sets.chest import adults_of, chest_set, label_matrix, reduced_images
from ai_training.sets.images import YOUNGEST, ImageSet, SetImage
from ai_training.text import without_nan

CHAIN = Chain()  # 128 pixels a side, whatever the network sees: one baseline for all models


MOST = 6000  # images that kernel ridge learns from; its time grows with the cube


SEED = 1


def evaluate_chest(
    data: Path,
    split: str = "test",
    *,
    model: str = CLASSIFIER.shipped,
    models_dir: Path | None = None,
    cache: Path | None = None,
    threads: int = 0,
    drawn: Path | None = None,
    anew: bool = False,
    kept: Sequence[str] = (),
    report: Report = silent,
) -> dict[str, Any]:
    """Measure a chest model on ``split`` (``test`` or ``val``) of ``data``; all intervals are 95 %. ``data``:
    as :func:`chest_set` takes it. ``model``: id of its model card. Labels are matched by name; a label that
    card or data lack is left out. ``cache`` stores reduced images, outputs and the baseline between runs;
    ``drawn``: folder for curves, confusion and the worst films. ``anew``: choose the thresholds of the
    operating points on the validation split though the card has some, but for the labels ``kept``, which have
    theirs at ``specific`` still. A figure that cannot be computed is None. Raises ``DataMissing``, or
    ``CardError``.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        classifier = Classifier(find(model, models_dir), threads=threads)
        found, stored = chest_set(data), cache or Path(scratch)
        job = _Evaluation(data, split, classifier, found, stored, report, drawn, anew, tuple(kept))
        return {key: without_nan(value) for key, value in job.result().items()}


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """One evaluation of a model on a set of images. ``cache``: the folder for intermediate results;
    ``drawn``: that for pictures, None for no pictures. ``anew``, ``kept``: as :func:`evaluate_chest` says.
    """

    data: Path
    split: str
    classifier: Classifier
    found: ImageSet
    cache: Path
    report: Report
    drawn: Path | None = None
    anew: bool = False
    kept: tuple[str, ...] = ()

    def result(self) -> dict[str, Any]:
        """All figures of the evaluation."""
        everyone, (_, notes) = self._run(self.split), adults_of(self.found, self.split)
        adults = everyone.where(image.adult for image in everyone.images)
        if not adults.images or not adults.names:
            raise DataMissing(f"{self.data}: no adult of split {self.split} with a label that the card knows")
        main = adults.where(image.source == self.found.main for image in adults.images)
        train = [image for image in self.found.images if image.split == "train" and image.adult]
        scores, apart = self._baselines(train, adults), self._apart(adults)
        rates = label_matrix(train).mean(0)[list(adults.columns)] if train else None
        head = self._headline(main, adults, scores)
        supported = [row["label"] for row in head["labels"] if row["supported"]]
        result = {
            "model": self._model(),
            "split": self.split,
            "data": {"set": self.found.name, "main": self.found.main, "notes": list(notes)},
            "labels": list(adults.names),
            "labels_left_out": [name for name in self.found.labels if name not in adults.names],
            "main": head,
            "with_children": self._with_children(everyone),
            "called": call_figures(main, supported, rates),
            "operating_points": self._operating_points(adults, supported),
            "opinions": opinions(adults, self.data),
            "permuted_labels": permuted(main),
            "within_source": self._within_source(adults, scores),
            "sources": by_source(adults, self.found.left_out),
            "probes": self._without_image(adults, scores),
            "calibration": {name: self._calibration(name, part) for name, part in apart.items()},
            "subgroups": {name: subgroups(part) for name, part in apart.items()},
            "teacher": beside_teacher(adults, {self.found.main: head["labels_counted"]}, self.found.left_out),
            "boxes": self._box_figures(),
            "gate": gate_figures(self.data, self.classifier, self.split, self.report),
        }
        if self.drawn:
            known = {key: without_nan(value) for key, value in result.items()}
            report_films(self.drawn, known, main, self.classifier.card)
        self.report(1.0, "done")
        return result

    def _model(self) -> dict[str, str]:
        """Which model was evaluated: its card, and the hashes of weights and card."""
        card = self.classifier.card
        return {
            "id": card.id,
            "version": card.version,
            "sha256": card.ref.sha256,
            "card_sha256": card.sha256,
        }

    def _headline(self, main: Scored, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """The headline figures of the main source beside the baselines' ``scores`` of all ``adults``. A label
        is supported only if its AUC is above .5 also in what others measured, where they did.
        """
        inside = [row for row, image in enumerate(adults.images) if image.source == self.found.main]
        head = headline(main, {name: own[inside] for name, own in scores.items() if name != "source"})
        external = self.classifier.card.details.get("external", {}).get("auc", {})
        for row in head["labels"]:
            elsewhere = external.get(row["label"])
            row["supported"] &= elsewhere is None or elsewhere[1] > 0.5
        return head

    def _calibration(self, name: str, part: Scored) -> dict[str, Any]:
        """Calibration of the images ``part``, and whether their set ``name`` has the natural prevalence."""
        return {
            "natural_prevalence": name in self.found.natural,
            **metrics.calibration(part.truth, part.chance, part.names, part.weights(), ENOUGH),
        }

    def _run(self, split: str) -> Scored:
        """Run the classifier on the images of ``split``."""
        images = [image for image in self.found.images if image.is_in(split)]
        outputs = run(self.classifier, images, self.cache, self.report)
        return scored(images, outputs, self.classifier.card.labels, self.found.labels)

    def _operating_points(self, adults: Scored, shown: Sequence[str]) -> dict[str, Any]:
        """The model card's operating points, or new ones from the validation split, with the figures of
        decisions on ``adults``.
        """
        card = self.classifier.card
        chosen = {} if self.anew else card.details.get("operating_points", {})
        if not chosen and any(image.split == "val" and image.adult for image in self.found.images):
            everyone = self._run("val")
            validation = everyone.where(image.adult for image in everyone.images)
            chosen = choose_points(validation, shown)
            if chosen and self.kept:
                chosen = with_kept(chosen, card, validation, self.kept)
        if self.anew and not chosen:
            raise DataMissing(f"{self.data}: the split val has too few adults without a finding to choose by")
        having = replace(card, details={**card.details, "operating_points": chosen})
        return {"chosen": chosen, "tested": measured_points(adults, having, shown)}

    def _baselines(self, train: Sequence[SetImage], adults: Scored) -> dict[str, Floats]:
        """The scores ``[N, K]`` of baselines that the network must beat; none without training images."""
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
        """The headline figures with children included, as other publications on these images report them."""
        main = everyone.where(image.source == self.found.main for image in everyone.images)
        counted = main.with_positives(ENOUGH)
        pooled = main.truth, main.logit, counted, main.weights()
        return {
            **size(main),
            "under_16_or_of_unknown_age": sum(not image.adult for image in main.images),
            "youngest": YOUNGEST,
            "labels_counted": [main.names[k] for k in counted],
            "mean_auc": metrics.mean_auc_interval(*pooled).as_list(),
        }

    def _within_source(self, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """For the model and each baseline in ``scores``, the mean of the AUCs of every label in every source
        with at least 15 positives, and the difference to the model.
        """
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

    def _without_image(self, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """The AUC, with all sources pooled, of those baselines in ``scores`` that do not use the image: it
        shows why pooled figures mislead.
        """
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
        """The images of each source whose figures are given separately, by its name: the main source, and
        those in which findings are as frequent as in patients.
        """
        names = dict.fromkeys((self.found.main, *self.found.natural))
        parts = {name: adults.where(image.source == name for image in adults.images) for name in names}
        return {name: part for name, part in parts.items() if part.images}

    def _box_figures(self) -> dict[str, Any] | None:
        """The figures of the model's boxes on the images with boxes drawn by persons; None if the set has no
        such image in this split, or the model gives no boxes.
        """
        labels = {label.name for label in self.classifier.card.labels}
        boxes = [box for box in self.found.boxes if box.image.adult and box.label in labels]
        asked = [box for box in boxes if box.image.split == self.split]
        places = any(weights.role == "boxes" for weights in self.classifier.card.weights)
        if not asked or not places:
            return None
        self.report(0.5, "placing boxes")
        return box_scores([box for box in boxes if box.image.split == "train"], asked, self.classifier)
