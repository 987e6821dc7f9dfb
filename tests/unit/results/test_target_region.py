"""Target Region (123014, DCM) stands in the image library of every report, whatever header and pipeline."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai_pipeline import pipelines
from ai_pipeline.contract import Code, PipelineResult
from dicom_node import results
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.model.kinds import ResultKind
from tests.result_images import DX, US, context, grey_image, source, speckle, write_image
from tests.result_reading import named, read_result

CHEST, HEAD, PELVIS, BREAST, WHOLE = "51185008", "69536005", "12921003", "76752008", "38266002"
OWN = {"chest_xray": CHEST, "fetal_head": HEAD, "ovarian": PELVIS}  # the others are for no one part


def region(value: str, scheme: str, meaning: str, part: str | None = None) -> dict[str, Any]:
    """Attributes with this Anatomic Region Sequence and Body Part Examined."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return {"AnatomicRegionSequence": [item], "BodyPartExamined": part}


# Attributes of a header, and what the report says; None: what the pipeline is made for.
HEADERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "body part": ({"BodyPartExamined": "CHEST"}, CHEST),
    "body part in small letters": ({"BodyPartExamined": "chest"}, CHEST),
    "breast": ({"BodyPartExamined": "BREAST"}, BREAST),
    "no body part": ({"BodyPartExamined": None}, None),
    "empty body part": ({"BodyPartExamined": ""}, None),
    "body part that no table has": ({"BodyPartExamined": "ABDOM/RAD"}, None),
    "body part of no common region": ({"BodyPartExamined": "OVARY"}, None),
    "code of today": (region("816094009", "SCT", "Chest"), CHEST),
    "former code": (region("51185008", "SCT", "Chest"), CHEST),
    "SNOMED RT": (region("T-D3000", "SRT", "Chest"), CHEST),
    "SNOMED RT as SNM3": (region("T-D3000", "SNM3", "Chest"), CHEST),
    "head in SNOMED RT": (region("T-D1100", "SRT", "Head", "CHEST"), HEAD),
    "finer than a region, with a body part": (region("43799004", "SCT", "Thoracic cavity", "CHEST"), CHEST),
    "finer than a region": (region("43799004", "SCT", "Thoracic cavity"), None),
    "private": (region("X", "99SITE", "Box"), None),
    "empty sequence": ({"AnatomicRegionSequence": [], "BodyPartExamined": None}, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], results.SourceObject]:
    folder = tmp_path_factory.mktemp("headers")
    pixels = {DX: grey_image(32, 32), US: speckle(32, 32)}
    with quiet_pydicom():
        return {
            (kind, name): source(write_image(folder / f"{kind}-{number}.dcm", kind, pixels[kind], **header))
            for number, (name, (header, _)) in enumerate(HEADERS.items())
            for kind in pixels
        }


def regions_of(report: results.BuiltObject) -> list[str]:
    return [str(item.ConceptCodeSequence[0].CodeValue) for item in named(read_result(report), "123014")]


@pytest.mark.parametrize("pipeline", sorted(pipelines.PIPELINES))
def test_a_report_says_its_target_region(
    images: dict[tuple[str, str], results.SourceObject], pipeline: str
) -> None:
    kind = DX if pipeline == "chest_xray" else US
    made = pipelines.create(pipeline)
    circumstances = context(kinds=[ResultKind.SR], pipeline=pipeline, region=made.card.region)
    found = {}
    for header in HEADERS:
        (report,) = results.build(circumstances, [images[kind, header]], PipelineResult())
        found[header] = regions_of(report)
    own = OWN.get(pipeline, WHOLE)
    assert found == {header: [region or own] for header, (_, region) in HEADERS.items()}


def test_the_report_of_a_failure_says_it_too(images: dict[tuple[str, str], results.SourceObject]) -> None:
    pelvis = Code("816092008", "SCT", "Pelvis")
    (report,) = results.build_failure(
        context(kinds=[ResultKind.SR], region=pelvis), [images[US, "no body part"]], "out of memory"
    )
    assert regions_of(report) == [PELVIS]
