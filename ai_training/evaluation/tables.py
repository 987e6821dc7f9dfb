"""The figures of a card: headline, calls, subgroups, sources, beside the teacher and other readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ai_training import metrics
from ai_training.evaluation.scores import Scored
from ai_training.metrics import Floats
from ai_training.sets.chest import soft_matrix
from ai_training.sets.files import rows
from ai_training.sets.images import SetImage

ENOUGH = 15  # positives that a label needs before its figures count
ENOUGH_IN_GROUP = 20  # positives that a label needs in a subgroup
BANDS = ((16, 40), (40, 60), (60, 200))  # years
TEACHER_NOTE = (
    "the teacher (a CheXNet) was trained on most NIH patients, those of the other test images included: "
    "it is compared only on the images of its own test fold"
)


def headline(found: Scored, baselines: Mapping[str, Floats]) -> dict[str, Any]:
    """The main figures: the mean AUC of the model and of ``baselines`` (scores ``[N, K]`` by name), and a row
    for each label.
    """
    weights, counted = found.weights(), found.with_positives(ENOUGH)
    precision = metrics.UNKNOWN
    if counted:
        pairs = [(found.truth[:, k], found.logit[:, k]) for k in counted]
        resampled = [metrics.resampled_average_precision(*pair, weights) for pair in pairs]
        values = [metrics.average_precision(*pair) for pair in pairs]
        precision = metrics.interval(float(np.mean(values)), np.mean(resampled, axis=0))
    result: dict[str, Any] = {
        **size(found),
        "labels_counted": [found.names[k] for k in counted],
        "mean_auc": metrics.mean_auc_interval(found.truth, found.logit, counted, weights).as_list(),
        "mean_average_precision": precision.as_list(),
    }
    for name, scores in baselines.items():
        difference = metrics.mean_auc_difference(found.truth, found.logit, scores, counted, weights)
        result |= {
            f"mean_auc_{name}": metrics.mean_auc_interval(found.truth, scores, counted, weights).as_list(),
            f"difference_to_{name}": difference.as_list(),
        }
    result["labels"] = [_label(found, k, weights) for k in range(len(found.names))]
    return result


def size(found: Scored) -> dict[str, int]:
    """The number of images and of patients."""
    return {"images": len(found.images), "patients": len(set(found.patients))}


def call_figures(found: Scored, supported: Sequence[str], rates: Floats | None) -> dict[str, Any]:
    """The figures of what a reader sees: the three likeliest labels, and all findings at the thresholds of
    the model card. ``supported``: the labels that are shown. ``rates [K]``: how often training images have
    each label; the three most frequent ones for every image are the answer to compare with. None: no
    comparison.
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
            rows.append(
                {
                    "attribute": attribute,
                    "group": name,
                    **size(part),
                    "labels": {part.names[k]: _auc_row(part, k, weights) for k in counted[name]},
                    "labels_of_mean": [part.names[k] for k in common],
                    "mean_auc": metrics.mean_auc_interval(part.truth, part.logit, common, weights).as_list(),
                }
            )
    return rows


def by_source(found: Scored, left_out: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """The AUCs within each source of images. ``left_out``: labels of a source that can be guessed from how
    the source was made up, which do not count.
    """
    rows: list[dict[str, Any]] = []
    for source in sorted({image.source for image in found.images}):
        part = found.where(image.source == source for image in found.images)
        counted = [k for k in part.with_positives(ENOUGH) if (source, part.names[k]) not in left_out]
        weights = part.weights()
        rows.append(
            {
                "source": source,
                **size(part),
                "labels": {part.names[k]: _auc_row(part, k, weights) for k in counted},
                "left_out": {name: why for (where, name), why in left_out.items() if where == source},
                "mean_auc": metrics.mean_auc_interval(part.truth, part.logit, counted, weights).as_list(),
            }
        )
    return rows


def beside_teacher(
    found: Scored, headline_labels: Mapping[str, Sequence[str]], left_out: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """Compare the AUCs of the teacher model and of our model, source by source, on images that the teacher
    scored but did not learn from. ``headline_labels``: the labels of a source; elsewhere all labels with
    enough positives count. ``left_out``: pairs of source and label that do not count.
    """
    taught = found.where(image.soft is not None for image in found.images)
    result: dict[str, Any] = {}
    for source in sorted({image.source for image in taught.images}):
        part = taught.where(image.source == source for image in taught.images)
        enough = part.with_positives(1 if source in headline_labels else ENOUGH)
        fixed = headline_labels.get(source, part.names)
        counted = [k for k in enough if part.names[k] in fixed and (source, part.names[k]) not in left_out]
        if len(part.images) < 50 or not counted:
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


READ = {
    **dict.fromkeys(
        ("opacity", "Airspace opacity"),
        ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"),
    ),
    "Nodule or mass": ("Mass", "Nodule"),
}
"""Findings of readers that are several of our labels: any of them, as if independent."""
OPINIONS = {
    "relabelled": "Rajpurkar et al., PLoS Medicine 2018: by networks, not by radiologists",
    "rsna_radiologists": "RSNA challenge of 2018: opacity against normal, radiologists",
    "google_adjudicated": "Majkowska et al., Radiology 2020: several radiologists",
}
"""Tables ``DIR/cxr_labels/NAME.csv`` with further labels of NIH images, by ``nih_name``."""


def opinions(found: Scored, data: Path) -> dict[str, Any]:
    """The figures of :func:`opinion`, by table, for each table of persons' readings (:data:`OPINIONS`) that
    the folder ``data`` has.
    """
    tables = {name: data / "cxr_labels" / f"{name}.csv" for name in OPINIONS}
    judged = {name: opinion(found, rows(table)) for name, table in tables.items() if table.is_file()}
    return {name: {"by": OPINIONS[name], **figures} for name, figures in judged.items()}


def opinion(found: Scored, table: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The AUC of every finding in ``table`` (a column each, 0 or 1), all sources pooled, and the mean of
    those with at least 15 positives. A finding with fewer than 5 positives has no figure.
    """
    # What is neither normal nor an opacity is no reading for or against one.
    read = {Path(row["nih_name"]).stem: row for row in table if "Not Normal" not in row.get("class", "")}
    part = found.where(image.path.stem in read for image in found.images)
    names = tuple(name for name in table[0] if set(READ.get(name, (name,))) <= set(part.names))
    columns = [[part.names.index(label) for label in READ.get(name, (name,))] for name in names]
    truth = np.array([[float(read[image.path.stem][name]) for name in names] for image in part.images])
    score = np.stack([1 - np.prod(1 - part.chance[:, chosen], axis=1) for chosen in columns], axis=1)
    judged = replace(part, names=names, truth=truth.reshape(score.shape), logit=score)
    weights, enough = judged.weights(), judged.with_positives(ENOUGH)
    return {
        **size(judged),
        "mean_auc": metrics.mean_auc_interval(judged.truth, judged.logit, enough, weights).as_list(),
        "findings": {judged.names[k]: _auc_row(judged, k, weights) for k in judged.with_positives(5)},
    }


def permuted(found: Scored) -> list[float]:
    """A negative control: the mean AUC against labels that were shuffled among images, with its 95 %
    range.
    """
    counted, random = found.with_positives(ENOUGH), np.random.default_rng(metrics.SEED)
    once = np.ones((1, len(found.images)), np.float32)
    values = np.array(
        [
            float(metrics.resampled_mean_auc(random.permutation(found.truth), found.logit, counted, once)[0])
            for _ in range(200)
        ]
    )
    return metrics.interval(float(values.mean()), values).as_list()


def _label(found: Scored, k: int, weights: Floats) -> dict[str, Any]:
    """All figures of the label in column ``k``. ``weights``: those of resamples."""
    card = found.labels[k]
    truth, logit, chance = found.truth[:, k], found.logit[:, k], found.chance[:, k]
    row = _auc_row(found, k, weights)
    precision = metrics.resampled_average_precision(truth, logit, weights)
    return {
        "label": found.names[k],
        **row,
        "average_precision": metrics.interval(metrics.average_precision(truth, logit), precision).as_list(),
        **{
            f"{figure}_{where}": value
            for where, cut in (("present", card.threshold), ("not_absent", card.absent_below))
            for figure, value in call_rates(truth, np.asarray(chance >= cut), weights).items()
        },
        "supported": bool(truth.sum() >= ENOUGH and row["auc"][1] > 0.5),
    }


def _auc_row(found: Scored, k: int, weights: Floats) -> dict[str, Any]:
    """The number of positives, and the AUC of the label in column ``k`` with its interval. ``weights``: those
    of resamples.
    """
    truth = found.truth[:, k]
    return {
        "positives": int(truth.sum()),
        "auc": metrics.auc_interval(truth, found.logit[:, k], weights).as_list(),
    }


def call_rates(truth: Floats, called: metrics.Bools, weights: Floats) -> dict[str, list[float]]:
    """Sensitivity and specificity of the positive decisions ``called [N]``, with intervals."""
    return {
        "sensitivity": metrics.share(called, np.asarray(truth > 0), weights).as_list(),
        "specificity": metrics.share(~called, np.asarray(truth <= 0), weights).as_list(),
    }


def _top(found: Scored, among: Sequence[int], scores: Floats, weights: Floats) -> list[float]:
    """The share of the images with a finding for which one of the three highest ``scores`` is right, with its
    interval; only the columns ``among`` count. ``weights``: those of resamples.
    """
    truth = found.truth[:, list(among)] > 0
    best = np.argsort(-scores[:, list(among)], axis=1, kind="stable")[:, :3]
    hits = np.asarray(np.take_along_axis(truth, best, axis=1).any(1))
    return metrics.share(hits, np.asarray(truth.any(1)), weights).as_list()


def _groups(images: Sequence[SetImage]) -> dict[str, dict[str, list[bool]]]:
    """Which images belong to each group, by attribute (sex, age, view) and group; attributes with one group
    are left out.
    """
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
