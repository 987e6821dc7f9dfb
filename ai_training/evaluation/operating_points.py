"""Operating points: the cuts, chosen on validation images and measured on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ai_pipeline.chest.calls import (
    OperatingPoint,
    called_labels,
    labels_at,
    points_of,
    shares_right,
    worth_a_call,
)
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card, Label
from ai_training import metrics
from ai_training.evaluation.scores import Scored
from ai_training.evaluation.tables import call_rates
from ai_training.metrics import Bools, Floats

FALSE_ALARMS = 0.10  # share of the images without any finding that may get one at ``specific``
DIGITS = 1e6  # to which a card rounds thresholds
TINY = 1e-9  # of probability: what is nearer to 0 or 1 has odds all the same


def choose_points(found: Scored, shown: Sequence[str]) -> dict[str, Any]:
    """Choose thresholds for the model card's table ``[operating_points]`` on ``found``, images not used for
    testing; empty if too few of them are analysed. ``shown``: the labels that are reported. At ``specific``
    the false alarms of those labels count that a reader sees (:func:`_worth_a_call`); the table names them as
    ``called``, and no other label is called.
    """
    found = found.where(found.analysed)
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
    called = _worth_a_call(found, healthy, shown)
    points = {
        OperatingPoint.SPECIFIC: _specific(found, healthy, called, weights),
        OperatingPoint.SENSITIVE: sensitive,
    }
    tables = {str(point): _point_table(found, point, cuts) for point, cuts in points.items()}
    specific = tables[OperatingPoint.SPECIFIC]
    thresholds = {name: row["threshold"][0] for name, row in specific["labels"].items()}
    seen = _of_card(found, called)
    alarms = _false_alarms(found, thresholds, seen)["without_finding_called"]
    tables[OperatingPoint.SPECIFIC] = {"called": seen, "without_finding_called": alarms, **specific}
    return {
        "images": len(found.images),
        "patients": len(set(found.patients)),
        "without_finding": int(healthy.sum()),
        **tables,
    }


def with_kept(chosen: Mapping[str, Any], card: Card, found: Scored, kept: Sequence[str]) -> dict[str, Any]:
    """The table ``chosen`` of :func:`choose_points` for ``found``, in which the labels ``kept`` (of the card)
    have the thresholds that ``card`` has for them at ``specific``, as where a threshold that validation
    allows is not good enough on other images. The other labels have theirs as if none was kept; the false
    alarms are counted anew. A ``note`` of the card's table stays. Raises CardError for a label without such a
    threshold.
    """
    before = card.details.get("operating_points", {}).get(OperatingPoint.SPECIFIC, {})
    specific = chosen[OperatingPoint.SPECIFIC]
    if unknown := set(kept) - (before.get("labels", {}).keys() & specific["labels"].keys()):
        names = ", ".join(sorted(unknown))
        raise CardError(f"{card.name} has no threshold at {OperatingPoint.SPECIFIC} for {names}")
    rows = specific["labels"] | {name: before["labels"][name] for name in kept}
    thresholds = {name: row["threshold"][0] for name, row in rows.items()}
    alarms = _false_alarms(found, thresholds, specific["called"])["without_finding_called"]
    table = {"called": specific["called"], "without_finding_called": alarms}
    if "note" in before:
        table["note"] = before["note"]
    return {**chosen, OperatingPoint.SPECIFIC: {**table, "labels": rows}}


def measured_points(found: Scored, card: Card, shown: Sequence[str]) -> dict[str, Any]:
    """Measure the decisions of ``card`` at each operating point, on images not used to choose thresholds, for
    the table ``[metrics.operating_points]``. ``shown``: the labels that are reported. False alarms are those
    of the labels that these figures allow to be called: what a reader sees. An image that the node refuses
    gets no call.
    """
    wanted, labels = _of_card(found, shown), {point: labels_at(card, point) for point in points_of(card)}
    rows = {str(point): {"labels": _decision_figures(found, labels[point], wanted)} for point in labels}
    judged = replace(card, details={**card.details, "metrics": {"operating_points": rows}})
    tables: dict[str, Any] = {}
    for point, at in labels.items():
        called = called_labels(judged, point, wanted)
        thresholds = {label.name: label.threshold for label in at}
        tables[str(point)] = {"called": called, **_false_alarms(found, thresholds, called), **rows[point]}
    return {
        "images": len(found.images),
        "patients": len(set(found.patients)),
        "without_finding": int(_without_finding(found).sum()),
        "refused": int((~found.analysed).sum()),
        **tables,
    }


def _without_finding(found: Scored) -> Bools:
    """Which images have no finding at all."""
    return np.asarray(~(found.truth > 0).any(1))


def _of_card(found: Scored, names: Sequence[str]) -> list[str]:
    """The names that the model card gives the labels ``names`` of ``found``."""
    return [found.labels[found.names.index(name)].name for name in names]


def _worth_a_call(found: Scored, healthy: Bools, shown: Sequence[str]) -> list[str]:
    """Those of the labels ``shown`` that a reader sees at ``specific``: of which enough calls are right.
    Labels leave one by one, the one of which the fewest calls are right first; the others then share the
    false alarms.
    """
    called, weights, once = list(shown), found.weights(), np.ones((1, len(found.images)))
    while len(called) > 1:
        cuts, right = _specific(found, healthy, called, once), {}
        for name in called:
            k = found.names.index(name)
            present = np.asarray(found.chance[:, k] >= cuts[k][0])
            ratio = likelihood_ratio(present, found.truth[:, k], weights)
            right[name] = shares_right(ratio.as_list(3), float(found.truth[:, k].mean()))
        if all(map(worth_a_call, right.values())):
            break
        called.remove(min(called, key=lambda name: right[name][0]))
    return called


Cuts = Mapping[int, tuple[float, Floats]]
"""By column of a label: its cut, and that of each resample."""


def _specific(found: Scored, healthy: Bools, shown: Sequence[str], weights: Floats) -> Cuts:
    """The thresholds of the operating point ``specific``, and those of each resample, by column of ``found``.
    ``healthy [N]``: the images without any finding; ``shown``: the labels whose false alarms count;
    ``weights``: how often each resample has each image.
    """
    counted = [found.names.index(name) for name in shown]
    floors = np.array([label.threshold for label in found.labels])

    cuts = partial(specific_cuts, found.chance, found.truth, healthy=healthy, floors=floors, counted=counted)
    # Up to the digits of a card: a cut that is rounded down may call one image more.
    chosen = np.ceil(cuts(np.ones(len(found.images))) * DIGITS) / DIGITS
    resampled = np.stack([cuts(row) for row in weights])
    return {int(k): (float(chosen[k]), resampled[:, k]) for k in np.flatnonzero(found.truth.any(0))}


def specific_cuts(
    chance: Floats, truth: Floats, weight: Floats, healthy: Bools, floors: Floats, counted: Sequence[int]
) -> Floats:
    """The ``specific`` thresholds ``[K]`` of labels with the probabilities ``chance [N, K]`` and the truth
    ``truth [N, K]``. ``healthy [N]``: without any finding. ``weight [N]``: how often each image counts.
    ``floors [K]``: the least thresholds. ``counted``: the columns whose positive decisions are false alarms
    to a reader.
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
    """Convert a probability to odds."""
    certain = np.clip(share, TINY, 1 - TINY)
    return np.asarray(certain / (1 - certain))


def sensitive_cuts(truth: Floats, chance: Floats, weights: Floats) -> Floats:
    """The highest threshold with a sensitivity of at least .9, or, if higher, the threshold that calls half
    of the negatives positive. ``truth [N]``, ``chance [N]``; one threshold for each row of ``weights``:
    ``[rows]``.
    """
    enough = _reached(chance, weights * (truth > 0), 0.9)
    return np.maximum(enough, _reached(chance, weights * (truth <= 0), 0.5))


def _reached(chance: Floats, weights: Floats, share: float) -> Floats:
    """The highest value of ``chance`` at or above which at least ``share`` of each row's weight lies."""
    order = np.argsort(-chance, kind="stable")
    total = np.cumsum(weights[:, order], 1)
    place = (total >= share * total[:, -1:] - 1e-9).argmax(1)
    return np.asarray(chance[order][place], np.float64)


def _point_table(found: Scored, point: OperatingPoint, cuts: Cuts) -> dict[str, Any]:
    """The labels of one operating point: the thresholds ``cuts`` with intervals, and the figures of decisions
    on the images on which they were chosen. At ``sensitive`` nothing is indeterminate; at ``specific`` a
    finding is indeterminate only if ``balanced`` calls it present, because nobody reads reports of which
    nearly every one has something unclear.
    """
    labels, weights = {}, found.weights()
    for k, (cut, resampled) in cuts.items():
        threshold = metrics.interval(cut, resampled).as_list(6)
        present = np.asarray(found.chance[:, k] >= threshold[0])
        absent_below = found.labels[k].threshold if point is OperatingPoint.SPECIFIC else threshold[0]
        labels[found.labels[k].name] = {
            "threshold": threshold,
            "absent_below": absent_below,
            **call_rates(found.truth[:, k], present, weights),
        }
    return {"labels": labels}


def _decision_figures(found: Scored, labels: Sequence[Label], shown: Sequence[str]) -> dict[str, Any]:
    """The figures of decisions with the thresholds of ``labels``, for those of them that are ``shown``."""
    weights, rows = found.weights(), {}
    columns = {label.name: k for k, label in enumerate(found.labels)}
    for label in (label for label in labels if label.name in shown):
        k = columns[label.name]
        present = np.asarray(found.analysed & (found.chance[:, k] >= label.threshold))
        absent = np.asarray(found.analysed & (found.chance[:, k] < label.absent_below))
        rows[label.name] = {
            **call_rates(found.truth[:, k], present, weights),
            "present_ratio": likelihood_ratio(present, found.truth[:, k], weights).as_list(3),
            "absent_ratio": likelihood_ratio(absent, found.truth[:, k], weights).as_list(3),
        }
    return rows


def images_called(found: Scored, thresholds: Mapping[str, float], called: Sequence[str]) -> Bools:
    """Which images get a call of one of the labels ``called``, at the card's ``thresholds`` by label."""
    columns = [k for k, label in enumerate(found.labels) if label.name in called]
    cuts = np.array([thresholds[found.labels[k].name] for k in columns])
    return np.asarray(found.analysed & (found.chance[:, columns] >= cuts).any(1))


def _false_alarms(found: Scored, thresholds: Mapping[str, float], called: Sequence[str]) -> dict[str, Any]:
    """The share of the images without any finding that get a call, in all and by source."""
    healthy, weights = _without_finding(found), found.weights()
    images = images_called(found, thresholds, called)
    sources = np.array([image.source for image in found.images])
    return {
        "without_finding_called": metrics.share(images, healthy, weights).as_list(),
        "sources": {
            str(source): metrics.share(images, np.asarray(healthy & (sources == source)), weights).as_list()
            for source in np.unique(sources[healthy])
        },
    }


def likelihood_ratio(called: Bools, truth: Floats, weights: Floats) -> metrics.Interval:
    """The likelihood ratio of the positive decisions ``called [N]``: their rate where the finding is present
    over their rate where it is absent. Half an image is added to each count, so that the ratio is finite even
    without any positive decision. ``truth [N]``: above 0 where the finding is present; ``weights``: those of
    resamples.
    """
    there = (truth > 0).astype(np.float64)

    def ratio(rows: Floats) -> Floats:
        """The ratio under each row of weights."""
        hits, alarms = rows @ (called * there), rows @ (called * (1 - there))
        return np.asarray((hits + 0.5) / (rows @ there + 1) / ((alarms + 0.5) / (rows @ (1 - there) + 1)))

    value = float(ratio(np.ones((1, len(truth))))[0])
    return metrics.interval(value, ratio(weights.astype(np.float64)))
