"""``ai-pipeline models accept``: fit a model to a site's images, and measure it on other patients of the
site.

The patients are divided in two by their identifiers. The first half fits calibration, thresholds and, if the
card has none, the domain gate; the second half measures the result. The page compares the original and the
fitted model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card, load
from ai_pipeline.models.store import folder
from ai_pipeline.models.store.template import NO_GATE, NOT_ACCEPTED, USE
from ai_training import reliability
from ai_training.acceptance import gate
from ai_training.acceptance.page import write_page
from ai_training.cards import changed_card
from ai_training.chest.card_figures import known_only
from ai_training.errors import DataMissing
from ai_training.evaluation import operating_points
from ai_training.evaluation.curves import curves
from ai_training.evaluation.figures import ENOUGH, headline
from ai_training.evaluation.recalibrate import refit, write_card
from ai_training.evaluation.scored import Scored, ScoredOutputs, run, scored
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_set
from ai_training.sets.images import ChestImage, ChestSet
from ai_training.text import without_nan

ACCEPTED_USE = (
    "Research on images of the site that accepted it, once its acceptance page is signed. "
    "Not for diagnostic use."
)
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
        gated = gate.fit_and_add(path, classifier, self.images, fitting, self.report)
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
            "calibration": reliability.calibration(
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
            text["intended_use"] = ACCEPTED_USE
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
        origin = folder.ModelOrigin(f"accepted from {card.name}", card.licence)
        return folder.add(inside, path, first, store, origin)
