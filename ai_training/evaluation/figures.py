"""The figures of one set of scored images: AUC, operating points, calls, subgroups, the teacher.

Intervals are ``[value, low, high]``, 95 %, by bootstrap over patients. Every function takes adults only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ai_training import metrics
from ai_training.evaluation.scored import Scored
from ai_training.metrics import Floats
from ai_training.sets.chest import soft_matrix
from ai_training.sets.images import LABELS, ChestImage

ENOUGH = 15  # positives that a label needs before its figures count
ENOUGH_IN_GROUP = 20  # positives that a label needs in a subgroup
ENOUGH_TAUGHT = 50  # images of a source that the teacher must have scored to be compared there
PERMUTATIONS = 200
TOP = 3
BANDS = ((16, 40), (40, 60), (60, 200))  # years
TEACHER_NOTE = (
    "the teacher (a CheXNet) was trained on most NIH patients, those of the other test images included: "
    "it is compared only on the images of its own test fold"
)


def headline(found: Scored, baselines: Mapping[str, Floats]) -> dict[str, Any]:
    """The AUC of the model and of ``baselines`` (scores ``[N, K]``), and a row for each label."""
    weights, counted = found.weights(), found.with_positives(ENOUGH)
    result: dict[str, Any] = {
        **size(found),
        "labels_counted": [found.names[k] for k in counted],
        "mean_auc": metrics.mean_auc_interval(found.truth, found.logit, counted, weights).as_list(),
        "mean_average_precision": _mean_precision(found, counted, weights),
    }
    for name, scores in baselines.items():
        other = metrics.mean_auc_interval(found.truth, scores, counted, weights)
        difference = metrics.mean_auc_difference(found.truth, found.logit, scores, counted, weights)
        result[f"mean_auc_{name}"] = other.as_list()
        result[f"difference_to_{name}"] = difference.as_list()
    result["labels"] = [_label(found, k, weights) for k in range(len(found.names))]
    return result


def size(found: Scored) -> dict[str, int]:
    """The number of images and of patients."""
    return {"images": len(found.images), "patients": len(set(found.patients))}


def called(found: Scored, supported: Sequence[str], rates: Floats | None) -> dict[str, Any]:
    """Figures of the calls that a reader sees: the top three labels, and all findings at the thresholds of
    the card.

    ``rates [K]`` of the labels in the training images give the constant answer to compare with: the three
    most frequent labels for everyone.
    """
    weights = found.weights()
    shown = [found.names.index(name) for name in supported]
    result: dict[str, Any] = {
        "labels": list(supported),
        "top3": {"all_labels": _top(found, range(len(found.names)), found.chance, weights)},
    }
    if rates is not None:
        constant = np.broadcast_to(rates, found.chance.shape)
        result["top3"]["constant"] = _top(found, range(len(found.names)), constant, weights)
    if not shown:
        return result
    result["top3"]["supported"] = _top(found, shown, found.chance, weights)
    if rates is not None:
        result["top3"]["supported_constant"] = _top(found, shown, constant, weights)
    thresholds = np.array([found.labels[k].threshold for k in shown])
    calls = found.chance[:, shown] >= thresholds
    right = (calls & (found.truth[:, shown] > 0)).sum(1).astype(np.float64)
    healthy = np.asarray(~(found.truth > 0).any(1))
    result["all_findings"] = {
        "precision": metrics.ratio(right, calls.sum(1).astype(np.float64), weights).as_list(),
        "recall": metrics.ratio(right, found.truth[:, shown].sum(1), weights).as_list(),
        "called_per_image": round(float(calls.sum(1).mean()), 3),
        "images_without_finding": int(healthy.sum()),
        "of_these_called": metrics.share(np.asarray(calls.any(1)), healthy, weights).as_list(),
    }
    return result


def subgroups(found: Scored) -> list[dict[str, Any]]:
    """AUC by sex, age band and view, of labels with at least 20 positives and negatives in the group.

    ``mean_auc`` is over the labels with enough images in every group of the attribute, so that groups
    compare.
    """
    rows: list[dict[str, Any]] = []
    for attribute, groups in _groups(found.images).items():
        parts = {name: found.where(inside) for name, inside in groups.items()}
        counted = {name: part.with_positives(ENOUGH_IN_GROUP) for name, part in parts.items()}
        common = sorted(set.intersection(*(set(labels) for labels in counted.values())))
        for name, part in parts.items():
            weights = part.weights()
            mean = metrics.mean_auc_interval(part.truth, part.logit, common, weights)
            rows.append(
                {
                    "attribute": attribute,
                    "group": name,
                    **size(part),
                    "labels": {part.names[k]: _auc_row(part, k, weights) for k in counted[name]},
                    "labels_of_mean": [part.names[k] for k in common],
                    "mean_auc": mean.as_list(),
                }
            )
    return rows


def by_source(found: Scored, left_out: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """The AUCs within each source, without the labels that can be guessed from how the source was made up."""
    rows: list[dict[str, Any]] = []
    for source in sorted({image.source for image in found.images}):
        part = found.where(image.source == source for image in found.images)
        counted = [k for k in part.with_positives(ENOUGH) if (source, part.names[k]) not in left_out]
        weights = part.weights()
        mean = metrics.mean_auc_interval(part.truth, part.logit, counted, weights)
        rows.append(
            {
                "source": source,
                **size(part),
                "labels": {part.names[k]: _auc_row(part, k, weights) for k in counted},
                "left_out": {name: why for (where, name), why in left_out.items() if where == source},
                "mean_auc": mean.as_list(),
            }
        )
    return rows


def beside_teacher(
    found: Scored, headline_labels: Mapping[str, Sequence[str]], left_out: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """The AUCs of the teacher and of our model, source by source, on images that the teacher scored but did
    not learn from.

    ``headline_labels``: the labels of a source; elsewhere all labels with enough positives count. A pair of
    source and label in ``left_out`` is left out here too.
    """
    taught = found.where(image.soft is not None for image in found.images)
    result: dict[str, Any] = {}
    for source in sorted({image.source for image in taught.images}):
        part = taught.where(image.source == source for image in taught.images)
        enough = part.with_positives(1 if source in headline_labels else ENOUGH)
        fixed = headline_labels.get(source, part.names)
        counted = [k for k in enough if part.names[k] in fixed and (source, part.names[k]) not in left_out]
        if len(part.images) < ENOUGH_TAUGHT or not counted:
            continue
        teacher = soft_matrix(part.images)[:, list(part.columns)].astype(np.float64)
        weights = part.weights()
        difference = metrics.mean_auc_difference(part.truth, part.logit, teacher, counted, weights)
        result[source] = {
            **size(part),
            "labels": {part.names[k]: int(part.truth[:, k].sum()) for k in counted},
            "model": metrics.mean_auc_interval(part.truth, part.logit, counted, weights).as_list(),
            "teacher": metrics.mean_auc_interval(part.truth, teacher, counted, weights).as_list(),
            "difference": difference.as_list(),
        }
    return {"note": TEACHER_NOTE, "sources": result} if result else {}


def permuted(found: Scored, seed: int = metrics.SEED) -> list[float]:
    """A negative control: the mean AUC against labels that were shuffled among images. Mean and
    95 % range.
    """
    counted, random = found.with_positives(ENOUGH), np.random.default_rng(seed)
    once = np.ones((1, len(found.images)), np.float32)
    values = np.array(
        [
            float(metrics.resampled_mean_auc(random.permutation(found.truth), found.logit, counted, once)[0])
            for _ in range(PERMUTATIONS)
        ]
    )
    return metrics.interval(float(values.mean()), values).as_list()


def _label(found: Scored, k: int, weights: Floats) -> dict[str, Any]:
    card = found.labels[k]
    truth, logit, chance = found.truth[:, k], found.logit[:, k], found.chance[:, k]
    row = _auc_row(found, k, weights)
    precision = metrics.resampled_average_precision(truth, logit, weights)
    return {
        "label": found.names[k],
        **row,
        "average_precision": metrics.interval(metrics.average_precision(truth, logit), precision).as_list(),
        **_operating(truth, np.asarray(chance >= card.threshold), weights, "present"),
        **_operating(truth, np.asarray(chance >= card.absent_below), weights, "not_absent"),
        "supported": bool(truth.sum() >= ENOUGH and row["auc"][1] > 0.5),
    }


def _auc_row(found: Scored, k: int, weights: Floats) -> dict[str, Any]:
    truth = found.truth[:, k]
    auc = metrics.auc_interval(truth, found.logit[:, k], weights)
    return {"positives": int(truth.sum()), "auc": auc.as_list()}


def _operating(truth: Floats, calls: metrics.Called, weights: Floats, where: str) -> dict[str, list[float]]:
    return {
        f"sensitivity_{where}": metrics.share(calls, np.asarray(truth > 0), weights).as_list(),
        f"specificity_{where}": metrics.share(~calls, np.asarray(truth <= 0), weights).as_list(),
    }


def _mean_precision(found: Scored, counted: Sequence[int], weights: Floats) -> list[float]:
    if not counted:
        return metrics.UNKNOWN.as_list()
    values = [metrics.average_precision(found.truth[:, k], found.logit[:, k]) for k in counted]
    resampled = [
        metrics.resampled_average_precision(found.truth[:, k], found.logit[:, k], weights) for k in counted
    ]
    return metrics.interval(float(np.mean(values)), np.mean(resampled, axis=0)).as_list()


def _top(found: Scored, among: Sequence[int], scores: Floats, weights: Floats) -> list[float]:
    """Share of the images with a finding ``among`` these where one of the three highest scores is right."""
    truth = found.truth[:, list(among)] > 0
    best = np.argsort(-scores[:, list(among)], axis=1, kind="stable")[:, :TOP]
    hits = np.asarray(np.take_along_axis(truth, best, axis=1).any(1))
    return metrics.share(hits, np.asarray(truth.any(1)), weights).as_list()


def _groups(images: Sequence[ChestImage]) -> dict[str, dict[str, list[bool]]]:
    found: dict[str, dict[str, list[bool]]] = {}
    for attribute in ("sex", "view"):
        values = sorted({getattr(image, attribute) for image in images} - {""})
        found[attribute] = {value: [getattr(i, attribute) == value for i in images] for value in values}
    found["age"] = {
        f"{low}–{high - 1}" if high < 200 else f"{low} and over": [low <= i.age < high for i in images]
        for low, high in BANDS
    }
    there = {name: {k: v for k, v in groups.items() if any(v)} for name, groups in found.items()}
    return {name: groups for name, groups in there.items() if len(groups) > 1}


def of_labels(scores: Floats, found: Scored) -> Floats:
    """The columns of ``scores [N, 14]`` that belong to the labels of ``found``."""
    assert scores.shape[1] == len(LABELS)
    return np.asarray(scores[:, list(found.columns)])
