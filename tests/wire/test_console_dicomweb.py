"""The node's own DICOMweb, asked by dicomweb-client as viewers ask: found, read, only what may be seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from sqlalchemy import select, update

from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.services.results import withdraw_by_uid
from dicom_node.store.tables import Delivery, Instance, Result, Study
from tests.browser_lab import served_app
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import FRAMES, analysed

STUDY = str(ultrasound("one").StudyInstanceUID)


@dataclass
class Served:
    node: Inbox
    url: str
    headers: dict[str, str]

    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.url, headers=self.headers)

    def get(self, path: str, accept: str = "*/*", **more: object) -> requests.Response:
        return requests.get(self.url + path, headers=self.headers | {"Accept": accept}, timeout=60, **more)  # type: ignore[arg-type]

    def stored(self, number: int) -> Dataset:
        with self.node.database.read() as session:
            return dcmread(self.node.settings.node.data_dir / session.get_one(Instance, number).path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with analysed(tmp_path / "var") as node:
        console = node.settings.console.model_copy(update={"dicomweb": True})
        settings = node.settings.model_copy(update={"console": console})
        with served_app(ConsoleLab(settings, node.database)) as address:
            token = users.add_token(settings, UserRole.VIEWER.value, "a viewer", 1)
            yield Served(node, f"{address}/api/dicomweb", {"Authorization": f"Bearer {token}"})


def test_a_viewer_finds_studies_series_and_instances(served: Served) -> None:
    client = served.client()
    [found] = client.search_for_studies(search_filters={"PatientName": "one*"})
    study = Dataset.from_json(found)
    assert (study.StudyInstanceUID, study.PatientID, str(study.PatientName)) == (STUDY, "ID-one", "Test^one")
    series = [Dataset.from_json(one) for one in client.search_for_series(STUDY)]
    assert {one.Modality for one in series} == set(study.ModalitiesInStudy)
    assert len(series) == study.NumberOfStudyRelatedSeries
    instances = [Dataset.from_json(one) for one in client.search_for_instances(STUDY)]
    assert len(instances) == study.NumberOfStudyRelatedInstances
    assert sum(one.NumberOfSeriesRelatedInstances for one in series) == len(instances)
    one = client.search_for_instances(STUDY, instances[0].SeriesInstanceUID)
    assert {Dataset.from_json(row).SeriesInstanceUID for row in one} == {instances[0].SeriesInstanceUID}


@pytest.mark.parametrize(
    ("keys", "number"),
    [
        ({"PatientID": "ID-o*"}, 1),
        ({"00100020": "ID-x"}, 0),
        ({"StudyDate": "20260101-20260131"}, 1),
        ({"StudyDate": "-20251231"}, 0),
        ({"StudyDate": "20260102"}, 1),
        ({"ModalitiesInStudy": "US"}, 1),
        ({"ModalitiesInStudy": "CT"}, 0),
        ({"AccessionNumber": "Aone"}, 1),
        ({"StudyInstanceUID": STUDY}, 1),
        ({"StudyInstanceUID": "1.2.3"}, 0),
        ({"offset": "1"}, 0),
    ],
)
def test_studies_are_found_by_the_keys_of_the_standard(
    served: Served, keys: dict[str, str], number: int
) -> None:
    assert len(served.get("/studies", params=keys).json()) == number


def test_objects_leave_byte_for_byte_and_frames_as_they_are_stored(served: Served) -> None:
    client = served.client()
    cine = served.stored(2)
    place = (STUDY, str(cine.SeriesInstanceUID), str(cine.SOPInstanceUID))
    got = client.retrieve_instance(*place)
    assert got.PixelData == cine.PixelData and got.PatientName == cine.PatientName
    frames = client.retrieve_instance_frames(*place, frame_numbers=[3, 1])
    size = len(cine.PixelData) // FRAMES
    expected = [cine.PixelData[2 * size : 3 * size], cine.PixelData[:size]]
    if cine.file_meta.TransferSyntaxUID.is_encapsulated:
        every = list(generate_frames(cine.PixelData, number_of_frames=FRAMES))
        expected = [every[2], every[0]]
    assert [bytes(one)[: len(other)] for one, other in zip(frames, expected, strict=True)] == expected
    said = Dataset.from_json(client.retrieve_instance_metadata(*place))
    assert "PixelData" not in said and said.Rows == cine.Rows and said.PatientName == cine.PatientName
    whole = client.retrieve_study(STUDY)
    with served.node.database.read() as session:
        built = session.scalars(select(Result.sop_instance_uid).where(~Result.deidentified)).all()
    assert {str(one.SOPInstanceUID) for one in whole} >= set(built) and len(whole) == 2 + len(built)


def test_compressed_frames_are_codestreams_with_their_media_type(served: Served) -> None:
    image = served.stored(1)
    image.decompress() if image.file_meta.TransferSyntaxUID.is_encapsulated else None
    plain = image.PixelData
    image.compress(JPEGLSLossless, generate_instance_uid=False)
    with served.node.database.write() as session:
        path = session.get_one(Instance, 1).path
    image.save_as(served.node.settings.node.data_dir / path)
    place = f"/studies/{STUDY}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
    answer = served.get(f"{place}/frames/1", 'multipart/related; type="image/jls"; transfer-syntax=*')
    assert answer.status_code == 200 and f"transfer-syntax={JPEGLSLossless}".encode() in answer.content
    assert next(generate_frames(image.PixelData, number_of_frames=1)).rstrip(b"\0") in answer.content
    assert plain not in answer.content
    wants = f'multipart/related; type="application/octet-stream"; transfer-syntax={ExplicitVRLittleEndian}'
    refused = served.get(f"{place}/frames/1", wants)
    assert refused.status_code == 406 and "transfer-syntax=*" in refused.json()["error"]


def test_frames_of_a_segmentation_of_one_bit_are_cut_within_bytes(served: Served) -> None:
    image = served.stored(2)
    image.Rows, image.Columns, image.NumberOfFrames, image.SamplesPerPixel = 3, 3, 2, 1
    image.BitsAllocated = image.BitsStored = 1
    image.HighBit, image.PhotometricInterpretation = 0, "MONOCHROME2"
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.PixelData = bytes([0b11111111, 0b00000001, 0b10])  # nine ones, then eight zeros and a one
    with served.node.database.read() as session:
        path = session.get_one(Instance, 2).path
    image.save_as(served.node.settings.node.data_dir / path)
    place = (STUDY, str(image.SeriesInstanceUID), str(image.SOPInstanceUID))
    first, second = served.client().retrieve_instance_frames(*place, frame_numbers=[1, 2])
    assert (bytes(first)[:2], bytes(second)[:2]) == (bytes([0xFF, 1]), bytes([0, 1]))


def test_what_a_person_withdrew_or_did_not_accept_is_not_shown(served: Served) -> None:
    def kinds() -> set[str]:
        shown = {
            str(Dataset.from_json(one).SOPInstanceUID) for one in served.client().search_for_instances(STUDY)
        }
        with served.node.database.read() as session:
            return {
                row.kind.value for row in session.scalars(select(Result)) if row.sop_instance_uid in shown
            }

    assert ResultKind.SR.value in kinds()
    with served.node.database.write() as session:
        before = {row.id: row.state for row in session.scalars(select(Delivery))}
        session.execute(update(Delivery).values(state=DeliveryState.UNASSESSED))
    assert before and kinds() == set()
    with served.node.database.write() as session:
        for number, state in before.items():
            session.get_one(Delivery, number).state = state
    withdraw_by_uid(
        served.node.settings, STUDY, None, reason=RejectionReason.QUALITY, because="the other side"
    )
    assert kinds() <= {ResultKind.REJECTION.value}
    with served.node.database.write() as session:
        session.execute(update(Study).values(state=StudyState.QUARANTINED))
    assert served.get(f"/studies/{STUDY}/series").status_code == 404
    assert served.get("/studies").json() == []


@pytest.mark.parametrize(
    "path",
    [
        *("/studies/1.2.3", "/studies/..%2f..%2fetc/metadata", f"/studies/{'1' * 5000}"),
        f"/studies/{STUDY}/series/1.2/instances/1.3/frames/1",
        f"/studies/{STUDY}/instances/1.3",
    ],
)
def test_what_is_not_here_is_not_found(served: Served, path: str) -> None:
    assert served.get(path).status_code == 404


def test_requests_that_cannot_be_read_are_refused(served: Served) -> None:
    image = served.stored(1)
    place = f"/studies/{STUDY}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}/frames"
    for wrong in ("0x", "1-2", "-1", "1," * 200 + "1", "9" * 20):
        assert served.get(f"{place}/{wrong}").status_code == 400
    for gone in ("0", "99999"):
        assert served.get(f"{place}/{gone}").status_code == 404
    for query in (
        "limit=0",
        "limit=201",
        "limit=x",
        "offset=-1",
        "offset=10001",
        "StudyDate=2026",
        "StudyDate=x",
    ):
        assert served.get(f"/studies?{query}").status_code == 400
    assert "Warning" in served.get("/studies?PatientSex=F").headers


def test_a_file_that_is_no_dicom_any_more_is_no_error_of_the_server(served: Served) -> None:
    with served.node.database.read() as session:
        image = session.get_one(Instance, 1)
        series, file = image.series_instance_uid, served.node.settings.node.data_dir / image.path
    file.write_bytes(b"\0" * 200)
    assert served.get(f"/studies/{STUDY}/series/{series}/instances").status_code == 404
    file.unlink()
    assert served.get(f"/studies/{STUDY}/metadata").status_code == 404


def test_nobody_reads_without_a_token_and_nothing_is_there_without_the_setting(served: Served) -> None:
    assert requests.get(f"{served.url}/studies", timeout=60).status_code == 401
    console = ConsoleLab(served.node.settings, served.node.database)
    assert console.browser().client.get("/api/dicomweb/studies", headers=served.headers).status_code == 404
