"""The figures of the ovarian model, from the committed predictions of the folds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from ai_pipeline.models.registry import SHIPPED, Card, find
from ai_pipeline.ovarian.pipeline import Outliner, OvarianClassifier, dice
from ai_training.base import DataMissing, Report, silent
from ai_training.evaluation.report import WORST, WronglyJudged, write_report
from ai_training.evaluation.scores import curves_of_label
from ai_training.metrics import (
    Floats,
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
from ai_training.ovarian.calibration import cross_fitted
from ai_training.ovarian.card import ID
from ai_training.ovarian.frames import LABELS, MALIGNANT, NEOPLASMS, NORMAL, OvarianFrame, ovarian_frames
from ai_training.ovarian.gate import gate_figures
from ai_training.ovarian.predictions import FOLDER, GATE, TABLE, HeldOut, read_predictions

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


def evaluate(
    data: Path,
    model: str = ID,
    models_dir: Path | None = None,
    drawn: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Measure the ovarian ``model`` (id of its card); returns all figures. The outline, and the domain gate
    on other pictures, are measured with the model card's networks on the test splits; all other figures come
    from the predictions of the folds: the committed ones of the shipped model, of another model those that
    its training left beside its card. ``models_dir``: folder of a site's own models; ``drawn``: for curves,
    confusion and the worst frames. Raises DataMissing, CardError.
    """
    frames, card = ovarian_frames(data), find(model, models_dir)
    folds = FOLDER if card.path.parent == SHIPPED else card.path.parent / FOLDER.name
    if not (folds / TABLE).is_file():
        raise DataMissing(
            f"{folds / TABLE} is missing: evaluate in the folder of the training (--models-dir)"
        )
    held_out = read_predictions(frames, folds)
    points = card.labels[0]
    figures = {
        "model": card.id,
        "version": card.version,
        "cross_validation": classification(held_out),
        "answers": answer_figures(held_out, points.threshold, points.absent_below),
        "gate": gate_figures(folds / GATE, OvarianClassifier(card), data, report),
        "outline": outlines([frame for frame in frames if frame.split == "test"], card, report),
    }
    if drawn:
        report_frames(drawn, figures, held_out, card)
    return figures


def report_frames(folder: Path, figures: Mapping[str, Any], held_out: HeldOut, card: Card) -> None:
    """Write the pictures of an evaluation (:func:`write_report`): each class against the others, with
    probabilities calibrated on the other folds. ``figures``: those of the evaluation.
    """
    truth, across = held_out.labels, figures["cross_validation"]
    found = cross_fitted(held_out.mean, truth, held_out.folds)
    cuts = {label.name: (label.absent_below, label.threshold) for label in card.labels}
    drawn = {
        name: curves_of_label((truth == k) * 1.0, found[:, k], found[:, k], cuts[name])
        for k, name in enumerate(LABELS)
        if (truth == k).any()
    }
    own = found[np.arange(len(truth)), truth]
    worst = [
        WronglyJudged(
            held_out.frames[row].name,
            LABELS[truth[row]],
            f"{LABELS[found[row].argmax()]} {found[row].max():.3f}",
            float(own[row]),
            held_out.frames[row].rgb,
        )
        for row in np.argsort(own, kind="stable")[:WORST].tolist()
    ]
    aucs = {name: row["auc"] for name, row in across["labels"].items()}
    confusion = {"frames by class": (LABELS, LABELS, np.array(across["confusion"]))}
    write_report(folder, figures, drawn, aucs, confusion, {"worst": worst})


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
