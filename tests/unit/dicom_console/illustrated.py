"""A node whose studies have pictures, of films and of cleaned images."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    Code,
    DerivedImage,
    Finding,
    Heatmap,
    ImageKind,
    PipelineOptions,
    PipelineResult,
    Progress,
    QualityNote,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import MODEL, Obedient, configuration, work
from tests.unit.receive.objects import changed

FRAMES = 3
ORGANS = (Code("80891009", "SCT", "Heart"), Code("44029006", "SCT", "Left lung"))


class Illustrated(Obedient):
    """As told, with pictures and the outlines of two organs."""

    card = replace(Obedient.card, name="illustrated")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        found = super().run(images, report, options)
        return replace(
            found,
            findings=tuple(_shown(*pair) for pair in zip(images, found.findings, strict=True)),
            images=(*map(_cleaned, images), *map(_outlines, images)),
        )


def _shown(image: SourceImage, finding: Finding) -> Finding:
    values = np.linspace(0, 1, image.header.rows * image.header.columns, dtype=np.float32)
    heatmap = Heatmap(values.reshape(image.header.rows, image.header.columns), "test")
    return replace(finding, evidence=heatmap, frame=2 if image.header.frames > 1 else None)


def _cleaned(image: SourceImage) -> DerivedImage:
    """Without its uppermost rows."""
    frames = np.stack([image.stored(place) for place in range(image.header.frames)])
    frames[:, :20] = 0
    return DerivedImage(ImageKind.CLEANED, image.uid, frames, "RGB", "cleaned in a test", verified=True)


def _outlines(image: SourceImage) -> DerivedImage:
    masks = np.zeros((2, image.header.rows, image.header.columns), np.uint8)
    masks[0, 50:90, 60:120], masks[1, 20:100, 130:200] = 255, 255
    return DerivedImage(ImageKind.ORGANS, image.uid, masks, "MONOCHROME2", "", models=(MODEL,), organs=ORGANS)


def illustrated() -> dict[str, Any]:
    """The configuration of a node whose only rule makes all kinds of pictures."""
    pipelines.PIPELINES["illustrated"] = EntryPoint(
        "illustrated", "tests.unit.dicom_console.illustrated:Illustrated", pipelines.GROUP
    )
    made = configuration()
    made["rules"][0] |= {"pipeline": "illustrated", "options": {}}
    made["peers"][1]["results"] = ["sr", "gsps", "sc", "heatmap", "cleaned"]
    return made


@contextmanager
def analysed(folder: Path) -> Iterator[Inbox]:
    """A still and a cine of one study, analysed."""
    node = Inbox(folder, illustrated())
    node.opened("one")
    node.receive(ultrasound("one"), cine(ultrasound("one")), association="one")
    node.released("one")
    node.settle()
    work(node)
    yield node
    node.close()


def cine(still: Dataset) -> Dataset:
    """The still as three frames, a second image of its study."""
    shown = changed(
        still, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", SOPInstanceUID="1.2.3.9", InstanceNumber=2
    )
    shown.file_meta.MediaStorageSOPClassUID = shown.SOPClassUID
    shown.file_meta.MediaStorageSOPInstanceUID = shown.SOPInstanceUID
    shown.NumberOfFrames, shown.FrameTime, shown.FrameIncrementPointer = FRAMES, 40, 0x00181063
    shown.PixelData = np.tile(np.frombuffer(still.PixelData, np.uint8), FRAMES).tobytes()
    return shown


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
        "scrubbed", "tests.unit.dicom_console.illustrated:Scrubbed", pipelines.GROUP
    )
    made = configuration()
    made["rules"][0] |= {"pipeline": "scrubbed", "options": {}}
    made["peers"][1]["results"] = ["cleaned"]
    return made


def image(series: str, number: int = 1, **attributes: str) -> Dataset:
    """One of a study, from the device."""
    return changed(ultrasound("one", number=number), **{"SeriesDescription": series, **DEVICE, **attributes})
