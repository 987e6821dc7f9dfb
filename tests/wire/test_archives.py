"""Archives on real sockets: Orthanc is asked and gives studies by DIMSE, its REST API and DICOMweb."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom.identity import Patient
from dicom_node.errors import FaultyInput, PeerUnreachable
from dicom_node.scp.contexts import accepted_classes
from dicom_node.scu import RetrieveStatus, StudyQuery, open_archive
from tests.modality import chest, ultrasound_from
from tests.ports import free_port
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

pytestmark = pytest.mark.debian("orthanc", "orthanc-dicomweb")

WAYS = ("get", "orthanc", "dicomweb")
PIXELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
DAY = date(2024, 3, 2)


class Sink:
    """Remembers what is taken; ``refuses``: SOP Instance UIDs that are not."""

    sop_classes = accepted_classes()
    largest_bytes = 2**24

    def __init__(self, refuses: str = "") -> None:
        self.taken: list[str] = []
        self._refuses = refuses

    def take_object(self, sop_class: str, instance: str, syntax: str, data: Iterable[bytes]) -> None:
        if instance == self._refuses:
            raise FaultyInput("not taken")
        assert b"".join(data)
        self.taken.append(instance)

    def take_file(self, pieces: Iterable[bytes]) -> None:
        read = dcmread(BytesIO(b"".join(pieces)))
        self.take_object(read.SOPClassUID, read.SOPInstanceUID, "", [read.PixelData])


def dated(image: Dataset, day: str) -> Dataset:
    image.StudyDate = day
    return image


def stored(orthanc: Orthanc, image: Dataset) -> Dataset:
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    orthanc.upload(buffer.getvalue())
    return image


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    allowed = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
    with start_orthanc(tmp_path_factory.mktemp("orthanc"), plugins=[DICOMWEB], config=allowed) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def films(orthanc: Orthanc) -> list[Dataset]:
    """Two films of one study on the day, one the day after, and an ultrasound image on the day."""
    first = dated(chest("fetched", PIXELS), "20240302")
    second = dated(chest("fetched", PIXELS, number=2), "20240302")
    second.StudyInstanceUID = first.StudyInstanceUID
    later = dated(chest("later", PIXELS), "20240303")
    other = dated(ultrasound_from("other", PIXELS), "20240302")
    return [stored(orthanc, image) for image in (first, second, later, other)]


def peer(orthanc: Orthanc, way: str, **settings: object) -> PeerSettings:
    known = {
        "name": "pacs",
        "ae_title": orthanc.ae_title,
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
        "may": ("send", "query"),
        "transport": way if way in ("orthanc", "dicomweb") else "dimse",
        "retrieve": way if way in ("move", "get") else "move",
        "url": orthanc.url + ("/dicom-web" if way == "dicomweb" else ""),
    }
    return PeerSettings.model_validate({**known, **settings})


@pytest.mark.parametrize("way", WAYS)
def test_a_day_of_a_modality_is_found(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    found = open_archive(peer(orthanc, way), Settings()).find(StudyQuery(DAY, DAY, "DX"))
    [study] = found.studies
    assert (study.study_instance_uid, study.study_date) == (films[0].StudyInstanceUID, "20240302")
    assert study.patient_id == films[0].PatientID
    name = str(films[0].PatientName)
    same = Patient.from_values("", "", name, films[0].PatientBirthDate, films[0].PatientSex)
    assert not study.patient.disagrees(same)
    assert study.patient.disagrees(Patient.from_values("", "", "Somebody^Else", "", ""))


@pytest.mark.parametrize("way", WAYS)
def test_the_number_of_objects_of_a_study_is_said(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    query = StudyQuery(study_instance_uid=films[0].StudyInstanceUID)
    [study] = open_archive(peer(orthanc, way), Settings()).find(query).studies
    assert study.instances == 2


@pytest.mark.parametrize("way", WAYS)
def test_all_objects_of_a_study_come(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    sink = Sink()
    outcome = open_archive(peer(orthanc, way), Settings()).retrieve(films[0].StudyInstanceUID, sink)
    assert (outcome.status, outcome.objects) == (RetrieveStatus.RETRIEVED, 2), outcome
    assert sorted(sink.taken) == sorted(image.SOPInstanceUID for image in films[:2])


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_taken_is_counted(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    sink = Sink(refuses=films[0].SOPInstanceUID)
    outcome = open_archive(peer(orthanc, way), Settings()).retrieve(films[0].StudyInstanceUID, sink)
    assert (outcome.status, outcome.objects) == (RetrieveStatus.INCOMPLETE, 1), outcome


@pytest.mark.parametrize("way", WAYS)
def test_a_study_that_is_not_there_is_absent(orthanc: Orthanc, films: list[Dataset], way: str) -> None:
    outcome = open_archive(peer(orthanc, way), Settings()).retrieve("1.2.3.4.5", Sink())
    assert outcome.status in (RetrieveStatus.ABSENT, RetrieveStatus.REFUSED, RetrieveStatus.RETRY), outcome
    assert outcome.objects == 0


@pytest.mark.parametrize("way", ["move", *WAYS])
def test_the_test_says_that_it_answers(orthanc: Orthanc, way: str) -> None:
    checks = open_archive(peer(orthanc, way), Settings()).test()
    assert checks and all(check.ok for check in checks), checks


@pytest.mark.parametrize("way", ["move", *WAYS])
def test_an_archive_that_is_away_is_named_so(tmp_path: Path, orthanc: Orthanc, way: str) -> None:
    nowhere = free_port()
    away = peer(orthanc, way, port=nowhere, url=f"http://127.0.0.1:{nowhere}")
    archive = open_archive(away, Settings())
    with pytest.raises(PeerUnreachable, match="pacs"):
        archive.find(StudyQuery(DAY, DAY))
    assert archive.retrieve("1.2.3", Sink()).status is RetrieveStatus.UNREACHABLE
    assert not any(check.ok for check in archive.test())


def test_a_peer_that_does_not_know_us_refuses_to_move(orthanc: Orthanc, films: list[Dataset]) -> None:
    outcome = open_archive(peer(orthanc, "move"), Settings()).retrieve(films[0].StudyInstanceUID, Sink())
    assert outcome.status in (RetrieveStatus.REFUSED, RetrieveStatus.RETRY), outcome
