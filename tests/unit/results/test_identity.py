"""Same input, same objects; anything else, other objects: a result's identity is derived."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import DerivedImage, Finding, ImageKind, PipelineResult
from dicom_node import results
from dicom_node.dicom.identity import COPIED, REQUIRED_MAYBE_EMPTY
from dicom_node.errors import DecodedDifferently, ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import BuiltObject, ResultContext, SourceObject
from dicom_node.results.common import iods
from tests.result_images import (
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    NODULE,
    UNCALIBRATED,
    context,
    finding,
    grey_image,
    source,
    write_image,
)
from tests.result_reading import read_result

NAMES = [
    ("ISO_IR 192", "Buc^Jérôme"),
    ("ISO_IR 100", "Buc^Jérôme"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
]


@pytest.fixture
def image(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "cr.dcm", CR, grey_image()))


def result_on(*sources: SourceObject) -> PipelineResult:
    findings: list[Finding] = []
    images: list[DerivedImage] = []
    for one in sources:
        uid = one.image.uid
        findings += [
            finding(CARDIOMEGALY, 0.83, uid, (50, 60, 150, 170)),
            finding(NODULE, 0.6, uid, (10, 10, 40, 40)),
        ]
        cleaned = one.image.stored(0).copy()
        images.append(DerivedImage(ImageKind.CLEANED, uid, cleaned, "MONOCHROME2", "same", verified=True))
    return PipelineResult(findings=tuple(findings), images=tuple(images))


def built(ctx: ResultContext, *sources: SourceObject) -> list[BuiltObject]:
    made = results.build(ctx, sources, result_on(*sources))
    assert made
    return made


def uids(objects: list[BuiltObject]) -> list[str]:
    return [one.sop_instance_uid for one in objects]


def test_the_same_input_gives_the_same_bytes(image: SourceObject) -> None:
    assert built(context(), image) == built(context(), image)


@pytest.mark.parametrize(
    "changed",
    [
        {"models": (replace(CALIBRATED, sha256="f" * 64),)},
        {"models": (replace(CALIBRATED, card_sha256="f" * 64),)},
        {"models": (CALIBRATED, UNCALIBRATED)},
        {"pipeline_version": "1.1"},
        {"options": {"clean": True}},
        {"charset": "source"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_shapes_a_result_changes_all_its_uids(
    image: SourceObject, changed: dict[str, object]
) -> None:
    before, after = built(context(), image), built(replace(context(), **changed), image)
    assert not set(uids(before)) & set(uids(after))
    assert not {o.series_instance_uid for o in before} & {o.series_instance_uid for o in after}


@pytest.mark.parametrize("changed", ["pixels_sha256", "identity_sha256"])
def test_other_pixels_or_another_identity_make_other_objects(image: SourceObject, changed: str) -> None:
    after = built(context(), replace(image, **{changed: "other"}))
    assert not set(uids(built(context(), image))) & set(uids(after))


def test_neither_the_rule_nor_the_time_is_part_of_the_identity(image: SourceObject) -> None:
    later = replace(context(), rule="another", analysed_at=context().analysed_at + timedelta(days=1))
    assert uids(built(later, image)) == uids(built(context(), image))


def test_what_results_copy_are_the_modules_that_all_objects_of_a_study_share() -> None:
    """PS3.3 A.1.2.1 and A.1.2.2. The list is typed in, because the inbox does without highdicom."""
    never = {
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "ReferencedPatientPhotoSequence",
    }
    modules = ("patient", "clinical-trial-subject", "general-study", "patient-study", "clinical-trial-study")
    attributes = [one for name in modules for one in iods.attributes(name)]
    types = {keyword: kind for place, keyword, kind in attributes if not place and keyword not in never}
    assert (*types, "TimezoneOffsetFromUTC") == COPIED
    assert {keyword for keyword, kind in types.items() if kind == "2"} == REQUIRED_MAYBE_EMPTY


def test_what_exists_is_named_and_not_built_again(image: SourceObject) -> None:
    first = built(context(), image)
    again = built(context(exists=lambda uid: uid in uids(first)), image)
    assert again == [replace(one, data=None) for one in first]


def test_a_late_image_leaves_the_objects_of_the_others_and_renews_what_is_of_all(tmp_path: Path) -> None:
    one, two = (
        source(write_image(tmp_path / f"{name}.dcm", CR, grey_image(), StudyInstanceUID="1.2.3"))
        for name in ("a", "b")
    )
    before, after = built(context(), one), built(context(), two, one)
    kept = {o.sop_instance_uid: o for o in after}
    for old in before:
        if old.kind in (ResultKind.SR, ResultKind.SUMMARY, ResultKind.PDF):
            assert old.sop_instance_uid not in kept
        else:
            assert kept[old.sop_instance_uid] == old
    assert len({o.series_instance_uid for o in after if o.kind is ResultKind.GSPS}) == 1


def test_a_report_names_the_one_that_it_replaces(image: SourceObject) -> None:
    earlier = {"supersedes": "1.2.3.4", "supersedes_series": "1.2.3"}
    report = built(context(kinds=[ResultKind.SR], **earlier), image)[0]
    series = read_result(report).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.supersedes == "1.2.3.4"


@pytest.mark.parametrize(("charset", "name"), NAMES, ids=[str(charset) for charset, _ in NAMES])
@pytest.mark.parametrize("wanted", ["utf8", "source"])
def test_a_name_is_the_same_text_in_every_result(
    tmp_path: Path, charset: str | list[str], name: str, wanted: str
) -> None:
    path = write_image(
        tmp_path / "cr.dcm",
        CR,
        grey_image(),
        SpecificCharacterSet=charset,
        PatientName=name,
        ReferringPhysicianName=name,
    )
    for one in built(context(charset=wanted), source(path)):
        dataset = read_result(one)
        assert str(dataset.PatientName) == str(dataset.ReferringPhysicianName) == name
        found = dataset.SpecificCharacterSet
        assert found == ("ISO_IR 192" if wanted == "utf8" else charset)


def test_text_that_is_not_in_the_named_set_is_refused_not_replaced(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100", PatientName="Buc^Jérôme"
    )
    for wrong in (b"ISO_IR 192", b"ISO_IR 999", b"ISO_IR 6  "):
        broken = tmp_path / "broken.dcm"
        broken.write_bytes(path.read_bytes().replace(b"ISO_IR 100", wrong))
        with pytest.raises(DecodedDifferently) as caught:
            built(context(), source(broken))
        assert "Buc" not in str(caught.value)
        for one in built(context(), source(broken, assume_charset="ISO_IR 100")):
            assert str(read_result(one).PatientName) == "Buc^Jérôme"


def test_an_unknown_character_set_does_no_harm_to_plain_text(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cr.dcm", CR, grey_image())
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999"))
    for one in built(context(charset="source"), source(path)):
        made = read_result(one)
        assert (made.PatientName, made.SpecificCharacterSet) == ("Test^CR", "ISO_IR 192")


def test_a_label_that_the_source_charset_lacks_makes_the_object_utf8(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100"))
    named = finding(replace(CARDIOMEGALY, meaning="심장비대"), 0.8, one.image.uid, (5, 5, 50, 50))
    ctx = context(charset="source", kinds=[ResultKind.SR])
    report = read_result(results.build(ctx, [one], PipelineResult(findings=(named,)))[0])
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert "심장비대" in str(report)


def test_two_patients_in_one_job_get_no_result(tmp_path: Path) -> None:
    pair = [
        source(
            write_image(tmp_path / f"{name}.dcm", CR, grey_image(), StudyInstanceUID="1.2.3", PatientID=name)
        )
        for name in ("a", "b")
    ]
    with pytest.raises(ResultRefused, match="more than one patient"):
        built(context(), *pair)


def test_the_patient_of_a_report_is_one_whichever_image_says_it(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "ONE"}
    bare = source(write_image(tmp_path / "a.dcm", CR, grey_image(), PatientName="", PatientSex="", **study))
    full = source(write_image(tmp_path / "b.dcm", CR, grey_image(), **study))
    made = map(read_result, built(context(), bare, full))
    assert {(str(one.PatientName), one.PatientSex) for one in made} == {("Test^CR", "F")}
    other = source(write_image(tmp_path / "c.dcm", CR, grey_image(), PatientName="Other^One", **study))
    with pytest.raises(ResultRefused, match="more than one patient"):
        built(context(), bare, full, other)


def test_our_own_results_are_known_again(image: SourceObject) -> None:
    for one in built(context(), image):
        assert results.is_own_result(read_result(one))
    assert not results.is_own_result(pydicom.dcmread(image.path))
    assert not results.is_own_result(Dataset())
