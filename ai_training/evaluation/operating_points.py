"""Operating points of a chest card: thresholds from validation images, reliability of calls on test images.

``sensitive``: for each label the highest cut with a sensitivity of at least .9, or the cut at which half of
the images without the finding are called: more calls would say nothing. ``specific``: a finding is called if
its odds are a certain multiple of the odds of its prevalence. The multiple is the same for all labels; with
it at most one in ten of the images without any finding gets a finding that is shown; no cut is below the
balanced one. So false alarms are spent on the labels that the model knows best. ``balanced`` are the
thresholds of the labels.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.calls.operating_points import (
    UNSURE,
    OperatingPoint,
    labels_at,
    points_of,
)
from ai_pipeline.models.registry import Card, Label
from ai_training import metrics
from ai_training.evaluation.figures import Scored, call_rates
from ai_training.metrics import Floats

FALSE_ALARMS = 0.10  # share of the images without any finding that may get one at ``specific``
DIGITS = 1e6  # to which a card rounds thresholds
TINY = 1e-9  # of probability: what is nearer to 0 or 1 has odds all the same
Bools = npt.NDArray[np.bool_]


def choose_points(found: Scored, shown: Sequence[str]) -> dict[str, Any]:
    """The card's table ``[operating_points]``, chosen on ``found``, images not used for testing; empty if too
    few.

    ``shown``: the labels that are reported, whose false alarms count.
    """
    healthy = _without_finding(found)
    if healthy.sum() < 100 or not shown:
        return {}
    # Intervals of thresholds need no more resamples, and each fits all labels again.
    weights, once = metrics.patient_weights(found.patients, 500), np.ones((1, len(found.images)))
    sensitive: Cuts = {
        k: (
            float(np.floor(sensitive_cuts(truth, chance, once)[0] * DIGITS) / DIGITS),
            sensitive_cuts(truth, chance, weights),
        )
        for k, (truth, chance) in enumerate(zip(found.truth.T, found.chance.T, strict=True))
        # Of fewer positives, one image more or less moves a cut by sensitivity too far.
        if truth.sum() >= 25
    }
    points = {
        OperatingPoint.SPECIFIC: _specific(found, healthy, shown, weights),
        OperatingPoint.SENSITIVE: sensitive,
    }
    table: dict[str, Any] = {
        "images": len(found.images),
        "patients": len(set(found.patients)),
        "without_finding": int(healthy.sum()),
        **{str(point): _chosen(found, point, cuts, shown, healthy) for point, cuts in points.items()},
    }
    if set(shown) <= table[OperatingPoint.SENSITIVE]["labels"].keys():
        # One label may lie outside the two operating points in an image of which the model is unsure.
        table[UNSURE] = {"least_between": max(len(shown) - 1, 1)}
        table[UNSURE] |= _unsure(found, table, shown)
    return table


def measured(found: Scored, card: Card, shown: Sequence[str]) -> dict[str, Any]:
    """The table ``[metrics.operating_points]``: the calls of ``card`` on images not used to choose
    thresholds.
    """
    healthy, chosen = _without_finding(found), card.details.get("operating_points", {})
    counted = [label.name for label in card.labels if label.supported]
    unsure = UNSURE in chosen and set(counted) <= set(found.names)
    return {
        "images": len(found.images),
        "patients": len(set(found.patients)),
        "without_finding": int(healthy.sum()),
        **{str(point): _measured(found, labels_at(card, point), shown, healthy) for point in points_of(card)},
        **({UNSURE: _unsure(found, chosen, counted)} if unsure else {}),
    }


def _without_finding(found: Scored) -> Bools:
    return np.asarray(~(found.truth > 0).any(1))


Cuts = Mapping[int, tuple[float, Floats]]
"""By column of a label: its cut, and that of each resample."""


def _specific(found: Scored, healthy: Bools, shown: Sequence[str], weights: Floats) -> Cuts:
    counted = [found.names.index(name) for name in shown]
    floors = np.array([label.threshold for label in found.labels])

    cuts = partial(specific_cuts, found.chance, found.truth, healthy=healthy, floors=floors, counted=counted)
    # Up to the digits of a card: a cut that is rounded down may call one image more.
    chosen = np.ceil(cuts(np.ones(len(found.images))) * DIGITS) / DIGITS
    resampled = np.stack([cuts(row) for row in weights])
    there = np.flatnonzero(found.truth.any(0))
    return {int(k): (float(chosen[k]), resampled[:, k]) for k in there}


def specific_cuts(
    chance: Floats, truth: Floats, weight: Floats, healthy: Bools, floors: Floats, counted: Sequence[int]
) -> Floats:
    """The ``specific`` cuts ``[K]`` of labels with the probabilities ``chance [N, K]`` and the truth ``truth
    [N, K]``.

    ``healthy [N]``: without any finding. ``weight [N]``: how often each image counts. ``floors [K]``: the
    least cuts. ``counted``: the columns whose calls are false alarms to a reader.
    """
    rates = (weight @ truth) / weight.sum()
    usual = _odds(rates)
    odds = np.where(chance >= floors, _odds(chance) / usual, 0.0)[:, list(counted)].max(1)[healthy]
    order = np.argsort(-odds, kind="stable")
    alarms = np.cumsum(weight[healthy][order]) / weight[healthy].sum()
    # The highest of those that are too many: it and all above it would be called at its own odds.
    least = odds[order][np.searchsorted(alarms, FALSE_ALARMS, side="right")]
    called = usual * least
    return np.asarray(np.maximum(np.nextafter(called / (1 + called), 1.0), floors))


def _odds(share: Floats) -> Floats:
    certain = np.clip(share, TINY, 1 - TINY)
    return np.asarray(certain / (1 - certain))


def sensitive_cuts(truth: Floats, chance: Floats, weights: Floats) -> Floats:
    """The highest cut with a sensitivity of at least .9, or, if higher, the cut that calls half of the
    negatives.

    ``truth [N]``, ``chance [N]``; one cut for each row of ``weights``: ``[rows]``.
    """
    enough = _reached(chance, weights * (truth > 0), 0.9)
    floor = _reached(chance, weights * (truth <= 0), 0.5)
    return np.maximum(enough, floor)


def _reached(chance: Floats, weights: Floats, share: float) -> Floats:
    """The highest of ``chance`` at or above which at least ``share`` of each row's weight lies."""
    order = np.argsort(-chance, kind="stable")
    total = np.cumsum(weights[:, order], 1)
    place = (total >= share * total[:, -1:] - 1e-9).argmax(1)
    return np.asarray(chance[order][place], np.float64)


def _chosen(
    found: Scored, point: OperatingPoint, cuts: Cuts, shown: Sequence[str], healthy: Bools
) -> dict[str, Any]:
    """One operating point: thresholds with intervals, and what they do on the images that they come from.

    At ``sensitive`` nothing is undetermined; at ``specific`` only what ``balanced`` calls is: a report with
    something unclear in nearly every film is not read.
    """
    labels, weights, called = {}, found.weights(), np.zeros(len(found.images), np.bool_)
    for k, (cut, resampled) in cuts.items():
        threshold = metrics.interval(cut, resampled).as_list(6)
        present = np.asarray(found.chance[:, k] >= threshold[0])
        called |= present & (found.names[k] in shown)
        absent_below = found.labels[k].threshold if point is OperatingPoint.SPECIFIC else threshold[0]
        labels[found.names[k]] = {
            "threshold": threshold,
            "absent_below": absent_below,
            **call_rates(found.truth[:, k], present, weights),
        }
    return {"without_finding_called": metrics.share(called, healthy, weights).as_list(), "labels": labels}


def _measured(found: Scored, labels: Sequence[Label], shown: Sequence[str], healthy: Bools) -> dict[str, Any]:
    weights = found.weights()
    by_name = {label.name: label for label in labels}
    rows, called = {}, np.zeros(len(found.images), np.bool_)
    for name in shown:
        k, label = found.names.index(name), by_name[name]
        present = np.asarray(found.chance[:, k] >= label.threshold)
        absent = np.asarray(found.chance[:, k] < label.absent_below)
        called |= present
        rows[name] = {
            **call_rates(found.truth[:, k], present, weights),
            "present_ratio": likelihood_ratio(present, found.truth[:, k], weights).as_list(3),
            "absent_ratio": likelihood_ratio(absent, found.truth[:, k], weights).as_list(3),
        }
    sources = np.array([image.source for image in found.images])
    alarms = {
        str(source): metrics.share(called, np.asarray(healthy & (sources == source)), weights).as_list()
        for source in np.unique(sources[healthy])
    }
    return {
        "without_finding_called": metrics.share(called, healthy, weights).as_list(),
        "sources": alarms,
        "labels": rows,
    }


def _unsure(found: Scored, chosen: Mapping[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """On how many images the model is unsure as a whole, and how well it ranks on these and on the others."""
    columns = [found.names.index(name) for name in shown]
    low, high = (
        np.array([chosen[point]["labels"][name]["threshold"][0] for name in shown])
        for point in (OperatingPoint.SENSITIVE, OperatingPoint.SPECIFIC)
    )
    chance = found.chance[:, columns]
    unsure = ((chance >= low) & (chance < high)).sum(1) >= chosen[UNSURE]["least_between"]
    share = metrics.share(unsure, np.ones(len(unsure), np.bool_), found.weights())
    return {
        "share": share.as_list(),
        "mean_auc": _mean_auc(found.where(unsure), columns),
        "mean_auc_others": _mean_auc(found.where(~unsure), columns),
    }


def _mean_auc(found: Scored, columns: Sequence[int]) -> list[float]:
    counted = [k for k in found.with_positives(10) if k in columns] if found.images else []
    if not counted:
        return metrics.UNKNOWN.as_list()
    return metrics.mean_auc_interval(found.truth, found.logit, counted, found.weights()).as_list()


def likelihood_ratio(called: Bools, truth: Floats, weights: Floats) -> metrics.Interval:
    """The likelihood ratio of a call: its rate where the finding is present over its rate where it is absent.

    Half an image is added to each count, so that the ratio is finite even without any call.
    """
    there = (truth > 0).astype(np.float64)

    def ratio(rows: Floats) -> Floats:
        hits, alarms = rows @ (called * there), rows @ (called * (1 - there))
        return np.asarray((hits + 0.5) / (rows @ there + 1) / ((alarms + 0.5) / (rows @ (1 - there) + 1)))

    value = float(ratio(np.ones((1, len(truth))))[0])
    return metrics.interval(value, ratio(weights.astype(np.float64)))
