"""UIDs of results: what shapes them, what is named and not built again."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node.base.dicom.identity import COPIED, REQUIRED_MAYBE_EMPTY
from dicom_node.base.lifecycle import ResultForm, ResultKind
from dicom_node.results import standard
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.source import SourceObject
from tests.result_images import (
    CALIBRATED,
    CR,
    UNCALIBRATED,
    context,
    grey_image,
    source,
    write_image,
)
from tests.result_reading import read_result
from tests.unit.results.report_lab import made_from

NAMED = context(exists=lambda _: True)  # what exists is named and not made_from


def uids(objects: list[BuiltObject]) -> list[str]:
    return [one.sop_instance_uid for one in objects]


@pytest.mark.parametrize(
    "changed",
    [
        {"models": (replace(CALIBRATED, sha256="f" * 64),)},
        {"models": (replace(CALIBRATED, card_sha256="f" * 64),)},
        {"models": (CALIBRATED, UNCALIBRATED)},
        {"pipeline_version": "1.1"},
        {"options": {"clean": True}},
        {"form": ResultForm(charset="source")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_shapes_a_result_changes_all_its_uids(
    image: SourceObject, changed: dict[str, object]
) -> None:
    before, after = made_from(NAMED, image), made_from(replace(NAMED, **changed), image)
    assert not set(uids(before)) & set(uids(after))
    assert not {o.series_instance_uid for o in before} & {o.series_instance_uid for o in after}


@pytest.mark.parametrize("changed", ["pixels_sha256", "identity_sha256"])
def test_other_pixels_or_another_identity_make_other_objects(image: SourceObject, changed: str) -> None:
    after = made_from(NAMED, replace(image, **{changed: "other"}))
    assert not set(uids(made_from(NAMED, image))) & set(uids(after))


def test_the_time_is_no_part_of_the_identity(image: SourceObject) -> None:
    later = replace(NAMED, analysed_at=NAMED.analysed_at + timedelta(days=1))
    assert uids(made_from(later, image)) == uids(made_from(NAMED, image))


def test_what_results_copy_are_the_modules_that_all_objects_of_a_study_share() -> None:
    """PS3.3 A.1.2.1 and A.1.2.2. The list is typed in, because the inbox does without highdicom."""
    never = {
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "ReferencedPatientPhotoSequence",
    }
    modules = ("patient", "clinical-trial-subject", "general-study", "patient-study", "clinical-trial-study")
    attributes = [one for name in modules for one in standard.attributes_of(name)]
    types = {keyword: kind for place, keyword, kind in attributes if not place and keyword not in never}
    assert (*types, "TimezoneOffsetFromUTC") == COPIED
    assert {keyword for keyword, kind in types.items() if kind == "2"} == REQUIRED_MAYBE_EMPTY


def test_what_exists_is_named_and_not_built_again(image: SourceObject) -> None:
    first = made_from(context(), image)
    again = made_from(context(exists=lambda uid: uid in uids(first)), image)
    assert again == [replace(one, data=None) for one in first]


def test_a_late_image_leaves_the_objects_of_the_others_and_renews_what_is_of_all(tmp_path: Path) -> None:
    one, two = (
        source(write_image(tmp_path / f"{name}.dcm", CR, grey_image(), StudyInstanceUID="1.2.3"))
        for name in ("a", "b")
    )
    before, after = made_from(context(), one), made_from(context(), two, one)
    kept = {o.sop_instance_uid: o for o in after}
    for old in before:
        if old.kind in (ResultKind.SR, ResultKind.SUMMARY, ResultKind.PDF, ResultKind.KEY_OBJECTS):
            assert old.sop_instance_uid not in kept
        else:
            assert kept[old.sop_instance_uid] == old
    for kind in (ResultKind.GSPS, ResultKind.SUMMARY):
        assert len({o.series_instance_uid for o in (*before, *after) if o.kind is kind}) == 1


def test_a_report_names_the_one_that_it_replaces(image: SourceObject) -> None:
    earlier = {"supersedes": "1.2.3.4", "supersedes_series": "1.2.3"}
    report = made_from(context(kinds=[ResultKind.SR], **earlier), image)[0]
    series = read_result(report).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.supersedes == "1.2.3.4"
