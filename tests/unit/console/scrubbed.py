"""A pipeline that cleans as far as a person helps: an image with "NAME" as its series waits for a box."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    DerivedImage,
    ImageKind,
    PipelineOptions,
    PipelineResult,
    Progress,
    QualityNote,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import MODEL, Obedient, configuration

PLACE = (8, 4, 120, 20)
"""Where the name stands."""
DEVICE = {"Manufacturer": "Maker [X]", "ManufacturerModelName": "Scan 7", "SoftwareVersions": "2.1"}


class Scrubbed(Obedient):
    """What a series is called says what becomes of it.

    NAME is withheld until a box covers it, WIDE widened, DOUBT in doubt.
    """

    card = replace(Obedient.card, name="scrubbed", options=PipelineOptions)

    def run(
        self, images: Sequence[SourceImage], _report: Progress, _options: Mapping[str, object]
    ) -> PipelineResult:
        [image] = images
        series = image.header.attributes.get("SeriesDescription", "")
        drawn = image.header.removed_by_hand
        covered = [
            all(np.array(box[:2]) <= PLACE[:2]) and all(np.array(box[2:]) >= PLACE[2:]) for box in drawn
        ]
        if series == "NAME" and not any(covered):
            raise CleaningFailed("text is still found", [PLACE])
        frames = np.stack([image.stored()])
        for left, top, right, bottom in (*drawn, PLACE):
            frames[:, top:bottom, left:right] = 0
        notes = {
            "WIDE": QualityNote("widened", "1 place needed a wider mask", image.uid, places=(PLACE,)),
            "DOUBT": QualityNote("in_doubt", "1 place may hold letters", image.uid, places=(PLACE,)),
        }
        cleaned = DerivedImage(
            ImageKind.CLEANED, image.uid, frames, "RGB", "cleaned in a test", verified=True
        )
        told = tuple(note for name, note in notes.items() if name == series)
        return PipelineResult((), (cleaned,), told, models=(MODEL,))


def scrubbing() -> dict[str, Any]:
    """The configuration of a node whose only rule cleans."""
    pipelines.PIPELINES["scrubbed"] = EntryPoint(
        "scrubbed", "tests.unit.console.scrubbed:Scrubbed", pipelines.GROUP
    )
    made = configuration()
    made["rules"][0] |= {"pipeline": "scrubbed", "options": {}}
    made["peers"][1]["results"] = ["cleaned"]
    return made


def image(series: str, number: int = 1, **attributes: str) -> Dataset:
    """One of a study, from the device."""
    return changed(ultrasound("one", number=number), **{"SeriesDescription": series, **DEVICE, **attributes})
