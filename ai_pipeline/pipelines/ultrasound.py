"""Ultrasound: find burned-in annotation, hand back the picture without it, say where it was.

The baseline: a ready text detector, image processing and classical inpainting. What a text says is never
kept, logged or reported: it may be a name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ai_pipeline import registry
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.marks import Mark, MarkKind
from ai_pipeline.burnin.text import DOUBTFUL_TEXT, shared_reader
from ai_pipeline.contract import (
    Accept,
    CleaningFailed,
    Code,
    Decision,
    DerivedImage,
    Finding,
    ImageHeader,
    ModelRef,
    Origin,
    PipelineResult,
    Progress,
    QualityNote,
    Refuse,
    Region,
    SourceImage,
)  # fmt: skip

MODEL = "ultrasound-burnin-baseline"
MODALITIES = frozenset({"US", "IVUS"})
MOST_MARKS = 24
"""Marks that are reported as findings per image; the rest is counted in a note."""

# No concept of DICOM PS3.16 or SNOMED CT says "annotation burned into the pixels" (looked through DCM and SCT
# of pydicom 3.0: (113101, DCM, Clean Pixel Data Option) names a de-identification profile, not a finding).
BURNED_IN = Code("BURNED_IN_MARK", "99AINODE", "Burned-in annotation")
LABELS = {
    MarkKind.TEXT: "Burned-in text",
    MarkKind.CALIPER: "Burned-in caliper",
    MarkKind.MARKER: "Burned-in marker",
    MarkKind.BANNER: "Burned-in banner",
}


class Ultrasound:
    """The pipeline ``ultrasound`` (:class:`ai_pipeline.contract.Pipeline`).

    Options: ``clean`` (default true) hands back the cleaned picture and its mask, else only the findings;
    ``any_modality`` (default false) takes pictures of other modalities too (text only, no drawn marks).
    """

    name = "ultrasound"
    version = "1.0"
    options: Mapping[str, type] = MappingProxyType({"clean": bool, "any_modality": bool})
    per_image = True

    def __init__(self, *, models_dir: Path | None = None) -> None:
        self._models_dir = models_dir

    def warm_up(self) -> None:
        """Check and load the networks. Raises :class:`ai_pipeline.registry.CardError` when they are wrong."""
        registry.verify(self._card())
        shared_reader().warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        return (self._card().ref,)

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        """Choose by the header alone; nothing is decoded."""
        anything = bool(options.get("any_modality", False))
        reasons = {image.uid: _refused(image.header, anything=anything) for image in images}
        taken = tuple(uid for uid, reason in reasons.items() if reason is None)
        if taken:
            return Accept(taken)
        return Refuse(
            "; ".join(sorted({reason for reason in reasons.values() if reason})) or "there is no image"
        )

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Clean every image. One that cannot be cleaned is left out, with a note.

        Raises :class:`CleaningFailed` when none can, and ``ai_pipeline.pixels.PixelError``.
        """
        began = time.perf_counter()
        findings: list[Finding] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        seconds: dict[str, float] = {}
        failures: list[CleaningFailed] = []
        for number, image in enumerate(images):
            try:
                result = clean(image, _share(report, number, len(images)), models=self.models())
            except CleaningFailed as failure:
                failures.append(failure)
                notes.append(QualityNote("cleaning_failed", f"no cleaned picture: {failure}", image.uid))
                continue
            findings += self._findings(image, result.marks)
            notes += result.notes
            if bool(options.get("clean", True)):
                pictures += [result.image, result.mask]
            _add(seconds, result)
        if failures and len(failures) == len(images):
            raise failures[0]
        seconds["total"] = time.perf_counter() - began
        return PipelineResult(tuple(findings), tuple(pictures), tuple(notes), seconds, self.models())

    def _findings(self, image: SourceImage, marks: tuple[Mark, ...]) -> list[Finding]:
        model = self._card().ref
        if not marks:
            return [Finding("Burned-in annotation", BURNED_IN, None, None, Decision.ABSENT, image.uid, model)]
        shown = sorted(marks, key=_area, reverse=True)[:MOST_MARKS]
        return [
            Finding(
                label=LABELS[mark.kind],
                code=BURNED_IN,
                probability=mark.confidence,
                threshold=DOUBTFUL_TEXT if mark.kind is MarkKind.TEXT else None,
                decision=Decision.PRESENT,
                source_uid=image.uid,
                model=model,
                frame=mark.frame if image.header.frames > 1 else None,
                regions=(_region(mark),),
            )
            for mark in shown
        ]

    def _card(self) -> registry.Card:
        return registry.find(MODEL, self._models_dir)


def _refused(header: ImageHeader, *, anything: bool) -> str | None:
    if not anything and header.modality not in MODALITIES:
        return f"modality {header.modality or 'unknown'} is not ultrasound"
    return None


def _region(mark: Mark) -> Region:
    left, top, right, bottom = (float(edge) for edge in mark.box)
    origin = Origin.TEXT if mark.kind in {MarkKind.TEXT, MarkKind.BANNER} else Origin.MARK
    return Region("box", ((left, top), (right, bottom)), origin)


def _area(mark: Mark) -> int:
    left, top, right, bottom = mark.box
    return (right - left) * (bottom - top)


def _share(report: Progress, number: int, count: int) -> Progress:
    """Return a report of one image's progress as its part of all."""

    def part(share: float, what: str) -> None:
        report((number + share) / count, what)

    return part


def _add(seconds: dict[str, float], result: CleaningResult) -> None:
    for stage, value in result.timings.items():
        if stage != "total":
            seconds[stage] = seconds.get(stage, 0.0) + value
