"""Codes, units and sides (gate.md E), and structured reports (F)."""

from dataclasses import replace
from typing import Any

import highdicom as hd
import pytest
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.base.dicom.header import items
from dicom_node.results.concepts import name_of
from dicom_node.results.foreign.given import GivenStudy
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import JudgedObject, Verdict
from tests.modality import data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    COLUMNS,
    ROWS,
    STORAGE,
    ct_slice,
    ct_study,
    derived_slice,
    said,
    verdict_on,
)


def code(value: str, scheme: str, meaning: str, **attributes: Any) -> Dataset:
    """A coded concept, whatever its lengths."""
    item = data_set(CodingSchemeDesignator=scheme, **attributes)
    for keyword, vr, written in (("CodeValue", "SH", value), ("CodeMeaning", "LO", meaning)):
        item.add(DataElement(keyword, vr, written, validation_mode=config.IGNORE))
    return item


FINDING = code("121071", "DCM", "Finding")


def coded(concept: Dataset, name: Dataset = FINDING) -> Dataset:
    """A CODE content item."""
    return data_set(
        RelationshipType="CONTAINS",
        ValueType="CODE",
        ConceptNameCodeSequence=[name],
        ConceptCodeSequence=[concept],
    )


def text(value: str) -> Dataset:
    """A TEXT content item."""
    return data_set(
        RelationshipType="CONTAINS", ValueType="TEXT", ConceptNameCodeSequence=[FINDING], TextValue=value
    )


def with_content(*content: Dataset, sop_class_uid: str = STORAGE + "88.33", **attributes: Any) -> Dataset:
    """A report with this content."""
    wrote = makers.text_report(**attributes)
    wrote.SOPClassUID = wrote.file_meta.MediaStorageSOPClassUID = sop_class_uid
    wrote.ContentSequence = list(content)
    return wrote


def found_by(dataset: Dataset, value_type: str) -> Dataset:
    """The first content item of this value type."""
    return next(item for item in items(dataset) if item.get("ValueType") == value_type)


def changed(value_type: str, **attributes: Any) -> JudgedObject:
    """The verdict on a measured region of which one item is changed."""
    wrote = makers.report()
    item = found_by(wrote, value_type)
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return verdict_on(wrote)


@pytest.mark.parametrize(
    ("concept", "reason"),
    [
        pytest.param(data_set(CodeMeaning="Mass", CodingSchemeDesignator="SCT"), "no value", id="no value"),
        pytest.param(data_set(CodeValue="1", CodeMeaning="Mass"), "no coding scheme", id="no scheme"),
        pytest.param(code("4147007", "SCT", "x" * 65), "at most 64", id="long meaning"),
        pytest.param(code("1", "99AINODE", "Mass"), "this node's private", id="ours"),
        pytest.param(code("1", "OURHOSP", "Mass"), "unknown coding scheme", id="unknown scheme"),
        pytest.param(code("24028007", "SCT", "Left"), "meaning of another code", id="right called left"),
        pytest.param(code("86049000", "SCT", "Neoplasm, benign"), "another code", id="benign"),
        pytest.param(code("4147007", "SCT", "Mass", LongCodeValue="4147007"), "or several", id="two values"),
    ],
)
def test_a_code_that_is_none_or_means_another_is_refused(concept: Dataset, reason: str) -> None:
    found = verdict_on(with_content(coded(concept)))
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def first_concept(found: JudgedObject) -> Dataset:
    """The concept code of the report's finding."""
    assert found.dataset is not None, said(found)
    item = next(one for one in items(found.dataset) if name_of(one) == "121071")
    return item.ConceptCodeSequence[0]


def test_a_retired_code_is_mapped() -> None:
    concept = first_concept(verdict_on(with_content(coded(code("T-28000", "SRT", "Lung")))))
    assert (concept.CodeValue, concept.CodingSchemeDesignator) == ("39607008", "SCT")


def test_the_meaning_of_a_known_code_is_added() -> None:
    concept = data_set(CodeValue="24028007", CodingSchemeDesignator="SCT")
    assert first_concept(verdict_on(with_content(coded(concept)))).CodeMeaning == "Right"


def test_a_long_code_is_moved_to_its_attribute() -> None:
    concept = first_concept(verdict_on(with_content(coded(code("12345678901234567", "SCT", "Something")))))
    assert concept.LongCodeValue == "12345678901234567"


def test_a_private_scheme_is_identified_as_the_programs() -> None:
    found = verdict_on(with_content(coded(code("X1", "99MAKER", "Something"))))
    assert found.dataset is not None
    [scheme] = found.dataset.CodingSchemeIdentificationSequence
    assert (scheme.CodingSchemeDesignator, scheme.CodingSchemeName) == (
        "99MAKER",
        "private scheme of lung tool",
    )


def test_an_incomplete_code_that_says_nothing_is_left_out() -> None:
    found = verdict_on(derived_slice(ProcedureCodeSequence=[], AcquisitionProtocolElementSequence=[]))
    assert found.verdict is Verdict.GOES
    wrote = derived_slice(DerivationCodeSequence=[data_set(CodeMeaning="Filter")])
    found = verdict_on(wrote)
    assert found.dataset is not None, said(found)
    assert "DerivationCodeSequence" not in found.dataset


@pytest.mark.parametrize(
    ("unit", "verdict"),
    [
        (codes.UCUM.SquareMillimeter, Verdict.GOES),
        (codes.UCUM.Millimeter, Verdict.REFUSED),
        (hd.sr.CodedConcept("px", "99PX", "pixels"), Verdict.REFUSED),
        (hd.sr.CodedConcept("{pixels}", "UCUM", "pixels"), Verdict.GOES),
    ],
    ids=["area", "a length", "no UCUM", "pixels"],
)
def test_the_unit_of_an_area_is_one_of_areas(unit: Any, verdict: Verdict) -> None:
    found = verdict_on(makers.report(unit=unit))
    assert found.verdict is verdict, said(found)


def test_an_area_in_pixels_of_an_image_with_spacing_is_noted() -> None:
    found = verdict_on(makers.report(unit=hd.sr.CodedConcept("{pixels}", "UCUM", "pixels")))
    assert "a length is in pixels, though the image states their size" in found.notes


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param([], "neither a value nor a reason", id="none"),
        pytest.param("NaN", "a number is none", id="not a number"),
        pytest.param("25", "two numbers", id="floating point"),
    ],
)
def test_a_number_that_is_none_is_refused(value: Any, reason: str) -> None:
    wrote = makers.report()
    number = found_by(wrote, "NUM")
    if not value:
        number.MeasuredValueSequence = []
    else:
        measured = number.MeasuredValueSequence[0]
        measured["NumericValue"]._value = value
        measured.FloatingPointValue = 50.0
    assert reason in said(verdict_on(wrote))


def sided(side: str) -> GivenStudy:
    """A call with images of one side."""
    return ct_study([ct_slice(number, ImageLaterality=side) for number in (1, 2)])


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        pytest.param(with_content(coded(code("24028007", "SCT", "Right"))), "the other side", id="code"),
        pytest.param(derived_slice(ImageLaterality="R"), "the other side", id="image"),
    ],
)
def test_the_other_side_than_the_images_show_is_refused(dataset: Dataset, reason: str) -> None:
    assert reason in said(verdict_on(dataset, sided("L")))
    assert reason not in said(verdict_on(dataset, sided("R")))


def test_words_that_name_the_other_side_than_the_code_are_refused() -> None:
    wrote = makers.segmentation()
    segment = wrote.SegmentSequence[0]
    segment.SegmentLabel = "left lung"
    segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
        code("24028007", "SCT", "Right")
    ]
    assert "its words name the other side" in said(verdict_on(wrote))


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        pytest.param(
            with_content(found_by(makers.report(), "NUM"), sop_class_uid=STORAGE + "88.11"),
            "value type that its SOP class does not allow",
            id="number in a text report",
        ),
        pytest.param(
            with_content(data_set(RelationshipType="SELECTED FROM", ValueType="TEXT", TextValue="x")),
            "relationship that its parent cannot have",
            id="relationship",
        ),
        pytest.param(
            with_content(data_set(RelationshipType="CONTAINS", ValueType="TEXT", TextValue="x")),
            "has no name",
            id="no name",
        ),
        pytest.param(
            with_content(
                data_set(RelationshipType="CONTAINS", ReferencedContentItemIdentifier=[1, 9]),
            ),
            "in a circle, or to one that is not there",
            id="to nothing",
        ),
        pytest.param(
            with_content(data_set(RelationshipType="CONTAINS", ReferencedContentItemIdentifier=[1])),
            "in a circle",
            id="circle",
        ),
        pytest.param(
            with_content(
                text("x"),
                data_set(RelationshipType="CONTAINS", ReferencedContentItemIdentifier=[1, 1]),
                sop_class_uid=STORAGE + "88.11",
            ),
            "refers to another, which its SOP class does not allow",
            id="by reference",
        ),
        pytest.param(with_content(), "no content", id="empty"),
    ],
)
def test_a_tree_that_the_class_does_not_allow_is_refused(dataset: Dataset, reason: str) -> None:
    found = verdict_on(dataset)
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


@pytest.mark.parametrize(
    "limits", [AnswerLimits(content_items=2), AnswerLimits(content_depth=1)], ids=["items", "depth"]
)
def test_a_tree_beyond_the_limits_is_refused(limits: AnswerLimits) -> None:
    found = verdict_on(makers.report(), limits=limits)
    assert "more than" in said(found)
    assert found.verdict is Verdict.REFUSED


def test_a_report_that_claims_to_be_verified_is_refused() -> None:
    found = verdict_on(makers.report(VerificationFlag="VERIFIED"))
    assert found.verdict is Verdict.REFUSED
    assert "VERIFIED" in said(found)


def test_a_report_is_preliminary_and_names_no_verifying_observer() -> None:
    observer = data_set(
        VerifyingObserverName="Doctor^A", VerifyingOrganization="H", VerificationDateTime="20250102"
    )
    found = verdict_on(makers.report(PreliminaryFlag="FINAL", VerifyingObserverSequence=[observer])).dataset
    assert found is not None
    assert (found.VerificationFlag, found.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in found


def test_coordinates_as_context_of_an_acquisition_are_refused() -> None:
    wrote = makers.report()
    for item in items(wrote):
        if item.get("ValueType") in ("SCOORD", "SCOORD3D"):
            item.RelationshipType = "HAS ACQ CONTEXT"
    assert "coordinates are given as a context" in said(verdict_on(wrote))


def test_a_report_that_does_not_say_whether_it_is_complete_is_partial() -> None:
    """MONAI's SDK before 4.0 writes no Completion Flag."""
    found = verdict_on(makers.text_report()).dataset
    assert found is not None
    assert found.CompletionFlag == "PARTIAL"


def test_the_template_of_a_measurement_report_is_named() -> None:
    wrote = makers.report()
    del wrote.ContentTemplateSequence
    found = verdict_on(wrote).dataset
    assert found is not None
    assert found.ContentTemplateSequence[0].TemplateIdentifier == "1500"


@pytest.mark.parametrize("keyword", ["ConceptNameCodeSequence", "ValueType"])
def test_a_report_without_root_is_refused(keyword: str) -> None:
    wrote = makers.text_report()
    delattr(wrote, keyword)
    assert verdict_on(wrote).verdict is Verdict.REFUSED


def test_a_person_as_observer_is_refused() -> None:
    person = data_set(
        RelationshipType="HAS OBS CONTEXT",
        ValueType="PNAME",
        ConceptNameCodeSequence=[code("121008", "DCM", "Person Observer Name")],
        PersonName="Doctor^A",
    )
    assert "names a person" in said(verdict_on(with_content(person, text("x"))))
    kind = coded(code("121006", "DCM", "Person"), code("121005", "DCM", "Observer Type"))
    kind.RelationshipType = "HAS OBS CONTEXT"
    assert "its observer is a person" in said(verdict_on(with_content(kind, text("x"))))


def test_the_device_is_named_where_no_observer_is() -> None:
    found = verdict_on(makers.text_report()).dataset
    assert found is not None
    assert "121005" in {name_of(item) for item in items(found)}


def test_groups_without_identifiers_get_them_and_the_programs_name() -> None:
    wrote = makers.report(tracked=False)
    found = verdict_on(wrote).dataset
    assert found is not None
    names = [name_of(item) for item in items(found)]
    assert {"112039", "112040", "111001", "111003"} <= set(names)
    assert any("not for diagnostic use" in str(item.get("TextValue", "")) for item in items(found))


def test_a_text_report_begins_with_the_sentence_on_the_ai() -> None:
    found = verdict_on(makers.text_report()).dataset
    assert found is not None
    contained = [item for item in found.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert "AI result - not for diagnostic use" in contained[0].TextValue


def test_a_group_that_says_nothing_is_refused() -> None:
    wrote = makers.report()
    group = next(item for item in items(wrote) if name_of(item) == "125007")
    group.ContentSequence = [one for one in group.ContentSequence if one.ValueType in ("TEXT", "UIDREF")]
    assert "neither a finding nor a measurement" in said(verdict_on(wrote))


def moved(*points: tuple[float, float]) -> Dataset:
    """A measured region with these corners."""
    return makers.report((*points, points[0]))


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        pytest.param(((5, 5), (COLUMNS, 5), (COLUMNS, ROWS)), Verdict.GOES, id="at the edge"),
        pytest.param(((5, 5), (COLUMNS + 0.5, 5), (15, 15)), Verdict.GOES, id="half a pixel outside"),
        pytest.param(((5, 5), (COLUMNS + 1, 5), (15, 15)), Verdict.REFUSED, id="a pixel outside"),
        pytest.param(((-3, 5), (10, 5), (15, 15)), Verdict.REFUSED, id="below zero"),
        pytest.param(((5, 5), (10, 5), (7, 5)), Verdict.REFUSED, id="no area"),
    ],
)
def test_regions_lie_in_their_image(points: tuple[tuple[float, float], ...], verdict: Verdict) -> None:
    found = verdict_on(moved(*points))
    assert found.verdict is verdict, said(found)
    if found.dataset is not None:
        numbers = found_by(found.dataset, "SCOORD").GraphicData
        assert max(numbers) <= COLUMNS


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("POINT", [1, 1, 2, 2], "number of points"),
        ("CIRCLE", [1, 1, 1, 1], "no radius"),
        ("ELLIPSE", [1, 5, 9, 5, 4, 1, 6, 9], "right angles"),
        ("POLYLINE", [1, 1, 2], "missing"),
        ("STAR", [1, 1, 2, 2], "unknown type"),
        ("POLYLINE", [1, 1, float("nan"), 2], "finite"),
    ],
    ids=["point", "circle", "ellipse", "odd", "type", "not a number"],
)
def test_graphics_have_the_points_of_their_type(kind: str, data: list[float], reason: str) -> None:
    assert reason in said(changed("SCOORD", GraphicType=kind, GraphicData=data))


def test_coordinates_in_the_size_of_the_models_input_are_held() -> None:
    study = replace(ct_study(), input_sizes=frozenset({(20, 20)}))
    found = verdict_on(makers.report(), study)
    assert found.verdict is Verdict.HELD
    assert "model's input size" in said(found)
    assert verdict_on(moved((5, 5), (30, 5), (30, 30)), study).verdict is Verdict.GOES


def test_coordinates_that_belong_to_no_image_are_refused() -> None:
    assert "not selected from an image" in said(changed("SCOORD", ContentSequence=[]))


def in_space(frame_of_reference: str, *numbers: float) -> Dataset:
    """A report with a point in the patient."""
    wrote = makers.report()
    item = found_by(wrote, "SCOORD")
    item.ValueType, item.GraphicType, item.GraphicData = "SCOORD3D", "POINT", list(numbers)
    item.ContentSequence = []
    if frame_of_reference:
        item.ReferencedFrameOfReferenceUID = frame_of_reference
    group = next(one for one in items(wrote) if name_of(one) == "125007")
    image = data_set(
        RelationshipType="CONTAINS",
        ValueType="IMAGE",
        ReferencedSOPSequence=[makers.reference(ct_slice(1))],
    )
    group.ContentSequence = [*group.ContentSequence, image]
    return wrote


@pytest.mark.parametrize(
    ("frame_of_reference", "numbers", "reason"),
    [
        ("", (-5.0, -5.0, 4.0), ""),
        ("2.25.4", (-5.0, -5.0, 4.0), "another frame of reference"),
        (str(ct_slice(1).FrameOfReferenceUID), (-5.0, -5.0, 40.0), "outside of the images"),
        (str(ct_slice(1).FrameOfReferenceUID), (-500.0, -5.0, 4.0), "outside of the images"),
    ],
    ids=["not named", "frame of reference", "above", "beside"],
)
def test_points_in_the_patient_lie_in_the_images(
    frame_of_reference: str, numbers: tuple[float, ...], reason: str
) -> None:
    found = verdict_on(in_space(frame_of_reference, *numbers))
    assert reason in said(found)
    assert (found.verdict is Verdict.REFUSED) is bool(reason), said(found)


@pytest.mark.parametrize(
    ("words", "concept", "verdict"),
    [
        ("No abnormality", code("52101004", "SCT", "Present"), Verdict.HELD),
        ("Unauffällig", code("4147007", "SCT", "Mass"), Verdict.HELD),
        ("Highly suspicious mass", code("272519000", "SCT", "Absent"), Verdict.HELD),
        ("Mass in the lung", code("4147007", "SCT", "Mass"), Verdict.GOES),
        ("No abnormality", code("272519000", "SCT", "Absent"), Verdict.GOES),
    ],
    ids=["normal, present", "German", "suspicious, absent", "both found", "both absent"],
)
def test_words_that_say_the_reverse_of_a_code_are_held(
    words: str, concept: Dataset, verdict: Verdict
) -> None:
    found = verdict_on(with_content(text(words), coded(concept), SpecificCharacterSet="ISO_IR 192"))
    assert found.verdict is verdict, said(found)


def test_a_series_that_was_not_given_is_refused() -> None:
    item = data_set(
        RelationshipType="CONTAINS",
        ValueType="UIDREF",
        ConceptNameCodeSequence=[code("112002", "DCM", "Series Instance UID")],
        UID="2.25.321",
    )
    assert "study or series that the program was not given" in said(verdict_on(with_content(item)))


def test_another_patients_name_in_a_text_is_refused_and_the_own_is_marked() -> None:
    study = replace(ct_study(), known_names=frozenset({"Miller^Paul", "PID-55"}))
    for words in ("Compared with Miller, Paul", "see pid-55"):
        found = verdict_on(makers.text_report(words), study)
        assert "names another patient" in said(found)
        assert found.verdict is Verdict.REFUSED
    own = verdict_on(makers.text_report("Jane Ota, PID-1"), study)
    assert own.verdict is Verdict.GOES
    assert own.names_patient
    assert not verdict_on(makers.text_report(), study).names_patient


def test_a_person_in_an_attribute_is_held() -> None:
    found = verdict_on(derived_slice(ScheduledPerformingPhysicianName="Doctor^B"))
    assert found.verdict is Verdict.HELD
