"""The node's own DICOMweb, asked by dicomweb-client as viewers and gateways do: found, read, stored."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from sqlalchemy import select

from dicom_console.handlers import stow
from dicom_console.views import uploaded
from dicom_node.errors import SpoolFull
from dicom_node.inbox.spool import IncomingObject
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.services.results import withdraw
from dicom_node.store.tables import Delivery, Instance, Result, Study
from tests.browser_lab import served_app
from tests.console_lab import PASSWORD, ConsoleLab, audited
from tests.inbox_lab import Inbox
from tests.modality import part_10, ultrasound
from tests.unit.console.illustrated import FRAMES, analysed
from tests.unit.inbox.objects import changed

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
        return dcmread(self.node.folder / self.node.get(Instance, number).path)

    def overwrite(self, number: int, image: Dataset) -> None:
        image.save_as(self.node.folder / self.node.get(Instance, number).path)


def place(image: Dataset) -> str:
    return f"/studies/{STUDY}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    with analysed(folder) as node:
        console = node.settings.console.model_copy(update={"dicomweb": True})
        settings = node.settings.model_copy(update={"console": console})
        with served_app(ConsoleLab(settings, node.database)) as address:
            token = users.add_token(settings, UserRole.VIEWER.value, "a viewer", 1)
            yield Served(node, f"{address}/api/dicomweb", {"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Served]:
    """For a test that changes what is there."""
    with serving(tmp_path / "var") as served:
        yield served


def test_a_viewer_finds_studies_series_and_instances(served: Served) -> None:
    client = served.client()
    [found] = client.search_for_studies(search_filters={"PatientName": "*one"})
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


def test_studies_series_and_instances_are_found_by_the_keys_of_the_standard(served: Served) -> None:
    for keys, number in (
        ({"PatientID": "ID-o*"}, 1),
        ({"PatientID": "ID-o?e"}, 1),
        ({"PatientID": "ID-o?"}, 0),
        ({"PatientID": "*n?"}, 1),
        ({"00100020": "ID-x"}, 0),
        ({"PatientName": "ONE"}, 1),  # by whole words, with a warning
        ({"PatientName": "on"}, 0),
        ({"PatientName": "*on*"}, 1),
        ({"PatientName": "t?st^one"}, 1),
        ({"PatientName": "one*"}, 0),
        ({"PatientName": "one*", "fuzzymatching": "true"}, 1),
        ({"StudyDate": "20260101-20260131"}, 1),
        ({"StudyDate": "-20251231"}, 0),
        ({"StudyDate": "20260102"}, 1),
        ({"StudyTime": "1015"}, 1),
        ({"StudyTime": "101501-"}, 0),
        ({"StudyTime": "10:00-1015"}, 1),
        ({"ModalitiesInStudy": "US"}, 1),
        ({"ModalitiesInStudy": "SR"}, 1),
        ({"ModalitiesInStudy": "CT"}, 0),
        ({"AccessionNumber": "Aone"}, 1),
        ({"PatientSex": "F"}, 1),
        ({"PatientSex": "M"}, 0),
        ({"StudyInstanceUID": STUDY}, 1),
        ({"StudyInstanceUID": f"1.2.3,{STUDY}"}, 1),
        ({"StudyInstanceUID": "1.2.3"}, 0),
        ({"SeriesInstanceUID": str(served.stored(1).SeriesInstanceUID)}, 1),
        ({"SOPInstanceUID": "1.2.3"}, 0),
        ({"PatientName": "", "PatientID": "*"}, 1),
        ({"offset": "1"}, 0),
        ({"limit": "500"}, 1),
    ):
        assert len(served.get("/studies", params=keys).json()) == number, keys
    cine = served.stored(2)
    number, series = str(cine.InstanceNumber), str(cine.SeriesInstanceUID)
    for path, keys, found in (
        ("/series", {"Modality": "SR"}, {"SR"}),
        ("/series", {"Modality": "S?", "PatientID": "ID-x"}, set()),
        (f"/studies/{STUDY}/series", {"Modality": "P*"}, {"PR"}),
        (f"/studies/{STUDY}/series", {"SeriesInstanceUID": series}, {"US"}),
        ("/instances", {"SOPInstanceUID": str(cine.SOPInstanceUID)}, {"US"}),
        (f"/studies/{STUDY}/instances", {"InstanceNumber": number, "Modality": "US"}, {"US"}),
        (f"/studies/{STUDY}/series/{series}/instances", {"NumberOfFrames": str(FRAMES)}, {"US"}),
        (f"/studies/{STUDY}/series/{series}/instances", {"NumberOfFrames": "77"}, set()),
        ("/instances", {"ContentSequence.ValueType": "CONTAINER"}, {"SR"}),
    ):
        rows = served.get(path, params=keys | {"includefield": "Modality"}).json()
        assert {row["00080060"]["Value"][0] for row in rows} == found, (path, keys)
    [row] = served.get("/series", params={"Modality": "SR"}).json()
    assert row["00100020"]["Value"] == ["ID-one"], "it names its study's attributes"


def test_a_client_that_asks_for_what_remains_gets_each_once(served: Served) -> None:
    client = served.client()
    for search, uid in (
        (client.search_for_studies, "0020000D"),
        (client.search_for_series, "0020000E"),
        (client.search_for_instances, "00080018"),
    ):
        whole = {row[uid]["Value"][0] for row in search()}
        for limit in (1, 2):
            rows = [row[uid]["Value"][0] for row in search(limit=limit, get_remaining=True)]
            assert len(rows) == len(whole) and {*rows} == whole
    within = [
        row["00080018"]["Value"][0] for row in client.search_for_instances(STUDY, limit=2, get_remaining=True)
    ]
    assert len(within) == len({*within}) == len(whole)


def test_a_warning_says_what_is_ignored_fuzzy_or_left_out(served: Served) -> None:
    for path, said in (
        ("/studies?InstanceNumber=1", "ignored: InstanceNumber"),
        ("/studies?NoSuchKey=1&PatientID=*", "ignored: NoSuchKey"),
        ("/studies?evil%0d%0aSet-Cookie=1", "ignored: others"),
        ("/studies?includefield=NoSuchField", "ignored: NoSuchField"),
        ("/studies?PixelData=1", "ignored: PixelData"),
        ("/studies?PatientName=one", "whole words"),
        ("/studies?ReferringPhysicianName=x&fuzzymatching=true", "Only literal matching has been performed"),
        ("/instances?limit=1", "additional results"),
    ):
        answer = served.get(path)
        assert answer.status_code == 200 and said in answer.headers["Warning"], path
        assert "Set-Cookie" not in answer.headers
    for path in ("/studies", "/studies?PatientName=*one", f"/studies/{STUDY}/instances?includefield=all"):
        assert "Warning" not in served.get(path).headers


def test_fields_that_are_asked_for_are_in_the_answer_also_of_a_search_that_takes_too_long(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = served.stored(1)
    rows = served.get("/series?Modality=US&includefield=StationName,00080070&includefield=BodyPartExamined")
    assert [image.Manufacturer] in [row["00080070"]["Value"] for row in rows.json()]
    answer = served.get("/studies?includefield=Manufacturer")
    assert "00080070" not in answer.json()[0] and "ignored: Manufacturer" in answer.headers["Warning"]
    [row] = served.get(f"/instances?SOPInstanceUID={image.SOPInstanceUID}&includefield=all").json()
    assert row["00280010"]["Value"] == [image.Rows] and "7FE00010" not in row
    monkeypatch.setattr("dicom_console.views.qido.EXAMINED", 2)
    answer = served.get("/instances?InstanceNumber=1")
    assert answer.status_code == 200 and "Not all studies were searched" in answer.headers["Warning"]
    assert len(answer.json()) <= 2


def test_what_a_client_does_not_accept_is_not_sent(served: Served) -> None:
    instance = place(served.stored(1))
    for path, wanted, status, media in (
        ("/studies", "application/dicom+json", 200, "application/dicom+json"),
        ("/studies", "application/json;q=0.5", 200, "application/json"),
        ("/studies", 'multipart/related; type="application/dicom+xml"', 406, ""),
        ("/studies", "text/html, */*;q=0.1", 200, "application/dicom+json"),
        ("/studies", "text/html, */*;q=0", 406, ""),
        ("/studies?accept=application/dicom+xml", "*/*", 406, ""),
        (f"{instance}/metadata", "application/dicom+xml", 406, ""),
        (instance, "application/dicom", 200, "application/dicom; transfer-syntax="),
        (instance, 'multipart/related; type="application/dicom"', 200, "multipart/related"),
        (instance, 'multipart/related; type="application/octet-stream"', 406, ""),
        (instance, "image/jpeg", 406, ""),
        (f"/studies/{STUDY}", "application/dicom", 406, ""),
        (f"{instance}/frames/1", "multipart/related", 200, "multipart/related"),
        (f"{instance}/rendered", "image/png", 200, "image/png"),
        (f"{instance}/rendered", "*/*", 200, "image/jpeg"),
        (f"{instance}/rendered", "image/gif", 406, ""),
    ):
        answer = served.get(path, wanted)
        assert answer.status_code == status, (path, wanted)
        assert answer.headers["Content-Type"].startswith(media), (path, wanted)


def test_frames_are_there_as_pictures(served: Served) -> None:
    cine = served.stored(2)
    first, third = (
        served.get(f"{place(cine)}{path}", "image/png") for path in ("/rendered", "/frames/3/rendered")
    )
    assert [cv2.imdecode(np.frombuffer(one.content, np.uint8), 1).shape[:2] for one in (first, third)] == [
        (cine.Rows, cine.Columns)
    ] * 2
    assert served.get(f"{place(cine)}/frames/4/rendered").status_code == 404
    coarse = served.get(f"{place(cine)}/rendered?quality=1&window=1,2,linear", "image/jpeg")
    assert len(coarse.content) < len(first.content) and "ignored: window" in coarse.headers["Warning"]


def test_objects_leave_byte_for_byte_and_frames_as_they_are_stored(served: Served) -> None:
    client = served.client()
    cine = served.stored(2)
    uids = (STUDY, str(cine.SeriesInstanceUID), str(cine.SOPInstanceUID))
    got = client.retrieve_instance(*uids)
    assert got.PixelData == cine.PixelData and got.PatientName == cine.PatientName
    frames = client.retrieve_instance_frames(*uids, frame_numbers=[3, 1])
    size = len(cine.PixelData) // FRAMES
    expected = [cine.PixelData[2 * size : 3 * size], cine.PixelData[:size]]
    if cine.file_meta.TransferSyntaxUID.is_encapsulated:
        every = list(generate_frames(cine.PixelData, number_of_frames=FRAMES))
        expected = [every[2], every[0]]
    assert [bytes(one)[: len(other)] for one, other in zip(frames, expected, strict=True)] == expected
    said = Dataset.from_json(client.retrieve_instance_metadata(*uids))
    assert "PixelData" not in said and said.Rows == cine.Rows and said.PatientName == cine.PatientName
    whole = client.retrieve_study(STUDY)
    built = served.node.scalars(select(Result.sop_instance_uid).where(~Result.deidentified))
    assert {str(one.SOPInstanceUID) for one in whole} >= set(built) and len(whole) == 2 + len(built)


def test_frames_have_the_media_type_of_what_is_stored(changing: Served) -> None:
    """Raw samples are no JPEG, compressed ones are code streams; those of one bit are cut within bytes."""
    image = changing.stored(1)
    image.decompress() if image.file_meta.TransferSyntaxUID.is_encapsulated else None
    image.file_meta.TransferSyntaxUID, plain = ImplicitVRLittleEndian, image.PixelData
    changing.overwrite(1, image)
    frame = f"{place(image)}/frames/1"
    assert changing.get(frame, 'multipart/related; type="image/jpeg"').status_code == 406
    # Samples are the same in each syntax of Little Endian, and explicit is the default of octet-stream.
    wants = f'multipart/related; type="application/octet-stream"; transfer-syntax={ExplicitVRLittleEndian}'
    answer = changing.get(frame, wants)
    assert answer.status_code == 200 and plain in answer.content
    assert f"octet-stream; transfer-syntax={ExplicitVRLittleEndian}\r\n".encode() in answer.content
    assert changing.get(frame, "application/octet-stream").content == plain

    image.compress(JPEGLSLossless, generate_instance_uid=False)
    changing.overwrite(1, image)
    answer = changing.get(frame, 'multipart/related; type="image/jls"; transfer-syntax=*')
    assert answer.status_code == 200 and f"transfer-syntax={JPEGLSLossless}".encode() in answer.content
    assert next(generate_frames(image.PixelData, number_of_frames=1)).rstrip(b"\0") in answer.content
    assert plain not in answer.content
    refused = changing.get(frame, wants)
    assert refused.status_code == 406 and "transfer-syntax=*" in refused.json()["error"]

    bits = changing.stored(2)
    bits.Rows, bits.Columns, bits.NumberOfFrames, bits.SamplesPerPixel = 3, 3, 2, 1
    bits.BitsAllocated = bits.BitsStored = 1
    bits.HighBit, bits.PhotometricInterpretation = 0, "MONOCHROME2"
    bits.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    bits.PixelData = bytes([0b11111111, 0b00000001, 0b10])  # nine ones, then eight zeros and a one
    changing.overwrite(2, bits)
    uids = (STUDY, str(bits.SeriesInstanceUID), str(bits.SOPInstanceUID))
    first, second = changing.client().retrieve_instance_frames(*uids, frame_numbers=[1, 2])
    assert (bytes(first)[:2], bytes(second)[:2]) == (bytes([0xFF, 1]), bytes([0, 1]))


def test_what_a_person_withdrew_or_did_not_accept_is_not_shown(changing: Served) -> None:
    def kinds() -> set[str]:
        shown = {
            str(Dataset.from_json(one).SOPInstanceUID)
            for one in changing.client().search_for_instances(STUDY)
        }
        return {row.kind.value for row in changing.node.rows(Result) if row.sop_instance_uid in shown}

    assert ResultKind.SR.value in kinds()
    changing.node.put(Delivery, state=DeliveryState.UNASSESSED)
    assert kinds() == set()
    changing.node.put(Delivery, state=DeliveryState.PENDING)
    withdraw(changing.node.settings, STUDY, None, reason=RejectionReason.QUALITY, because="the other side")
    assert kinds() <= {ResultKind.REJECTION.value}
    changing.node.put(Study, state=StudyState.QUARANTINED)
    assert changing.get(f"/studies/{STUDY}/series").status_code == 404
    assert changing.get("/studies").json() == []


def test_what_cannot_be_read_is_refused_and_what_is_not_here_not_found(served: Served) -> None:
    frames = f"{place(served.stored(1))}/frames"
    for wrong in ("0x", "1-2", "-1", "1," * 200 + "1", "9" * 20):
        assert served.get(f"{frames}/{wrong}").status_code == 400
    gone = (f"{frames}/0", f"{frames}/99999", "/studies/1.2.3", "/studies/..%2f..%2fetc/metadata")
    within = (f"/studies/{STUDY}/instances/1.3", f"/studies/{STUDY}/series/1.2/instances/1.3/frames/1")
    for path in (*gone, *within, f"/studies/{'1' * 5000}"):
        assert served.get(path).status_code == 404
    for query in ("limit=0", "limit=x", "offset=-1", "StudyDate=2026", "StudyDate=x", "StudyTime=noon"):
        assert served.get(f"/studies?{query}").status_code == 400


def test_a_file_that_is_no_dicom_any_more_is_no_error_of_the_server(changing: Served) -> None:
    image = changing.node.rows(Instance)[0]
    series, file = image.series_instance_uid, changing.node.settings.node.data_dir / image.path
    file.write_bytes(b"\0" * 200)
    named = f"/studies/{STUDY}/series/{series}/instances?SOPInstanceUID={image.sop_instance_uid}"
    [row] = changing.get(named).json()
    assert row["00080018"]["Value"] == [image.sop_instance_uid] and "00100010" not in row
    file.unlink()
    assert changing.get(f"/studies/{STUDY}/metadata").status_code == 404


def test_nobody_reads_without_a_token_and_nothing_is_there_without_the_setting(served: Served) -> None:
    assert requests.get(f"{served.url}/studies", timeout=60).status_code == 401
    client = ConsoleLab(served.node.settings, served.node.database).browser().client
    for method, path in (("GET", "/studies"), ("POST", "/studies"), ("POST", "/studies/1.2")):
        assert client.request(method, f"/api/dicomweb{path}", headers=served.headers).status_code == 404


TYPE = 'multipart/related; type="application/dicom"; boundary=B0'


def as_file(ds: Dataset) -> Dataset:
    """As it is read from a file: dicomweb-client writes a preamble only then."""
    return dcmread(io.BytesIO(part_10(ds)))


def body(*files: bytes, header: bytes = b"Content-Type: application/dicom\r\n", end: bytes = b"--") -> bytes:
    return b"".join(b"--B0\r\n%b\r\n%b\r\n" % (header, one) for one in files) + b"--B0" + end + b"\r\n"


@dataclass
class Gateway:
    node: Inbox
    console: ConsoleLab
    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.url, headers=self.headers)

    def post(
        self, data: object, path: str = "/studies", kind: str = TYPE, token: str | None = None, **headers: str
    ) -> requests.Response:
        given = {"Authorization": f"Bearer {token}"} if token is not None else self.headers
        given |= {"Content-Type": kind, **headers}
        return requests.post(self.url + path, data=data, headers=given, timeout=60)  # type: ignore[arg-type]

    def waiting(self) -> int:
        return len(self.node.spool.pending())

    def leftovers(self) -> list[str]:
        return [path.name for path in self.node.spool.incoming.glob(".*")]

    def user(self, name: str, role: UserRole, *senders: str) -> str:
        users.add_user(self.console.settings, name, role, PASSWORD, senders=senders)
        return users.add_token(self.console.settings, name, "a test", 1)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    node = Inbox(tmp_path / "var")
    known = {"dicomweb": True, "dicomweb_store": True, "upload_mib": 300}
    console = node.settings.console.model_copy(update=known)
    lab = ConsoleLab(node.settings.model_copy(update={"console": console}), node.database)
    lab.change("spool", minimum_free_mib=0)
    with served_app(lab) as address:
        token = users.add_token(lab.settings, UserRole.OPERATOR.value, "a gateway", 1)
        yield Gateway(node, lab, f"{address}/api/dicomweb", token)
    node.close()


def failures(answer: requests.Response) -> list[tuple[str, int]]:
    """SOP Instance UID and Failure Reason of each failed object."""
    module = Dataset.from_json(answer.json())
    found = [*module.get("FailedSOPSequence", ()), *module.get("OtherFailuresSequence", ())]
    return [(str(one.get("ReferencedSOPInstanceUID", "")), one.FailureReason) for one in found]


def test_what_dicomweb_client_stores_is_received_as_from_a_modality(
    gateway: Gateway,
) -> None:
    one, two = ultrasound("one"), ultrasound("two")
    answer = gateway.client().store_instances([as_file(one), as_file(two)])
    named = {str(item.ReferencedSOPInstanceUID): item for item in answer.ReferencedSOPSequence}
    assert named.keys() == {str(one.SOPInstanceUID), str(two.SOPInstanceUID)}
    assert "FailedSOPSequence" not in answer and "OtherFailuresSequence" not in answer
    assert answer.RetrieveURL in ("", None)  # of two studies
    gateway.node.settle()
    row = gateway.node.instance(str(one.SOPInstanceUID))
    assert (row.calling_ae, row.called_ae) == ("CONSOLE", "AINODE")
    assert gateway.node.file_of(str(one.SOPInstanceUID)).PixelData == one.PixelData
    assert {job.rule for job in gateway.node.jobs()} == {"ultrasound"}
    assert gateway.node.read(uploaded.last) == []  # of the page on which a person follows the own uploads
    [noted] = audited(gateway.node.database, "uploaded")
    assert noted["association"].startswith("console-")  # type: ignore[attr-defined]
    assert noted | {"association": ""} == {
        "way": "STOW-RS", "objects": 2, "refused": 0, "association": "",
    }  # fmt: skip
    path = urlsplit(named[str(one.SOPInstanceUID)].RetrieveURL).path  # the client's Host header has no port
    place = f"{gateway.url}/studies{path.partition('/studies')[2]}"
    assert requests.get(place, headers=gateway.headers, timeout=60).status_code == 200


def test_a_study_is_stored_at_its_own_address_only(gateway: Gateway) -> None:
    one, other = ultrasound("one"), ultrasound("other")
    study = str(one.StudyInstanceUID)
    answer = gateway.client().store_instances([as_file(one)], study_instance_uid=study)
    assert answer.RetrieveURL.endswith(f"/api/dicomweb/studies/{study}")
    mixed = gateway.post(body(part_10(one), part_10(other)), f"/studies/{study}")
    assert mixed.status_code == 202
    assert failures(mixed) == [(str(other.SOPInstanceUID), 0xC409)]
    none = gateway.post(body(part_10(other)), f"/studies/{study}")
    assert (none.status_code, failures(none)) == (409, [(str(other.SOPInstanceUID), 0xC409)])
    assert gateway.post(body(part_10(one)), "/studies/1..2").status_code == 400
    assert gateway.waiting() == 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_study_is_found_in_each_coding_and_behind_long_sequences(gateway: Gateway, syntax: str) -> None:
    one = ultrasound("one")
    one.ReferencedImageSequence = [Dataset() for _ in range(500)]
    for item in one.ReferencedImageSequence:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, "1.2.3"
        item.is_undefined_length_sequence_item = True
    one["ReferencedImageSequence"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = syntax
    answer = gateway.post(body(part_10(one)), f"/studies/{one.StudyInstanceUID}")
    assert answer.status_code == 200
    [stored] = Dataset.from_json(answer.json()).ReferencedSOPSequence
    assert str(one.SeriesInstanceUID) in stored.RetrieveURL


def test_each_part_is_answered_for_itself(gateway: Gateway) -> None:
    good = ultrasound("good")
    other_class, other_data = ultrasound("a"), part_10(ultrasound("b"))
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    syntax = other_data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    uid = str(ultrasound("c").SOPInstanceUID).encode()
    mixed_up = part_10(ultrasound("c"))
    mixed_up = mixed_up.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1)
    answer = gateway.post(body(part_10(good), part_10(other_class), syntax, mixed_up, b"no object", b""))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/dicom+json"
    assert [reason for _, reason in failures(answer)] == [0x0122, 0xC122, 0xA900, 0xC000, 0xC000]
    assert gateway.waiting() == 1 and gateway.leftovers() == []
    assert audited(gateway.node.database, "uploaded")[0]["refused"] == 5


FAULTY: tuple[tuple[bytes, int], ...] = (
    (b"", 400),
    (b"--B0--\r\n", 400),
    (b"hello", 400),
    (b"--B1\r\n\r\nx\r\n--B1--\r\n", 400),
    (b"--B0\r\nContent-Type application/dicom\r\n\r\nx\r\n--B0--\r\n", 400),
    (b"--B0\r\nX: " + b"y" * 5000 + b"\r\n\r\nx\r\n--B0--\r\n", 400),
    (b"--B0\r\n" + b"X: y\r\n" * 21 + b"\r\nx\r\n--B0--\r\n", 400),
    (b"--B0\r\n" + b"X" * 200_000, 400),
    (b"--B0\r\nContent-Type: application/dicom\r\n\r\nno object\r\n--B0--", 409),
    (b"--B0\r\nContent-Type: text/plain\r\n\r\nx\r\n--B0--", 409),
)


def test_hostile_parts_are_refused(gateway: Gateway) -> None:
    for data, status in FAULTY:
        assert gateway.post(data).status_code == status, data[:80]
        assert gateway.waiting() == 0 and gateway.leftovers() == []
    assert gateway.post(b"", kind="application/dicom").status_code == 400
    assert gateway.post(part_10(ultrasound("one")), kind="application/dicom").status_code == 200
    assert gateway.waiting() == 1 and gateway.leftovers() == [], "one object may be the whole body"


def test_parts_are_cut_right_wherever_the_pieces_end() -> None:
    taken: list[bytearray] = []

    class Taker:
        def begin(self, media_type: str) -> None:
            taken.append(bytearray(media_type.encode()))

        def write(self, data: bytes) -> None:
            taken[-1] += data

        def end(self) -> None:
            taken[-1] += b"|"

    first, second = b"\r\n--B\r\n--B0x\r\n--B0-x\r\n--B0\rx--B0--", b"\r\n"
    data = body(first, second)
    for one in range(1, len(data)):
        for two in (one, (one + 1) % len(data), len(data) - 3):
            taken.clear()
            reader = stow.PartReader("B0", Taker())
            low, high = sorted((one, two))
            for piece in (data[:low], data[low:high], data[high:]):
                reader.feed(piece)
            reader.finish()
            assert taken == [b"application/dicom" + first + b"|", b"application/dicom" + second + b"|"]


def test_success_is_said_after_the_object_is_durable(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    commit = IncomingObject.commit
    monkeypatch.setattr(IncomingObject, "commit", lambda self: done.append(commit(self)) or done[-1])
    assert gateway.post(body(part_10(ultrasound("one")))).status_code == 200
    assert len(done) == 1

    def full(_: IncomingObject) -> str:
        raise SpoolFull("the disk of the spool is full")

    monkeypatch.setattr(IncomingObject, "commit", full)
    answer = gateway.post(body(part_10(ultrasound("two"))))
    assert (answer.status_code, failures(answer)[0][1]) == (503, 0xA700)
    assert (gateway.waiting(), gateway.leftovers()) == (1, [])


def test_who_sees_some_senders_only_reaches_no_other_study(gateway: Gateway) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    gateway.node.receive(secret, calling="ROOM9")
    gateway.node.settle()
    added = part_10(
        changed(
            secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77", PixelData=bytes(len(secret.PixelData))
        )
    )
    elsewhere = gateway.user("elsewhere", UserRole.OPERATOR, "ROOM1")
    assert gateway.post(body(part_10(new)), token=elsewhere).status_code == 403
    limited = gateway.user("limited", UserRole.OPERATOR, "CONSOLE")
    assert gateway.post(body(part_10(new)), token=limited).status_code == 200
    answer = gateway.post(body(added), token=limited)
    assert (answer.status_code, failures(answer)[0][1]) == (409, 0x0124)
    taken_over = changed(secret, StudyInstanceUID="1.2.826.0.1.3680043.10.543.78")
    assert failures(gateway.post(body(part_10(taken_over)), token=limited))[0][1] == 0x0124
    no_study = changed(new, StudyInstanceUID="")
    assert failures(gateway.post(body(part_10(no_study)), token=limited))[0][1] == 0xC000
    assert gateway.post(body(part_10(new)), token=limited).status_code == 200  # its own comes again
    gateway.node.settle()
    mine = requests.get(
        f"{gateway.url}/studies", headers={"Authorization": f"Bearer {limited}"}, timeout=60
    ).json()
    assert [one["0020000D"]["Value"] for one in mine] == [[str(new.StudyInstanceUID)]]
