"""What the report says first, what it claims of sides and procedures, and what it says of burned-in text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai_pipeline.burnin.decide.measurements import LENGTH, UNITS
from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    Measurement,
    PipelineResult,
    QualityNote,
)
from dicom_node import results
from dicom_node.model.kinds import ResultKind
from dicom_node.results import ResultContext, SourceObject
from dicom_node.results.common.concepts import SCHEME_UID
from tests.result_images import (
    CARDIOMEGALY,
    CR,
    DX,
    EFFUSION,
    LUNG,
    NODULE,
    UNCALIBRATED,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)
from tests.result_reading import content, named, of_type, read_result

BOX = (50.5, 60.25, 150.0, 170.0)
TEXT = (10.0, 20.0, 60.0, 30.0)


def film(folder: Path, **attributes: Any) -> SourceObject:
    return source(write_image(folder / "cr.dcm", CR, grey_image(), **attributes))


def still(folder: Path, name: str = "us", **attributes: Any) -> SourceObject:
    return source(write_image(folder / f"{name}.dcm", US, speckle(), **attributes))


def built(ctx: ResultContext, one: SourceObject, result: PipelineResult) -> dict[ResultKind, Dataset]:
    made = results.build(ctx, [one], result)
    return {item.kind: read_result(item) for item in made}


def report(one: SourceObject, *findings: Finding, **given: Any) -> Dataset:
    kinds = context(kinds=[ResultKind.SR])
    return built(kinds, one, PipelineResult(findings=findings, **given))[ResultKind.SR]


def value(item: Dataset, name: str) -> str:
    (found,) = named(item, name)
    return str(found.ConceptCodeSequence[0].CodeValue)


def conclusion(read: Dataset) -> str:
    (found,) = named(read, "121077")
    return str(found.TextValue)


def burned(uid: str, *boxes: tuple[float, float, float, float]) -> Finding:
    if not boxes:
        return finding(BURNED_IN, None, uid, label="burned-in text", decision=Decision.ABSENT)
    return finding(BURNED_IN, 0.9, uid, *boxes, label="Burned-in text", model=UNCALIBRATED)


def test_the_conclusion_comes_first_and_names_all_findings_and_no_number(tmp_path: Path) -> None:
    one = film(tmp_path)
    uid = one.image.uid
    found = [
        finding(CARDIOMEGALY, 0.83, uid, BOX),
        finding(NODULE, 0.4, uid, decision=Decision.INDETERMINATE),
        finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT),
    ]
    read = report(one, *found)
    contained = [item for item in read.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert contained[0].ConceptNameCodeSequence[0].CodeMeaning == "Conclusion"
    assert conclusion(read) == (
        "AI: Suspected: cardiomegaly. Cannot exclude: nodule of lung. Not found: pleural effusion."
    )
    assert "not for diagnostic use, model chest-lite0 version 1" in contained[1].TextValue
    numbers = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in content(read)
        if item.get("ValueType") == "NUM" and "99AINODE" in str(item)
    ]
    assert sorted(numbers) == [7.0, 40.0, 41.0, 41.0, 83.0], "each once, with its cut-off unless absent"


def test_the_short_result_and_what_must_be_read_beside_it_stand_in_the_conclusion_once(
    tmp_path: Path,
) -> None:
    one = film(tmp_path)
    notes = (
        QualityNote("unsure", "This AI is unsure about the image as a whole.", one.image.uid, on_faces=True),
        QualityNote("operating point", "specific: few false alarms."),
        QualityNote("not assessed", "Pneumonia, and bones.", names=("pneumonia",)),
    )
    found = finding(CARDIOMEGALY, 0.83, one.image.uid, BOX, certainty="low certainty")
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT)
    faces = built(context(), one, PipelineResult(findings=(found, none), quality=notes))
    lines = [
        "AI: Suspected, low certainty: cardiomegaly. Cannot exclude: pleural effusion.",
        "Not assessed: pneumonia.",
        "This AI is unsure about the image as a whole.",
    ]
    assert conclusion(faces[ResultKind.SR]) == "\r\n".join(lines)
    remarks = [str(item.TextValue) for item in named(faces[ResultKind.SR], "121106")]
    assert "operating point: specific: few false alarms." in remarks
    assert "not assessed: Pneumonia, and bones." in remarks
    assert not any("unsure about" in remark for remark in remarks)
    on_image = str(faces[ResultKind.GSPS])
    assert all(line in on_image for line in lines) and "few false alarms" not in on_image


def test_no_object_for_a_reader_writes_a_class_as_files_do(tmp_path: Path) -> None:
    one = film(tmp_path)
    code = Code("SEROUS", "99AINODE", "Serous cystadenoma")
    serous = finding(code, 0.834, one.image.uid, BOX, label="Serous_Cystadenoma", reliability="half.")
    faces = built(context(), one, PipelineResult(findings=(serous,)))
    for kind in (ResultKind.SR, ResultKind.GSPS):
        assert "erous cystadenoma" in str(faces[kind])
        assert "Serous_" not in str(faces[kind])


@pytest.mark.parametrize(("unsure", "word"), [(True, "Cannot exclude"), (False, "Not found")])
def test_nothing_is_called_not_found_where_the_model_is_unsure(
    tmp_path: Path, unsure: bool, word: str
) -> None:
    one = film(tmp_path)
    notes = (QualityNote("unsure", "a lung is white.", one.image.uid, on_faces=True),) * unsure
    rate = "of 100 such films, about 2 have it all the same"
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT, reliability=rate)
    faces = built(context(), one, PipelineResult(findings=(none,), quality=notes))
    assert f"{word}: pleural effusion." in conclusion(faces[ResultKind.SR])
    assert value(faces[ResultKind.SR], "RESULT") == ("NONESUSPECTED" if unsure else "NONEFOUND")
    assert ("373068000" in str(faces[ResultKind.SR])) is unsure  # undetermined
    assert ("272519000" in str(faces[ResultKind.SR])) is not unsure  # absent
    remarks = "".join(str(item.TextValue) for item in named(faces[ResultKind.SR], "121106"))
    assert ("of 100 such films" in remarks) is not unsure
    assert f"{word}: pleural effusion." in str(faces[ResultKind.GSPS])


@pytest.mark.parametrize("looked_for", [True, False])
def test_a_number_does_not_hide_what_was_looked_for_in_vain(tmp_path: Path, looked_for: bool) -> None:
    one = film(tmp_path)
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT)
    width = Measurement(
        one.image.uid,
        "Heart width",
        Code("103355008", "SCT", "Width"),
        140.0,
        Code("mm", "UCUM", "mm"),
        (((10.0, 20.0), (40.0, 20.0)),),
        none.model,
    )
    found = PipelineResult(findings=(none,) * looked_for, measurements=(width,))
    said = str(built(context(), one, found)[ResultKind.GSPS])
    assert "Heart width" in said
    assert ("Not found: pleural effusion" in said) is looked_for
    assert "nothing stated" not in said


def test_how_many_such_calls_are_right_is_one_remark_on_the_image(tmp_path: Path) -> None:
    one = film(tmp_path)
    found = [
        finding(CARDIOMEGALY, 0.83, one.image.uid, BOX, reliability="of 10 such calls, about 3 are right"),
        finding(EFFUSION, 0.01, one.image.uid, decision=Decision.ABSENT, reliability="of 100 such films, 2"),
        finding(NODULE, 0.3, one.image.uid, decision=Decision.INDETERMINATE),
    ]
    remarks = [str(item.TextValue) for item in named(report(one, *found), "121106")]
    assert (
        "reliability: cardiomegaly suspected: of 10 such calls, about 3 are right. "
        "pleural effusion not found: of 100 such films, 2."
    ) in remarks


def test_nothing_found_is_said_only_of_what_was_looked_for(tmp_path: Path) -> None:
    one = film(tmp_path)
    uid, kinds = one.image.uid, [ResultKind.SR, ResultKind.GSPS, ResultKind.SC]
    absent = finding(CARDIOMEGALY, 0.01, uid, decision=Decision.ABSENT)
    said = {
        "AI: Not found: cardiomegaly.": ("NONEFOUND", (absent,)),
        "AI: no burned-in text found; this AI does not assess the image.": ("NOTASSESSED", (burned(uid),)),
        "AI: burned-in annotation found; this AI does not assess the image.": (
            "NOTASSESSED",
            (burned(uid, TEXT),),
        ),
        "AI: nothing stated about this image.": ("NOTASSESSED", ()),
    }
    for words, (answer, found) in said.items():
        assert conclusion(
            built(context(kinds=kinds), one, PipelineResult(findings=found))[ResultKind.SR]
        ).startswith(words)
        faces = built(context(kinds=kinds), one, PipelineResult(findings=found))
        assert value(faces[ResultKind.SR], "RESULT") == answer
        assert words in str(faces[ResultKind.GSPS])
        assert all("no finding" not in str(face).lower() for face in faces.values())


def test_a_film_of_both_lungs_makes_no_finding_bilateral(tmp_path: Path) -> None:
    one = film(tmp_path, ImageLaterality="B")
    read = report(one, finding(CARDIOMEGALY, 0.8, one.image.uid, BOX, site=LUNG))
    assert named(read, "363698007")
    assert not named(read, "272741003")


@pytest.mark.parametrize("given", [{"Laterality": "L"}, {"ImageLaterality": "L"}])
def test_a_laterality_of_a_part_without_sides_is_no_side(tmp_path: Path, given: dict[str, str]) -> None:
    one = film(tmp_path, **given)
    assert not named(report(one, finding(CARDIOMEGALY, 0.8, one.image.uid, BOX)), "272741003")


def test_a_side_comes_from_the_region_or_from_an_image_of_one_side(tmp_path: Path) -> None:
    one, breast = film(tmp_path), still(tmp_path)
    boxed = finding(NODULE, 0.8, one.image.uid, BOX, site=LUNG, side="R")
    assert value(report(one, boxed), "272741003") == "24028007"
    assert value(report(breast, finding(NODULE, 0.8, breast.image.uid, TEXT)), "272741003") == "7771000"


def test_the_report_of_a_cleaning_is_two_lines_with_its_measurements_behind_them(tmp_path: Path) -> None:
    one = still(tmp_path)
    uid = one.image.uid
    notes = (
        QualityNote("burned_in", "removed: 1 text", uid),
        QualityNote("kept", "left in place: 2 caliper", uid),
        QualityNote("filled_share", "0.4% of the pixels were filled", uid),
    )
    length = Measurement(uid, "Length", LENGTH, 2.3, UNITS["cm"], (((10.0, 10.0), (50.0, 10.0)),))
    read = report(one, burned(uid, TEXT), quality=notes, measurements=(length,))
    assert conclusion(read) == (
        "AI: burned-in annotation found; this AI does not assess the image.\r\n"
        "Burned-in annotation: removed: 1 text; left in place: 2 caliper."
    )
    (group,) = named(read, "125007")
    assert value(group, "121071") == "BURNEDINLENGTH"
    assert "removed: 1 text" not in "".join(str(item.TextValue) for item in named(read, "121106"))


def test_images_of_which_the_same_is_said_are_named_together(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "2.25.77", "SeriesInstanceUID": "2.25.78"}
    several = [still(tmp_path, f"us{number}", InstanceNumber=number, **study) for number in (1, 2, 3)]
    said = ("no burned-in annotation found", "removed: 1 text", "removed: 1 text")
    notes = [QualityNote("burned_in", text, one.image.uid) for one, text in zip(several, said, strict=True)]
    found = tuple(burned(one.image.uid, TEXT) for one in several)
    result = PipelineResult(findings=found, quality=tuple(notes))
    [made] = results.build(context(kinds=[ResultKind.SR]), several, result)
    assert conclusion(read_result(made)) == (
        "images 1, 2, 3: AI: burned-in annotation found; this AI does not assess the image.\r\n"
        "Burned-in annotation: image 1: no burned-in annotation found. images 2, 3: removed: 1 text."
    )


def test_boxes_around_texts_are_drawn_only_where_they_are_asked_for(tmp_path: Path) -> None:
    one = still(tmp_path)
    uid = one.image.uid
    image = DerivedImage(ImageKind.CLEANED, uid, speckle(), "RGB", "x", verified=True)
    result = PipelineResult(findings=(burned(uid, TEXT),), images=(image,))
    plain, asked = context(), context(burned_in_boxes=True)
    faces = built(plain, one, result)
    assert "GraphicObjectSequence" not in str(faces[ResultKind.GSPS])
    assert not of_type(faces[ResultKind.SR], "SCOORD")
    assert ResultKind.SC not in faces, "the cleaned image shows it"
    boxed = built(asked, one, result)
    (region,) = of_type(boxed[ResultKind.SR], "SCOORD")
    (graphic,) = boxed[ResultKind.GSPS].GraphicAnnotationSequence[0].GraphicObjectSequence
    assert list(region.GraphicData) == list(graphic.GraphicData)
    assert ResultKind.SC in boxed
    uids = [{kind: face.SOPInstanceUID for kind, face in found.items()} for found in (faces, boxed)]
    assert uids[0][ResultKind.CLEANED] == uids[1][ResultKind.CLEANED]
    assert uids[0][ResultKind.SR] != uids[1][ResultKind.SR]
    assert uids[0][ResultKind.GSPS] != uids[1][ResultKind.GSPS]


def test_without_burned_in_text_the_objects_are_the_same_for_both(tmp_path: Path) -> None:
    one = film(tmp_path)
    result = PipelineResult(findings=(finding(NODULE, 0.8, one.image.uid, BOX),))
    plain, asked = (results.build(context(burned_in_boxes=boxes), [one], result) for boxes in (False, True))
    assert [item.data for item in plain] == [item.data for item in asked]


def test_the_examination_is_told_by_the_sources_codes_or_by_its_view(tmp_path: Path) -> None:
    local = Dataset()
    local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "XR1", "99RIS", "XR CHEST AP PORTABLE"
    told, untold = report(film(tmp_path, ProcedureCodeSequence=[local])), report(film(tmp_path))
    assert [item.CodeValue for item in told.PerformedProcedureCodeSequence] == ["XR1"]
    assert [item.CodeMeaning for item in untold.PerformedProcedureCodeSequence] == ["Plain chest X-ray"]
    assert value(told, "121058") == value(untold, "121058") == "43468-8", "no local code"
    newer = Dataset()
    newer.CodeValue, newer.CodingSchemeDesignator, newer.CodeMeaning = "36643-5", "LN", "XR Chest 2 Views"
    of_source = report(film(tmp_path, ProcedureCodeSequence=[local, newer]))
    assert value(of_source, "121058") == "36643-5", "CID 100 is a baseline: other public codes are right"
    ultrasound = report(still(tmp_path))
    assert value(ultrasound, "121058") == "363679005"
    assert ultrasound.PerformedProcedureCodeSequence[0].CodeMeaning == "Diagnostic ultrasonography"


def test_the_image_library_tells_view_and_region_and_no_modality_that_is_none(tmp_path: Path) -> None:
    (library,) = named(report(source(write_image(tmp_path / "dx.dcm", DX, grey_image()))), "111028")
    assert value(library, "111031") == "272479007"
    assert value(library, "121139") == "DX"
    (region,) = named(library, "123014")
    assert region.ConceptCodeSequence[0].CodeMeaning == "Chest"
    captured = still(tmp_path, Modality="OT", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (library,) = named(report(captured), "111028")
    assert not named(library, "121139")


def test_every_reference_to_a_cine_names_its_frames(tmp_path: Path) -> None:
    cine = source(write_image(tmp_path / "cine.dcm", US_MULTI_FRAME, speckle(frames=3)))
    found = finding(NODULE, 0.6, cine.image.uid, (10, 10, 40, 40), frame=2)
    for read in (report(cine), report(cine, found)):
        images = of_type(read, "IMAGE")
        assert images
        assert all(item.ReferencedSOPSequence[0].get("ReferencedFrameNumber") for item in images)


def test_the_private_scheme_says_what_it_is_and_no_person_is_named_as_the_maker(tmp_path: Path) -> None:
    faces = built(context(), film(tmp_path), PipelineResult())
    for face in faces.values():
        schemes = {item.CodingSchemeDesignator: item for item in face.CodingSchemeIdentificationSequence}
        scheme = schemes["99AINODE"]
        assert scheme.CodingSchemeUID == SCHEME_UID
        assert scheme.CodingSchemeResponsibleOrganization
    assert not faces[ResultKind.GSPS].get("ContentCreatorName")


def test_a_number_is_not_changed_by_its_findings_decision(tmp_path: Path) -> None:
    one = film(tmp_path)
    doubtful = finding(NODULE, 0.5, one.image.uid, BOX, decision=Decision.INDETERMINATE)
    for found in (doubtful, replace(doubtful, decision=Decision.PRESENT)):
        (group,) = named(report(one, found), "125007")
        number, *_ = of_type(group, "NUM")
        assert number.ConceptNameCodeSequence[0].CodeMeaning == "AI estimated probability of Nodule of lung"
