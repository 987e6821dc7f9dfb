"""A report on one image, and how its items are read."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline.chest import ratio
from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    Finding,
    Measurement,
    PipelineResult,
)
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.build import build
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.source import SourceObject
from tests.result_images import (
    CALIBRATED,
    CARDIOMEGALY,
    NODULE,
    UNCALIBRATED,
    context,
    finding,
    without_text,
)
from tests.result_reading import named, read_result

LENGTH = Code("410668003", "SCT", "Length")
CENTIMETRES = Code("cm", "UCUM", "cm")
BOX = (50.5, 60.25, 150.0, 170.0)


TEXT = (10.0, 20.0, 60.0, 30.0)


Faces = dict[ResultKind, Dataset]
"""What is built of one image, by kind."""


def built(ctx: ResultContext, one: SourceObject, result: PipelineResult) -> Faces:
    return {item.kind: read_result(item) for item in build(ctx, [one], result)}


def report(one: SourceObject, *findings: Finding, **given: Any) -> Dataset:
    return built(ONLY_REPORT, one, PipelineResult(findings=findings, **given))[ResultKind.SR]


def faces_of(one: SourceObject, *findings: Finding, **given: Any) -> Faces:
    """Report, presentation state and picture."""
    return built(CTX, one, PipelineResult(findings=findings, **given))


def value(item: Dataset, name: str) -> str:
    (found,) = named(item, name)
    return str(found.ConceptCodeSequence[0].CodeValue)


def remarks(read: Dataset) -> list[str]:
    return [str(item.TextValue) for item in named(read, "121106")]


def conclusion(read: Dataset) -> str:
    (found,) = named(read, "121077")
    return str(found.TextValue)


def burned(uid: str, *boxes: tuple[float, float, float, float]) -> Finding:
    if not boxes:
        return finding(BURNED_IN, None, uid, label="burned-in text", decision=Decision.ABSENT)
    return finding(BURNED_IN, 0.9, uid, *boxes, label="Burned-in text", model=UNCALIBRATED)


def lines_of(state: Dataset) -> list[str]:
    """The lines in the margin of a presentation state."""
    return str(state.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue).split("\r\n")


ONLY_REPORT = context(kinds=[ResultKind.SR])
CTX = context(CALIBRATED, kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC])


HEART = ((30.0, 60.0), (50.0, 60.0), (50.0, 70.0), (80.0, 70.0))


THORAX = ((10.0, 80.0), (50.0, 80.0), (50.0, 76.0), (102.0, 76.0))


def measured(uid: str) -> tuple[Measurement, ...]:
    mm = ratio.MILLIMETRES
    return (
        Measurement(
            uid,
            "Cardiothoracic ratio",
            ratio.CARDIOTHORACIC_RATIO,
            0.543,
            ratio.RATIO_UNIT,
            (HEART, THORAX),
            CALIBRATED,
            ratio.THORAX,
        ),
        Measurement(uid, "Heart width", ratio.WIDTH, 150.0, mm, (HEART,), CALIBRATED, ratio.HEART),
        Measurement(uid, "Thoracic width", ratio.WIDTH, 276.0, mm, (THORAX,), CALIBRATED, ratio.THORAX),
    )


def length(one: SourceObject, value: float = 2.31, frame: int | None = None) -> Measurement:
    line = ((10.5, 20.25), (90.0, 60.75))
    return Measurement(one.image.uid, "Length", LENGTH, value, CENTIMETRES, (line,), frame=frame)


def made_from(ctx: ResultContext, *sources: SourceObject) -> list[BuiltObject]:
    """Two findings and a cleaned image of each source."""
    places = ((CARDIOMEGALY, 0.83, (50, 60, 150, 170)), (NODULE, 0.6, (10, 10, 40, 40)))
    found = [finding(code, p, one.image.uid, box) for one in sources for code, p, box in places]
    images = [without_text(one, np.s_[:, :5, :5])[0] for one in sources]
    made = build(ctx, sources, PipelineResult(findings=tuple(found), images=tuple(images)))
    assert made
    return made
