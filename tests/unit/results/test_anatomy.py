"""Body part, region, side, view and examination in results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.sr.codedict import codes

from ai_pipeline import pipelines
from ai_pipeline.chest import ratio
from ai_pipeline.contract import (
    JudgedView,
    PipelineResult,
)
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results import anatomy, standard
from dicom_node.results.build import build
from dicom_node.results.page import summary_of
from dicom_node.results.report import report_of
from dicom_node.results.source import SourceObject, as_judged, read_sources
from tests.result_images import (
    CARDIOMEGALY,
    DX,
    LUNG,
    NODULE,
    US,
    context,
    film,
    finding,
    grey_image,
    source,
    speckle,
    still,
    write_image,
)
from tests.result_reading import coded, named, read_result
from tests.unit.results.report_lab import (
    BOX,
    CTX,
    TEXT,
    built,
    faces_of,
    measured,
    report,
    value,
)


@pytest.mark.parametrize(
    ("given", "found", "side"),
    [
        ({"ImageLaterality": "B"}, {"site": LUNG}, []),  # both lungs make no finding bilateral
        ({"Laterality": "L"}, {}, []),  # of a part without sides
        ({"ImageLaterality": "L"}, {}, []),
        ({}, {"site": LUNG, "side": "R"}, ["24028007"]),
    ],
)
def test_a_side_is_said_where_the_part_has_one(
    tmp_path: Path, given: dict[str, str], found: dict[str, Any], side: list[str]
) -> None:
    one, breast = film(tmp_path, **given), still(tmp_path)
    read = report(one, finding(CARDIOMEGALY, 0.8, one.image.uid, BOX, **found))
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(read, "272741003")] == side
    assert value(report(breast, finding(NODULE, 0.8, breast.image.uid, TEXT)), "272741003") == "7771000"


def test_the_examination_is_told_by_the_sources_codes_or_by_its_view(tmp_path: Path) -> None:
    local = coded("XR1", "99RIS", "XR CHEST AP PORTABLE")
    for given, performed in (
        ([], "Plain chest X-ray"),
        ([local, coded("36643-5", "LN", "XR Chest 2 Views")], local.CodeMeaning),
    ):
        read = report(film(tmp_path, **({"ProcedureCodeSequence": given} if given else {})))
        assert read.PerformedProcedureCodeSequence[0].CodeMeaning == performed
        assert value(read, "121058") == "363679005"
        (procedure,) = named(read, "121058")
        sites = [item.ConceptCodeSequence[0].CodeMeaning for item in named(procedure, "363704007")]
        assert sites == ["Chest"], "the code of CID 100 names no body part"
    ultrasound = report(still(tmp_path))
    assert value(ultrasound, "121058") == "363679005"
    assert ultrasound.PerformedProcedureCodeSequence[0].CodeMeaning == "Diagnostic ultrasonography"


def test_all_faces_state_the_view_as_which_the_image_was_judged(tmp_path: Path) -> None:
    """Stamped AP, while the header says PA: one voice in library and summary."""
    one = film(tmp_path, ViewPosition="PA")
    found = finding(NODULE, 0.8, one.image.uid, BOX)
    result = PipelineResult((found,), views=(JudgedView(one.image.uid, "AP"),))
    (library,) = named(built(CTX, one, result)[ResultKind.SR], "111028")
    assert value(library, "111031") == "399348003"
    of_job = report_of(context(), as_judged(read_sources([one]), result.views), result)
    assert "View: AP" in str(summary_of(of_job))


@pytest.mark.parametrize(
    ("image", "series", "said"),
    [("R", "L", ""), ("R", "", "R"), ("", "L", "L"), ("B", "L", ""), ("U", "", "")],
)
def test_all_faces_state_one_side(tmp_path: Path, image: str, series: str, said: str) -> None:
    one = still(tmp_path, BodyPartExamined="BREAST", Laterality=series, ImageLaterality=image)
    faces = faces_of(one, finding(NODULE, 0.8, one.image.uid, BOX, site=LUNG))
    stated = named(faces[ResultKind.SR], "272741003")
    assert [str(item.ConceptCodeSequence[0].CodeMeaning)[:1] for item in stated] == [said] * bool(said)
    assert faces[ResultKind.GSPS].Laterality == said


def test_the_image_library_tells_view_and_region_and_no_modality_that_is_none(tmp_path: Path) -> None:
    radiograph = source(write_image(tmp_path / "dx.dcm", DX, grey_image()))
    (library,) = named(report(radiograph, finding(NODULE, 0.8, radiograph.image.uid, BOX)), "111028")
    assert (value(library, "111031"), value(library, "121139")) == ("272479007", "DX")
    (region,) = named(library, "123014")
    assert region.ConceptCodeSequence[0].CodeMeaning == "Chest"
    captured = still(tmp_path, Modality="OT", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (library,) = named(report(captured, finding(NODULE, 0.8, captured.image.uid, (5, 5, 25, 25))), "111028")
    assert not named(library, "121139")


def test_the_target_region_is_that_of_a_measured_organ_where_nothing_else_names_one(tmp_path: Path) -> None:
    one = still(tmp_path, BodyPartExamined=None, Laterality=None)
    heart = replace(measured(one.image.uid)[1], lines=(((5.0, 5.0), (25.0, 5.0)),))
    anywhere = context(kinds=[ResultKind.SR], pipeline="command", region=None)
    [made] = build(anywhere, [one], PipelineResult(measurements=(heart,)))
    assert value(read_result(made), "123014") == ratio.HEART.value


CHEST, HEAD_REGION, PELVIS, BREAST, WHOLE = "51185008", "69536005", "12921003", "76752008", "38266002"


OWN = {"chest_xray": CHEST, "fetal_head": HEAD_REGION, "ovarian": PELVIS}  # the others are for no one part


def region(value: str, scheme: str, meaning: str, part: str | None = None) -> dict[str, Any]:
    """Attributes with this Anatomic Region Sequence and Body Part Examined."""
    return {"AnatomicRegionSequence": [coded(value, scheme, meaning)], "BodyPartExamined": part}


# Attributes of a header, and what the report says; None: what the pipeline is made for.
HEADERS = {
    "body part": ({"BodyPartExamined": "CHEST"}, CHEST),
    "body part in small letters": ({"BodyPartExamined": "chest"}, CHEST),
    "breast": ({"BodyPartExamined": "BREAST"}, BREAST),
    "no body part": ({"BodyPartExamined": None}, None),
    "empty body part": ({"BodyPartExamined": ""}, None),
    "body part that no table has": ({"BodyPartExamined": "ABDOM/RAD"}, None),
    "organ in a region": ({"BodyPartExamined": "OVARY"}, PELVIS),
    "code of an organ in a region": (region("15497006", "SCT", "Ovary"), PELVIS),
    "code of today": (region("816094009", "SCT", "Chest"), CHEST),
    "former code": (region("51185008", "SCT", "Chest"), CHEST),
    "SNOMED RT": (region("T-D3000", "SRT", "Chest"), CHEST),
    "SNOMED RT as SNM3": (region("T-D3000", "SNM3", "Chest"), CHEST),
    "organ in SNOMED RT": (region("T-87000", "SRT", "Ovary"), PELVIS),
    "word of a former edition": ({"BodyPartExamined": "SACRUM"}, "54735007"),
    "word of two words": ({"BodyPartExamined": "L SPINE"}, "122496007"),
    "fetus": ({"BodyPartExamined": "FETUS"}, PELVIS),
    "head in SNOMED RT": (region("T-D1100", "SRT", "Head"), HEAD_REGION),
    "two regions": (region("72696002", "SCT", "Knee", "CHEST"), None),
    "a part with its side": (region("18639004", "SCT", "Left kidney"), "113345001"),
    "entire part": (region("83418008", "SCT", "Entire fetus"), PELVIS),
    "finer than a region, with a body part": (region("43799004", "SCT", "Thoracic cavity", "CHEST"), CHEST),
    "finer than a region": (region("43799004", "SCT", "Thoracic cavity"), None),
    "private": (region("X", "99SITE", "Box"), None),
    "empty sequence": ({"AnatomicRegionSequence": [], "BodyPartExamined": None}, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], SourceObject]:
    folder = tmp_path_factory.mktemp("headers")
    pixels = {DX: grey_image(32, 32), US: speckle(32, 32)}
    with quiet_pydicom():
        return {
            (kind, name): source(write_image(folder / f"{kind}-{number}.dcm", kind, pixels[kind], **header))
            for number, (name, (header, _)) in enumerate(HEADERS.items())
            for kind in pixels
        }


@pytest.mark.parametrize("pipeline", sorted(pipelines.PIPELINES))
def test_a_report_says_its_target_region(images: dict[tuple[str, str], SourceObject], pipeline: str) -> None:
    kind = DX if pipeline == "chest_xray" else US
    made = pipelines.create(pipeline)
    circumstances = context(kinds=[ResultKind.SR], pipeline=pipeline, region=made.card.region)
    headers = HEADERS if pipeline == "chest_xray" else ("breast", "head in SNOMED RT", "no body part")
    read = {header: read_sources([images[kind, header]])[0] for header in headers}
    regions = {header: anatomy.target_of(circumstances, one) for header, one in read.items()}
    found = {header: (region or codes.SCT.EntireBody).value for header, region in regions.items()}
    own = OWN.get(pipeline, WHOLE)
    assert found == {header: HEADERS[header][1] or own for header in headers}
    image = images[kind, "no body part"]
    boxed = finding(NODULE, 0.8, image.image.uid, (5, 5, 25, 25))
    [report] = build(circumstances, [image], PipelineResult((boxed,)))
    [said] = named(read_result(report), "123014")
    assert said.ConceptCodeSequence[0].CodeValue == own


@pytest.mark.parametrize(
    ("code", "part"), [("80891009", "HEART"), ("64033007", "KIDNEY"), ("34402009", "RECTUM")]
)
def test_an_organ_is_no_endoscopy_of_it(tmp_path: Path, code: str, part: str) -> None:
    one = still(tmp_path, Laterality="L", **region(code, "SCT", "Organ"))
    state = faces_of(one, finding(NODULE, 0.8, one.image.uid, BOX))[ResultKind.GSPS]
    assert standard.body_part_word(code) == state.BodyPartExamined == part
    assert ("Laterality" in state) is (part == "KIDNEY")


def test_every_organ_that_dicom_names_lies_in_a_region_of_the_context_group() -> None:
    nowhere = {"artery", "endo-arterial", "endo-vascular", "endo-venous", "joint", "lumen of blood vessel"}
    nowhere |= {"vein", "cardiovascular system", "phantom", "saphenous vein", "entire body"}
    for organ in standard.body_parts().values():
        if organ.meaning.lower() not in nowhere and anatomy.common_region(organ) is None:
            region = anatomy.region_of(organ)
            assert region is not None, organ.meaning
            assert anatomy.common_region(region) is not None, organ.meaning
