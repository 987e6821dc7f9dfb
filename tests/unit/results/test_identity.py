"""Same input, same objects; anything else, other objects; which installation made them."""

import difflib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import DerivedImage, Finding, ImageKind, PipelineResult
from dicom_node import results
from dicom_node.dicom.identity import COPIED, REQUIRED_MAYBE_EMPTY
from dicom_node.dicom.own_objects import MODEL_NAME
from dicom_node.errors import DecodedDifferently, ResultRefused
from dicom_node.model.kinds import ReaderVerdict, RejectionReason, ResultKind
from dicom_node.results import BuiltObject, Installation, ResultContext, SourceObject
from dicom_node.results.common import iods
from dicom_node.results.common.identity import BUILDER_VERSION
from tests import golden_lab
from tests.result_images import (
    ANALYSED_AT,
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    DX,
    INSTALLATION,
    NODULE,
    UNCALIBRATED,
    context,
    finding,
    grey_image,
    source,
    write_image,
)
from tests.result_reading import meaning_of, named, read_result

NAMES = [  # the others: tests/unit/dicom/test_dicom.py
    ("ISO_IR 100", "Buc^Jérôme"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
]


@pytest.fixture
def image(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "cr.dcm", CR, grey_image()))


def result_on(*sources: SourceObject) -> PipelineResult:
    findings: list[Finding] = []
    images: list[DerivedImage] = []
    for one in sources:
        uid, pixels = one.image.uid, one.image.stored(0).copy()
        findings.append(finding(CARDIOMEGALY, 0.83, uid, (50, 60, 150, 170)))
        findings.append(finding(NODULE, 0.6, uid, (10, 10, 40, 40)))
        images.append(DerivedImage(ImageKind.CLEANED, uid, pixels, "MONOCHROME2", "same", verified=True))
    return PipelineResult(findings=tuple(findings), images=tuple(images))


def built(ctx: ResultContext, *sources: SourceObject) -> list[BuiltObject]:
    made = results.build(ctx, sources, result_on(*sources))
    assert made
    return made


NAMED = context(exists=lambda _: True)  # what exists is named and not built


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
    before, after = built(NAMED, image), built(replace(NAMED, **changed), image)
    assert not set(uids(before)) & set(uids(after))
    assert not {o.series_instance_uid for o in before} & {o.series_instance_uid for o in after}


@pytest.mark.parametrize("changed", ["pixels_sha256", "identity_sha256"])
def test_other_pixels_or_another_identity_make_other_objects(image: SourceObject, changed: str) -> None:
    after = built(NAMED, replace(image, **{changed: "other"}))
    assert not set(uids(built(NAMED, image))) & set(uids(after))


def test_neither_the_rule_nor_the_time_is_part_of_the_identity(image: SourceObject) -> None:
    later = replace(NAMED, rule="another", analysed_at=NAMED.analysed_at + timedelta(days=1))
    assert uids(built(later, image)) == uids(built(NAMED, image))


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
    named = {"SpecificCharacterSet": charset, "PatientName": name, "ReferringPhysicianName": name}
    path = write_image(tmp_path / "cr.dcm", CR, grey_image(), **named)
    for dataset in map(read_result, built(context(charset=wanted), source(path))):
        assert str(dataset.PatientName) == str(dataset.ReferringPhysicianName) == name
        assert dataset.SpecificCharacterSet == ("ISO_IR 192" if wanted == "utf8" else charset)


def test_text_that_is_not_in_the_named_set_is_refused_not_replaced(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100", PatientName="Buc^Jérôme"
    )
    report = context(kinds=[ResultKind.SR])
    for wrong in (b"ISO_IR 192", b"ISO_IR 999", b"ISO_IR 6  "):
        broken = tmp_path / "broken.dcm"
        broken.write_bytes(path.read_bytes().replace(b"ISO_IR 100", wrong))
        with pytest.raises(DecodedDifferently) as caught:
            built(report, source(broken))
        assert "Buc" not in str(caught.value)
        (one,) = built(report, source(broken, assume_charset="ISO_IR 100"))
        assert str(read_result(one).PatientName) == "Buc^Jérôme"


def test_an_unknown_character_set_does_no_harm_to_plain_text(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cr.dcm", CR, grey_image())
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999"))
    for made in map(read_result, built(context(charset="source"), source(path))):
        assert (made.PatientName, made.SpecificCharacterSet) == ("Test^CR", "ISO_IR 192")


def test_a_label_that_the_source_charset_lacks_makes_the_object_utf8(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image(), SpecificCharacterSet="ISO_IR 100"))
    named = finding(replace(CARDIOMEGALY, meaning="심장비대"), 0.8, one.image.uid, (5, 5, 50, 50))
    ctx = context(charset="source", kinds=[ResultKind.SR])
    report = read_result(results.build(ctx, [one], PipelineResult(findings=(named,)))[0])
    assert report.SpecificCharacterSet == "ISO_IR 192" and "심장비대" in str(report)


def test_the_patient_of_a_report_is_one_whichever_image_says_it(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "ONE"}
    bare = source(write_image(tmp_path / "a.dcm", CR, grey_image(), PatientName="", PatientSex="", **study))
    full = source(write_image(tmp_path / "b.dcm", CR, grey_image(), **study))
    made = map(read_result, built(context(), bare, full))
    assert {(str(one.PatientName), one.PatientSex) for one in made} == {("Test^CR", "F")}
    other = source(write_image(tmp_path / "c.dcm", CR, grey_image(), PatientName="Other^One", **study))
    with pytest.raises(ResultRefused, match="more than one patient"):
        built(context(), bare, full, other)


def test_our_own_results_are_known_again_and_those_of_another_maker_are_not(image: SourceObject) -> None:
    for one in built(context(), image):
        assert results.is_own_result(read_result(one))
    item, other = Dataset(), Dataset()
    item.Manufacturer, item.ManufacturerModelName = "Scanner Maker", "DICOM AI Node"
    other.ContributingEquipmentSequence = [item]
    for one in (pydicom.dcmread(image.path), Dataset(), other):
        assert not results.is_own_result(one)


WRITE = "run `python -m tests.golden_lab` and review the difference"


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return golden_lab.dumps()


def fault(name: str, golden: str, now: str) -> str:
    """What to do where a dump is not what the builders make now; empty where it is."""
    if golden == now:
        return ""
    if not golden.startswith(f"{golden_lab.first_line()}\n"):
        return f"{name} is of another builder version than {BUILDER_VERSION}: {WRITE}"
    changed = "\n".join(difflib.unified_diff(golden.splitlines(), now.splitlines(), "golden", "now", n=1))
    return f"{name} changed: raise BUILDER_VERSION (results/common/identity.py), then {WRITE}\n{changed}"


def test_results_are_what_the_golden_dumps_say(now: dict[str, str]) -> None:
    golden = {path.name: path.read_text(encoding="utf-8") for path in golden_lab.FOLDER.glob("*.txt")}
    assert golden.keys() == now.keys(), WRITE
    faults = [fault(name, golden[name], now[name]) for name in sorted(now)]
    assert not any(faults), "\n".join(filter(None, faults))


ELSEWHERE = Installation.from_drawn("f" * 32)


def built_equipment(folder: Path, ctx: ResultContext) -> dict[str, Dataset]:
    """Results on one film, the report first, a rejection note and an assessment, by kind."""
    image = source(write_image(folder / "film.dcm", DX, grey_image()))
    result = PipelineResult((finding(CARDIOMEGALY, 0.83, image.image.uid, (10, 10, 90, 90)),))
    made, installation = results.build(ctx, [image], result), ctx.installation
    report = folder / f"{installation.serial_number}.dcm"
    report.write_bytes(made[0].data or b"")
    said = results.FindingAssessment(
        "Cardiomegaly", ("8186001", "SCT"), "", CALIBRATED.id, "1", ReaderVerdict.ACCEPTED, "", ANALYSED_AT
    )
    made.append(results.build_assessment(report, [said], "ann", "AINODE", installation, ""))
    note = (RejectionReason.QUALITY, "blurred", ANALYSED_AT, "AINODE", installation)
    made.append(results.build_rejection([report], *note))
    return {str(one.kind): read_result(one) for one in made}


def observers(one: Dataset) -> dict[str, str]:
    """Device Observer UID and Serial Number of an SR or KO."""
    found = [item for code in ("121012", "121016") for item in named(one, code)]
    return {meaning_of(item): str(item.get("UID") or item.get("TextValue")) for item in found}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return built_equipment(tmp_path_factory.mktemp("here"), context())


def test_every_result_names_the_installation(here: dict[str, Dataset]) -> None:
    assert {"sr", "gsps", "sc", "assessment", "rejection"} <= set(here)
    for kind, one in here.items():
        equipment = one.ContributingEquipmentSequence
        [node] = [item for item in equipment if item.ManufacturerModelName == MODEL_NAME]
        named = {(item.DeviceUID, item.DeviceSerialNumber) for item in (one, node)}
        assert named == {(INSTALLATION.device_uid, INSTALLATION.serial_number)}, kind


def test_the_observer_is_this_installation_with_these_models(
    here: dict[str, Dataset], tmp_path: Path
) -> None:
    kinds = [ResultKind.SR]
    second = built_equipment(tmp_path, context(CALIBRATED, UNCALIBRATED, kinds=kinds))
    elsewhere = built_equipment(tmp_path, context(kinds=kinds, installation=ELSEWHERE))
    uid = "Device Observer UID"
    for kind in ("sr", "assessment", "rejection"):
        assert observers(here[kind])["Device Observer Serial Number"] == INSTALLATION.serial_number
        assert observers(here[kind])[uid] != observers(elsewhere[kind])[uid]
    assert observers(here["sr"])[uid] != observers(second["sr"])[uid]
