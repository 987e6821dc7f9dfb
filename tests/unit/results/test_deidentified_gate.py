"""A de-identified object with a fault does not leave, and common words hold nothing up."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.dicom.header import quiet_pydicom
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import DEIDENTIFIED_KINDS, ResultKind
from dicom_node.results import Pseudonyms, gate
from dicom_node.results.common.source import read_sources
from dicom_node.results.deidentify.leaks import KnownIdentity
from dicom_node.results.deidentify.sources import pseudonymised
from tests.deidentified_lab import (
    BIRTH_DATE,
    HERE,
    SECRET,
    UID_ROOT,
    deidentified,
    write_named,
)
from tests.result_images import US, context, source, speckle, write_image
from tests.unit.results.deidentified_objects import dataset


def _comment(ds: Dataset) -> None:
    ds.ImageComments = "seen by Dr. ZQXMustermann"


def _in_a_sequence(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[0].InstitutionName = f"{SECRET}Clinic"


def _the_number(ds: Dataset) -> None:
    ds.SeriesDescription = f"AI cleaned image {SECRET}PID1"


def _private(ds: Dataset) -> None:
    ds.private_block(0x0011, "ANY", create=True).add_new(1, "LO", "harmless")


def _birth_date(ds: Dataset) -> None:
    ds.ContentDate = BIRTH_DATE


def _birth_date_in_words(ds: Dataset) -> None:
    ds.SeriesDescription = "AI cleaned image, born 1941-03-09"


def _uid(ds: Dataset) -> None:
    ds.FrameOfReferenceUID = f"{UID_ROOT}.3.1"


def _hidden_in_bytes(ds: Dataset) -> None:
    ds.add_new("ICCProfile", "OB", f"{SECRET}HOSPITAL".upper().encode())


def _unsaid(ds: Dataset) -> None:
    del ds.PatientIdentityRemoved


def _no_code(ds: Dataset) -> None:
    del ds.DeidentificationMethodCodeSequence


def _still_the_name(ds: Dataset) -> None:
    ds.PatientName = f"{SECRET}Mustermann^{SECRET}Erika"


def _a_station(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[0].ContributionDateTime = "20260107101500"


BREAKS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "a name in a comment": (_comment, "ImageComments holds"),
    "an institution in an item": (_in_a_sequence, "InstitutionName holds"),
    "the Patient ID in our own words": (_the_number, "SeriesDescription holds"),
    "a private attribute": (_private, "has to be removed"),
    "the birth date": (_birth_date, "ContentDate is a date of the source"),
    "the birth date as text": (_birth_date_in_words, "SeriesDescription holds"),
    "a UID of the source": (_uid, "FrameOfReferenceUID is a UID of the source"),
    "a value in binary data": (_hidden_in_bytes, "its bytes hold"),
    "no word of what was done": (_unsaid, "PatientIdentityRemoved is not YES"),
    "no code of what was done": (_no_code, "code of the basic"),
    "the name itself": (_still_the_name, "PatientName"),
    "an attribute that has to go": (_a_station, "ContributionDateTime has to be removed"),
}


@pytest.fixture(scope="module")
def at_the_gate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Callable[[bytes, Dataset], None]]:
    """A de-identified image that passes, and the gate for such as it."""
    image = source(write_named(tmp_path_factory.mktemp("gate") / "us.dcm"))
    given = read_sources([image])
    disguised, identity = [pseudonymised(given[0], Pseudonyms.of(HERE))], KnownIdentity.from_sources(given)
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound", station_name="")
    data = deidentified(image.path, ctx=ctx).objects[0].data
    assert data is not None

    def release(data: bytes, ds: Dataset) -> None:
        gate.check_deidentified(data, ds, ctx, ResultKind.CLEANED, disguised, identity)

    release(data, dataset(data))
    return data, release


@pytest.mark.parametrize("fault", BREAKS)
def test_an_object_with_this_fault_does_not_leave(
    at_the_gate: tuple[bytes, Callable[[bytes, Dataset], None]], fault: str
) -> None:
    data, release = at_the_gate
    ds = dataset(data)
    break_it, said = BREAKS[fault]
    with quiet_pydicom():
        break_it(ds)
        buffer = io.BytesIO()
        ds.save_as(buffer)
    with pytest.raises(ResultRefused, match=said) as caught:
        release(buffer.getvalue(), ds)
    assert SECRET not in str(caught.value)
    assert BIRTH_DATE not in str(caught.value)


def test_common_words_of_a_header_hold_nothing_up(tmp_path: Path) -> None:
    """A department called "Ultrasound", a station or a patient called like the scanner are no leaks."""
    path = write_image(
        tmp_path / "us.dcm",
        US,
        speckle(),
        InstitutionalDepartmentName="Ultrasound",
        StationName="SCANNER",
        StudyID="1",
        PatientID="12",
        PatientName="Scanner^No",
        PatientBirthDate="19000101",
        DeviceSerialNumber="1",
    )
    made = deidentified(path)
    assert made.withheld == ()
    assert len(made.objects) == 3
