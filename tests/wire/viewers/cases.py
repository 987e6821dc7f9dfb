"""The results that a reader must see: a study each, with a drawn image and findings that are made up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline.contract import LOOK_FIRST, Decision, Origin, PipelineResult, QualityNote, Region
from ai_pipeline.summary import UNSURE
from dicom_node.base.lifecycle import ResultForm, ResultKind
from dicom_node.results.build import build, build_failure
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.source import SourceObject
from tests.golden_lab import head_result
from tests.result_images import (
    CALIBRATED,
    DX,
    EFFUSION,
    MASS,
    NODULE,
    UNCALIBRATED,
    US,
    context,
    finding,
    grey_image,
    source,
    speckle,
    without_text,
    write_image,
)
from tests.result_reading import content, read_result
from tests.unit.heads import drawn_head
from tests.unit.results.report_lab import burned, measured

STANDARD: Final = ResultForm()
FOR_OHIF: Final = ResultForm(viewer="ohif", outlines="sr")
KINDS: Final = (ResultKind.SR, ResultKind.GSPS, ResultKind.SC, ResultKind.SEG)
_Results = Sequence[BuiltObject]


@dataclass(frozen=True)
class Study:
    """One image and the results of one form, as they are in the PACS."""

    image: SourceObject
    results: dict[ResultKind, Dataset]
    files: Sequence[bytes]

    @property
    def uid(self) -> str:
        return str(self.results[ResultKind.SR].StudyInstanceUID)


def study(folder: Path, name: str, form: ResultForm) -> Study:
    """The study of the case ``name`` (:data:`CASES`), its results of that form."""
    image, results = CASES[name](folder, f"{name}-{form.viewer or 'standard'}", form)
    # Of one kind the first: a measurement report has the outlines in more than one segmentation.
    read = {one.kind: read_result(one) for one in reversed(results)}
    return Study(image, read, [image.path.read_bytes(), *(one.data for one in results if one.data)])


def lines_of(report: Dataset) -> list[np.ndarray]:
    """The coordinates (SCOORD) of a report, ``[points, 2]`` in pixels each."""
    items = [item for item in content(report) if item.get("ValueType") == "SCOORD"]
    return [np.reshape(np.asarray(item.GraphicData, float), (-1, 2)) for item in items]


def _film_with_a_call(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    film = _film(folder, name)
    uid = film.image.uid
    box = finding(EFFUSION, 0.729, uid, (50.5, 260.25, 150.0, 370.0), side="L", certainty="low certainty")
    absent = finding(NODULE, 0.05, uid, decision=Decision.ABSENT)
    return film, build(_ctx(form), [film], PipelineResult((box, absent), measurements=measured(uid)))


def _film_without_a_call(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    film = _film(folder, name)
    absent = [finding(code, 0.05, film.image.uid, decision=Decision.ABSENT) for code in (EFFUSION, NODULE)]
    return film, build(_ctx(form), [film], PipelineResult(tuple(absent)))


def _unusual_chest(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    film = _film(folder, name)
    uid = film.image.uid
    note = QualityNote(UNSURE, "A lung is white. Look at it first.", uid, on_faces=True, call=LOOK_FIRST)
    absent = finding(EFFUSION, 0.05, uid, decision=Decision.ABSENT)
    return film, build(_ctx(form), [film], PipelineResult((absent,), quality=(note,)))


def _refused_film(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    film = _film(folder, name)
    return film, build_failure(_ctx(form), [film], "this is no frontal film of the chest")


def _ultrasound_still(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    still = source(write_image(folder / f"{name}.dcm", US, speckle(240, 320), PatientID=f"P-{name}"))
    uid = still.image.uid
    text = burned(uid, (10.0, 20.0, 60.0, 30.0))
    note = QualityNote("burned_in", "removed: 1 text", uid)
    result = PipelineResult((text,), without_text(still, np.s_[:, 20:30, 10:60]), (note,), drawn_on="cleaned")
    return still, build(_ctx(form, "ultrasound"), [still], result)


def _fetal_head(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    pixels = np.repeat(drawn_head()[0][..., None], 3, axis=-1)
    about = {"PatientID": f"P-{name}", "BodyPartExamined": None, "Laterality": None}
    head = source(write_image(folder / f"{name}.dcm", US, pixels, **about))
    return head, build(_ctx(form, "fetal_head"), [head], head_result(head))


def _program(folder: Path, name: str, form: ResultForm) -> tuple[SourceObject, _Results]:
    """A box, and a polygon of four corners: OHIF takes an outline of five points for a rectangle."""
    film = _film(folder, name)
    uid = film.image.uid
    corners = ((200.0, 200.0), (300.0, 210.0), (280.0, 300.0), (210.0, 280.0))
    polygon = replace(finding(NODULE, 0.6, uid), regions=(Region("polygon", corners, Origin.DETECTOR),))
    box = finding(MASS, 0.7, uid, (100, 120, 180, 190))
    return film, build(_ctx(form), [film], PipelineResult((box, polygon)))


CASES: Final[dict[str, Callable[[Path, str, ResultForm], tuple[SourceObject, _Results]]]] = {
    "call": _film_with_a_call,
    "no-call": _film_without_a_call,
    "unusual-chest": _unusual_chest,
    "refused": _refused_film,
    "ultrasound": _ultrasound_still,
    "fetal-head": _fetal_head,
    "program": _program,
}
"""Makers of the image and the results of each case."""


def _film(folder: Path, name: str) -> SourceObject:
    return source(write_image(folder / f"{name}.dcm", DX, grey_image(512, 448), PatientID=f"P-{name}"))


def _ctx(form: ResultForm, pipeline: str = "chest_xray") -> ResultContext:
    model = CALIBRATED if pipeline == "chest_xray" else UNCALIBRATED
    return context(model, kinds=KINDS, form=form, pipeline=pipeline)
