"""``ai-pipeline evaluate chest``: the figures of the card, again, from the shipped weights.

Everything is fixed (weights, images, bootstrap draw), so two runs print the same numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.classifier import Classifier, probability
from ai_pipeline.registry import find
from ai_pipeline.training import metrics
from ai_pipeline.training.baseline import demographic_scores, hog_scores
from ai_pipeline.training.boxscores import box_scores
from ai_pipeline.training.chestdata import (
    LABELS,
    YOUNGEST,
    ChestImage,
    chest_images,
    label_matrix,
    read_grey,
    reduced_images,
)
from ai_pipeline.training.export import ID

Floats = npt.NDArray[np.floating]
Report = Callable[[float, str], None]
ENOUGH = 15  # positives that a label needs before its figures count
FOREIGN = ("us_ovarian/images", "us_fetal_head/images", "us_breast/images")
OTHER_CHESTS = ("cxr_nih_more/other/hannover", "cxr_nih_more/other/pediatric")


def evaluate_chest(
    data: Path,
    split: str = "test",
    *,
    models_dir: Path | None = None,
    cache: Path | None = None,
    threads: int = 0,
    report: Report = lambda _share, _what: None,
) -> dict[str, Any]:
    """Metrics of the shipped chest model on ``split`` (``test`` or ``val``); intervals are 95 %, by patient.

    The main figures are those of ``cxr_nih``; ``cxr_nih_more`` is reported by source beside them. ``cache``
    keeps reduced images and the baseline between runs. Raises ``DataMissing`` or ``CardError``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        classifier = Classifier(find(ID, models_dir), threads=threads)
        return _evaluate(data, split, classifier, cache or Path(scratch), report)


def _evaluate(data: Path, split: str, classifier: Classifier, cache: Path, report: Report) -> dict[str, Any]:
    cv2.setNumThreads(1)
    everything = chest_images(data)
    asked = tuple(image for image in everything if image.split == split)
    train = tuple(image for image in everything if image.split == "train" and image.age >= YOUNGEST)
    logits = np.empty((len(asked), len(LABELS)), np.float32)
    distances = np.empty(len(asked), np.float32)
    for index, image in enumerate(asked):
        analysis = classifier.analyse(read_grey(image.path))
        logits[index], distances[index] = analysis.logits, analysis.distance
        report((index + 1) / len(asked), "running the network")
    chain = classifier.card.input.chain if classifier.card.input else None
    assert chain is not None  # a Classifier has an input
    report(0.0, "training the baselines")
    reduced = reduced_images(asked, chain, cache)
    hog = hog_scores(train, reduced_images(train, chain, cache), reduced, cache)
    header = demographic_scores(train, asked)
    report(0.5, "placing boxes")
    card = classifier.card
    result = {
        "model": {
            "id": card.id, "version": card.version, "sha256": card.ref.sha256, "card_sha256": card.sha256,
        },
        "split": split,
        "cxr_nih": _compared(classifier, asked, logits, {"hog": hog, "age_sex_view": header}),
        "by_source": _by_source(asked, logits),
        "calibration_all_sources": _calibration(classifier, asked, logits),
        "boxes": box_scores(data, split, classifier),
        "gate": _gate(data, classifier, distances),
    }  # fmt: skip
    report(1.0, "done")
    return result


def _compared(
    classifier: Classifier, images: Sequence[ChestImage], logits: Floats, baselines: dict[str, Floats]
) -> dict[str, Any]:
    rows = _rows(image.source.startswith("cxr_nih/") for image in images)
    inside = [images[row] for row in rows]
    truth, score = label_matrix(inside), logits[rows]
    weights = metrics.patient_weights([image.patient for image in inside])
    counted = [label for label in range(len(LABELS)) if truth[:, label].sum() >= ENOUGH]
    own = metrics.resampled_mean_auc(truth, score, counted, weights)
    value = metrics.mean_auc(truth, score, counted)
    result: dict[str, Any] = {
        "images": len(inside),
        "patients": len({image.patient for image in inside}),
        "images_under_16_years": sum(image.age < YOUNGEST for image in inside),
        "labels_counted": [LABELS[label] for label in counted],
        "mean_auc": metrics.interval(value, own).as_list(),
    }
    for name, scores in baselines.items():
        other = metrics.mean_auc(truth, scores[rows], counted)
        resampled = metrics.resampled_mean_auc(truth, scores[rows], counted, weights)
        result[f"mean_auc_{name}"] = metrics.interval(other, resampled).as_list()
        result[f"difference_to_{name}"] = metrics.interval(value - other, own - resampled).as_list()
    result["labels"] = [_label(classifier, truth, score, label, weights) for label in range(len(LABELS))]
    return result


def _label(
    classifier: Classifier, truth: Floats, score: Floats, label: int, weights: Floats
) -> dict[str, Any]:
    card = classifier.card.labels[label]
    column, logit = truth[:, label], score[:, label]
    chance = np.array([probability(card, float(value)) for value in logit])
    present, not_absent = chance >= card.threshold, chance >= card.absent_below
    found = metrics.interval(
        metrics.auc(column, logit), metrics.resampled_auc(column, logit, weights)
    ).as_list()
    return {
        "label": LABELS[label],
        "positives": int(column.sum()),
        "auc": found,
        "average_precision": round(metrics.average_precision(column, logit), 4),
        "sensitivity_present": round(metrics.sensitivity(column, present), 4),
        "specificity_present": round(metrics.specificity(column, present), 4),
        "sensitivity_not_absent": round(metrics.sensitivity(column, not_absent), 4),
        "specificity_not_absent": round(metrics.specificity(column, not_absent), 4),
        "brier": round(metrics.brier(column, chance), 4),
        "ece": round(metrics.calibration_error(column, chance), 4),
        "supported": bool(column.sum() >= ENOUGH and found[1] > 0.5),
    }


def _by_source(images: Sequence[ChestImage], logits: Floats) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for source in sorted({image.source for image in images}):
        inside = _rows(image.source == source and image.age >= YOUNGEST for image in images)
        truth = label_matrix([images[row] for row in inside])
        counted = [label for label in range(len(LABELS)) if truth[:, label].sum() >= ENOUGH]
        weights = metrics.patient_weights([images[row].patient for row in inside])
        resampled = metrics.resampled_mean_auc(truth, logits[inside], counted, weights)
        rows.append(
            {
                "source": source,
                "images": len(inside),
                "labels": {
                    LABELS[k]: [int(truth[:, k].sum()), round(metrics.auc(truth[:, k], logits[inside, k]), 4)]
                    for k in counted
                },
                "mean_auc": metrics.interval(
                    metrics.mean_auc(truth, logits[inside], counted), resampled
                ).as_list(),
            }
        )
    return rows


def _calibration(classifier: Classifier, images: Sequence[ChestImage], logits: Floats) -> dict[str, Any]:
    adults = _rows(image.age >= YOUNGEST for image in images)
    truth = label_matrix([images[row] for row in adults])
    chance = np.array(
        [
            [probability(card, float(value)) for card, value in zip(classifier.card.labels, row, strict=True)]
            for row in logits[adults]
        ]
    )
    return {
        "images": len(adults),
        "labels": {
            name: {
                "rate": round(float(truth[:, k].mean()), 4),
                "mean_probability": round(float(chance[:, k].mean()), 4),
                "brier": round(metrics.brier(truth[:, k], chance[:, k]), 4),
                "ece": round(metrics.calibration_error(truth[:, k], chance[:, k]), 4),
            }
            for k, name in enumerate(LABELS)
        },
    }


def _gate(data: Path, classifier: Classifier, distances: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Share of images that the gate refuses: NIH chests of the split, other chests, and no chests at all."""
    gate = classifier.card.gate
    assert gate is not None  # a Classifier has a gate
    refused = {"nih_chests": round(float((distances > gate.threshold).mean()), 4)}
    for folder in (*OTHER_CHESTS, *FOREIGN):
        paths = sorted(path for path in (data / folder).rglob("*") if path.suffix in {".jpg", ".png"})
        if paths:
            chosen = paths[:: max(1, len(paths) // 100)]
            found = [classifier.analyse(read_grey(path)).distance for path in chosen]
            refused[folder] = round(float(np.mean(np.array(found) > gate.threshold)), 4)
    return {"threshold": gate.threshold, "refused": refused}


def _rows(chosen: Iterable[bool]) -> list[int]:
    return [index for index, yes in enumerate(chosen) if yes]
