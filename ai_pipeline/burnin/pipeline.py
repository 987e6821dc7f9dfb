"""Ultrasound: find burned-in annotation, return the picture without it and where the annotation was.

The text itself leaves this package only as readings, which are for the node's access-controlled record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, CleaningPolicy
from ai_pipeline.burnin.cleaning import ULTRASOUND, CleaningResult, clean
from ai_pipeline.burnin.decide.measurements import measurements_of
from ai_pipeline.burnin.devices.rules import device_rules
from ai_pipeline.burnin.find.text import DOUBTFUL_TEXT
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.contract import (  # fmt: skip
    BURNED_IN,
    Accept,
    BurnedMeasurement,
    Decision,
    DerivedImage,
    Finding,
    ImageHeader,
    ModelRef,
    Origin,
    PipelineResult,
    Progress,
    QualityNote,
    Reading,
    Refuse,
    Region,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed

MOST_FINDINGS = 24
"""Annotations that are reported as findings per image, the largest first; a note counts all of them."""


class Ultrasound:
    """The pipeline ``ultrasound`` (:class:`ai_pipeline.contract.Pipeline`).

    Options: ``policy``, ``clinical`` (default: text that may identify the patient is removed) or ``research``
    (all annotation is removed); ``clean`` (default true) returns the cleaned picture and its mask, else only
    the findings; ``measurements`` (default false) returns measurements that are written in the picture, for
    review; ``any_modality`` (default false) accepts other modalities too (text only, no graphics).
    """

    name = "ultrasound"
    version = "2.0"
    options: Mapping[str, type] = MappingProxyType(
        {"policy": str, "clean": bool, "measurements": bool, "any_modality": bool}
    )
    modalities = ULTRASOUND
    """Modalities and View Positions of the images that are accepted; no view position: any."""
    views = frozenset[str]()
    per_image = True

    def __init__(self, *, models_dir: Path | None = None, device_rules: Path | None = None) -> None:
        self._models_dir = models_dir
        self._device_rules = device_rules

    def warm_up(self) -> None:
        """Check and load networks and device rules.

        Raises CardError, DeviceRuleError.
        """
        device_rules(self._device_rules)
        self._tools().reader.warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        return self._tools().models

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """Refuse unknown policies: a misspelt one must not become the one that removes less."""
        if options.get("policy", CleaningPolicy.CLINICAL) in set(CleaningPolicy):
            return {}
        return {"policy": f"must be {' or '.join(CleaningPolicy)}"}

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

        Raises :class:`CleaningFailed` when none can be cleaned, and PixelError when one does not decode.
        """
        began = time.perf_counter()
        policy = CleaningPolicy(str(options.get("policy", CleaningPolicy.CLINICAL)))
        tools = self._tools()
        findings: list[Finding] = []
        readings: list[Reading] = []
        measurements: list[BurnedMeasurement] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        seconds: dict[str, float] = {}
        failures: list[CleaningFailed] = []
        for number, image in enumerate(images):
            try:
                result = clean(image, _share(report, number, len(images)), policy=policy, tools=tools)
            except CleaningFailed as failure:
                failures.append(failure)
                notes.append(QualityNote("cleaning_failed", f"no cleaned picture: {failure}", image.uid))
                continue
            findings += self._findings(image, result.marks)
            notes += result.notes
            readings += result.readings
            if bool(options.get("measurements", False)):
                measurements += measurements_of(result.readings, image.header)
            if bool(options.get("clean", True)):
                pictures += [result.image, result.mask]
            _add(seconds, result)
        if failures and len(failures) == len(images):
            raise failures[0]
        seconds["total"] = time.perf_counter() - began
        return PipelineResult(
            tuple(findings),
            tuple(pictures),
            tuple(notes),
            seconds,
            tools.models,
            readings=tuple(readings),
            measurements=tuple(measurements),
        )

    def _findings(self, image: SourceImage, marks: tuple[Annotation, ...]) -> list[Finding]:
        tools = self._tools()
        removed = [mark for mark in marks if mark.removed]
        if not removed:
            # Annotation that the policy leaves in place was found: only what it removes is absent.
            absent = "burned-in text to remove" if marks else "burned-in text"
            return [Finding(absent, BURNED_IN, None, None, Decision.ABSENT, image.uid, tools.text_model)]
        shown = sorted(removed, key=_area, reverse=True)[:MOST_FINDINGS]
        return [_finding(image, mark, tools) for mark in shown]

    def _tools(self) -> Tools:
        return shared_tools(self._models_dir, self._device_rules)


def _finding(image: SourceImage, mark: Annotation, tools: Tools) -> Finding:
    written = mark.kind in {AnnotationKind.TEXT, AnnotationKind.BANNER}
    return Finding(
        label=f"Burned-in {mark.kind.value}",
        code=BURNED_IN,
        probability=mark.confidence,
        threshold=DOUBTFUL_TEXT if written else tools.threshold,
        decision=Decision.PRESENT,
        source_uid=image.uid,
        model=tools.text_model if written else tools.mark_model,
        frame=mark.frame if image.header.frames > 1 else None,
        regions=(_region(mark),),
    )


def _refused(header: ImageHeader, *, anything: bool) -> str | None:
    if not anything and header.modality not in ULTRASOUND:
        return f"modality {header.modality or 'unknown'} is not ultrasound"
    return None


def _region(mark: Annotation) -> Region:
    left, top, right, bottom = (float(edge) for edge in mark.box)
    origin = Origin.TEXT if mark.kind in {AnnotationKind.TEXT, AnnotationKind.BANNER} else Origin.MARK
    return Region("box", ((left, top), (right, bottom)), origin)


def _area(mark: Annotation) -> int:
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
