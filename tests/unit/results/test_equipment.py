"""Which installation made a result: Device UID, Device Serial Number and Device Observer UID say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import PipelineResult
from dicom_node import results
from dicom_node.dicom.own_objects import MODEL_NAME
from dicom_node.model.kinds import ReaderVerdict, RejectionReason
from dicom_node.results import Installation
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

ELSEWHERE = Installation.from_drawn("f" * 32)


def built(folder: Path, installation: Installation, *models: object) -> dict[str, Dataset]:
    """A result of each kind on one film, a rejection note and an assessment, by kind."""
    image = source(write_image(folder / "film.dcm", DX, grey_image()))
    result = PipelineResult((finding(CARDIOMEGALY, 0.83, image.image.uid, (10, 10, 90, 90)),))
    made = results.build(context(*models, installation=installation), [image], result)  # type: ignore[arg-type]
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
    return built(tmp_path_factory.mktemp("here"), INSTALLATION)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return built(tmp_path_factory.mktemp("elsewhere"), ELSEWHERE)


def test_every_result_names_the_installation(here: dict[str, Dataset]) -> None:
    assert {"sr", "gsps", "sc", "assessment", "rejection"} <= set(here)
    for kind, one in here.items():
        assert (one.DeviceUID, one.DeviceSerialNumber) == (
            INSTALLATION.device_uid,
            INSTALLATION.serial_number,
        ), kind
        equipment = one.ContributingEquipmentSequence
        [node] = [item for item in equipment if item.ManufacturerModelName == MODEL_NAME]
        assert node.DeviceUID == INSTALLATION.device_uid, kind
        assert node.DeviceSerialNumber == INSTALLATION.serial_number, kind


def test_another_installation_shares_no_equipment_and_no_uid_with_it(
    here: dict[str, Dataset], elsewhere: dict[str, Dataset]
) -> None:
    """The same film and the same model: what is built of it bears other bytes, so another UID."""
    for kind, one in here.items():
        other = elsewhere[kind]
        assert one.SOPInstanceUID != other.SOPInstanceUID, kind
        assert one.DeviceSerialNumber != other.DeviceSerialNumber, kind
        ours, theirs = (
            {item.DeviceUID for item in which.ContributingEquipmentSequence if "DeviceUID" in item}
            for which in (one, other)
        )
        assert ours, kind
        assert not ours & theirs, kind
        assert results.is_own_result(one), kind
        assert results.is_own_result(other), kind


def test_the_observer_is_this_installation_with_these_models(
    here: dict[str, Dataset], elsewhere: dict[str, Dataset], tmp_path: Path
) -> None:
    second = built(tmp_path, INSTALLATION, CALIBRATED, UNCALIBRATED)
    for kind in ("sr", "assessment", "rejection"):
        assert observers(here[kind])["Device Observer Serial Number"] == INSTALLATION.serial_number
        assert (
            observers(here[kind])["Device Observer UID"] != observers(elsewhere[kind])["Device Observer UID"]
        )
    assert observers(here["sr"])["Device Observer UID"] != observers(second["sr"])["Device Observer UID"]


def test_results_of_earlier_versions_are_known_too() -> None:
    """Until builder version 3 the Device UID was the product's; manufacturer and model were these already."""
    item, old = Dataset(), Dataset()
    item.Manufacturer, item.ManufacturerModelName = "DICOM AI Node project", "DICOM AI Node"
    item.DeviceUID = "2.25.199828017487770752392169983661631308052"
    old.ContributingEquipmentSequence = [item]
    assert results.is_own_result(old)


def test_a_scanner_of_another_maker_is_not_ours() -> None:
    item, one = Dataset(), Dataset()
    item.Manufacturer, item.ManufacturerModelName = "Scanner Maker", "DICOM AI Node"
    one.ContributingEquipmentSequence = [item]
    assert not results.is_own_result(one)
