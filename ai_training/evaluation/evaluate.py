"""``ai-pipeline evaluate chest``: compute the figures of a card again from its weights.

Everything is fixed (weights, images, bootstrap draw), so two runs print the same numbers. Figures are of
adults, the intended use; the headline figures are also given with children.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ai_pipeline.chest.calls import prevalence as prevalences
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card, find
from ai_training import metrics, reliability
from ai_training.chest.gates import gate_figures
from ai_training.errors import DataMissing
from ai_training.evaluation import figures, operating_points
from ai_training.evaluation.baseline import CHAIN, demographic_scores, hog_scores, sampled, source_scores
from ai_training.evaluation.box_scores import box_scores
from ai_training.evaluation.curves import curves
from ai_training.evaluation.figures import ENOUGH, of_labels
from ai_training.evaluation.saliency.heatmaps import saliency_figures
from ai_training.evaluation.scored import Scored, run, scored
from ai_training.metrics import Floats
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_set, label_matrix, reduced_images
from ai_training.sets.images import YOUNGEST, ChestImage, ChestSet
from ai_training.text import without_nan

MAPPED = 200  # boxes whose heat maps are compared: those of all 984 of the NIH download fill the memory


def evaluate_chest(
    data: Path,
    split: str = "test",
    *,
    model: str = CLASSIFIER.shipped,
    models_dir: Path | None = None,
    cache: Path | None = None,
    threads: int = 0,
    prevalence: Mapping[str, float] | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Figures of a chest model on ``split`` (``test`` or ``val``) of ``data``; all intervals are 95 %.

    ``data``: as :func:`chest_set` takes it. Labels are matched by name; a label that card or data lack is
    left out. ``cache`` keeps reduced images, outputs and the baseline between runs. ``prevalence``: of
    findings at the site, 0 to 1, in place of the card's. A figure that cannot be computed is None. Raises
    ``DataMissing``, or ``CardError``, also for a prevalence that the card cannot use.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        classifier = Classifier(find(model, models_dir), threads=threads)
        wanted = prevalence or {}
        if fault := prevalences.fault(classifier.card, wanted):
            raise CardError(fault)
        found = chest_set(data)
        job = _Evaluation(data, split, classifier, found, cache or Path(scratch), wanted, report)
        return {key: without_nan(value) for key, value in job.result().items()}


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """One evaluation: of which model on which images, and where intermediate results are stored."""

    data: Path
    split: str
    classifier: Classifier
    found: ChestSet
    cache: Path
    prevalence: Mapping[str, float]
    report: Report

    def result(self) -> dict[str, Any]:
        everyone = self._run(self.split)
        adults = everyone.where(image.adult for image in everyone.images)
        if not adults.images or not adults.names:
            raise DataMissing(f"{self.data}: no adult of split {self.split} with a label that the card knows")
        main = adults.where(self._is_main(image) for image in adults.images)
        train = [image for image in self.found.images if image.split == "train" and image.adult]
        scores = self._baselines(train, adults)
        inside = [row for row, image in enumerate(adults.images) if self._is_main(image)]
        rates = of_labels(label_matrix(train).mean(0)[None], adults)[0] if train else None
        head = figures.headline(main, {k: v[inside] for k, v in scores.items() if k != "source"})
        for row in head["labels"]:
            row["supported"] &= _holds_elsewhere(self.classifier.card, row["label"])
        supported = [row["label"] for row in head["labels"] if row["supported"]]
        result = {
            **self._about(adults),
            "main": head,
            "with_children": self._with_children(everyone),
            "called": figures.called(main, supported, rates),
            "operating_points": self._operating_points(adults, supported),
            "permuted_labels": figures.permuted(main),
            "within_source": self._within_source(adults, scores),
            "sources": figures.by_source(adults, self.found.left_out),
            "probes": self._probes(adults, scores),
            "calibration": self._calibration(adults),
            "subgroups": self._subgroups(adults),
            "teacher": figures.beside_teacher(
                adults, {self.found.main: head["labels_counted"]}, self.found.left_out
            ),
            "boxes": self._boxes(),
            "saliency": self._saliency(),
            "gate": gate_figures(self.data, self.classifier, self.split, self.report),
            "curves": {name: curves(part, ENOUGH) for name, part in self._apart(adults).items()},
        }
        self.report(1.0, "done")
        return result

    def _run(self, split: str) -> Scored:
        images = [image for image in self.found.images if image.is_in(split)]
        outputs = run(self.classifier, images, self.cache, self.report)
        return scored(images, outputs.logits, self.classifier.card.labels, self.found.labels)

    def _is_main(self, image: ChestImage) -> bool:
        return image.source == self.found.main

    def _about(self, adults: Scored) -> dict[str, Any]:
        card = self.classifier.card
        return {
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
        }

    def _operating_points(self, adults: Scored, shown: Sequence[str]) -> dict[str, Any]:
        """The card's operating points, else new ones from the adults of the validation split, and what calls
        at them are worth here."""
        card = self.classifier.card
        chosen = card.details.get("operating_points") or self._chosen_on_validation(shown)
        having = replace(card, details={**card.details, "operating_points": chosen})
        tested = operating_points.measured(adults, having, shown)
        metrics = {**card.details.get("metrics", {}), "operating_points": tested}
        judged = replace(having, details={**having.details, "metrics": metrics})
        return {"chosen": chosen, "tested": tested, "words": operating_points.words(judged, self.prevalence)}

    def _chosen_on_validation(self, shown: Sequence[str]) -> dict[str, Any]:
        if not any(image.split == "val" and image.adult for image in self.found.images):
            return {}
        validation = self._run("val")
        return operating_points.choose_points(
            validation.where(image.adult for image in validation.images), shown
        )

    def _baselines(self, train: Sequence[ChestImage], adults: Scored) -> dict[str, Floats]:
        """Scores ``[N, K]`` of what the network has to beat; none without train images."""
        if not train:
            return {}
        self.report(0.0, "training the baselines")
        taught = sampled(train)
        pixels = reduced_images(taught, CHAIN, self.cache)
        hog = hog_scores(taught, pixels, reduced_images(adults.images, CHAIN, self.cache), self.cache)
        known = {
            "hog": hog,
            "age_sex_view": demographic_scores(train, adults.images),
            "source": source_scores(train, adults.images),
        }
        return {name: of_labels(scores, adults) for name, scores in known.items()}

    def _with_children(self, everyone: Scored) -> dict[str, Any]:
        """The headline without the intended use: what other work on these images reports."""
        main = everyone.where(self._is_main(image) for image in everyone.images)
        counted = main.with_positives(ENOUGH)
        mean = metrics.mean_auc_interval(main.truth, main.logit, counted, main.weights())
        return {
            **figures.size(main),
            "under_16_or_of_unknown_age": sum(not image.adult for image in main.images),
            "youngest": YOUNGEST,
            "labels_counted": [main.names[k] for k in counted],
            "mean_auc": mean.as_list(),
        }

    def _within_source(self, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """Mean of the AUCs of every label in every source, with at least 15 positives each."""
        sources = np.array([image.source for image in adults.images])
        left_out = {
            (source, adults.names.index(name)) for source, name in self.found.left_out if name in adults.names
        }
        fair = (sources, adults.patients, ENOUGH, left_out)
        own = metrics.within_source_interval(adults.truth, adults.logit, *fair)
        result: dict[str, Any] = {
            "cells": len(metrics.cells(adults.truth, sources, ENOUGH, left_out)),
            "model": own.as_list(),
        }
        for name, other in scores.items():
            result[name] = metrics.within_source_interval(adults.truth, other, *fair).as_list()
            difference = metrics.within_source_difference(adults.truth, adults.logit, other, *fair)
            result[f"difference_to_{name}"] = difference.as_list()
        return result

    def _probes(self, adults: Scored, scores: Mapping[str, Floats]) -> dict[str, Any]:
        """What can be guessed without the image, all sources pooled: why no such figure is a headline."""
        counted = adults.with_positives(ENOUGH)
        weights = adults.weights()
        result: dict[str, Any] = {}
        for name in ("source", "age_sex_view"):
            if name in scores:
                mean = metrics.mean_auc_interval(adults.truth, scores[name], counted, weights)
                result[name] = {
                    "mean_pooled_auc": mean.as_list(),
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

    def _calibration(self, adults: Scored) -> dict[str, Any]:
        return {
            name: {
                "natural_prevalence": name in self.found.natural,
                **reliability.calibration(part.truth, part.chance, part.names, part.weights(), ENOUGH),
            }
            for name, part in self._apart(adults).items()
        }

    def _subgroups(self, adults: Scored) -> dict[str, Any]:
        return {name: figures.subgroups(part) for name, part in self._apart(adults).items()}

    def _boxes(self) -> dict[str, Any] | None:
        asked = [box for box in self.found.boxes if box.split == self.split and box.adult]
        places = any(weights.role == "boxes" for weights in self.classifier.card.weights)
        if not asked or not places:
            return None
        self.report(0.5, "placing boxes")
        return dict(box_scores(self.data, self.split, self.classifier))

    def _saliency(self) -> dict[str, Any]:
        self.report(0.7, "checking heat maps")
        return saliency_figures(self.data, self.split, self.classifier, most=MAPPED)


def _holds_elsewhere(card: Card, label: str) -> bool:
    """Whether the AUC's interval is above .5 in what others measured too (``[external]`` of the card)."""
    auc = card.details.get("external", {}).get("auc", {}).get(label)
    return auc is None or auc[1] > 0.5
