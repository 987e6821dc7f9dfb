"""``ai-pipeline evaluate chest``: compute the figures of a card again from its weights.

Everything is fixed (weights, images, bootstrap draw), so two runs print the same numbers. Figures are of
adults, the intended use; the headline figures are also given with children. Intervals are [value, low, high],
95 %, by bootstrap over patients. Colours of plots are those of Okabe and Ito, which people with a colour
vision deficiency can tell apart.

Operating points are thresholds from validation images; the reliability of calls is that of test images.
``sensitive``: for each label the highest cut with a sensitivity of at least .9, or the cut at which half of
the images without the finding are called: more calls would say nothing. ``specific``: a finding is called if
its odds are a certain multiple of the odds of its prevalence. The multiple is the same for all labels; with
it at most one in ten of the images without any finding gets a finding that is shown; no cut is below the
balanced one. So false alarms are spent on the labels that the model knows best. ``balanced`` are the
thresholds of the labels.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage.feature import hog as describe
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ai_pipeline.chest.calls import OperatingPoint, labels_at, points_of
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.classifier import Analysis, Classifier, ScoredBox, heatmap
from ai_pipeline.models.registry import Card, Chain, Label, find
from ai_training import metrics
from ai_training.base import DataMissing, Report, silent
from ai_training.chest import box_mask, drawn_from, gate_figures
from ai_training.detect import constant, place_figures
from ai_training.metrics import (
    Bools,
    Floats,
    mean_interval,
    patient_weights,
    probabilities,
    reliability_curve,
)
from ai_training.sets import (
    LABELS,
    YOUNGEST,
    ImageSet,
    SetImage,
    TruthBox,
    chest_set,
    corners,
    label_matrix,
    read_grey,
    reduced_images,
    rows,
    soft_matrix,
)
from ai_training.text import interval, without_nan


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The classifier's outputs and the truth for N images and the K labels ``names``: ``truth`` (0 or 1),
    ``logit``, calibrated probability ``chance``, all ``[N, K]``. ``columns``: the labels' positions in
    :data:`LABELS`; ``labels``: the model card's entries for them.
    """

    images: tuple[SetImage, ...]
    names: tuple[str, ...]
    columns: tuple[int, ...]
    labels: tuple[Label, ...]
    truth: Floats
    logit: Floats
    chance: Floats

    def where(self, chosen: Iterable[bool]) -> Scored:
        """Return only the images for which ``chosen`` is true."""
        rows = [row for row, yes in enumerate(chosen) if yes]
        return Scored(
            tuple(self.images[row] for row in rows),
            self.names,
            self.columns,
            self.labels,
            self.truth[rows],
            self.logit[rows],
            self.chance[rows],
        )

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [image.patient for image in self.images]

    def weights(self) -> Floats:
        """The weights of bootstrap resamples by patient, as :func:`patient_weights`."""
        return patient_weights(self.patients)

    def with_positives(self, fewest: int) -> list[int]:
        """The columns of the labels that have at least ``fewest`` positives and as many negatives."""
        positives = self.truth.sum(0)
        least = np.minimum(positives, len(self.images) - positives)
        return [int(k) for k in np.flatnonzero(least >= fewest)]


def run(
    classifier: Classifier, images: Sequence[SetImage], cache: Path, report: Report = silent
) -> tuple[Floats, Floats]:
    """Run the classifier on every image as at run time: ``logits [N, labels of the model card]`` and
    ``distances [N]`` of the domain gate, which are stored in the folder ``cache`` by model and list of
    files.
    """
    names = "\n".join(str(image.path) for image in images)
    card = classifier.card
    made_by = [weights.sha256 for weights in card.weights], card.input, card.outputs, card.gate
    digest = hashlib.sha256(f"{made_by}\n{names}".encode())
    stored = cache / f"outputs-{digest.hexdigest()[:16]}.npz"
    if stored.exists():
        with np.load(stored) as arrays:
            return arrays["logits"], arrays["distances"]
    logits = np.empty((len(images), len(card.labels)), np.float32)
    distances = np.empty(len(images), np.float32)
    for index, image in enumerate(images):
        analysis = classifier.analyse(read_grey(image.path))
        logits[index], distances[index] = analysis.logits, analysis.distance
        report((index + 1) / len(images), "running the network")
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(stored, logits=logits, distances=distances)
    return logits, distances


def scored(
    images: Sequence[SetImage],
    logits: npt.NDArray[np.floating],
    labels: Sequence[Label],
    known: Sequence[str],
) -> Scored:
    """Join the images' truth with ``logits [N, labels]``, for those of the model card's ``labels`` that are
    among ``known``. Labels are matched by name, whatever their capitals, spaces and underscores.
    """
    wanted = {_plain(name): name for name in known}
    pairs = [
        (wanted[_plain(label.name)], k) for k, label in enumerate(labels) if _plain(label.name) in wanted
    ]
    pairs.sort(key=lambda pair: LABELS.index(pair[0]))
    names = tuple(name for name, _ in pairs)
    chosen = tuple(labels[k] for _, k in pairs)
    columns = tuple(LABELS.index(name) for name in names)
    logit = logits[:, [k for _, k in pairs]].astype(np.float64)
    return Scored(
        images=tuple(images),
        names=names,
        columns=columns,
        labels=chosen,
        truth=label_matrix(images)[:, list(columns)] if images else np.zeros((0, len(names)), np.float32),
        logit=logit,
        chance=probabilities(chosen, logit),
    )


def _plain(name: str) -> str:
    """Reduce a label's name to a form without differences of case and blanks."""
    return name.casefold().replace(" ", "_")


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


def curves(found: Scored, fewest: int) -> dict[str, Any]:
    """The curves of each label with at least ``fewest`` positives: ``roc`` and ``pr`` as two lists,
    ``reliability`` as points.

    ``roc``: false and true positive rate; ``pr``: recall and precision; ``reliability``: mean probability,
    rate, images. ``rate`` is the label's prevalence, ``operating`` the shipped thresholds as (false positive
    rate, true positive rate) of "not absent" and "present".
    """
    result: dict[str, Any] = {}
    for k in found.with_positives(fewest):
        truth, logit, chance = found.truth[:, k], found.logit[:, k], found.chance[:, k]
        false, true, _ = roc_curve(truth, logit)
        precision, recall, _ = precision_recall_curve(truth, logit)
        label = found.labels[k]
        result[found.names[k]] = {
            "roc": _thin(false, true),
            "pr": _thin(recall, precision),
            "reliability": [[round(p, 4), round(r, 4), n] for p, r, n in reliability_curve(truth, chance)],
            "rate": round(float(truth.mean()), 4),
            "operating": [
                [round(float((chance >= cut)[part].mean()), 4) for part in (truth <= 0, truth > 0)]
                for cut in (label.absent_below, label.threshold)
            ],
        }
    return result


def _thin(x: Floats, y: Floats) -> list[list[float]]:
    """Reduce the curve with the coordinates ``x`` and ``y`` to at most 120 points."""
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), 120)).round().astype(int))
    return [[round(float(value), 4) for value in values[places]] for values in (x, y)]


BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


CURVES = "ROC; circle: not absent, square: present. Precision. Reliability; bars: 95 % of the bin's rate"


def draw_curves(path: Path, found: Mapping[str, Any], aucs: Mapping[str, Any]) -> Path:
    """Plot three curves for each label, a row each, and write them to ``path``: ROC with its AUC and the
    model card's two operating points; precision over recall, with the prevalence, which guessing reaches; the
    rate in ten equally full bins over the mean probability there. ``found``: the curves by label; ``aucs``:
    by label.
    """
    figure = Figure(figsize=(7.5, 2.5 * max(1, len(found))), layout="constrained")
    grid = figure.subplots(max(1, len(found)), 3, squeeze=False)
    for (roc, precision, reliability), (label, one) in zip(grid, found.items(), strict=False):
        roc.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        roc.plot(*one["roc"], color=BLUE)
        for point, marker in zip(one["operating"], "os", strict=True):
            roc.plot(*point, marker=marker, color=ORANGE, markersize=5)
        roc.set(xlabel="1 − specificity", ylabel="sensitivity", title=f"{label}\n{interval(aucs.get(label))}")
        precision.axhline(one["rate"], color=GREY, linewidth=0.8, linestyle=":")
        precision.plot(*one["pr"], color=BLUE)
        precision.set(xlabel="recall", ylabel="precision", title=f"prevalence {one['rate']:.3f}")
        points = np.array(one["reliability"], float)
        end = min(1.0, max(0.05, 1.15 * float(points[:, :2].max())))
        reliability.plot([0, end], [0, end], color=GREY, linewidth=0.8, linestyle=":")
        error = 1.96 * np.sqrt(points[:, 1] * (1 - points[:, 1]) / points[:, 2])
        reliability.errorbar(
            points[:, 0], points[:, 1], yerr=error, color=BLUE, marker="o", markersize=3, linewidth=1
        )
        reliability.set(xlabel="probability", ylabel="rate", xlim=(0, end), ylim=(0, end))
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG to ``path``: the same figures give the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


FALSE_ALARMS = 0.10  # share of the images without any finding that may get one at ``specific``
DIGITS = 1e6  # to which a card rounds thresholds
TINY = 1e-9  # of probability: what is nearer to 0 or 1 has odds all the same


def choose_points(found: Scored, shown: Sequence[str]) -> dict[str, Any]:
    """Choose thresholds for the model card's table ``[operating_points]`` on ``found``, images not used for
    testing; empty if they are too few. ``shown``: the labels that are reported, whose false alarms count.
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
    return {
        "images": len(found.images),
        "patients": len(set(found.patients)),
        "without_finding": int(healthy.sum()),
        **{str(point): _point_table(found, point, cuts, shown, healthy) for point, cuts in points.items()},
    }


def measured_points(found: Scored, card: Card, shown: Sequence[str]) -> dict[str, Any]:
    """Measure the decisions of ``card`` at each operating point, on images not used to choose thresholds, for
    the table ``[metrics.operating_points]``. ``shown``: the labels that are reported.
    """
    healthy = _without_finding(found)
    return {
        "images": len(found.images),
        "patients": len(set(found.patients)),
        "without_finding": int(healthy.sum()),
        **{
            str(point): _decision_figures(found, labels_at(card, point), shown, healthy)
            for point in points_of(card)
        },
    }


def _without_finding(found: Scored) -> Bools:
    """Which images have no finding at all."""
    return np.asarray(~(found.truth > 0).any(1))


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


def _point_table(
    found: Scored, point: OperatingPoint, cuts: Cuts, shown: Sequence[str], healthy: Bools
) -> dict[str, Any]:
    """The table of one operating point: the thresholds ``cuts`` with intervals, and the figures of decisions
    on the images on which they were chosen. ``shown``: the labels whose false alarms count; ``healthy``: the
    images without a finding. At ``sensitive`` nothing is indeterminate; at ``specific`` a finding is
    indeterminate only if ``balanced`` calls it present, because nobody reads reports of which nearly every
    one has something unclear.
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


def _decision_figures(
    found: Scored, labels: Sequence[Label], shown: Sequence[str], healthy: Bools
) -> dict[str, Any]:
    """The figures of decisions with the thresholds of ``labels``. ``shown``: the labels that are reported;
    ``healthy``: the images without a finding.
    """
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


SOFT_WEIGHT = 0.7  # as the network's
CHAIN = Chain()  # 128 pixels a side, whatever the network sees: one baseline for all models
MOST = 6000  # images that kernel ridge learns from; its time grows with the cube
SEED = 1
ALPHA, WIDTH = 3.0, 1.5  # ridge, kernel width over dimension: the best of 4 × 3 on validation (.658)


def hog_scores(
    train: Sequence[SetImage],
    train_pixels: npt.NDArray[np.uint8],
    pixels: npt.NDArray[np.uint8],
    cache: Path,
) -> Floats:
    """Scores ``[N, labels]`` of a baseline for images reduced by ``CHAIN``: kernel ridge regression on HOG
    features. It is trained on ``train`` only, with hard and soft labels like the network; stored in ``cache``
    under a hash of the images.
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


def demographic_scores(train: Sequence[SetImage], images: Sequence[SetImage]) -> Floats:
    """Scores ``[N, labels]`` of a baseline for ``images``: logistic regression on age, sex and view, without
    the image.
    """
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


def source_scores(train: Sequence[SetImage], images: Sequence[SetImage]) -> Floats:
    """Scores ``[N, labels]`` of a baseline for ``images`` that knows only an image's folder and repository:
    the rate of each label in the train images of the same origin; if there are none, in all of them.
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
    known: Sequence[TruthBox], wanted: Sequence[TruthBox], classifier: Classifier
) -> dict[str, Any]:
    """IoU and pointing game of the model's boxes over the true boxes ``wanted``, each predicted for its own
    label: for ``model`` and for ``constant`` (the box among ``known`` that overlaps the label's others best),
    with intervals by patient and the paired difference.
    """
    analyses = {path: classifier.analyse(read_grey(path)) for path in {box.image.path for box in wanted}}
    found = [_located(classifier, analyses[box.image.path], box.label) for box in wanted]
    fixed = {
        label: replace(
            place, point=_peak(np.sum([box_mask(b, 64) for b in known if b.label == label], axis=0))
        )
        for label, place in constant(known).items()
    }
    truth = [corners(box) for box in wanted]
    model, prior = (
        place_figures(truth, places) for places in (found, [fixed.get(box.label) for box in wanted])
    )
    weights = patient_weights([box.image.patient for box in wanted])
    return {"boxes": len(wanted)} | {
        name: {
            "model": mean_interval(model[:, k], weights).as_list(),
            "constant": mean_interval(prior[:, k], weights).as_list(),
            "difference": mean_interval(model[:, k] - prior[:, k], weights).as_list(),
        }
        for k, name in enumerate(BOX_FIGURES)
    }


def _located(classifier: Classifier, analysis: Analysis, label: str) -> ScoredBox | None:
    """The model's box of a label in an analysed image, with the peak of its heat map as the point; None
    without a box.
    """
    index = [known.name for known in classifier.card.labels].index(label)
    activation = classifier.activation(analysis, index)
    if activation is None or (region := classifier.box(activation, index)) is None:
        return None
    left, top, right, bottom = (edge / analysis.columns for edge in region.bounds)
    peak = _peak(cv2.blur(heatmap(activation).values, (9, 9)))
    return ScoredBox((left, top, right, bottom), peak, 0.0)


def _peak(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The place of the highest value: x and y as shares of width and height."""
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
    """Measure a chest model on ``split`` (``test`` or ``val``) of ``data``; all intervals are 95 %. ``data``:
    as :func:`chest_set` takes it. ``model``: id of its model card. Labels are matched by name; a label that
    card or data lack is left out. ``cache`` stores reduced images, outputs and the baseline between runs. A
    figure that cannot be computed is None. Raises ``DataMissing``, or ``CardError``.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        classifier = Classifier(find(model, models_dir), threads=threads)
        job = _Evaluation(data, split, classifier, chest_set(data), cache or Path(scratch), report)
        return {key: without_nan(value) for key, value in job.result().items()}


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """One evaluation of a model on a set of images. ``cache``: the folder for intermediate results."""

    data: Path
    split: str
    classifier: Classifier
    found: ImageSet
    cache: Path
    report: Report

    def result(self) -> dict[str, Any]:
        """All figures of the evaluation."""
        everyone = self._run(self.split)
        adults = everyone.where(image.adult for image in everyone.images)
        if not adults.images or not adults.names:
            raise DataMissing(f"{self.data}: no adult of split {self.split} with a label that the card knows")
        main = adults.where(image.source == self.found.main for image in adults.images)
        train = [image for image in self.found.images if image.split == "train" and image.adult]
        scores, card, apart = self._baselines(train, adults), self.classifier.card, self._apart(adults)
        inside = [row for row, image in enumerate(adults.images) if image.source == self.found.main]
        rates = label_matrix(train).mean(0)[list(adults.columns)] if train else None
        head = headline(main, {k: v[inside] for k, v in scores.items() if k != "source"})
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
            "called": call_figures(main, supported, rates),
            "operating_points": self._operating_points(adults, supported),
            "opinions": opinions(adults, self.data),
            "permuted_labels": permuted(main),
            "within_source": self._within_source(adults, scores),
            "sources": by_source(adults, self.found.left_out),
            "probes": self._without_image(adults, scores),
            "calibration": {
                name: {
                    "natural_prevalence": name in self.found.natural,
                    **metrics.calibration(part.truth, part.chance, part.names, part.weights(), ENOUGH),
                }
                for name, part in apart.items()
            },
            "subgroups": {name: subgroups(part) for name, part in apart.items()},
            "teacher": beside_teacher(adults, {self.found.main: head["labels_counted"]}, self.found.left_out),
            "boxes": self._box_figures(),
            "gate": gate_figures(self.data, self.classifier, self.split, self.report),
        }
        self.report(1.0, "done")
        return result

    def _run(self, split: str) -> Scored:
        """Run the classifier on the images of ``split``."""
        images = [image for image in self.found.images if image.is_in(split)]
        logits, _ = run(self.classifier, images, self.cache, self.report)
        return scored(images, logits, self.classifier.card.labels, self.found.labels)

    def _operating_points(self, adults: Scored, shown: Sequence[str]) -> dict[str, Any]:
        """The model card's operating points, or new ones from the validation split, with the figures of
        decisions on ``adults``.
        """
        card = self.classifier.card
        chosen = card.details.get("operating_points", {})
        if not chosen and any(image.split == "val" and image.adult for image in self.found.images):
            validation = self._run("val")
            chosen = choose_points(validation.where(image.adult for image in validation.images), shown)
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
