"""Studies found at and retrieved from a real archive: C-FIND, C-MOVE, C-GET, DICOMweb."""

from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.base.config.settings import (
    Settings,
)
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.errors import Unavailable
from dicom_node.deliver.scu import (
    RetrieveStatus,
    StudyQuery,
    open_archive,
)
from tests.modality import chest, ultrasound_from
from tests.pacs_lab import Sink
from tests.ports import free_port
from tests.wire.orthanc_lab import (
    PIXELS,
    Orthanc,
    needs_orthanc,
    peer,
    stored,
)

WAYS = ("get", "dicomweb")
DAY = date(2024, 3, 2)


@pytest.fixture(scope="module")
def films(orthanc: Orthanc) -> list[Dataset]:
    """Two films of one study on the day, one the day after, and an ultrasound image on the day."""
    first, second = (stored(orthanc, chest("fetched", PIXELS, number=one), "20240302") for one in (1, 2))
    later = stored(orthanc, chest("later", PIXELS), "20240303")
    return [first, second, later, stored(orthanc, ultrasound_from("other", PIXELS), "20240302")]


@needs_orthanc
@pytest.mark.parametrize("way", WAYS)
def test_a_day_of_a_modality_is_found(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    [study] = open_archive(peer(orthanc, way), Settings()).find(StudyQuery(DAY, DAY, "DX")).studies
    assert (study.study_instance_uid, study.study_date) == (films[0].StudyInstanceUID, "20240302")
    assert study.patient_id == films[0].PatientID
    named = (str(films[0].PatientName), films[0].PatientBirthDate, films[0].PatientSex)
    assert not study.patient.disagrees(Patient.from_values("", "", *named))
    assert study.patient.disagrees(Patient.from_values("", "", "Somebody^Else", "", ""))


@needs_orthanc
@pytest.mark.parametrize("way", WAYS)
def test_all_objects_of_a_study_come(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    """What is not taken is counted, and a study that is not there is absent."""
    archive, study = open_archive(peer(orthanc, way), Settings()), films[0].StudyInstanceUID
    sink, choosy = Sink(), Sink(refuses=films[0].SOPInstanceUID)
    outcome, incomplete = archive.retrieve(study, sink), archive.retrieve(study, choosy)
    assert (outcome.status, outcome.objects) == (RetrieveStatus.RETRIEVED, 2), outcome
    assert sorted(sink.taken) == sorted(image.SOPInstanceUID for image in films[:2])
    assert (incomplete.status, incomplete.objects) == (RetrieveStatus.INCOMPLETE, 1), incomplete
    none = archive.retrieve("1.2.3.4.5", Sink())
    assert none.status in (RetrieveStatus.ABSENT, RetrieveStatus.REFUSED, RetrieveStatus.RETRY), none
    assert none.objects == 0


@needs_orthanc
@pytest.mark.parametrize("way", ["move", *WAYS])
def test_an_archive_that_is_away_is_named_so(tmp_path: Path, orthanc: Orthanc, way: str) -> None:
    nowhere = free_port()
    archive = open_archive(peer(orthanc, way, port=nowhere, url=f"http://127.0.0.1:{nowhere}"), Settings())
    with pytest.raises(Unavailable, match=way):
        archive.find(StudyQuery(DAY, DAY))
    assert archive.retrieve("1.2.3", Sink()).status is RetrieveStatus.UNREACHABLE
    assert not any(check.ok for check in archive.test())


@needs_orthanc
def test_a_peer_that_does_not_know_us_refuses_to_move(orthanc: Orthanc, films: list[Dataset]) -> None:
    outcome = open_archive(peer(orthanc, "move"), Settings()).retrieve(films[0].StudyInstanceUID, Sink())
    assert outcome.status in (RetrieveStatus.REFUSED, RetrieveStatus.RETRY), outcome
