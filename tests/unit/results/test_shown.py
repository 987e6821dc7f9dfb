"""What viewers show of a report: words without a place, a sentence at each shape, outlines of organs."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.chest import ratio
from ai_pipeline.contract import (
    Decision,
    DerivedImage,
    ImageKind,
    Origin,
    PipelineResult,
    QualityNote,
    Region,
)
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultForm, ResultKind
from dicom_node.results import gate, stated_report
from dicom_node.results.build import build, build_failure
from dicom_node.results.outlines import MOST_PARTS, outlines
from dicom_node.results.source import SourceObject, read_sources
from tests.result_images import CALIBRATED, CARDIOMEGALY, EFFUSION, NODULE, context, finding
from tests.result_reading import code_of, groups_of, meaning_of, named, of_type, read_result
from tests.unit.results.report_lab import (
    BOX,
    ONLY_REPORT,
    TEXT,
    burned,
    conclusion,
    length,
    measured,
    report,
)

OHIF = ResultForm(viewer="ohif", outlines="sr")
FOR_OHIF = replace(ONLY_REPORT, form=ResultForm(viewer="ohif"))
WARNING = "(not for diagnostic use)"
WORDS, MEASUREMENTS = "18748-4", "126000"


def report_as(form: ResultForm, one: SourceObject, **result: Any) -> Dataset:
    [made] = build(replace(ONLY_REPORT, form=form), [one], PipelineResult(**result))
    return read_result(made)


def comments(group: Dataset) -> list[str]:
    return [str(item.TextValue) for item in group.ContentSequence if meaning_of(item) == "Comment"]


def absent(uid: str) -> PipelineResult:
    return PipelineResult((finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT),))


def nowhere(uid: str) -> PipelineResult:
    return PipelineResult((finding(CARDIOMEGALY, 0.83, uid),))


def cleaned(uid: str) -> PipelineResult:
    return PipelineResult((burned(uid, TEXT),), quality=(QualityNote("burned_in", "removed: 1 text", uid),))


def nothing(_: str) -> PipelineResult:
    return PipelineResult()


@pytest.mark.parametrize("said", [absent, nowhere, cleaned, nothing])
def test_a_report_without_a_place_is_words(one: SourceObject, said: Any) -> None:
    read = read_result(build(FOR_OHIF, [one], said(one.image.uid))[0])
    assert code_of(read) == WORDS
    assert read.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert groups_of(read) == []


@pytest.mark.parametrize("said", [absent, nowhere, cleaned, nothing])
def test_each_word_of_a_report_without_a_place_stands_on_a_line_of_its_own(
    one: SourceObject, said: Any
) -> None:
    read = read_result(build(FOR_OHIF, [one], said(one.image.uid))[0])
    continuity = {item.ContinuityOfContent for item in [read, *of_type(read, "CONTAINER")]}
    assert continuity == {"SEPARATE"}


def test_the_conclusion_is_the_first_line_and_no_image_is_among_the_lines(one: SourceObject) -> None:
    read = report_as(FOR_OHIF.form, one, findings=absent(one.image.uid).findings)
    assert [meaning_of(item) for item in read.ContentSequence[:2]] == ["Conclusion", "Comment"]
    lines = [item for box in [read, *of_type(read, "CONTAINER")] for item in box.ContentSequence]
    assert "IMAGE" not in {item.ValueType for item in lines}


@pytest.mark.parametrize("said", [absent, nowhere, cleaned, nothing])
def test_a_report_without_a_place_is_a_measurement_report_for_all_other_viewers(
    one: SourceObject, said: Any
) -> None:
    read = read_result(build(ONLY_REPORT, [one], said(one.image.uid))[0])
    assert code_of(read) == MEASUREMENTS
    assert read.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert groups_of(read) == []


def test_why_the_ai_did_not_run_is_words(one: SourceObject) -> None:
    [made] = build_failure(FOR_OHIF, [one], "the model is missing")
    assert code_of(read_result(made)) == WORDS
    assert conclusion(read_result(made)) == "AI did not run: the model is missing"


@pytest.mark.parametrize("form", [ResultForm(), FOR_OHIF.form], ids=["measurement report", "words"])
def test_what_has_no_place_is_read_back_with_its_codes(one: SourceObject, form: ResultForm) -> None:
    uid = one.image.uid
    said = (*absent(uid).findings, *nowhere(uid).findings)
    read = stated_report.read_report(report_as(form, one, findings=said))
    stated = [(row.meaning, row.decision, row.image, row.model) for row in read.findings]
    assert stated == [
        ("Cardiomegaly", Decision.PRESENT, uid, "chest-lite0 1"),
        ("Pleural effusion", Decision.ABSENT, uid, "chest-lite0 1"),
    ]
    assert [sorted(row.numbers.values()) for row in read.findings] == [["41.0 %", "83.0 %"], ["7.0 %"]]


@pytest.mark.parametrize("said", [absent, nowhere, cleaned])
def test_highdicom_reads_a_report_in_words(one: SourceObject, said: Any) -> None:
    data = build(FOR_OHIF, [one], said(one.image.uid))[0].data or b""
    read = highdicom.sr.srread(io.BytesIO(data))
    assert isinstance(read, highdicom.sr.Comprehensive3DSR)
    assert read.content[0].name.value == WORDS


def test_a_located_finding_is_a_number_inferred_from_its_coordinates_with_the_sentence(
    one: SourceObject,
) -> None:
    found = finding(EFFUSION, 0.729, one.image.uid, BOX, side="L", certainty="low certainty")
    read = report_as(FOR_OHIF.form, one, findings=(found,))
    assert code_of(read) == MEASUREMENTS
    [group] = groups_of(read)
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    [number] = of_type(group, "NUM")[:1]
    assert number.ContentSequence[0].ValueType == "SCOORD", "OHIF looks nowhere else"
    assert list(number.ContentSequence[0].GraphicData)[:4] == [50.5, 60.25, 150.0, 60.25]
    said = f"AI: left pleural effusion suspected, low certainty {WARNING}"
    assert comments(group) == [said]
    assert [str(item.TextValue) for item in named(group, "125309")] == [said]


def test_a_located_finding_is_a_region_with_the_sentence_for_all_other_viewers(one: SourceObject) -> None:
    [group] = groups_of(report(one, finding(EFFUSION, 0.729, one.image.uid, BOX, side="L")))
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1410"
    [region] = of_type(group, "SCOORD")
    assert list(region.GraphicData)[:4] == [50.5, 60.25, 150.0, 60.25]
    assert comments(group) == [f"AI: left pleural effusion suspected {WARNING}"]


def test_highdicom_reads_the_groups_of_a_report_with_places(one: SourceObject) -> None:
    result = PipelineResult(
        (finding(EFFUSION, 0.7, one.image.uid, BOX),), measurements=measured(one.image.uid)
    )
    [made] = build(FOR_OHIF, [one], result)
    read = highdicom.sr.srread(io.BytesIO(made.data or b""))
    groups = read.content.get_image_measurement_groups()
    assert [len(group.get_measurements()) for group in groups] == [1, 2, 1]


def test_what_has_no_place_is_said_beside_the_first_box(one: SourceObject) -> None:
    found = finding(EFFUSION, 0.7, one.image.uid, BOX), finding(NODULE, 0.6, one.image.uid)
    [group] = groups_of(report(one, *found))
    assert comments(group) == [
        f"AI: pleural effusion suspected {WARNING}",
        "AI, not for diagnostic use: Suspected: pleural effusion, nodule of lung.",
    ]


def test_measurements_of_one_model_are_one_group_with_the_result_of_the_image(one: SourceObject) -> None:
    none = finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT)
    [group] = groups_of(report(one, none, measurements=measured(one.image.uid)))
    assert comments(group) == [
        "AI, not for diagnostic use: Cardiothoracic ratio 0.54. Heart width 150 mm.",
        "Not found: pleural effusion.",
    ]
    assert [len(of_type(number, "SCOORD")) for number in of_type(group, "NUM")] == [2, 1, 1]


def test_each_measurement_of_a_group_keeps_its_site_and_tracking_uid(one: SourceObject) -> None:
    read = report(one, measurements=measured(one.image.uid))
    numbers = stated_report.read_report(read).numbers
    assert [number.sites[0][2] for number in numbers] == ["Chest", "Heart", "Chest"]
    assert len({number.tracking_uid for number in numbers}) == 3
    assert [len(number.places) for number in numbers] == [2, 1, 1]
    [group] = groups_of(read)
    assert len(named(group, "112040")) == 4, "the group has one of its own"


def test_numbers_read_in_the_picture_stay_apart(scan: SourceObject) -> None:
    first, second = length(scan), length(scan, 4.2)
    groups = groups_of(report(scan, measurements=(first, second)))
    assert comments(groups[1]) == [f"AI: Length 4.2 cm, read from the image {WARNING}"]
    assert len(groups) == 2


@pytest.mark.parametrize("corners", [3, 4, 5])
@pytest.mark.parametrize("probability", [0.6, None], ids=["number", "no number"])
def test_a_polygon_is_not_taken_for_a_rectangle(
    one: SourceObject, corners: int, probability: float | None
) -> None:
    points = ((20.0, 20.0), (80.0, 30.0), (90.0, 90.0), (30.0, 80.0), (10.0, 50.0))[:corners]
    outlined = replace(
        finding(NODULE, probability, one.image.uid),
        regions=(Region("polygon", points, Origin.DETECTOR),),
    )
    [scoord] = of_type(report(one, outlined), "SCOORD")
    drawn = list(zip(scoord.GraphicData[::2], scoord.GraphicData[1::2], strict=True))
    assert len(drawn) == 6
    assert drawn[0] == drawn[-1]
    assert set(points) <= set(drawn)


def test_ohif_knows_each_shape_by_its_tool(one: SourceObject) -> None:
    boxed = finding(EFFUSION, 0.7, one.image.uid, BOX)
    straight = replace(measured(one.image.uid)[1], name="Width", lines=(((5.0, 5.0), (90.0, 5.0)),))
    groups = groups_of(
        report_as(OHIF, one, findings=(boxed,), measurements=(*measured(one.image.uid), straight))
    )
    identifiers = [str(named(group, "112039")[0].TextValue) for group in groups]
    prefix = "Cornerstone3DTools@^0.1.0"
    assert identifiers == [
        f"{prefix}:RectangleROI:AI Pleural effusion 1, image 1",
        f"{prefix}:PlanarFreehandROI:AI measurements Cardiothoracic ratio, image 1",
        f"{prefix}:PlanarFreehandROI:AI Thoracic width, image 1",
        f"{prefix}:Length:AI Width, image 1",
    ]


def test_ohif_keeps_every_line_as_the_first_of_a_group(one: SourceObject) -> None:
    groups = groups_of(report_as(OHIF, one, measurements=measured(one.image.uid)))
    kept = [tuple(of_type(group, "SCOORD")[0].GraphicData) for group in groups]
    drawn = {tuple(line.GraphicData) for group in groups for line in of_type(group, "SCOORD")}
    assert sorted(kept) == sorted(drawn)


def test_without_a_viewer_no_identifier_names_a_tool(one: SourceObject) -> None:
    read = report(one, finding(EFFUSION, 0.7, one.image.uid, BOX), measurements=measured(one.image.uid))
    assert not any("Cornerstone" in str(item.TextValue) for item in named(read, "112039"))


def organs(one: SourceObject, *masks: np.ndarray[Any, Any]) -> DerivedImage:
    frames = np.stack(masks).astype(np.uint8) * 255
    named_organs = (ratio.HEART, ratio.THORAX)[: len(masks)]
    return DerivedImage(
        ImageKind.ORGANS, one.image.uid, frames, "MONOCHROME2", "x", models=(CALIBRATED,), organs=named_organs
    )


def disc(one: SourceObject, x: float, y: float, radius: float) -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[: one.image.header.rows, : one.image.header.columns] + 0.5
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def test_outlines_lie_on_the_edge_of_their_mask_and_are_closed(one: SourceObject) -> None:
    read = report_as(OHIF, one, images=(organs(one, disc(one, 100, 80, 30)),))
    [group] = groups_of(read)
    [line] = of_type(group, "SCOORD")
    points = np.asarray(line.GraphicData).reshape(-1, 2)
    assert (points[0] == points[-1]).all()
    assert len(points) > 5
    assert abs(np.hypot(points[:, 0] - 100, points[:, 1] - 80) - 30).max() < 1.0
    [area] = of_type(group, "NUM")
    assert float(area.MeasuredValueSequence[0].NumericValue) == pytest.approx(np.pi * 30**2, rel=0.02)
    assert comments(group)[0] == f"AI: outline of heart {WARNING}"


def test_the_area_inside_an_outline_is_no_measurement_of_the_patient(one: SourceObject) -> None:
    read = report_as(OHIF, one, images=(organs(one, disc(one, 100, 80, 30)),))
    assert stated_report.read_report(read).numbers == []


def test_a_report_with_nothing_but_outlines_says_its_result_beside_the_first(one: SourceObject) -> None:
    masks = organs(one, disc(one, 100, 80, 30), disc(one, 60, 160, 40))
    first, second = groups_of(report_as(OHIF, one, findings=absent(one.image.uid).findings, images=(masks,)))
    assert comments(first)[1:] == ["AI, not for diagnostic use: Not found: pleural effusion."]
    assert len(comments(second)) == 1


@pytest.mark.parametrize(
    ("where", "kinds"),
    [("sr", {"sr"}), ("seg", {"sr", "seg"}), ("none", {"sr"})],
)
def test_outlines_go_where_the_peer_wants_them(one: SourceObject, where: Any, kinds: set[str]) -> None:
    ctx = context(kinds=[ResultKind.SR, ResultKind.SEG], form=ResultForm(outlines=where))
    made = build(ctx, [one], PipelineResult(images=(organs(one, disc(one, 100, 80, 30)),)))
    assert {item.kind.value for item in made} == kinds
    assert len(groups_of(read_result(made[0]))) == (where == "sr")


def test_outlines_of_another_size_are_refused(one: SourceObject) -> None:
    small = replace(organs(one, disc(one, 100, 80, 30)), frames=np.ones((1, 8, 8), np.uint8))
    with pytest.raises(ResultRefused, match="not the size"):
        report_as(OHIF, one, images=(small,))


def test_only_the_largest_parts_of_a_mask_are_outlined() -> None:
    mask = np.zeros((200, 400), np.bool_)
    mask[10:110, 10:110] = True
    for part in range(20):
        mask[130:150, 10 + 15 * part : 20 + 15 * part] = True
    mask[180:185, 10:15] = True  # less than a hundredth of the largest
    found = outlines(mask)
    assert len(found) == MOST_PARTS
    assert found[0][1] == pytest.approx(100 * 100, rel=0.01)


@pytest.mark.parametrize("pixels", [0, 1])
def test_a_mask_of_no_size_has_no_outline(pixels: int) -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[:pixels, :pixels] = True
    assert outlines(mask) == []


@pytest.mark.parametrize("invented", [True, False])
def test_a_segmentation_has_an_invented_geometry_only_if_wanted_and_says_so(
    one: SourceObject, invented: bool
) -> None:
    ctx = context(kinds=[ResultKind.SEG], form=ResultForm(seg_geometry=invented))
    [made] = build(ctx, [one], PipelineResult(images=(organs(one, disc(one, 100, 80, 30)),)))
    read = read_result(made)
    assert ("PlaneOrientationSequence" in read.SharedFunctionalGroupsSequence[0]) is invented
    assert ("PlanePositionSequence" in read.PerFrameFunctionalGroupsSequence[0]) is invented
    assert ("invented geometry" in read.ContentDescription) is invented
    assert ("invented geometry" in str(read.get("ImageComments"))) is invented


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"outlines": "sr", "results": ["sc"]}, 'with "sr" in results'),
        ({"deidentify": True, "results": ["cleaned"], "viewer": "ohif"}, "have one form"),
        ({"deidentify": True, "results": ["cleaned"], "outlines": "none"}, "have one form"),
        ({"deidentify": True, "results": ["cleaned"], "seg_geometry": True}, "have one form"),
    ],
)
def test_a_peer_whose_form_fits_nothing_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PeerSettings.model_validate({"name": "x", "ae_title": "X", **given})


def test_only_what_a_form_changes_has_another_uid(one: SourceObject) -> None:
    masks = organs(one, disc(one, 100, 80, 30))
    result = PipelineResult((finding(EFFUSION, 0.7, one.image.uid, BOX),), (masks,))
    usual, ohif = (
        {item.kind: item.sop_instance_uid for item in build(context(form=form), [one], result)}
        for form in (ResultForm(), ResultForm(viewer="ohif"))
    )
    # Key objects name the report by its UID.
    assert {kind for kind in usual if usual[kind] != ohif[kind]} == {ResultKind.SR, ResultKind.KEY_OBJECTS}


def broken_title(read: Dataset) -> None:
    read.ConceptNameCodeSequence[0].CodeValue = WORDS


def without_coordinates(read: Dataset) -> None:
    number = next(item for item in of_type(groups_of(read)[0], "NUM") if of_type(item, "SCOORD"))
    del number.ContentSequence


def without_words(read: Dataset) -> None:
    for item in named(groups_of(read)[0], "121106"):
        item.TextValue = "AI: pleural effusion suspected"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (broken_title, "its title is not that of a report"),
        (without_coordinates, "has no coordinates"),
        (without_words, "has no words"),
    ],
)
def test_no_report_leaves_that_viewers_do_not_show(one: SourceObject, change: Any, why: str) -> None:
    read = report_as(FOR_OHIF.form, one, findings=(finding(EFFUSION, 0.7, one.image.uid, BOX),))
    refuse(read, change, why, [one])


def test_no_report_without_a_place_leaves_as_a_measurement_report_for_ohif(one: SourceObject) -> None:
    def retitle(read: Dataset) -> None:
        read.ConceptNameCodeSequence[0].CodeValue = MEASUREMENTS

    read = report_as(FOR_OHIF.form, one, findings=absent(one.image.uid).findings)
    refuse(read, retitle, "its title is not that", [one])


def refuse(read: Dataset, change: Any, why: str, images: Sequence[SourceObject]) -> None:
    """The gate refuses the report once it is changed."""
    change(read)
    buffer = io.BytesIO()
    with quiet_pydicom():
        read.save_as(buffer)
    with pytest.raises(ResultRefused, match=why):
        gate.check(buffer.getvalue(), read, FOR_OHIF, ResultKind.SR, read_sources(images))
