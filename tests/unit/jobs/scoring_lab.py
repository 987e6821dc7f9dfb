"""A pipeline whose card has labels and a reference: the patient's age is the score, so tests choose it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ai_pipeline import pipelines
from ai_pipeline.contract import (  # fmt: skip
    Accept,
    ModelRef,
    PipelineResult,
    Progress,
    QualityNote,
    Refusal,
    Refuse,
    RefusedBy,
    Scores,
    SourceImage,
)
from ai_pipeline.models.registry import cards, load
from ai_pipeline.summary import UNSURE
from dicom_node.base.lifecycle import Counted
from dicom_node.base.store.tables import ModelCount
from dicom_node.jobs.drift import OUTCOME_BIN
from tests.unit.jobs.worker_lab import Obedient, configuration

LABEL = """
[[labels]]
name = "{name}"
code = {{ value = "1", scheme = "99TEST", meaning = "{name}", source = "test" }}
supported = {supported}
threshold = 0.5
absent_below = 0.5
"""
REFERENCE = """
[reference]
set = "validation"
images = 1000
refused = 0.05
[reference.deciles]
Shown = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
Hidden = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
"""
CARD = """
id = "scoring"
version = "1"
task = "test"
architecture = "none"
licence = "none"
intended_use = "tests"
limits = []
"""


def write_card(folder: Path, reference: str = REFERENCE) -> ModelRef:
    """A card with one label that is reported and one that is not; returns its model as counts name it."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = LABEL.format(name="Shown", supported="true") + LABEL.format(name="Hidden", supported="false")
    path = folder / "scoring.toml"
    path.write_text(CARD + labels + reference, encoding="utf-8")
    return load(path).ref


def counted(
    model: ModelRef, days_ago: int, sender: str, outcomes: Mapping[Counted, int], **labels: Sequence[int]
) -> list[ModelCount]:
    """Counts of a day (UTC): images of a sender with these outcomes, and with scores in these bins."""
    rows = {(outcome.value, OUTCOME_BIN): images for outcome, images in outcomes.items()}
    rows |= {(label, n): images for label, bins in labels.items() for n, images in enumerate(bins)}
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    card = {"model": model.id, "version": model.version, "card_sha256": model.card_sha256}
    return [
        ModelCount(day=day, calling_ae=sender, what=what, bin=number, images=images, **card)
        for (what, number), images in rows.items()
    ]


class Scoring(Obedient):
    """Refuses legs by their header and "noise" by the pixels, and is unsure of "haze"; counts go by the card
    in ``models_dir``.
    """

    card = replace(Obedient.card, name="scoring")

    def models(self) -> tuple[ModelRef, ...]:
        [card] = [card for card in cards(self._models_dir) if card.id == "scoring"]
        return (card.ref,)

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        gates = {"LEG": RefusedBy.HEADER, "NOISE": RefusedBy.PIXELS}
        [model] = self.models()
        refused = tuple(
            Refusal(image.uid, model, gates[image.header.body_part])
            for image in images
            if image.header.body_part in gates
        )
        passed_over = {refusal.source_uid for refusal in refused}
        taken = tuple(image.uid for image in images if image.uid not in passed_over)
        return Accept(taken, refused) if taken else Refuse("not mine", refused)

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        result = super().run(images, report, options)
        hazy = [image.uid for image in images if image.header.body_part == "HAZE"]
        notes = tuple(QualityNote(UNSURE, "A hazy image.", uid, on_faces=True) for uid in hazy)
        return replace(result, quality=notes, scores=tuple(self._scores(image) for image in images))

    def _scores(self, image: SourceImage) -> Scores:
        value = (image.header.age_years or 0.0) / 100
        turned = image.header.body_part == "TURNED"
        return Scores(image.uid, self.models()[0], {"Shown": value, "Hidden": 1 - value}, reoriented=turned)


def scoring(models_dir: Path, do: str = "find", log: Path | None = None, **workers: Any) -> dict[str, Any]:
    """One rule with the pipeline, whose card lies in ``models_dir``."""
    pipelines.PIPELINES["scoring"] = EntryPoint(
        "scoring", "tests.unit.jobs.scoring_lab:Scoring", pipelines.GROUP
    )
    made = configuration(do, log, models_dir=models_dir, **workers)
    made["rules"][0]["pipeline"] = "scoring"
    return made
