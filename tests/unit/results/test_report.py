"""What a report says, measures and is coded with, and how it is read back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ai_pipeline.chest.ratio import HEART_ENLARGED
from ai_pipeline.contract import (
    LOOK_FIRST,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    Measurement,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.summary import UNSURE
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results import stated_report
from dicom_node.results.build import build
from dicom_node.results.concepts import OURS
from dicom_node.results.report import has_call
from dicom_node.results.source import SourceObject
from tests.result_images import (
    CARDIOMEGALY,
    EFFUSION,
    NODULE,
    US_MULTI_FRAME,
    finding,
    source,
    speckle,
    still,
    write_image,
)
from tests.result_reading import content, groups_of, named, of_type, read_result
from tests.unit.results.report_lab import (
    BOX,
    CENTIMETRES,
    CTX,
    LENGTH,
    ONLY_REPORT,
    TEXT,
    burned,
    conclusion,
    faces_of,
    length,
    lines_of,
    measured,
    remarks,
    report,
    value,
)


def test_the_conclusion_comes_first_and_names_all_findings_and_no_number(one: SourceObject) -> None:
    uid = one.image.uid
    found = [
        finding(CARDIOMEGALY, 0.83, uid, BOX),
        finding(NODULE, 0.4, uid, decision=Decision.INDETERMINATE),
        absent(uid),
    ]
    read = report(one, *found)
    contained = [item for item in read.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert contained[0].ConceptNameCodeSequence[0].CodeMeaning == "Conclusion"
    assert conclusion(read) == (
        "AI: Suspected: cardiomegaly. No call on nodule of lung. Not found: pleural effusion."
    )
    assert "not for diagnostic use, model chest-lite0 version 1" in contained[1].TextValue
    numbers = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in content(read)
        if item.get("ValueType") == "NUM" and "99AINODE" in str(item)
    ]
    assert sorted(numbers) == [7.0, 40.0, 41.0, 41.0, 83.0], "each once, with its cut-off unless absent"


def test_the_short_result_and_what_must_be_read_beside_it_stand_in_the_conclusion_once(
    one: SourceObject,
) -> None:
    notes = (
        QualityNote("unsure", "This AI is unsure about the image as a whole.", one.image.uid, on_faces=True),
        QualityNote("operating point", "specific: few false alarms."),
        QualityNote("not assessed", "Pneumonia, and bones.", names=("pneumonia",)),
    )
    found = finding(CARDIOMEGALY, 0.83, one.image.uid, BOX, certainty="low certainty")
    none = absent(one.image.uid)
    faces = faces_of(one, found, none, quality=notes)
    lines = [
        "AI: This AI is unsure about the image as a whole.",
        "Suspected, low certainty: cardiomegaly.",
        "Not assessed: all else.",
    ]
    assert conclusion(faces[ResultKind.SR]) == "\r\n".join(lines)
    beside = remarks(faces[ResultKind.SR])
    assert {"operating point: specific: few false alarms.", "not assessed: Pneumonia, and bones."} <= {
        *beside
    }
    assert "unsure about" not in "".join(beside)
    assert lines_of(faces[ResultKind.GSPS]) == [
        "AI, not for diagnostic use: This AI is unsure about the image as a whole.",
        "Suspected, low certainty: cardiomegaly.",
    ]


@pytest.mark.parametrize(
    ("unsure", "said"), [(True, "A lung is white."), (False, "Not found: pleural effusion.")]
)
def test_nothing_is_called_not_found_where_the_model_is_unsure(
    one: SourceObject, unsure: bool, said: str
) -> None:
    notes = (QualityNote("unsure", "A lung is white.", one.image.uid, on_faces=True),) * unsure
    rate = "of 100 such films, about 2 have it all the same"
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT, reliability=rate)
    faces = faces_of(one, none, quality=notes)
    read = faces[ResultKind.SR]
    assert value(read, "RESULT") == ("NOCALL" if unsure else "NONEFOUND")
    assert conclusion(read) == f"AI: {said}"
    assert said in " ".join(lines_of(faces[ResultKind.GSPS]))
    undetermined, absent = ("373068000" in str(read), "272519000" in str(read))
    assert (undetermined, absent) == (unsure, not unsure)
    assert ("of 100 such films" in "".join(remarks(read))) is not unsure


@pytest.mark.parametrize("looked_for", [True, False])
def test_a_number_does_not_hide_what_was_looked_for_in_vain(one: SourceObject, looked_for: bool) -> None:
    none = absent(one.image.uid)
    faces = faces_of(one, *[none] * looked_for, measurements=measured(one.image.uid)[1:2])
    said = " ".join(lines_of(faces[ResultKind.GSPS]))
    assert "Heart width" in said
    assert ("Not found: pleural effusion" in said) is looked_for
    assert "states nothing" not in said


def test_how_many_such_calls_are_right_is_one_remark_on_the_image(one: SourceObject) -> None:
    found = [
        finding(CARDIOMEGALY, 0.83, one.image.uid, BOX, reliability="of 10 such calls, about 3 are right"),
        finding(EFFUSION, 0.01, one.image.uid, decision=Decision.ABSENT, reliability="of 100 such films, 2"),
        finding(NODULE, 0.3, one.image.uid, decision=Decision.INDETERMINATE),
    ]
    assert (
        "reliability: cardiomegaly suspected: of 10 such calls, about 3 are right. "
        "pleural effusion not found: of 100 such films, 2."
    ) in remarks(report(one, *found))


def test_nothing_found_is_said_only_of_what_was_looked_for(one: SourceObject) -> None:
    uid = one.image.uid
    absent = finding(CARDIOMEGALY, 0.01, uid, decision=Decision.ABSENT)
    burned_in = "AI: burned-in annotation found; nothing else was looked for here."
    said = {
        "AI: Not found: cardiomegaly.": ("NONEFOUND", (absent,)),
        "AI: no burned-in text found; nothing else was looked for here.": ("ONLYCLEANED", (burned(uid),)),
        burned_in: ("ONLYCLEANED", (burned(uid, TEXT),)),
        "AI: this analysis states nothing about this image.": ("ONLYCLEANED", ()),
    }
    for words, (answer, found) in said.items():
        faces = faces_of(one, *found)
        assert conclusion(faces[ResultKind.SR]).startswith(words)
        shown = " ".join(lines_of(faces[ResultKind.GSPS])).replace(", not for diagnostic use", "")
        assert (value(faces[ResultKind.SR], "RESULT"), shown) == (answer, words)
        assert all("no finding" not in str(face).lower() for face in faces.values())


def test_the_report_of_a_cleaning_is_two_lines_with_its_measurements_behind_them(scan: SourceObject) -> None:
    uid = scan.image.uid
    notes = (
        QualityNote("burned_in", "removed: 1 text", uid),
        QualityNote("kept", "left in place: 2 caliper", uid),
        QualityNote("filled_share", "0.4% of the pixels were filled", uid),
    )
    length = Measurement(uid, "Length", LENGTH, 2.3, CENTIMETRES, (((10.0, 10.0), (50.0, 10.0)),))
    read = report(scan, burned(uid, TEXT), quality=notes, measurements=(length,))
    assert conclusion(read) == (
        "AI: burned-in annotation found; nothing else was looked for here.\r\n"
        "Burned-in annotation: removed: 1 text; left in place: 2 caliper."
    )
    (group,) = named(read, "125007")
    assert value(group, "121071") == "BURNEDINLENGTH"
    assert "removed: 1 text" not in "".join(remarks(read))


def test_images_of_which_the_same_is_said_are_named_together(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "2.25.77", "SeriesInstanceUID": "2.25.78"}
    several = [still(tmp_path, f"us{number}", InstanceNumber=number, **study) for number in (1, 2, 3)]
    said = ("no burned-in annotation found", "removed: 1 text", "removed: 1 text")
    notes = [QualityNote("burned_in", text, one.image.uid) for one, text in zip(several, said, strict=True)]
    found = tuple(burned(one.image.uid, TEXT) for one in several)
    result = PipelineResult(findings=found, quality=tuple(notes))
    [made] = build(ONLY_REPORT, several, result)
    assert conclusion(read_result(made)) == (
        "images 1, 2, 3: AI: burned-in annotation found; nothing else was looked for here.\r\n"
        "Burned-in annotation: image 1: no burned-in annotation found. images 2, 3: removed: 1 text."
    )


def test_images_of_several_series_with_one_number_are_counted(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "2.25.77"}
    several = [
        still(tmp_path, f"us{place}", InstanceNumber=number, SeriesInstanceUID=f"2.25.{80 + place}", **study)
        for place, number in enumerate((3, 3, 1))
    ]
    notes = tuple(QualityNote("burned_in", "removed: 1 date", source.image.uid) for source in several)
    found = tuple(burned(source.image.uid, TEXT) for source in several)
    [made] = build(ONLY_REPORT, several, PipelineResult(findings=found, quality=notes))
    assert "images 3 (2 images), 1: removed: 1 date" in conclusion(read_result(made))


def test_every_reference_to_a_cine_names_its_frames(tmp_path: Path) -> None:
    cine = source(write_image(tmp_path / "cine.dcm", US_MULTI_FRAME, speckle(frames=3)))
    found = finding(NODULE, 0.6, cine.image.uid, (10, 10, 40, 40), frame=2)
    whole, with_box, with_line = (
        report(cine),
        report(cine, found),
        report(cine, measurements=(length(cine, frame=3),)),
    )
    for read in (whole, with_box, with_line):
        images = of_type(read, "IMAGE")
        assert images
        assert all(item.ReferencedSOPSequence[0].get("ReferencedFrameNumber") for item in images)
    [group] = groups_of(with_line)
    assert {int(item.ReferencedSOPSequence[0].ReferencedFrameNumber) for item in of_type(group, "IMAGE")} == {
        3
    }


def absent(uid: str) -> Finding:
    return finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT)


def suspected(uid: str) -> Finding:
    return finding(CARDIOMEGALY, 0.8, uid)


def withheld(uid: str) -> QualityNote:
    return QualityNote("cleaning_failed", "no cleaned picture: too much text", uid)


ABSENT = absent("1")
SUSPECTED = suspected("1")
ENLARGED = replace(measured("1")[0], statement="Heart enlarged (0.54)", call=HEART_ENLARGED)
FIRST = QualityNote(UNSURE, "A lung is white. Look at it first.", "1", on_faces=True, call=LOOK_FIRST)
DOUBT = QualityNote(UNSURE, "A lung is white.", "1", on_faces=True)


@pytest.mark.parametrize(
    ("findings", "measured", "notes", "called"),
    [
        pytest.param((), (), (), False, id="nothing looked for"),
        pytest.param((ABSENT,), (), (), False, id="not found"),
        pytest.param((ABSENT, SUSPECTED), (), (), True, id="suspected"),
        pytest.param((replace(SUSPECTED, decision=Decision.INDETERMINATE),), (), (), False, id="no call"),
        pytest.param((burned("1", TEXT),), (), (), False, id="burned-in text"),
        pytest.param((), measured("1"), (), True, id="measured, nothing else"),
        pytest.param((ABSENT,), measured("1"), (), False, id="measured beside not found"),
        pytest.param((ABSENT,), (ENLARGED,), (), True, id="measured too large"),
        pytest.param(
            (), (replace(ENLARGED, model=None, statement="", call=None),), (), False, id="read from image"
        ),
        pytest.param((ABSENT,), (), (DOUBT,), True, id="doubt that people see"),
        pytest.param((ABSENT,), (), (replace(DOUBT, on_faces=False),), False, id="doubt on record"),
        pytest.param((ABSENT,), (), (replace(DOUBT, name="kept"),), False, id="another note"),
    ],
)
def test_an_image_has_a_call_where_a_person_should_look(
    findings: Sequence[Finding],
    measured: Sequence[Measurement],
    notes: Sequence[QualityNote],
    called: bool,
) -> None:
    assert has_call(findings, measured, notes) is called


@pytest.mark.parametrize(
    ("findings", "measured", "notes", "answers"),
    [
        pytest.param((ABSENT,), (ENLARGED,), (), ["HEARTENLARGED"], id="enlarged"),
        pytest.param((), (), (FIRST,), ["LOOKFIRST"], id="look at it first"),
        pytest.param((SUSPECTED,), (), (FIRST,), ["LOOKFIRST", "FINDINGS"], id="and suspected"),
        pytest.param((ABSENT,), (), (DOUBT,), ["NOCALL"], id="doubt"),
    ],
)
def test_a_call_has_a_code_of_its_own(
    scan: SourceObject,
    findings: Sequence[Finding],
    measured: Sequence[Measurement],
    notes: Sequence[QualityNote],
    answers: list[str],
) -> None:
    uid = scan.image.uid
    read = report(
        scan,
        *(replace(one, source_uid=uid) for one in findings),
        quality=tuple(replace(one, source_uid=uid) for one in notes),
        measurements=tuple(replace(one, source_uid=uid) for one in measured),
    )
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(read, "RESULT")] == answers
    calls = [answer for answer in answers if answer not in OURS]
    assert len(stated_report.read_report(read).calls) == len(calls)


@pytest.mark.parametrize(
    ("found", "no_call", "sent"),
    [
        ((burned,), None, {"cleaned"}),
        ((absent, burned), None, {"sr", "cleaned"}),
        ((burned,), {"sr", "cleaned"}, {"sr", "cleaned"}),
        ((absent,), None, {"sr", "cleaned"}),
        ((absent,), set(), set()),
        ((absent, suspected), set(), {"sr", "gsps", "sc", "cleaned"}),
        ((burned, withheld), None, {"sr", "cleaned"}),
    ],
)
def test_without_a_call_only_what_the_rule_names_is_sent(
    one: SourceObject, found: Sequence[Callable[[str], Any]], no_call: set[str] | None, sent: set[str]
) -> None:
    uid = one.image.uid
    said = [make(uid) for make in found]
    notes = tuple(note for note in said if isinstance(note, QualityNote))
    image = DerivedImage(ImageKind.CLEANED, uid, one.image.stored(), "MONOCHROME2", "x", verified=True)
    result = PipelineResult(tuple(one for one in said if one not in notes), (image,), notes)
    quiet = replace(
        CTX,
        kinds=CTX.kinds | {ResultKind.CLEANED},
        no_call=None if no_call is None else frozenset(map(ResultKind, no_call)),
    )
    made = build(quiet, [one], result)
    assert {item.kind.value for item in made if ResultKind.CLEANED not in item.not_beside} == sent
    assert "sr" in {item.kind.value for item in made}, "the node has a report of each job"


def test_a_class_that_is_not_suggested_is_not_called_undetermined(scan: SourceObject) -> None:
    classes = tuple(
        replace(finding(code, 0.4, scan.image.uid, decision=Decision.INDETERMINATE), exclusive=True)
        for code in (NODULE, EFFUSION)
    )
    read = report(scan, *classes)
    assert conclusion(read).startswith("AI: No class suggested.")
    assert "Undetermined" not in str(read)
