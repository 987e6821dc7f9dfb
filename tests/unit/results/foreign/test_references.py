"""What a program's objects refer to (gate.md C), and the answer as a whole (I)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.base.dicom.header import items
from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.given import GivenInstance, GivenStudy
from dicom_node.results.foreign.verdict import Verdict
from tests.modality import data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    FRAME_OF_REFERENCE,
    MR,
    SERIES,
    ct_slice,
    ct_study,
    derived_slice,
    judged,
    said,
    verdict_on,
    with_meta,
)

READERS = Readers(lambda _picture: [])


def prior(**attributes: Any) -> Dataset:
    """An image of an earlier study of the same patient."""
    return ct_slice(
        7,
        SOPInstanceUID="2.25.700",
        StudyInstanceUID="2.25.701",
        SeriesInstanceUID="2.25.702",
        StudyDate="20240102",
        AccessionNumber="ACC-0",
        **attributes,
    )


def with_prior(**attributes: Any) -> GivenStudy:
    """A call with that image."""
    return replace(ct_study(), priors={"2.25.700": GivenInstance(prior(**attributes))})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"ReferencedSOPInstanceUID": "2.25.999"}, "was not given", id="dangling"),
        pytest.param({"ReferencedSOPClassUID": MR}, "another SOP class", id="class"),
    ],
)
def test_a_wrong_reference_refuses_the_whole_answer(change: dict[str, str], reason: str) -> None:
    wrong = derived_slice(2, SourceImageSequence=[data_set(**_pair(1) | change)])
    answer = judged(derived_slice(1), wrong)
    assert [one.verdict for one in answer.objects] == [Verdict.REFUSED] * 2
    assert reason in answer.reasons[0]


def _pair(number: int) -> dict[str, str]:
    """The UIDs of a reference to a slice."""
    image = ct_slice(number)
    return {"ReferencedSOPClassUID": image.SOPClassUID, "ReferencedSOPInstanceUID": image.SOPInstanceUID}


@pytest.mark.parametrize(
    ("series", "study", "reason"),
    [("2.25.5", "", "another series"), (SERIES, "2.25.6", "another study")],
    ids=["series", "study"],
)
def test_a_reference_in_a_list_of_another_series_or_study_is_refused(
    series: str, study: str, reason: str
) -> None:
    image = data_set(**_pair(1))
    listed = data_set(SeriesInstanceUID=series, ReferencedSOPSequence=[image])
    evidence = data_set(ReferencedSeriesSequence=[listed])
    if study:
        evidence.StudyInstanceUID = study
    found = verdict_on(makers.report(CurrentRequestedProcedureEvidenceSequence=[evidence]))
    assert reason in said(found)


def test_a_reference_to_an_image_that_exists_but_was_not_given_is_refused() -> None:
    study = ct_study([ct_slice(1), ct_slice(2)])
    wrong = derived_slice(1, SourceImageSequence=[data_set(**_pair(3))])
    assert verdict_on(wrong, study).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("frames", "verdict"),
    [([1], Verdict.GOES), ([2], Verdict.REFUSED), ([0], Verdict.REFUSED)],
    ids=["the only one", "beyond", "none"],
)
def test_frame_numbers_of_an_image_of_one_frame(frames: list[int], verdict: Verdict) -> None:
    wrote = derived_slice(SourceImageSequence=[data_set(**_pair(1), ReferencedFrameNumber=frames)])
    found = verdict_on(wrote)
    assert found.verdict is verdict, said(found)
    if found.dataset is not None:
        assert "ReferencedFrameNumber" not in found.dataset.SourceImageSequence[0]


def test_a_segment_that_the_segmentation_has_not_is_refused() -> None:
    mask = makers.segmentation()
    wrong = makers.reference(mask, ReferencedSegmentNumber=[2])
    found = judged(mask, derived_slice(SourceImageSequence=[wrong]))
    assert "names a segment" in "\n".join(map(said, found.objects))


def test_references_between_objects_follow_their_new_uids() -> None:
    mask = makers.segmentation()
    selection = makers.key_objects()
    [image] = [item for item in items(selection) if item.get("ValueType") == "IMAGE"]
    image.ReferencedSOPSequence[0].ReferencedSOPClassUID = mask.SOPClassUID
    image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = mask.SOPInstanceUID
    evidence = selection.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    evidence.SeriesInstanceUID = mask.SeriesInstanceUID
    evidence.ReferencedSOPSequence[0].ReferencedSOPClassUID = mask.SOPClassUID
    evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = mask.SOPInstanceUID
    answer = judged(mask, selection)
    assert answer.verdict is Verdict.GOES, "\n".join(map(said, answer.objects))
    sent_mask, sent_selection = (one.dataset for one in answer.objects)
    assert sent_mask is not None
    assert sent_selection is not None
    listed = sent_selection.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert listed.SeriesInstanceUID == sent_mask.SeriesInstanceUID
    assert listed.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == sent_mask.SOPInstanceUID


def test_what_refers_to_a_refused_object_is_refused_and_the_rest_goes() -> None:
    mask = makers.segmentation(SegmentationType="FRACTIONAL")  # with one bit
    beside = derived_slice(1, SourceImageSequence=[makers.reference(mask)])
    found = judged(mask, beside, derived_slice(2)).objects
    assert [one.verdict for one in found] == [Verdict.REFUSED, Verdict.REFUSED, Verdict.GOES]
    assert "refers to an object of the answer that does not go" in said(found[1])


def test_what_refers_to_a_held_object_is_held() -> None:
    picture = makers.picture()
    beside = derived_slice(1, SourceImageSequence=[makers.reference(picture)])
    found = judged(picture, beside).objects
    assert [one.verdict for one in found] == [Verdict.HELD, Verdict.HELD]


def test_the_evidence_of_a_report_is_what_it_refers_to() -> None:
    report = makers.report()
    del report.CurrentRequestedProcedureEvidenceSequence
    found = verdict_on(report)
    assert found.dataset is not None
    [study] = found.dataset.CurrentRequestedProcedureEvidenceSequence
    [series] = study.ReferencedSeriesSequence
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [
        ct_slice(1).SOPInstanceUID
    ]
    assert "the lists of referenced objects name what the object refers to" in found.repairs


def test_a_prior_that_was_given_becomes_other_evidence() -> None:
    image = prior()
    found = verdict_on(makers.report(image=image, StudyInstanceUID=ct_study().study_uid), with_prior())
    assert found.verdict is not Verdict.REFUSED or "study" in said(found)
    report = makers.report()
    for item in items(report):
        if item.get("ReferencedSOPInstanceUID") == ct_slice(1).SOPInstanceUID:
            item.ReferencedSOPInstanceUID = "2.25.700"
    del report.CurrentRequestedProcedureEvidenceSequence
    found = verdict_on(report, with_prior())
    assert found.dataset is not None, said(found)
    [study] = found.dataset.PertinentOtherEvidenceSequence
    assert study.StudyInstanceUID == "2.25.701"


def test_a_prior_of_another_patient_is_refused() -> None:
    wrote = derived_slice(SourceImageSequence=[makers.reference(prior())])
    assert verdict_on(wrote, with_prior()).verdict is Verdict.GOES
    found = verdict_on(wrote, with_prior(PatientID="PID-9"))
    assert "an earlier study of another patient" in said(found)


def test_what_only_the_source_refers_to_is_left_out_of_a_derived_image() -> None:
    """mercure's test module copies the scanner's references to scouts that a program does not get."""
    scout = data_set(ReferencedSOPClassUID=MR, ReferencedSOPInstanceUID="2.25.44")
    study = ct_study([ct_slice(1, ReferencedImageSequence=[scout])])
    found = verdict_on(derived_slice(ReferencedImageSequence=[scout]), study)
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert "ReferencedImageSequence" not in found.dataset


def test_former_documents_that_were_not_given_are_left_out() -> None:
    report = data_set(ReferencedSOPClassUID=makers.report().SOPClassUID, ReferencedSOPInstanceUID="2.25.4")
    series = data_set(SeriesInstanceUID="2.25.3", ReferencedSOPSequence=[report])
    former = data_set(StudyInstanceUID=ct_study().study_uid, ReferencedSeriesSequence=[series])
    found = verdict_on(makers.report(PredecessorDocumentsSequence=[former]))
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert "PredecessorDocumentsSequence" not in found.dataset


@pytest.mark.parametrize(
    "make", [makers.segmentation, makers.presentation, makers.structure_set], ids=lambda make: make.__name__
)
def test_an_object_that_must_refer_to_images_and_does_not_is_refused(make: Callable[[], Dataset]) -> None:
    wrote = make()
    for item in list(items(wrote)):
        for keyword in [one.keyword for one in item if one.VR == "SQ"]:
            if any("ReferencedSOPInstanceUID" in inner for inner in item[keyword].value):
                del item[keyword]
    assert verdict_on(wrote).verdict is Verdict.REFUSED


def test_what_names_no_image_is_bound_by_the_call_and_says_so() -> None:
    found = verdict_on(makers.text_report())
    assert "it refers to no image: it is bound to the study by the call alone" in found.notes


def test_an_answer_without_objects_goes() -> None:
    assert judged().verdict is Verdict.GOES


def test_two_frames_of_reference_in_one_series_become_two_series() -> None:
    other = with_meta(derived_slice(2, FrameOfReferenceUID=generate_uid()))
    found = [one.dataset for one in judged(derived_slice(1), other).objects]
    assert len({str(one.SeriesInstanceUID) for one in found if one is not None}) == 2
    assert FRAME_OF_REFERENCE in {one.FrameOfReferenceUID for one in found if one is not None}
