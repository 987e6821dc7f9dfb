"""Who made a result: this installation with these models."""

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import PipelineResult
from dicom_node.base.dicom.uids import Installation, is_own_result
from dicom_node.base.lifecycle import ReaderVerdict, RejectionReason, ResultKind
from dicom_node.results.assessment import FindingAssessment, build_assessment
from dicom_node.results.build import build
from dicom_node.results.context import ResultContext
from dicom_node.results.rejection import build_rejection
from dicom_node.results.source import SourceObject
from tests.modality import data_set
from tests.result_images import (
    ANALYSED_AT,
    CALIBRATED,
    CARDIOMEGALY,
    DX,
    INSTALLATION,
    UNCALIBRATED,
    context,
    finding,
    grey_image,
    source,
    write_image,
)
from tests.result_reading import meaning_of, named, read_result
from tests.unit.results.report_lab import made_from


def test_our_own_results_are_known_again_and_those_of_another_maker_are_not(image: SourceObject) -> None:
    for one in made_from(context(), image):
        assert is_own_result(read_result(one))
    item = data_set(Manufacturer="Scanner Maker", ManufacturerModelName="DICOM AI Node")
    for one in (pydicom.dcmread(image.path), Dataset(), data_set(ContributingEquipmentSequence=[item])):
        assert not is_own_result(one)


ELSEWHERE = Installation.from_drawn("f" * 32)


def built_equipment(folder: Path, ctx: ResultContext) -> dict[str, Dataset]:
    """Results on one film, the report first, a rejection note and an assessment, by kind."""
    image = source(write_image(folder / "film.dcm", DX, grey_image()))
    result = PipelineResult((finding(CARDIOMEGALY, 0.83, image.image.uid, (10, 10, 90, 90)),))
    made, installation = build(ctx, [image], result), ctx.installation
    report = folder / f"{installation.serial_number}.dcm"
    report.write_bytes(made[0].data or b"")
    said = FindingAssessment(
        "Cardiomegaly", ("8186001", "SCT"), "", CALIBRATED.id, "1", ReaderVerdict.ACCEPTED, "", ANALYSED_AT
    )
    made.append(build_assessment(report, [said], "ann", "AINODE", installation, ""))
    made.append(
        build_rejection([report], RejectionReason.QUALITY, "blurred", ANALYSED_AT, "AINODE", installation)
    )
    return {str(one.kind): read_result(one) for one in made}


def observers(one: Dataset) -> dict[str, str]:
    """Device Observer UID and Serial Number of an SR or KO."""
    found = [item for code in ("121012", "121016") for item in named(one, code)]
    return {meaning_of(item): str(item.get("UID") or item.get("TextValue")) for item in found}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return built_equipment(tmp_path_factory.mktemp("here"), context())


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
