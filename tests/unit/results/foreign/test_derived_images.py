"""Derived images that took over their scanner's header: what only originals state, what is not whole."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.verdict import Verdict
from tests.modality import data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    MR,
    STORAGE,
    ct_slice,
    ct_study,
    derived_slice,
    said,
    verdict_on,
    with_meta,
)

ENHANCED_MR = STORAGE + "4.1"


def enhanced_slice(**attributes: Any) -> Dataset:
    """An enhanced MR of one frame, as a filter writes it: with its source's acquisition."""
    wrote = derived_slice(
        SOPClassUID=ENHANCED_MR, Modality="MR", NumberOfFrames=1, PulseSequenceName="T1TFE",
        EchoPulseSequence="GRADIENT", BulkMotionCompensationTechnique="NONE", MRAcquisitionType="3D",
        SharedFunctionalGroupsSequence=[
            data_set(MRImageFrameTypeSequence=[data_set(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"])])
        ],
        **attributes,
    )  # fmt: skip
    return with_meta(wrote)


def test_a_derived_image_states_no_acquisition_of_its_own() -> None:
    found = verdict_on(enhanced_slice())
    assert found.dataset is not None, said(found)
    for keyword in ("PulseSequenceName", "EchoPulseSequence", "BulkMotionCompensationTechnique"):
        assert keyword not in found.dataset
    groups = found.dataset.SharedFunctionalGroupsSequence[0]
    assert groups.MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    assert "only original images state" in said(found)


def test_an_image_that_was_derived_before_keeps_what_it_says() -> None:
    wrote = enhanced_slice(ImageType=["DERIVED", "PRIMARY", "T1", "NONE"])
    found = verdict_on(wrote)
    assert found.dataset is not None, said(found)
    assert found.dataset.PulseSequenceName == "T1TFE"


def test_an_image_whose_frames_have_sides_gets_none_of_the_series() -> None:
    found = verdict_on(enhanced_slice(BodyPartExamined="KNEE"))
    assert found.dataset is not None, said(found)
    assert "Laterality" not in found.dataset


@pytest.mark.parametrize(
    ("stated", "has_side"),
    [
        pytest.param({"BodyPartExamined": "KNEE"}, True, id="paired"),
        pytest.param({"BodyPartExamined": "", "Laterality": ""}, False, id="unpaired as in the images"),
        pytest.param(
            {"BodyPartExamined": "", "AnatomicRegionSequence": "breast"}, True, id="paired region alone"
        ),
        pytest.param(
            {"BodyPartExamined": "", "AnatomicRegionSequence": "skeleton"}, False, id="another region alone"
        ),
    ],
)
def test_a_side_is_asked_for_where_the_part_may_have_one(stated: dict[str, Any], has_side: bool) -> None:
    """PS3.3 C.7.3.1: Laterality may be empty for a paired part, and absent for all others."""
    regions = {
        "breast": data_set(CodeValue="76752008", CodingSchemeDesignator="SCT", CodeMeaning="Breast"),
        "skeleton": data_set(CodeValue="113192009", CodingSchemeDesignator="SCT", CodeMeaning="Skeletal"),
    }
    values = {**stated}
    source = {}
    if region := values.pop("AnatomicRegionSequence", ""):
        values["AnatomicRegionSequence"] = [regions[region]]
        source = {"BodyPartExamined": ""}
    study = ct_study([ct_slice(number, **source) for number in (1, 2)])
    found = verdict_on(derived_slice(**values), study)
    assert found.dataset is not None, said(found)
    assert ("Laterality" in found.dataset) is has_side


def test_a_mapping_of_values_without_a_unit_is_left_out() -> None:
    """Philips scanners send Real World Value Mappings with a slope alone."""
    scanner = data_set(RealWorldValueIntercept=0.0, RealWorldValueSlope=2.08)
    found = verdict_on(derived_slice(RealWorldValueMappingSequence=[scanner]))
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert "RealWorldValueMappingSequence" not in found.dataset
    assert "RealWorldValueMappingSequence was left out" in said(found)


@pytest.mark.parametrize("keyword", ["ReferencedStudySequence", "ReferencedPatientSequence"])
def test_a_reference_of_the_source_that_names_nothing_is_not_copied(keyword: str) -> None:
    study = ct_study([ct_slice(1, **{keyword: [data_set()]})])
    found = verdict_on(makers.text_report(), study)
    assert found.dataset is not None, said(found)
    assert keyword not in found.dataset


def test_a_segment_that_a_person_drew_gets_no_algorithm() -> None:
    """Segment Algorithm Name is of Type 1C: not of MANUAL segments (PS3.3 C.8.20.2)."""
    wrote = makers.segmentation()
    segment = wrote.SegmentSequence[0]
    segment.SegmentAlgorithmType = "MANUAL"
    for keyword in ("SegmentAlgorithmName", "SegmentationAlgorithmIdentificationSequence"):
        del segment[keyword]
    found = verdict_on(wrote)
    assert found.dataset is not None, said(found)
    assert "SegmentAlgorithmName" not in found.dataset.SegmentSequence[0]


@pytest.mark.parametrize(
    ("second", "is_taken"), [("SE", True), ("GR", False)], ids=["all inputs alike", "inputs differ"]
)
def test_how_an_image_was_acquired_is_taken_from_its_inputs(second: str, is_taken: bool) -> None:
    """SimpleITK copies no Scanning Sequence, which is of Type 1 in MR (PS3.3 C.8.3.1)."""

    def mr(number: int, sequence: str) -> Dataset:
        made = ct_slice(
            number, SOPClassUID=MR, Modality="MR", ScanningSequence=sequence, SequenceVariant="NONE",
            ScanOptions="", MRAcquisitionType="2D", EchoTime=10, EchoTrainLength=1,
        )  # fmt: skip
        return with_meta(made)

    wrote = mr(1, "SE")
    wrote.SOPInstanceUID = "2.25.91"
    wrote.PixelData = derived_slice().PixelData
    del wrote.ScanningSequence
    found = verdict_on(with_meta(wrote), ct_study([mr(1, "SE"), mr(2, second)]))
    assert (found.verdict is Verdict.GOES) is is_taken, said(found)
    assert ("ScanningSequence was taken" in said(found)) is is_taken


def test_a_picture_without_modality_is_another_one() -> None:
    """Modality is of Type 3 in secondary captures (PS3.3 C.8.6.1); DCMTK's img2dcm writes none."""
    wrote = makers.picture()
    del wrote.Modality
    found = verdict_on(wrote, readers=Readers(lambda _picture: []))
    assert found.dataset is not None, said(found)
    assert found.dataset.Modality == "OT"
