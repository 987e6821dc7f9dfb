"""Golden dumps: one object of each kind of each pipeline as text that a person can review.

``python -m tests.golden_lab`` writes them again, after BUILDER_VERSION was raised. Images are drawn and
findings made up through the contract, so no model is needed and every byte follows from the builders.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ai_pipeline import contract, pipelines
from ai_pipeline.chest import ratio
from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    DerivedImage,
    Finding,
    Heatmap,
    ImageKind,
    Measurement,
    Origin,
    PipelineResult,
    QualityNote,
    Region,
)
from ai_pipeline.fetal_head import biometry
from dicom_node.base.lifecycle import ReaderVerdict, RejectionReason, ResultForm, ResultKind
from dicom_node.base.sitekey import SiteKey
from dicom_node.results.assessment import FindingAssessment, build_assessment
from dicom_node.results.build import build, build_failure
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import build_deidentified
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from dicom_node.results.rejection import build_rejection
from dicom_node.results.source import SourceObject
from dicom_node.results.uids import BUILDER_VERSION
from tests.result_images import (
    ANALYSED_AT,
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    INSTALLATION,
    NODULE,
    UNCALIBRATED,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    without_text,
    write_image,
)
from tests.result_reading import read_result
from tests.unit.heads import HEAD, drawn_head

FOLDER: Final = Path(__file__).parent / "golden"
CYST: Final = contract.Code("79883001", "SCT", "Cyst of ovary")
TEXT: Final = np.s_[:, 2:8, 2:30]
PELVIS: Final = contract.Code("816092008", "SCT", "Pelvis")
_IN_CONTENT_ITEM: Final = frozenset(
    {"RelationshipType", "ValueType", "TextValue", "UID", "PersonName"}
    | {"ConceptNameCodeSequence", "ConceptCodeSequence"}
)
_IN_ONE_LINE: Final = 160
"""Characters of a value; longer ones are shown by their length and hash."""


def first_line() -> str:
    """What each dump begins with."""
    return f"results of builder version {BUILDER_VERSION}"


def dumps() -> dict[str, str]:
    """Every dump by its file name."""
    with tempfile.TemporaryDirectory() as folder:
        made = dict(objects(Path(folder)))
        return {f"{name}.txt": f"{first_line()}\n{dump(read_result(one))}" for name, one in made.items()}


def dump(dataset: Dataset) -> str:
    """One attribute a line, items indented. A code is one line, and so is a content item with its value."""
    syntax = f"TransferSyntaxUID: {dataset.file_meta.TransferSyntaxUID.name}"
    return "\n".join([syntax, *_lines(dataset, "")]) + "\n"


def write() -> None:
    """Write the dumps of the present builders, and delete those of kinds that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = dumps()
    for stale in {path.name for path in FOLDER.glob("*.txt")} - wanted.keys():
        (FOLDER / stale).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def written(folder: Path) -> dict[str, Path]:
    """The file of each object, by its name."""
    files = {}
    for name, one in objects(folder):
        files[name] = folder / f"{name}.dcm"
        files[name].write_bytes(one.data or b"")
    return files


def objects(folder: Path) -> Iterator[tuple[str, BuiltObject]]:
    film = source(write_image(folder / "film.dcm", CR, grey_image(64, 56)))
    yield from _of("chest_xray", film, _chest(film), CALIBRATED)
    breast = source(write_image(folder / "breast.dcm", US, speckle(48, 64)))
    yield from _of("ultrasound", breast, _text_removed(breast), UNCALIBRATED)
    pelvis = source(
        write_image(folder / "pelvis.dcm", US, speckle(48, 64), BodyPartExamined="PELVIS", Laterality=None)
    )
    yield from _of("ovarian", pelvis, _ovary(pelvis), UNCALIBRATED)
    pixels = np.repeat(drawn_head()[0][..., None], 3, axis=-1)
    head = source(write_image(folder / "head.dcm", US, pixels, BodyPartExamined=None, Laterality=None))
    yield from _of("fetal_head", head, head_result(head), UNCALIBRATED)
    without_number = replace(_chest(film).findings[0], probability=None, threshold=None)
    program = PipelineResult((without_number,), models=(CALIBRATED,))
    [report] = build(_context("command", CALIBRATED, ResultKind.SR), [film], program)
    yield "command-sr", report
    yield from _for_ohif(film)
    [report] = build(_context("chest_xray", CALIBRATED, ResultKind.SR), [film], _without_call(film))
    yield "no_call-sr", report
    yield from (
        (f"failure-{one.kind}", one)
        for one in build_failure(_context("chest_xray"), [film], "the model file is missing")
    )
    hidden = _context("ultrasound", UNCALIBRATED)
    key = Pseudonyms(SiteKey(b"k" * 32), "registry")
    yield from (
        (f"deidentified-{one.kind}", one)
        for one in build_deidentified(hidden, [breast], _text_removed(breast), key).objects
    )
    yield from _of_a_person(folder, film)
    cine = source(write_image(folder / "cine.dcm", US_MULTI_FRAME, speckle(48, 64, frames=3)))
    [picture] = build(_context("ultrasound", UNCALIBRATED, ResultKind.CLEANED), [cine], _text_removed(cine))
    yield "ultrasound_cine-cleaned", picture


def _of(
    pipeline: str, image: SourceObject, result: PipelineResult, model: contract.ModelRef
) -> Iterator[tuple[str, BuiltObject]]:
    """The first of each kind; a second series of one kind (organs) by its own name."""
    seen: set[str] = set()
    for one in build(_context(pipeline, model), [image], result):
        name = f"{pipeline}-{one.kind}"
        yield (name if name not in seen else f"{name}-2"), one
        seen.add(name)


def _for_ohif(film: SourceObject) -> Iterator[tuple[str, BuiltObject]]:
    """The report with outlines, the segmentation with an invented geometry, and reports in words."""
    for outlines, kind in (("sr", ResultKind.SR), ("seg", ResultKind.SEG)):
        form = ResultForm(viewer="ohif", outlines=outlines, seg_geometry=True)
        wanted = replace(_context("chest_xray", CALIBRATED, kind), form=form)
        [made] = (one for one in build(wanted, [film], _chest(film)) if one.kind is kind)
        yield f"ohif-{kind}", made
    in_words = replace(_context("chest_xray", CALIBRATED, ResultKind.SR), form=ResultForm(viewer="ohif"))
    [report] = build(in_words, [film], _without_call(film))
    yield "ohif_no_call-sr", report
    [report] = build_failure(in_words, [film], "the model file is missing")
    yield "ohif_failure-sr", report


def _of_a_person(folder: Path, film: SourceObject) -> Iterator[tuple[str, BuiltObject]]:
    """An assessment of the report of the film, and the note that withdraws the report."""
    report = folder / "report.dcm"
    [built] = build(_context("chest_xray", CALIBRATED, ResultKind.SR), [film], _chest(film))
    report.write_bytes(built.data)
    said = FindingAssessment(
        CARDIOMEGALY.meaning,
        (CARDIOMEGALY.value, CARDIOMEGALY.scheme),
        "",
        CALIBRATED.id,
        "1",
        ReaderVerdict.REJECTED,
        "rotated film",
        ANALYSED_AT,
    )
    yield "assessment", build_assessment(report, [said], "ann", "AINODE", INSTALLATION, "")
    reason = RejectionReason.QUALITY
    yield (
        "rejection",
        build_rejection([report], reason, "wrong film", ANALYSED_AT, "AINODE", INSTALLATION),
    )


def _context(pipeline: str, model: contract.ModelRef = CALIBRATED, *kinds: ResultKind) -> ResultContext:
    made = pipelines.create(pipeline)
    return context(
        model,
        kinds=kinds or tuple(ResultKind),
        pipeline=pipeline,
        pipeline_version="1",
        region=made.card.region,
        options={"heatmaps": True},
    )


def _chest(film: SourceObject) -> PipelineResult:
    uid = film.image.uid
    lines = (((8.0, 30.0), (44.0, 30.0)), ((4.0, 40.0), (52.0, 40.0)))
    heat = np.linspace(0, 1, 64 * 56, dtype=np.float32).reshape(64, 56)
    outlines = np.zeros((2, 64, 56), np.uint8)
    outlines[0, 20:40, 10:30] = outlines[1, 10:50, 5:20] = 255
    organs = DerivedImage(
        ImageKind.ORGANS,
        uid,
        outlines,
        "MONOCHROME2",
        "outlined by AI",
        models=(CALIBRATED,),
        organs=(ratio.HEART, ratio.THORAX),
    )
    measured = Measurement(
        uid,
        "Cardiothoracic ratio",
        ratio.CARDIOTHORACIC_RATIO,
        0.75,
        ratio.RATIO_UNIT,
        lines,
        CALIBRATED,
        ratio.THORAX,
    )
    return PipelineResult(
        findings=(
            finding(
                CARDIOMEGALY,
                0.83,
                uid,
                (8, 20, 46, 44),
                evidence=Heatmap(heat, "class activation"),
                reliability="7 of 10 such calls are right",
            ),
            finding(NODULE, 0.05, uid, decision=Decision.ABSENT),
        ),
        images=(organs,),
        quality=(QualityNote("rotation", "the image was turned by 3 degrees", uid),),
        measurements=(measured,),
        models=(CALIBRATED,),
    )


def _without_call(film: SourceObject) -> PipelineResult:
    """Nothing suspected, and nothing at a place."""
    uid = film.image.uid
    return PipelineResult(
        findings=(
            finding(NODULE, 0.05, uid, decision=Decision.ABSENT),
            finding(CARDIOMEGALY, 0.4, uid, decision=Decision.INDETERMINATE),
        ),
        quality=(QualityNote("rotation", "the image was turned by 3 degrees", uid),),
        models=(CALIBRATED,),
    )


def _text_removed(image: SourceObject) -> PipelineResult:
    uid = image.image.uid
    place = Region("box", ((2.0, 2.0), (30.0, 8.0)), Origin.TEXT)
    text = Finding(
        "burned_in_text", BURNED_IN, None, None, Decision.PRESENT, uid, UNCALIBRATED, regions=(place,)
    )
    note = QualityNote("burned_in", "removed: 1 text", uid)
    return PipelineResult(
        (text,), without_text(image, TEXT), (note,), models=(UNCALIBRATED,), drawn_on="cleaned"
    )


def _ovary(image: SourceObject) -> PipelineResult:
    uid = image.image.uid
    cyst = finding(
        CYST, 0.7, uid, (20, 12, 50, 40), model=UNCALIBRATED, site=PELVIS, side="L", exclusive=True
    )
    return PipelineResult((cyst,), without_text(image, TEXT), models=(UNCALIBRATED,), drawn_on="cleaned")


def head_result(image: SourceObject) -> PipelineResult:
    uid, header = image.image.uid, image.image.header
    outline = np.where(HEAD.mask(header.rows, header.columns), np.uint8(255), np.uint8(0))[None]
    organ = DerivedImage(
        ImageKind.ORGANS,
        uid,
        outline,
        "MONOCHROME2",
        "outlined by AI",
        models=(UNCALIBRATED,),
        organs=(biometry.HEAD,),
    )
    return PipelineResult(
        images=(organ, *without_text(image, TEXT)),
        measurements=biometry.measurements(uid, header, HEAD, (0.2, 0.2), UNCALIBRATED, "1"),
        models=(UNCALIBRATED,),
        drawn_on="cleaned",
    )


def _lines(dataset: Dataset, indent: str, left_out: frozenset[str] = frozenset()) -> Iterator[str]:
    for element in dataset:
        name = element.keyword or str(element.tag)
        if name in left_out:
            continue
        if element.VR != "SQ":
            yield f"{indent}{name}: {_value(element)}"
        elif len(element.value) == 1 and _is_code(element.value[0]):
            yield f"{indent}{name}: {_code(element.value[0])}"
        elif name == "ContentSequence":
            for item in element.value:
                yield f"{indent}> {_content_item(item)}"
                yield from _lines(item, f"{indent}  ", _IN_CONTENT_ITEM)
        else:
            yield f"{indent}{name}: {len(element.value)}"
            for item in element.value:
                first, *others = _lines(item, "") if len(item) else ["empty"]
                yield f"{indent}  - {first}"
                yield from (f"{indent}    {line}" for line in others)


def _content_item(item: Dataset) -> str:
    """Relationship, type, name and value of a content item."""
    parts = [str(item.RelationshipType), str(item.ValueType)]
    if name := item.get("ConceptNameCodeSequence"):
        parts.append(_code(name[0]))
    if item.ValueType == "CODE":
        parts.append(f"= {_code(item.ConceptCodeSequence[0])}")
    text = item.get("TextValue") or item.get("UID") or item.get("PersonName")
    return " ".join([*parts, *([f"= {_in_one_line(text)}"] if text else [])])


def _is_code(item: Dataset) -> bool:
    allowed = {
        "CodeValue",
        "LongCodeValue",
        "CodingSchemeDesignator",
        "CodeMeaning",
        "EquivalentCodeSequence",
    }
    return "CodeMeaning" in item and {element.keyword for element in item} <= allowed


def _code(item: Dataset) -> str:
    value = item.get("CodeValue") or item.get("LongCodeValue")
    code = f'({value}, {item.CodingSchemeDesignator}, "{item.CodeMeaning}")'
    return code + "".join(f" or {_code(one)}" for one in item.get("EquivalentCodeSequence") or [])


def _value(element: DataElement) -> str:
    """Its text; of bytes and of long values length and hash."""
    value = element.value
    if isinstance(value, bytes):
        return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:16]}"
    text = "" if value is None else str(value)
    if len(text) <= _IN_ONE_LINE or element.VR in {"LT", "ST", "UT"}:
        return _in_one_line(text)
    return f"{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _in_one_line(text: object) -> str:
    return str(text).replace("\r\n", " | ")


if __name__ == "__main__":
    write()
