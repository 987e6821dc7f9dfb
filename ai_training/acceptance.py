"""The site's acceptance test: fit a model to images of the site, measure it, write a page to sign.

The network does not change, only the meaning of its logits: another clinic has another prevalence and other
devices. The result is a card of another version in another folder; the shipped one is not touched."""

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from ai_pipeline.chest.calls import OperatingPoint
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import POSES, UPRIGHT, shown
from ai_pipeline.models.registry import Card, Label, load
from ai_pipeline.models.store import folder
from ai_training import metrics
from ai_training.base import DataMissing, Report, part_of, silent
from ai_training.cards import changed_card, weights_row
from ai_training.chest.card import known_only
from ai_training.chest.gate import TRUE_POSITIVE_RATE, directions_of
from ai_training.convert import NO_GATE, NOT_ACCEPTED, USE
from ai_training.evaluation import operating_points
from ai_training.evaluation.operating_points import choose_points
from ai_training.evaluation.plots import CURVES, draw_curves
from ai_training.evaluation.scores import Outputs, Scored, curves, run, scored
from ai_training.evaluation.tables import ENOUGH, headline, size
from ai_training.metrics import (
    THRESHOLDS,
    Curve,
    Floats,
    calibrated,
    mean_interval,
    moved,
    patient_weights,
    prevalence,
    probabilities,
    reference,
)
from ai_training.sets.chest import adults_of, chest_set
from ai_training.sets.files import read_grey
from ai_training.sets.images import SetImage, known_label
from ai_training.text import NOT_DIAGNOSTIC, interval, without_nan


def refit(seen: Scored, k: int) -> Label | None:
    """The label in column ``k`` of ``seen`` with a calibration fitted to these images; None if they are too
    few.
    """
    positives = seen.truth[:, k].sum()
    if min(positives, len(seen.images) - positives) < ENOUGH:
        return None
    fitted: dict[str, Any] = calibrated(seen.truth[:, k], seen.logit[:, k]).rounded()
    return replace(seen.labels[k], **fitted)


def write_card(
    path: Path,
    card: Card,
    version: str,
    changed: Iterable[Label],
    seen: Scored,
    outputs: Outputs,
    name: str,
    shown: Sequence[str],
) -> None:
    """Write the model card ``card`` with the labels ``changed`` and its new ``version`` to ``path``, its
    weights beside it. ``seen``: the images of the set ``name`` to which the calibration was fitted;
    ``outputs``: what the node computes of them; ``shown``: the labels that are reported.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fitted = {label.name: label for label in changed}
    labels = [fitted.get(label.name, label) for label in card.labels]
    far = outputs.distances > card.gate.threshold if card.gate else np.zeros(len(seen.images), bool)
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
            "prevalence": prevalence(seen.truth, [label.name for label in seen.labels]),
            "thresholds": THRESHOLDS,
        }
        names = [label.name for label in labels]
        text["reference"] = reference(name, names, probabilities(labels, outputs.logits), far)
        move_usual_chest(
            text,
            {label.name: label for label in card.labels},
            {name: (label.slope, label.intercept) for name, label in fitted.items()},
        )
        for spoken in ("metrics", "operating_points"):  # the thresholds that they speak of are no more
            text.pop(spoken, None)
        refitted = scored(seen.images, outputs, labels, seen.names)
        if points := choose_points(refitted, shown):
            text["operating_points"] = points
        bring_weights(card, text, path.parent)


def move_usual_chest(text: Any, labels: Mapping[str, Label], curves: Mapping[str, Curve]) -> None:
    """Move the limit of the table ``usual_chest`` in ``text``, a card as TOML document, along the new curve
    of its label, so that the same films are to be looked at first. ``labels``: those before, ``curves``: the
    new ones, both by name.
    """
    table = text.get("usual_chest", {})
    if (name := table.get("label")) in curves:
        table["limit"] = moved(labels[name], curves[name], float(table["limit"]))


def bring_weights(card: Card, text: Any, beside: Path) -> None:
    """Copy the weights of ``card`` into the folder ``beside``, and name them so in ``text``, the card as TOML
    document; what an installed package holds stays there.
    """
    for weights, row in zip(card.weights, text.get("weights", []), strict=True):
        if "package" not in row:
            row["file"] = weights.path.name
            shutil.copyfile(weights.path, beside / weights.path.name)
            row["sha256"] = hashlib.sha256(weights.path.read_bytes()).hexdigest()


def add_to_store(path: Path, store: Path, origin: str) -> Card:
    """Add the model of the card at ``path``, with the weights beside it, to the models folder ``store``, by
    the way that every model comes in; returns the card there. Raises CardError.
    """
    first = load(path).weights[0]
    with folder.incoming(store) as inside:
        if first.path.parent == path.parent:
            shutil.copyfile(first.path, inside / first.path.name)
        return folder.add(inside, path, first, store, origin)


ROLE, FILE = "gate", "gate.npz"


def fit_and_add(
    path: Path,
    classifier: Classifier,
    first: Sequence[SetImage],
    others: Sequence[SetImage],
    report: Report,
) -> dict[str, Any]:
    """Fit a domain gate to the images ``first``, add it to the model card at ``path`` and measure it on the
    ``others``; returns its figures. The result is empty if the card has a gate already, the model has no or
    too few feature maps, or there are too few images.
    """
    card = classifier.card
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
    wrong = [pose for pose in POSES if pose != UPRIGHT]
    posed = [
        classifier.features(shown(read_grey(image.path), wrong[number % len(wrong)]))
        for number, image in enumerate(others[:30])
    ]
    weights = patient_weights([image.patient for image in others])
    return {
        "threshold": round(threshold, 6),
        "refused": mean_interval(far.astype(np.float32), weights).as_list(),
        "turned_or_inverted_refused": round(
            float((gate.distance(np.concatenate(posed)) > threshold).mean()), 3
        ),
    }


def _features(classifier: Classifier, images: Sequence[SetImage]) -> Floats:
    """The classifier's mean features of these images, ``[N, C]``."""
    return np.concatenate([classifier.features(read_grey(image.path)) for image in images])


PAGE = "acceptance.html"


def write_page(folder: Path, figures: Mapping[str, Any]) -> Path:
    """Write ``acceptance.html``, the page to sign, from the ``figures`` that :func:`accept` measures; returns
    its path.
    """
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
) -> tuple[Card, Path]:
    """Fit the model ``card`` to a site's adults of ``split`` in ``data``, measure it, and add it to the
    models folder ``store`` as ``version``. Returns the new model card and the page that a person signs.
    ``out`` becomes a folder with ``acceptance.html`` and ``acceptance.json``. Raises DataMissing or
    CardError.
    """
    if (store / card.id / version).exists():
        raise CardError(f"{card.id}@{version} is in {store} already: name another one with --version")
    found = chest_set(data)
    images, notes = adults_of(found, split)
    if len({image.patient for image in images}) < 40:  # both halves together would say next to nothing
        raise DataMissing(
            f"{data}: fewer than 40 adult patients in split {split}; an acceptance test needs more, "
            f"hundreds if its intervals are to say something ({'; '.join(notes)})"
        )
    halves = [[image for image in images if first_half(image.patient) is first] for first in (True, False)]
    with tempfile.TemporaryDirectory() as scratch:
        classifier = Classifier(card, threads=threads)
        outputs = run(classifier, halves[0], Path(scratch), part_of(report, 0, 2, "first half"))
        fitted = scored(halves[0], outputs, card.labels, found.labels)
        analysed = fitted.where(fitted.analysed)
        refitted = {name: label for k, name in enumerate(fitted.names) if (label := refit(analysed, k))}
        if not refitted:
            raise DataMissing(
                f"no label of {card.name} is in the data with {ENOUGH} positives and {ENOUGH} negatives in "
                f"each half of the patients: its labels are {', '.join(label.name for label in card.labels)}"
            )
        shown = [name for name in _supported(fitted) if name in refitted]
        path = Path(scratch) / "model" / f"{card.id}.toml"
        write_card(path, card, version, refitted.values(), fitted, outputs, found.name, shown)
        gated, made = fit_and_add(path, classifier, halves[0], halves[1], report), load(path)
        # Measured is what would run: the new card with its gate.
        other = part_of(report, 1, 2, "second half")
        measured = run(Classifier(made, threads=threads), halves[1], Path(scratch), other)
        checked = scored(halves[1], measured, made.labels, found.labels)
        good = [name for name in _supported(checked) if name in shown]
        figures = _measured(card, made, found.name, fitted, checked, good)
        figures |= {"split": split, "notes": list(notes)}
        _write_figures(path, made, figures, good)
        accepted = add_to_store(path, store, f"accepted from {card.name}")
    figures |= {"gate": gated, "card_sha256": accepted.sha256, "date": datetime.now(UTC).date().isoformat()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "acceptance.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return accepted, write_page(out, figures | {"curves": curves(checked, ENOUGH)})


def first_half(patient: str) -> bool:
    """Whether a patient's images are used for fitting and not for measuring; decided by a hash, so always the
    same for one patient.
    """
    return hashlib.sha256(patient.encode()).digest()[0] % 2 == 0


_NIH = re.compile(r"\d{8}_\d{3}")
"""The name of an image of ChestX-ray14."""


def learned_from(card: Card, images: Iterable[SetImage]) -> dict[str, Any]:
    """What the network of ``card`` was trained on (``data``), and how many of ``images`` may have been in it
    by their names (``same``).

    Of the public sets only ChestX-ray14 has names by which its images can be recognised elsewhere.
    """
    data = card.details.get("training", {}).get("data", [])
    listed = "; ".join([data] if isinstance(data, str) else data)
    same = [image for image in images if _NIH.fullmatch(image.path.stem)]
    return {"data": listed, "same": len(same) if "ChestX-ray14" in listed else 0}


def _measured(
    card: Card, made: Card, data: str, fitted: Scored, checked: Scored, good: Sequence[str]
) -> dict[str, Any]:
    """Measure the model card ``made``, which replaces ``card``, on the set ``data``. ``fitted``: the images
    of the fit; ``checked``: the other ones; ``good``: the labels that the model finds better than by chance.
    """
    head = headline(checked, {})
    figures = {
        "model": {"id": made.id, "version": made.version, "from": card.name, "licence": made.licence},
        "weights": [{"file": part.path.name, "sha256": part.sha256} for part in made.weights],
        "data": data,
        "learned": learned_from(card, [*fitted.images, *checked.images]),
        "fitted": size(fitted),
        "measured": size(checked),
        "mean_auc": head["mean_auc"],
        "labels": [
            row | {"accepted": row["label"] in good, "threshold": label.threshold}
            for row, label in zip(head["labels"], checked.labels, strict=True)
        ],
        "not_in_the_data": [label.name for label in made.labels if label not in checked.labels],
        "thresholds": made.details.get("operating_points", {}),
        "operating_points": operating_points.measured_points(checked, made, good),
        "calibration": metrics.calibration(
            checked.truth, checked.chance, checked.names, checked.weights(), ENOUGH
        ),
    }
    return {key: without_nan(value) for key, value in figures.items()}


def _write_figures(path: Path, card: Card, figures: Mapping[str, Any], good: Sequence[str]) -> None:
    """Write ``figures`` into the model card at ``path``, and correct the statements that depend on them.
    ``card``: the original; ``good``: the labels (of the data) that become supported.
    """
    untrue = {*NOT_ACCEPTED, NO_GATE} if card.gate else set(NOT_ACCEPTED)
    with changed_card(path) as text:
        if card.intended_use == USE:  # nobody has written a better one
            text["intended_use"] = (
                "Research on images of the site that accepted it, once its acceptance page is signed. "
                "Not for diagnostic use."
            )
        text["limits"] = [
            *(line for line in card.limits if line not in untrue),
            "Figures are of {images} images of {patients} adults of one site.".format(**figures["measured"]),
        ]
        about = {key: figures[key] for key in ("fitted", "measured", "notes", "mean_auc")}
        text["metrics"] = known_only({"acceptance": about, "operating_points": figures["operating_points"]})
        for row in text["labels"]:
            row["supported"] = known_label(row["name"]) in good


def _supported(found: Scored) -> list[str]:
    """The labels that are found better than by chance: the lower end of the AUC's interval is above .5."""
    return [row["label"] for row in headline(found, {})["labels"] if row["supported"]]
