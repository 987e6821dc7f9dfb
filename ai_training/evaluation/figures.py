"""The figures of one set of scored images: AUC, operating points, calls, subgroups, the teacher, plots.

Intervals are [value, low, high], 95 %, by bootstrap over patients. Every function takes adults only. Colours
of plots are those of Okabe and Ito, which people with a colour vision deficiency can tell apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.registry import Label
from ai_training import metrics
from ai_training.base import Report, silent
from ai_training.calibration import probabilities, reliability_curve
from ai_training.metrics import Floats, patient_weights
from ai_training.sets.chest import label_matrix, soft_matrix
from ai_training.sets.images import LABELS, ChestImage, read_grey
from ai_training.text import figures_text, interval


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """N images and the K labels ``names``: ``truth``, ``logit``, calibrated ``chance``, all ``[N, K]``.

    ``columns``: the labels' positions in :data:`LABELS`; ``labels``: the card's entries for them.
    """

    images: tuple[ChestImage, ...]
    names: tuple[str, ...]
    columns: tuple[int, ...]
    labels: tuple[Label, ...]
    truth: Floats
    logit: Floats
    chance: Floats

    def where(self, chosen: Iterable[bool]) -> Scored:
        """Only the images for which ``chosen`` is true."""
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
    classifier: Classifier, images: Sequence[ChestImage], cache: Path, report: Report = silent
) -> tuple[Floats, Floats]:
    """Run the classifier on every image as at run time: ``logits [N, labels of the card]`` and ``distances
    [N]``, which are stored in ``cache`` by model and list of files.
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
    images: Sequence[ChestImage],
    logits: npt.NDArray[np.floating],
    labels: Sequence[Label],
    known: Sequence[str],
) -> Scored:
    """The truth with logits ``[N, labels]``, for those of the card's ``labels`` that are among ``known``.

    Labels are matched by name, whatever their capitals, spaces and underscores.
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
    return name.casefold().replace(" ", "_")


ENOUGH = 15  # positives that a label needs before its figures count
ENOUGH_IN_GROUP = 20  # positives that a label needs in a subgroup
BANDS = ((16, 40), (40, 60), (60, 200))  # years
TEACHER_NOTE = (
    "the teacher (a CheXNet) was trained on most NIH patients, those of the other test images included: "
    "it is compared only on the images of its own test fold"
)


def headline(found: Scored, baselines: Mapping[str, Floats]) -> dict[str, Any]:
    """The AUC of the model and of ``baselines`` (scores ``[N, K]``), and a row for each label."""
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
    """The AUCs within each source, without the labels that can be guessed from how the source was made up."""
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


def permuted(found: Scored) -> list[float]:
    """A negative control: the mean AUC against labels that were shuffled among images. Mean and
    95 % range.
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
    truth = found.truth[:, k]
    auc = metrics.auc_interval(truth, found.logit[:, k], weights)
    return {"positives": int(truth.sum()), "auc": auc.as_list()}


def call_rates(truth: Floats, called: metrics.Called, weights: Floats) -> dict[str, list[float]]:
    """Sensitivity and specificity of calls."""
    return {
        "sensitivity": metrics.share(called, np.asarray(truth > 0), weights).as_list(),
        "specificity": metrics.share(~called, np.asarray(truth <= 0), weights).as_list(),
    }


def _top(found: Scored, among: Sequence[int], scores: Floats, weights: Floats) -> list[float]:
    """Share of the images with a finding ``among`` these where one of the three highest scores is right."""
    truth = found.truth[:, list(among)] > 0
    best = np.argsort(-scores[:, list(among)], axis=1, kind="stable")[:, :3]
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


def curves(found: Scored, fewest: int) -> dict[str, Any]:
    """For each label with ``fewest`` positives: ``roc`` and ``pr`` as two lists, ``reliability`` as points.

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
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), 120)).round().astype(int))
    return [[round(float(value), 4) for value in values[places]] for values in (x, y)]


BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def write_report(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write ``report.md``, all figures of ``evaluate_chest``, and plots of its curves; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {name: value for name, value in result.items() if name != "curves"}
    lines = ["# Report", "", "```", figures_text(figures), "```", ""]
    for name, found in result["curves"].items():
        inside = [row["labels"] for row in result["sources"] if row["source"] == name]
        rows = {label: cell["auc"] for labels in inside for label, cell in labels.items()}
        slug = "".join(c if c.isalnum() else "-" for c in name.casefold()).strip("-")
        path = draw_curves(folder / f"curves-{slug}.png", found, rows)
        lines += [f"![{name}: {CURVES}]({path.name})", ""]
    page = folder / "report.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


CURVES = "ROC; circle: not absent, square: present. Precision. Reliability; bars: 95 % of the bin's rate"


def draw_curves(path: Path, found: Mapping[str, Any], aucs: Mapping[str, Any]) -> Path:
    """Plot a row per label: ROC with its AUC and the card's two operating points; precision over recall, with
    the prevalence, which guessing reaches; the rate in ten equally full bins over the mean probability there.
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
    """Write ``figure`` as PNG: the same figures give the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
