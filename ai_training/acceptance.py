"""The site's acceptance test: fit a model to images of the site, measure it, write a page to sign.

The network does not change, only the meaning of its logits: another clinic has another prevalence and other
devices. The result is a card of another version in another folder; the shipped one is not touched."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from sklearn.model_selection import GroupKFold

from ai_pipeline.chest.calls.operating_points import OperatingPoint
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import POSES, UPRIGHT, shown
from ai_pipeline.models.registry import Card, Label, load
from ai_pipeline.models.store import folder
from ai_pipeline.networks.gate import FeatureGate
from ai_training import calibration
from ai_training.base import DataMissing, Report, silent
from ai_training.calibration import THRESHOLDS, calibrated, platt, prevalence, probabilities, reference
from ai_training.cards import changed_card, weights_row
from ai_training.chest.gates import TRUE_POSITIVE_RATE, directions_of
from ai_training.chest.ship import known_only
from ai_training.conversion.first_card import NO_GATE, NOT_ACCEPTED, USE
from ai_training.evaluation import operating_points
from ai_training.evaluation.figures import (
    CURVES,
    ENOUGH,
    Scored,
    ScoredOutputs,
    curves,
    draw_curves,
    headline,
    run,
    scored,
)
from ai_training.evaluation.operating_points import choose_points
from ai_training.metrics import Floats, calibration_error, mean_interval, patient_weights
from ai_training.sets.chest import chest_set
from ai_training.sets.images import ChestImage, ChestSet, read_grey
from ai_training.text import NOT_DIAGNOSTIC, interval, without_nan

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Refitted:
    """One label before and after: calibration errors on the site's images, and the new card's row.

    ``after`` is measured on patients that the curve was not fitted to (five folds); None if the old curve is
    kept.
    """

    name: str
    positives: int
    before: float
    after: float | None
    label: Label


def refit(seen: Scored, k: int) -> Refitted:
    """The label in column ``k`` fitted to the images ``seen``; unchanged if there are too few."""
    truth, logit, old = seen.truth[:, k], seen.logit[:, k], seen.labels[k]
    positives = int(truth.sum())
    before = calibration_error(truth, seen.chance[:, k])
    if min(positives, len(truth) - positives) < ENOUGH:
        return Refitted(seen.names[k], positives, before, None, old)
    point = calibrated(truth, logit)
    fitted: dict[str, Any] = point.rounded()
    label = replace(old, **fitted)
    return Refitted(seen.names[k], positives, before, _held_out_error(truth, logit, seen.patients), label)


def _held_out_error(truth: Floats, logit: Floats, patients: Sequence[str]) -> float:
    """Calibration error on patients that the curve was not fitted to."""
    chance = np.empty(len(truth))
    folds = min(FOLDS, len(set(patients)))
    for known, held in GroupKFold(folds).split(logit[:, None], truth, patients):
        if truth[known].min() == truth[known].max():
            chance[held] = truth[known].mean()
            continue
        slope, intercept = platt(truth[known], logit[known])
        chance[held] = 1 / (1 + np.exp(-(slope * logit[held] + intercept)))
    return calibration_error(truth, chance)


def write_card(
    path: Path,
    card: Card,
    version: str,
    rows: Sequence[Refitted],
    seen: Scored,
    outputs: ScoredOutputs,
    name: str,
    shown: Sequence[str],
) -> None:
    """Write ``card`` with the curves of ``rows`` to ``path``, its weights beside it.

    ``seen``: the images of the set ``name`` to which the curves were fitted; ``outputs``: the network's
    outputs for them; ``shown``: the labels whose false alarms count when operating points are chosen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fitted = {row.label.name: row.label for row in rows if row.after is not None}
    labels = [fitted.get(label.name, label) for label in card.labels]
    far = np.zeros(len(outputs.logits), bool)
    if card.gate is not None:
        far = outputs.distances > card.gate.threshold
    with changed_card(card.path, path) as text:
        text["version"] = version
        for row in text["labels"]:
            if label := fitted.get(row["name"]):
                fitted_keys = ("slope", "intercept", "threshold", "absent_below")
                row.update({key: getattr(label, key) for key in fitted_keys})
        text["calibration"] = {
            # One label of an uncalibrated model left as it was makes the whole card a claim that is not true.
            "calibrated": card.calibrated or len(fitted) == len(card.labels),
            "method": (
                f"Platt scaling of {', '.join(fitted)} on {len(seen.images)} images of "
                f"{len(set(seen.patients))} adults of {name}; other labels as in version {card.version}"
            ),
            "prevalence": prevalence(seen.truth, seen.names),
            "thresholds": THRESHOLDS,
        }
        names = [label.name for label in labels]
        text["reference"] = reference(name, names, probabilities(labels, outputs.logits), far)
        for spoken in ("metrics", "operating_points"):  # the thresholds that they speak of are no more
            text.pop(spoken, None)
        refitted = scored(seen.images, outputs.logits, labels, seen.names)
        if points := choose_points(refitted, shown):
            text["operating_points"] = points
        for weights, row in zip(card.weights, text.get("weights", []), strict=True):
            if "package" not in row:
                row["file"] = weights.path.name
                shutil.copyfile(weights.path, path.parent / weights.path.name)
                row["sha256"] = hashlib.sha256(weights.path.read_bytes()).hexdigest()


ROLE, FILE = "gate", "gate.npz"


def fit_and_add(
    path: Path, classifier: Classifier, images: Sequence[ChestImage], fitting: Sequence[bool], report: Report
) -> dict[str, Any]:
    """Fit a gate to the images marked in ``fitting``, add it to the card at ``path`` and measure it on the
    others.

    Returns an empty result if the card has a gate already, the model has no or too few feature maps, or there
    are too few images.
    """
    card = classifier.card
    first = [image for image, yes in zip(images, fitting, strict=True) if yes]
    others = [image for image, yes in zip(images, fitting, strict=True) if not yes]
    # The directions and the limit need so many images together.
    if card.gate is not None or len(first) < 60 or not others:
        return {}
    report(0.0, "fitting the gate")
    try:
        features = _features(classifier, first)
    except CardError:
        return {}
    patients = np.array([image.patient for image in first])
    names = np.unique(patients)
    limit = np.isin(patients, names[::3])  # a third of the patients says how far one may be
    count = min(32, features.shape[1] // 4, int((~limit).sum()) // 2)
    if count < 1:  # so few features leave nothing unexplained
        return {}
    gate = directions_of(features[~limit], count)
    threshold = float(np.quantile(gate.distance(features[limit]), TRUE_POSITIVE_RATE))
    (path.parent / FILE).write_bytes(gate.to_bytes())
    with changed_card(path) as text:
        text["weights"].append(weights_row(ROLE, path.parent / FILE))
        text["gate"] = {
            "role": ROLE,
            "threshold": round(threshold, 6),
            "true_positive_rate": TRUE_POSITIVE_RATE,
        }
    far = gate.distance(_features(classifier, others)) > threshold
    weights = patient_weights([image.patient for image in others])
    return {
        "threshold": round(threshold, 6),
        "refused": mean_interval(far.astype(np.float32), weights).as_list(),
        "turned_or_inverted_refused": _refused_when_posed(classifier, gate, others, threshold),
    }


def _features(classifier: Classifier, images: Sequence[ChestImage]) -> Floats:
    return np.concatenate([classifier.features(read_grey(image.path)) for image in images])


def _refused_when_posed(
    classifier: Classifier, gate: FeatureGate, images: Sequence[ChestImage], threshold: float
) -> float:
    """The share of the first images, each shown in another wrong pose, that the gate refuses."""
    poses = [pose for pose in POSES if pose != UPRIGHT]
    posed = [
        shown(read_grey(image.path), poses[number % len(poses)]) for number, image in enumerate(images[:30])
    ]
    features = np.concatenate([classifier.features(picture) for picture in posed])
    return round(float((gate.distance(features) > threshold).mean()), 3)


PAGE = "acceptance.html"


def write_page(folder: Path, figures: Mapping[str, Any]) -> Path:
    """Write ``acceptance.html`` from the figures of :func:`accept`."""
    plots: dict[str, str] = {}
    if figures["curves"]:
        rows = {row["label"]: row.get("auc") for row in figures["labels"]}
        with tempfile.TemporaryDirectory() as scratch:
            drawn = draw_curves(Path(scratch) / "curves.png", figures["curves"], rows)
            plots = {CURVES: base64.b64encode(drawn.read_bytes()).decode()}
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    pages.filters["interval"] = lambda values: interval(values or None)
    labels = figures["labels"]
    page = folder / PAGE
    page.write_text(
        pages.get_template(PAGE).render(
            figures,
            warning=NOT_DIAGNOSTIC,
            points=list(map(str, OperatingPoint)),
            balanced={row["label"]: {"threshold": [row["threshold"], None, None]} for row in labels},
            few=[row["label"] for row in labels if row.get("auc") is None or row["positives"] < ENOUGH],
            plots=plots,
        ),
        encoding="utf-8",
    )
    return page


FEWEST_PATIENTS = 40
"""Below it both halves together say next to nothing."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The result of an acceptance: the new card in the store, and the HTML page that a person signs."""

    card: Card
    page: Path


def accept(
    card: Card,
    data: Path,
    store: Path,
    out: Path,
    *,
    split: str,
    version: str,
    threads: int = 0,
    report: Report = silent,
) -> Accepted:
    """Fit ``card`` to the adults of ``split`` in ``data`` and measure it; adds it to ``store`` as
    ``version``.

    ``out`` becomes a folder with ``acceptance.html`` and ``acceptance.json``. Raises DataMissing or
    CardError.
    """
    if (store / card.id / version).exists():
        raise CardError(f"{card.id}@{version} is in {store} already: name another one with --version")
    found = chest_set(data)
    images = [image for image in found.images if image.is_in(split) and image.adult]
    if len({image.patient for image in images}) < FEWEST_PATIENTS:
        raise DataMissing(
            f"{data}: fewer than {FEWEST_PATIENTS} adult patients in split {split}; an acceptance test needs "
            "more, "
            "hundreds if its intervals are to say something"
        )
    with tempfile.TemporaryDirectory() as scratch:
        test = _Test(Path(scratch), card, found, images, version, threads, report)
        written, figures = test.carried_out()
        accepted = _added(written, card, store)
    figures |= {
        "card_sha256": accepted.sha256,
        "date": datetime.now(UTC).date().isoformat(),
        "split": split,
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: value for key, value in figures.items() if key != "curves"}, indent=1)
    (out / "acceptance.json").write_text(text, encoding="utf-8")
    return Accepted(accepted, write_page(out, figures))


def first_half(patient: str) -> bool:
    """Whether a patient's images are used for fitting; decided by a hash, so always the same
    for one patient.
    """
    return hashlib.sha256(patient.encode()).digest()[0] % 2 == 0


@dataclass(frozen=True, slots=True)
class _Test:
    scratch: Path
    card: Card
    found: ChestSet
    images: Sequence[ChestImage]
    version: str
    threads: int
    report: Report

    def carried_out(self) -> tuple[Path, dict[str, Any]]:
        """The new card, in ``scratch``, and all figures."""
        classifier = Classifier(self.card, threads=self.threads)
        outputs = run(classifier, self.images, self.scratch, self.report)
        fitting = [first_half(image.patient) for image in self.images]
        fitted, fitted_outputs = self._part(outputs, fitting, self.card)
        rows = [refit(fitted, k) for k in range(len(fitted.names))]
        if all(row.after is None for row in rows):
            raise DataMissing(
                f"no label of {self.card.name} is in the data with {ENOUGH} positives and {ENOUGH} negatives "
                "in each "
                f"half of the patients: its labels are {', '.join(label.name for label in self.card.labels)}"
            )
        counted = [row.name for row in rows if row.after is not None]
        shown = [name for name in _supported(fitted) if name in counted]
        path = self.scratch / "model" / f"{self.card.id}.toml"
        write_card(path, self.card, self.version, rows, fitted, fitted_outputs, self.found.name, shown)
        gated = fit_and_add(path, classifier, self.images, fitting, self.report)
        card = load(path)
        checked, _ = self._part(outputs, [not first for first in fitting], card)
        good = [name for name in _supported(checked) if name in shown]
        return path, self._measured(path, card, fitted, checked, good) | {"gate": gated}

    def _part(
        self, outputs: ScoredOutputs, chosen: Sequence[bool], card: Card
    ) -> tuple[Scored, ScoredOutputs]:
        rows = [row for row, yes in enumerate(chosen) if yes]
        part = ScoredOutputs(outputs.logits[rows], outputs.distances[rows])
        images = [self.images[row] for row in rows]
        return scored(images, part.logits, card.labels, self.found.labels), part

    def _measured(
        self, path: Path, card: Card, fitted: Scored, checked: Scored, good: Sequence[str]
    ) -> dict[str, Any]:
        head = headline(checked, {})
        points = operating_points.measured(checked, card, good)
        figures = {
            "model": {
                "id": card.id,
                "version": card.version,
                "from": self.card.name,
                "licence": card.licence,
            },
            "weights": [{"file": part.path.name, "sha256": part.sha256} for part in card.weights],
            "data": self.found.name,
            "fitted": {"images": len(fitted.images), "patients": len(set(fitted.patients))},
            "measured": {"images": len(checked.images), "patients": len(set(checked.patients))},
            "mean_auc": head["mean_auc"],
            "labels": [
                row | {"accepted": row["label"] in good, "threshold": label.threshold}
                for row, label in zip(head["labels"], checked.labels, strict=True)
            ],
            "not_in_the_data": [label.name for label in card.labels if label.name not in checked.names],
            "thresholds": card.details.get("operating_points", {}),
            "operating_points": points,
            "calibration": calibration.calibration(
                checked.truth, checked.chance, checked.names, checked.weights(), ENOUGH
            ),
        }
        figures = {key: without_nan(value) for key, value in figures.items()}
        _tell(path, card, figures, good)
        return figures | {"curves": curves(checked, ENOUGH)}


def _tell(path: Path, card: Card, figures: Mapping[str, Any], good: Sequence[str]) -> None:
    """Write the figures into the card at ``path``, and what they make true or untrue."""
    untrue = {*NOT_ACCEPTED, NO_GATE} if card.gate else set(NOT_ACCEPTED)
    size = figures["measured"]
    with changed_card(path) as text:
        if card.intended_use == USE:  # nobody has written a better one
            text["intended_use"] = (
                "Research on images of the site that accepted it, once its acceptance page is signed. "
                "Not for diagnostic use."
            )
        text["limits"] = [
            *(line for line in card.limits if line not in untrue),
            f"Figures are of {size['images']} images of {size['patients']} adults of one site.",
        ]
        about = {key: figures[key] for key in ("fitted", "measured", "mean_auc")}
        text["metrics"] = known_only({"acceptance": about, "operating_points": figures["operating_points"]})
        for row in text["labels"]:
            row["supported"] = row["name"] in good


def _supported(found: Scored) -> list[str]:
    """Labels that are found better than by chance: the lower end of the AUC's interval is above .5."""
    return [row["label"] for row in headline(found, {})["labels"] if row["supported"]]


def _added(path: Path, card: Card, store: Path) -> Card:
    """The card at ``path`` in the store, by the way that every model comes in."""
    made = load(path)
    first = made.weights[0]
    with folder.incoming(store) as inside:
        if first.path.parent == path.parent:
            shutil.copyfile(first.path, inside / first.path.name)
        origin = f"accepted from {card.name}"
        return folder.add(inside, path, first, store, origin)
