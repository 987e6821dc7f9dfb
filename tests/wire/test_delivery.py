"""Delivery to real and to lying receivers: Orthanc, a PACS, FHIR servers, a RIS; each result once."""

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import hl7
import numpy as np
import pytest
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from werkzeug.wrappers import Request, Response

from dicom_connectors.hl7.oru import control_id
from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import ConsoleSettings, ListenerSettings, Settings, TlsSettings
from dicom_node.base.dicom.dimse_n import CommitmentReport
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME
from dicom_node.base.errors import FaultyInput, Unavailable
from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_DEAD,
    DELIVERY_IN_DOUBT,
    DELIVERY_NARROWED,
    DELIVERY_SENT,
    DELIVERY_WARNED,
    RESULT_NOT_REMOVED,
    RESULT_REMOVED,
)
from dicom_node.base.lifecycle import DeliveryState, ResultKind
from dicom_node.base.outcomes import Done, Outcome
from dicom_node.base.store import intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Commitment, Delivery, Removal, Result, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import commitment_requests
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.removals import Removals
from dicom_node.deliver.scu import (
    Destination,
    RetrieveStatus,
    SendStatus,
    StudyQuery,
    commitment,
    open_archive,
    open_destination,
    open_remover,
)
from dicom_node.deliver.scu.calling_ae import CallingAE
from dicom_node.deliver.scu.commitment import StorageCommitment
from dicom_node.people.withdrawal import results_to_withdraw
from dicom_node.receive.policy import accepted_classes
from dicom_node.studies.indexing import JournalIngest, stop_study
from tests.certificates_lab import Authority
from tests.hostile.valve import valve_before
from tests.hostile.web import answering
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import chest, part_10, ultrasound, ultrasound_from
from tests.node_lab import PROGRAM, Node, in_background, running, site_config
from tests.outbox_lab import (
    SYSTEM,
    THREE_FACES,
    FhirServer,
    Outbox,
    a_result,
    add_report,
    fhir_peer,
    outgoing_report,
    report_file,
    start_fhir,
)
from tests.pacs_lab import SOP_CLASS as SECONDARY_CAPTURE
from tests.pacs_lab import CommittingPacs, Pacs, report, run_pacs, send_report
from tests.ports import free_port
from tests.unit.receive.objects import in_syntax
from tests.waiting import wait_until
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc
from tests.wire.receiver import receiving

LOSE, WRONG_MESSAGE, SILENT = "lose", "wrong message", "silent"


@dataclass
class Receiver:
    """Stores what it parsed. ``answer``: an acknowledgement code, bytes, or LOSE, WRONG_MESSAGE, SILENT, by
    the message and how often its MSH-10 has come.
    """

    port: int = field(default_factory=free_port)
    answer: Callable[[hl7.Message, int], str | bytes] = lambda message, times: "AA"
    received: list[hl7.Message] = field(default_factory=list)
    connections: int = 0

    def peer(self, **settings: object) -> PeerSettings:
        """The receiver as a peer."""
        known = {"name": "ris", "ae_title": "RIS", "host": "127.0.0.1", "port": self.port}
        return PeerSettings.model_validate({**known, "may": ("receive",), "transport": "hl7", **settings})

    def numbers(self) -> list[str]:
        """MSH-10 of each message that came."""
        return [str(message["MSH"][0][10]) for message in self.received]

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        """Take the messages of one connection."""
        self.connections += 1
        try:
            while True:
                message = await reader.readmessage()
                self.received.append(message)
                times = self.numbers().count(str(message["MSH"][0][10]))
                answer = await asyncio.to_thread(self.answer, message, times)
                if answer == LOSE:
                    return
                if answer == SILENT:
                    await asyncio.sleep(3600)
                elif isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                    return
                else:
                    reply = message.create_ack("AA" if answer == WRONG_MESSAGE else answer)
                    if answer == WRONG_MESSAGE:
                        reply["MSA"][0][2] = "ANOTHER"
                    writer.writemessage(reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@contextmanager
def run_receiver(receiver: Receiver, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """The receiver, while the scope lasts."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await start_hl7_server(
            receiver.serve, "127.0.0.1", receiver.port, limit=2**20, encoding="utf-8", ssl=tls
        )
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()
        await asyncio.sleep(0.2)  # a connection that has just come is served, and so closed with the others

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop, stop = started.result(10)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


needs_orthanc = pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
TAKING = {"may": ("receive",)}
TAKING_BACK = TAKING | {"withdraw": "delete"}
WAYS = ("get", "dicomweb")
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


def stored(orthanc: Orthanc, image: Dataset, day: str = "") -> Dataset:
    """Uploaded as it is, or as of that day."""
    image.StudyDate = day or image.get("StudyDate", "")
    orthanc.upload(part_10(image))
    return image


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(
        tmp_path_factory.mktemp("orthanc"),
        plugins=[DICOMWEB],
        config={"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True},
    ) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def films(orthanc: Orthanc) -> list[Dataset]:
    """Two films of one study on the day, one the day after, and an ultrasound image on the day."""
    first, second = (stored(orthanc, chest("fetched", PIXELS, number=one), "20240302") for one in (1, 2))
    later = stored(orthanc, chest("later", PIXELS), "20240303")
    return [first, second, later, stored(orthanc, ultrasound_from("other", PIXELS), "20240302")]


def peer(orthanc: Orthanc, way: str, **settings: object) -> PeerSettings:
    """Asked or delivered to by this way, which is its name."""
    known = {
        "name": way,
        "ae_title": orthanc.ae_title,
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
        "may": ("send", "query"),
        "transport": way if way in ("orthanc", "dicomweb") else "dimse",
        "retrieve": "get" if way == "get" else "move",
        "url": orthanc.url + ("/dicom-web" if way == "dicomweb" else ""),
    }
    return PeerSettings.model_validate({**known, **settings})


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


TRANSPORTS = ("dimse", "orthanc", "dicomweb")


@needs_orthanc
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_same_object_by_all_ways_is_there_once(tmp_path: Path, orthanc: Orthanc, transport: str) -> None:
    """And as it was built, whichever is the first; `peers test` finds no fault."""
    ways = [transport, *(other for other in TRANSPORTS if other != transport)]
    outbox = Outbox(tmp_path, [peer(orthanc, way, **TAKING) for way in ways])
    checks = open_destination(outbox.settings.peers[0], outbox.settings).test()
    assert checks
    assert [check for check in checks if not check.ok] == []
    sent = outbox.add_study(ways)
    outbox.run_until("confirmed")
    assert outbox.study_states() == ["delivered"]
    assert [uid for uid in orthanc.instances() if uid in sent] == sorted(sent)
    for uid in sent:
        assert dcmread(BytesIO(orthanc.fetch(uid))) == dcmread(outbox.file_of(uid))


@needs_orthanc
def test_already_stored_is_not_believed_when_another_object_bears_the_uid(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc, "orthanc", **TAKING)])
    (uid,) = outbox.add_study(["orthanc"], [ResultKind.SC])
    other = dcmread(outbox.file_of(uid))
    other.InstanceNumber = 77
    stored(orthanc, other)
    outbox.run_until("dead")
    assert "another object" in outbox.rows()[0]["reason"]


@needs_orthanc
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_object_that_orthanc_lost_is_not_confirmed(
    tmp_path: Path, orthanc: Orthanc, transport: str
) -> None:
    outbox = Outbox(
        tmp_path,
        [peer(orthanc, transport, **TAKING)],
        confirm_seconds=0.1,
        retry_seconds=0.02,
    )
    (uid,) = outbox.add_study([transport], [ResultKind.SR])
    outbox.run_until("confirmed")
    orthanc.call("DELETE", f"/instances/{orthanc.id_of(uid)}")
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED)
    outbox.run_until("confirmed")
    assert outbox.rows()[0]["attempts"] == 2
    there = orthanc.fetch(uid)
    if transport != "dimse":  # C-STORE leaves the file header to the receiver
        assert there == outbox.file_of(uid).read_bytes()


@needs_orthanc
def test_delivery_over_tls_needs_the_right_ca(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ca"), Authority(tmp_path, "foreign")
    (certificate, key), (own, own_key) = ours.certify("orthanc"), ours.certify("node")
    config = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(certificate),
        "DicomTlsPrivateKey": str(key),
        "DicomTlsTrustedCertificates": str(ours.certificate),
        "DicomTlsRemoteCertificateRequired": True,
    }
    with start_orthanc(tmp_path / "orthanc", config=config) as orthanc:
        outbox = Outbox(tmp_path, [peer(orthanc, "dimse", tls=True, **TAKING)])
        (uid,) = outbox.add_study(["dimse"], [ResultKind.SR])
        for known, state in ((foreign, "pending"), (ours, "confirmed")):
            tls = TlsSettings(certificate=own, private_key=own_key, trusted=known.certificate)
            outbox.settings = outbox.settings.model_copy(update={"listener": ListenerSettings(tls=tls)})
            time.sleep(0.3)
            outbox.worker().run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert orthanc.fetch(uid)


def dicomweb_of(url: str) -> PeerSettings:
    return PeerSettings.model_validate(
        {"name": "pacs", "ae_title": "PACS", "transport": "dicomweb", "url": url, **TAKING_BACK}
    )


def shown(outbox: Outbox) -> dict[str, list[dict[str, object]]]:
    found = outbox.read(results_to_withdraw, outbox.settings, 1)
    return {"removals": found["removals"], "by_hand": found["by_hand"]}


def removal_states(outbox: Outbox) -> set[str]:
    return {str(row["state"]) for row in shown(outbox)["removals"]}


def removals(outbox: Outbox, **how: object) -> Removals:
    return Removals(outbox.database, outbox.settings, "a test", **how)  # type: ignore[arg-type]


def run_until(outbox: Outbox, *wanted: str) -> None:
    worker = removals(outbox)

    def done() -> bool:
        worker.run_once()
        return removal_states(outbox) <= set(wanted)

    wait_until(done, 30, "/".join(wanted))


@needs_orthanc
def test_exactly_the_withdrawn_results_are_gone_and_another_object_is_left(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    """What is gone already counts as gone."""
    outbox = Outbox(tmp_path, [peer(orthanc, "orthanc", name="pacs", **TAKING_BACK)])
    first, gone, replaced = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert outbox.withdraw([first]) == {}
    assert removal_states(outbox) == {"asked"}
    assert first in orthanc.instances()
    run_until(outbox, "gone")
    assert first not in orthanc.instances()
    assert {gone, replaced} <= set(orthanc.instances())
    [row] = shown(outbox)["removals"]
    assert (row["destination"], row["sop_instance_uid"], row["reason"]) == ("pacs", first, "")
    assert outbox.numbers()[RESULT_REMOVED.number] == 1
    for uid in (gone, replaced):
        orthanc.call("DELETE", f"/instances/{orthanc.id_of(uid)}")
    other = dcmread(outbox.file_of(replaced))
    other.InstanceNumber = 77
    stored(orthanc, other)
    outbox.withdraw()
    run_until(outbox, "gone", "by_hand")
    found = {row["sop_instance_uid"]: row for row in shown(outbox)["removals"]}
    assert (found[gone]["state"], found[replaced]["state"]) == ("gone", "by_hand")
    assert "another object" in str(found[replaced]["reason"])
    assert replaced in orthanc.instances()
    assert shown(outbox)["by_hand"] == {"pacs": [replaced]}
    assert outbox.numbers()[RESULT_NOT_REMOVED.number] == 1


@dataclass
class Server:
    """A DICOMweb dicomweb. ``delete``: the status of a deletion; ``body``: what a search finds."""

    url: str = ""
    delete: int = 200
    body: bytes = b"[]"

    def __call__(self, request: Request) -> Response:
        if request.method != "DELETE":
            return Response(self.body, content_type="application/dicom+json")
        self.body = b"[]" if self.delete == 200 else self.body
        return Response(status=self.delete)


@pytest.fixture
def dicomweb() -> Iterator[Server]:
    dicomweb = Server()
    with answering(dicomweb) as (dicomweb.url, _):
        yield dicomweb


@pytest.fixture
def at_server(tmp_path: Path, dicomweb: Server) -> Outbox:
    """A result that the DICOMweb dicomweb has, withdrawn."""
    outbox = Outbox(tmp_path, [dicomweb_of(dicomweb.url)])
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.put(Delivery, sent_at=utc_now())
    [result] = outbox.scalars(select(Result))
    uids = {"00080016": result.sop_class_uid, "00080018": result.sop_instance_uid}
    dicomweb.body = json.dumps([{tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}]).encode()
    outbox.withdraw()
    return outbox


@needs_orthanc
@pytest.mark.parametrize("status", [401, 403, 405, 501, 500, 503, 429, 302])
def test_a_server_that_refuses_leaves_it_to_a_person_and_one_in_trouble_is_asked_again(
    at_server: Outbox, dicomweb: Server, status: int
) -> None:
    dicomweb.delete = status
    removals(at_server).run_once()
    [row] = shown(at_server)["removals"]
    refuses = status in (401, 403, 405, 501)
    assert row["state"] == ("by_hand" if refuses else "asked")
    assert not refuses or list(shown(at_server)["by_hand"]) == ["pacs"]
    assert row["reason"]
    assert not refuses or str(status) in str(row["reason"])
    dicomweb.delete = 200
    run_until(at_server, "by_hand" if refuses else "gone")


@needs_orthanc
def test_what_never_left_is_not_asked_for(tmp_path: Path, dicomweb: Server) -> None:
    outbox = Outbox(tmp_path, [dicomweb_of(dicomweb.url)])
    outbox.add_study(["pacs"])
    outbox.withdraw()
    assert outbox.scalars(select(Removal)) == []
    assert removals(outbox).run_once() == 0


FORWARDED = (
    *(UltrasoundImageStorage, UltrasoundMultiFrameImageStorage),
    *(ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation),
)
KEPT = (CTImageStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
FOLDER = Path(__file__).resolve().parents[2] / "orthanc"


@contextmanager
def existing_orthanc(
    folder: Path,
    node_port: int,
    *,
    node_host: str = "127.0.0.1",
) -> Iterator[Orthanc]:
    """An Orthanc with our configuration and script; ports, folders and the pace of retries are the test's."""
    config = json.loads((FOLDER / "orthanc.json").read_text(encoding="utf-8"))
    for key in ("StorageDirectory", "IndexDirectory", "DicomPort", "HttpPort", "LuaScripts"):
        del config[key]
    config["DicomModalities"]["ainode"] |= {"Host": node_host, "Port": node_port}
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "forward-to-node.lua"
    text = (FOLDER / script.name).read_text(encoding="utf-8")
    script.write_text(text.replace("RETRY_SECONDS = 30", "RETRY_SECONDS = 1"), encoding="utf-8")
    with start_orthanc(folder, lua=[script], config=config) as orthanc:
        yield orthanc


def storescu(orthanc: Orthanc, file: Path, calling: str = "US1") -> None:
    command = ["storescu", "--required", "-aet", calling, "-aec", orthanc.ae_title]
    subprocess.run([*command, "127.0.0.1", str(orthanc.dicom_port), str(file)], check=True)


def an_object(folder: Path, sop_class: UID, **attributes: Any) -> Path:
    ds = a_result(sop_class, generate_uid(), 16)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def of_our_equipment() -> dict[str, Any]:
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    return {"ContributingEquipmentSequence": [item]}


def mark_of(orthanc: Orthanc, sop_instance_uid: str) -> str | None:
    """The metadata that the script wrote."""
    metadata = orthanc.get(f"/instances/{orthanc.id_of(sop_instance_uid)}/metadata?expand")
    mark: str | None = metadata.get("AiNode")
    return mark


@needs_orthanc
def test_results_come_back_by_every_way_and_are_not_forwarded_again(tmp_path: Path) -> None:
    """Images go to the node, which is away at first; other objects stay."""
    node = Pacs(free_port(), ae_title="AINODE")
    with existing_orthanc(tmp_path, node.port) as pacs:
        others, images = ([an_object(tmp_path, one) for one in classes] for classes in (KEPT, FORWARDED))
        for file in (*others, *images):
            storescu(pacs, file)
        wait_until(lambda: [mark_of(pacs, file.stem) for file in images] == ["waiting"] * len(images))
        with run_pacs(node):
            # Any HTTP request is the clock: here the questions of the test.
            wait_until(lambda: [mark_of(pacs, file.stem) for file in images] == ["forwarded"] * len(images))
            assert sorted(node.received) == sorted(file.stem for file in images)
            assert [mark_of(pacs, file.stem) for file in others] == [None] * len(others)
            outbox = Outbox(tmp_path / "node", [Pacs(pacs.dicom_port, ae_title=pacs.ae_title).peer()])
            results = outbox.add_study(["pacs"])
            outbox.run_until("confirmed")
            cleaned_by_dimse = an_object(tmp_path, UltrasoundImageStorage)
            storescu(pacs, cleaned_by_dimse, calling="AINODE")
            cleaned_by_rest = an_object(tmp_path, UltrasoundImageStorage, **of_our_equipment())
            pacs.upload(cleaned_by_rest.read_bytes())
            pacs.get("/system")
            another = an_object(tmp_path, UltrasoundImageStorage)
            storescu(pacs, another)
            wait_until(lambda: another.stem in node.received)
        assert node.received[len(images) :] == [another.stem]
        for uid in (*results, cleaned_by_dimse.stem, cleaned_by_rest.stem):
            assert mark_of(pacs, uid) == "result"


@needs_orthanc
def test_a_stranger_who_says_that_it_is_the_node_keeps_no_image_from_it(tmp_path: Path) -> None:
    """AE title and Device UID are public; the node's host is a name here: of the loopback, but another."""
    with (
        run_pacs(Pacs(free_port(), ae_title="AINODE")) as node,
        existing_orthanc(tmp_path, node.port, node_host="localhost") as pacs,
    ):
        by_title, by_device, by_rest = (
            an_object(tmp_path, UltrasoundImageStorage, **more)
            for more in ({}, of_our_equipment(), of_our_equipment())
        )
        storescu(pacs, by_title, calling="AINODE")
        storescu(pacs, by_device)
        pacs.upload(by_rest.read_bytes())
        claimed = [by_title.stem, by_device.stem, by_rest.stem]
        wait_until(lambda: sorted(node.received) == sorted(claimed))
        wait_until(lambda: [mark_of(pacs, uid) for uid in claimed] == ["forwarded"] * 3)
        log = pacs.log.read_text(encoding="utf-8")
        assert log.count("says that it is of the node and does not come from there") == 3


RULE = PROGRAM.replace('modality = "US"', 'modality = "DX"').replace("sleep 0.2; ", "")
RULE = RULE.replace("max_study_age_days = 0", "max_study_age_days = 7")  # old ones are held, but by request
ASKED = ("--peer", "pacs", "--modality", "DX", "--from", "2024-03-01", "--to", "2024-03-03")


def fill(orthanc: Orthanc, studies: int) -> list[str]:
    """Studies of two films each, spread over three days; returns their UIDs."""
    days = {number: f"2024030{number % 3 + 1}" for number in range(studies)}
    films = [
        stored(orthanc, chest(f"old{number}", PIXELS, number=film), day)
        for number, day in days.items()
        for film in (1, 2)
    ]
    return [str(film.StudyInstanceUID) for film in films[::2]]


def states_of(node: Node) -> list[str]:
    """Of what was asked for."""
    return [row["state"] for row in node.cli("fetches", "list")]


def starts(node: Node) -> list[datetime]:
    """When the peer was asked for a study, in order."""
    return sorted(datetime.fromisoformat(row["at"]) for row in node.events(2051))


@needs_orthanc
def test_a_killed_node_goes_on_and_no_study_is_analysed_twice(tmp_path: Path) -> None:
    """Two studies a second at most, across the kill too."""
    port = free_port()
    with start_orthanc(tmp_path / "orthanc", modalities={"node": ("AINODE", "127.0.0.1", port)}) as orthanc:
        uids = fill(orthanc, 4)
        config = site_config(
            orthanc.dicom_port, RULE, ae_title=orthanc.ae_title, of_pacs="fetch_per_minute = 120"
        )
        config = config.replace('may = ["send", "receive"]', 'may = ["send", "receive", "query"]')
        with running(Node(tmp_path / "node", config, port=port)) as node:
            assert node.run("fetch", *ASKED).returncode == 0
            wait_until(lambda: len(starts(node)) >= 2, 120, "the first studies")
            node.kill()
            node.start()
            done = node.run("fetch", *ASKED)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: states_of(node) == ["fetched"] * 4, 120, "all fetched")
            assert node.cli("fetches", "missing", "pacs", "--days", "1") == []
            assert node.run("check").returncode == 0
            wait_until(lambda: set(orthanc.reports()) == set(uids), 120, "a report for each")
            assert node.stop() == 0
            assert orthanc.reports() == Counter(dict.fromkeys(uids, 1))
            states = Counter(row["state"] for row in node.cli("jobs", "list", "--limit", "0"))
            assert states.pop("succeeded") == 4
            assert {*states} <= {"cancelled"}  # begun on the first film of two, after a kill between them
            asked = starts(node)
            gaps = [(later - sooner).total_seconds() for sooner, later in pairwise(asked)]
            assert min(gaps) >= 0.25, gaps  # a start is written down a moment after it was timed
            assert (asked[-1] - asked[0]).total_seconds() >= 0.5 * (len(asked) - 1) - 0.1


@needs_orthanc
def test_an_orthanc_that_sends_gets_its_report_also_from_a_node_that_was_killed(tmp_path: Path) -> None:
    own, port = free_port(), free_port()
    asking = (
        '[[peers]]\nname = "us1"\nae_title = "MODALITY"\nhost = "127.0.0.1"\ncommit_after = "delivered"\n'
    )
    rule = PROGRAM.replace("send_to", 'forward = ["pacs"]\nsend_to')
    config = site_config(port, f"{asking}port = {own}\n{rule}", ae_title="ORTHANC", senders=())
    node = Node(tmp_path / "node", config)
    to_node = {"AET": "AINODE", "Host": "127.0.0.1", "Port": node.port}
    modality = {"DicomPort": own, "DicomModalities": {"node": to_node}}
    with (
        start_orthanc(tmp_path / "archive", config={"DicomPort": port}) as pacs,
        start_orthanc(tmp_path / "modality", ae_title="MODALITY", config=modality) as orthanc,
        running(node),
    ):
        sent = [stored(orthanc, ultrasound("asked", number=one)) for one in (1, 2)]
        there = [item["ID"] for item in orthanc.get("/instances?expand")]
        body = json.dumps({"Resources": there, "StorageCommitment": True, "Synchronous": False}).encode()
        job = json.loads(orthanc.call("POST", "/modalities/node/store", body))["ID"]

        def content() -> dict[str, Any]:
            found: dict[str, Any] = orthanc.get(f"/jobs/{job}")
            return found

        wait_until(lambda: content()["State"] == "Success", 60, "sent", shown=content)
        node.kill()
        node.start()
        transaction = content()["Content"]["StorageCommitmentTransactionUID"]

        def said() -> dict[str, Any]:
            found: dict[str, Any] = orthanc.get(f"/storage-commitment/{transaction}")
            return found

        wait_until(lambda: said()["Status"] != "Pending", 120, "the report", shown=said)
        assert said()["Status"] == "Success"
        assert {str(image.SOPInstanceUID) for image in sent} <= set(pacs.instances()), "beside the report"


ONE = (ResultKind.SC,)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as pacs:
        yield pacs


@pytest.fixture
def committing_pacs() -> Iterator[CommittingPacs]:
    with run_pacs(CommittingPacs(free_port())) as pacs:
        assert isinstance(pacs, CommittingPacs)
        yield pacs


def test_three_faces_of_a_finding_go_on_one_association_and_are_confirmed(tmp_path: Path, pacs: Pacs) -> None:
    """The bytes that leave are the bytes on disk."""
    outbox = Outbox(tmp_path, [pacs.peer()])
    sent = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert pacs.received == sent
    assert all(outbox.file_of(uid).read_bytes().endswith(pacs.stored[uid]) for uid in sent)
    assert pacs.associations == 2  # one to store, one to ask
    assert outbox.study_states() == ["delivered"]
    numbers = outbox.numbers()
    assert (numbers[DELIVERY_SENT.number], numbers[DELIVERY_CONFIRMED.number]) == (3, 3)


def test_a_pacs_of_implicit_vr_only_gets_the_same_data_set_converted(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), syntaxes=[ImplicitVRLittleEndian]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        (uid,) = outbox.add_study(["pacs"], ONE)
        outbox.run_until("confirmed")
        assert pacs.syntaxes[uid] == ImplicitVRLittleEndian
        (tmp_path / "got.dcm").write_bytes(pacs.stored[uid])
        got, built = dcmread(tmp_path / "got.dcm", force=True), dcmread(outbox.file_of(uid))
        assert [element.value for element in got] == [element.value for element in built]


ANSWERS: dict[str, tuple[dict[str, Any], int, dict[str, object], int]] = {
    **{
        f"{status:04X} is a warning of what is stored": (
            {"answer": lambda *_, status=status: status},
            1,
            {"state": "confirmed", "status": f"{status:04X}"},
            DELIVERY_WARNED.number,
        )
        for status in (0xB000, 0xB007)
    },
    **{
        f"{status:04X} three times makes a dead letter": (
            {"answer": lambda *_, status=status: status},
            3,
            {"state": "dead", "status": f"{status:04X}", "refusals": 3},
            DELIVERY_DEAD.number,
        )
        for status in (0x0124, 0xC123)
    },
    "a duplicate is no proof until the PACS shows the object": (
        {"answer": lambda *_: 0x0111, "shows": lambda uid, questions: questions > 1},
        1,
        {"state": "confirmed"},
        DELIVERY_IN_DOUBT.number,
    ),
    "an index that lags is asked again and nothing sent twice": (
        {"shows": lambda uid, questions: questions >= 3},
        1,
        {"state": "confirmed", "queries": 3},
        DELIVERY_CONFIRMED.number,
    ),
    "what is never shown is sent again and given up": (
        {"shows": lambda *_: False},
        3,
        {"state": "dead"},
        DELIVERY_DEAD.number,
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_object_becomes_what_the_pacs_answers_and_shows(tmp_path: Path, pacs: Pacs, case: str) -> None:
    behaviour, sent, becomes, event = ANSWERS[case]
    vars(pacs).update(behaviour)
    confirm_seconds = 0.1 if "never shown" in case else 1800
    outbox = Outbox(tmp_path, [pacs.peer()], confirm_seconds=confirm_seconds, retry_seconds=0.02)
    outbox.add_study(["pacs"], ONE)
    outbox.run_until(str(becomes["state"]))
    [row] = outbox.rows()
    assert (len(pacs.received), row) == (sent, row | becomes)
    assert ("not shown" in row["reason"]) == ("never shown" in case)
    assert outbox.numbers()[event] == 1
    assert outbox.study_states() == ["failed" if row["state"] == "dead" else "delivered"]


@needs_orthanc
def test_who_looks_reads_why_a_pacs_cannot_be_asked_and_what_to_enter_there(tmp_path: Path) -> None:
    """A strict PACS rejects unknown associations, Orthanc cuts unknown queries, and some take no queries."""
    strict, mute = Pacs(free_port()), Pacs(free_port(), "MUTE")
    with (
        run_pacs(strict, callers=["WORKSTATION"]),
        start_orthanc(tmp_path / "orthanc", config={"DicomAlwaysAllowFind": False}) as orthanc,
        run_pacs(mute, classes=[Comprehensive3DSRStorage], finds=False),
    ):
        outbox = Outbox(tmp_path, [strict.peer(), peer(orthanc, "dimse", may=["receive"]), mute.peer("mute")])
        outbox.add_study(["pacs", "dimse", "mute"], REPORT)
        outbox.worker().run_once()
        enter = "enter AINODE, the address of this machine and port 11112 there"
        for one, row, why in zip(
            outbox.settings.peers, outbox.rows(), (enter, enter, "Query/Retrieve"), strict=True
        ):
            checks = open_destination(one, outbox.settings).test()
            assert why in row["reason"], (row, checks)
            assert any(why in check.text for check in checks), (row, checks)
    assert {check.name for check in checks if check.ok} == {"echo", "sr"}, "of the last"
    assert {check.name for check in checks if not check.ok} == {"gsps", "sc", "query"}
    assert outbox.states() == {"pending": 1, "unconfirmed": 2}
    assert outbox.study_states() == ["delivering"]


@pytest.mark.parametrize("status", [0xA700, 0x0000], ids=["refused", "acknowledged and not shown"])
def test_what_is_withdrawn_while_it_is_sent_is_not_sent_again_and_nothing_after_it_leaves(
    tmp_path: Path, pacs: Pacs, status: int
) -> None:
    outbox, stop = Outbox(tmp_path, [pacs.peer()], confirm_seconds=0.1), threading.Event()
    outbox.add_study(["pacs"], ONE * 20)

    def corrected(*_: object) -> int:
        if len(pacs.received) == 1:
            with outbox.database.write() as session:
                stop_study(session, session.get_one(Study, 1), "an image came again with another header")
        time.sleep(0.5)
        return status

    vars(pacs).update(answer=corrected, shows=lambda *_: False)
    worker = in_background(lambda: outbox.worker().run_forever(stop))
    outbox.wait_until("cancelled")
    stop.set()
    worker.join()
    assert len(pacs.received) < 10
    assert all("not sent: its study changed" in row["reason"] for row in outbox.rows())


def test_classes_that_the_pacs_does_not_accept_are_left_out_with_a_warning(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), classes=[SecondaryCaptureImageStorage]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        outbox.add_study(["pacs"], THREE_FACES)
        outbox.run_until("confirmed", "cancelled")
        assert outbox.states() == {"confirmed": 1, "cancelled": 2}
        assert outbox.numbers()[DELIVERY_NARROWED.number] == 2
        assert outbox.study_states() == ["delivered"]


def test_a_damaged_result_file_never_leaves(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    damaged, missing, _ = outbox.add_study(["pacs"])
    outbox.file_of(damaged).write_bytes(outbox.file_of(damaged).read_bytes()[:-2])
    outbox.file_of(missing).unlink()
    outbox.run_until("dead", "confirmed")
    assert outbox.states() == {"dead": 2, "confirmed": 1}
    assert len(pacs.received) == 1


@pytest.mark.debian("postgresql")
def test_three_workers_deliver_the_same_studies_to_two_pacs_without_deadlock(
    tmp_path: Path, postgres_url: str
) -> None:
    with (
        run_pacs(Pacs(free_port(), ae_title="A")) as first,
        run_pacs(Pacs(free_port(), ae_title="B")) as second,
    ):
        outbox = Outbox(tmp_path, [first.peer("first"), second.peer("second")], database_url=postgres_url)
        sent = [uid for _ in range(5) for uid in outbox.add_study(["first", "second"])]
        stop = threading.Event()
        threads = [threading.Thread(target=outbox.worker().run_forever, args=(stop,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            outbox.wait_until("confirmed")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert Counter(first.received) == Counter(second.received) == Counter(sent)
        assert set(outbox.study_states()) == {"delivered"}
        assert outbox.numbers()[DELIVERY_IN_DOUBT.number] == 0  # a deadlock would have left one
        outbox.database.dispose()


LEASE_SECONDS = 1.0
_FORKING = multiprocessing.get_context("forkserver")
# Each worker would import for seconds; the settings first, which load those of connectors.
_FORKING.set_forkserver_preload(["dicom_node.base.config.settings", __name__])


def deliver_forever(settings: Settings) -> None:
    """A process with nothing but a worker."""
    DeliveryWorker(Database(settings.database_url), settings, lease_seconds=LEASE_SECONDS).run_forever(
        threading.Event()
    )


@contextmanager
def worker_process(outbox: Outbox | Inbox) -> Iterator[multiprocessing.process.BaseProcess]:
    process = _FORKING.Process(target=deliver_forever, args=(outbox.settings,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


ECHO = [build_context(Verification)]


@pytest.mark.parametrize(("application", "kept"), [(CallingAE, True), (AE, False)])
def test_the_reactor_does_not_take_answers_that_somebody_waits_for(
    pacs: Pacs, application: type[AE], kept: bool
) -> None:
    """When the stock class keeps them too, pynetdicom is cured and _AnswersOnly can go."""
    association = application().associate("127.0.0.1", pacs.port, ECHO, ae_title="PACS")
    association._serve_request = lambda message, context: None
    association.dimse.msg_queue.put((1, "an answer"))
    time.sleep(0.2)
    assert association.dimse.msg_queue.empty() is not kept
    association.abort()


SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    RLELossless,
)  # fmt: skip


@contextmanager
def forwarding(folder: Path, port: int, database_url: str = "", **of_archive: Any) -> Iterator[Inbox]:
    """A node whose rule forwards to the archive at this port, without jobs' workers."""
    archive = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port}
    archive |= {"may": ["receive"], **of_archive}
    rule = CONFIG["rules"][0] | {"forward": ["archive"]}
    pace = {"retry_seconds": 0.2, "retry_limit_seconds": 0.5}
    inbox = Inbox(
        folder,
        {**CONFIG, "peers": [*CONFIG["peers"], archive], "rules": [rule], "outbox": pace},
        database_url,
    )
    try:
        yield inbox
    finally:
        inbox.close()


def states(inbox: Inbox) -> list[str]:
    return [row.state.value for row in inbox.rows(Delivery)]


def deliver_until(inbox: Inbox, state: str) -> None:
    worker = DeliveryWorker(inbox.database, inbox.settings)

    def done() -> bool:
        worker.run_once()
        return set(states(inbox)) == {state}

    wait_until(done, 60, state, shown=lambda: states(inbox))


def data_set(path: Path) -> bytes:
    """The bytes behind the File Meta Information (PS3.10 7.1)."""
    data, meta = path.read_bytes(), read_file_meta_info(path)
    return data[144 + meta.FileMetaInformationGroupLength :]


def images(number: int) -> Sequence[Dataset]:
    return [ultrasound("many", number=one) for one in range(1, number + 1)]


@pytest.mark.debian("dcmtk")
def test_storescp_gets_each_data_set_with_the_bytes_that_came(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "archive"
    folder.mkdir()
    options = ["--bit-preserving", "--accept-all", "--output-directory", str(folder), "--aetitle", "ARCHIVE"]
    with subprocess.Popen(["storescp", *options, str(port)], stderr=subprocess.DEVNULL) as storescp:
        try:
            with forwarding(tmp_path / "node", port, confirm="none") as inbox:
                sent = [in_syntax(image, syntax) for image, syntax in zip(images(5), SYNTAXES, strict=True)]
                sent[0].add_new(0x00091001, "UN", b"\x00\xffopaque")
                inbox.settle(*sent)
                deliver_until(inbox, "confirmed")
                there = {str(dcmread(file, force=True).SOPInstanceUID): file for file in folder.iterdir()}
                for image in sent:
                    kept = inbox.instance(image.SOPInstanceUID).path
                    assert data_set(there[image.SOPInstanceUID]) == data_set(inbox.folder / kept)
        finally:
            storescp.kill()


def sending(inbox: Inbox) -> set[int]:
    return set(inbox.scalars(select(Delivery.id).where(Delivery.state == DeliveryState.SENDING)))


@pytest.mark.debian("orthanc", "orthanc-dicomweb")
@pytest.mark.parametrize("transport", ["dimse", "dicomweb"])
def test_a_real_orthanc_has_each_image_once_though_the_senders_are_killed(
    tmp_path: Path, transport: str
) -> None:
    """Each time between sending and noting it: a worker is stopped, looked at, and killed if it sends."""
    with start_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB]) as orthanc:
        url = orthanc.url + ("/dicom-web" if transport == "dicomweb" else "")
        archive = {"ae_title": "ORTHANC", "transport": transport, "url": url}
        with forwarding(tmp_path / "node", orthanc.dicom_port, **archive) as inbox:
            sent = images(40)  # more than go on one association: two kills hit different ones
            inbox.settle(*sent)
            hit: set[int] = set()
            for _ in range(2):
                with worker_process(inbox) as worker:
                    number = worker.pid or 0

                    def sends(number: int = number) -> bool:
                        os.kill(number, signal.SIGSTOP)
                        if new := sending(inbox) - hit:
                            hit.update(new)
                            return True
                        os.kill(number, signal.SIGCONT)
                        return False

                    wait_until(sends, 120, "a worker sends", step=0.02)
            with worker_process(inbox):
                wait_until(
                    lambda: set(states(inbox)) == {"confirmed"}, progress=lambda: sorted(states(inbox))
                )
            assert DELIVERY_IN_DOUBT.number in {event.number for event in inbox.events()}
            assert orthanc.instances() == sorted(image.SOPInstanceUID for image in sent)
            assert dcmread(BytesIO(orthanc.fetch(sent[0].SOPInstanceUID))) == sent[0]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "REPORT_SECONDS", 0)


def committing(committing_pacs: Pacs, **settings: object) -> PeerSettings:
    known: dict[str, object] = {"confirm": "commitment"}
    return committing_pacs.peer(**known | settings)


def sent(folder: Path, committing_pacs: CommittingPacs, **settings: object) -> Outbox:
    """An outbox with one object that was sent and asked for."""
    outbox = Outbox(folder, [committing(committing_pacs, **settings)])
    outbox.add_study(["pacs"], ONE)
    outbox.worker().run_once()
    return outbox


def reported(
    outbox: Outbox, transaction: str, committed: list[str], failed: list[str], ae: str = "PACS"
) -> None:
    """A report that a listener took, entered."""
    taken, not_taken = [f"{uid} {SECONDARY_CAPTURE}" for uid in committed], [f"{uid} 0112" for uid in failed]
    outbox.write(intake.keep_report, transaction, ae, taken, not_taken, utc_now())
    assert commitment_requests.enter_reports(outbox.database, outbox.settings) == 1


def hours_pass(outbox: Outbox, hours: float) -> None:
    sent_at = outbox.scalars(select(Delivery.sent_at))[0] or utc_now()
    outbox.put(Delivery, next_at=utc_now() - timedelta(seconds=1), sent_at=sent_at - timedelta(hours=hours))


def test_an_object_that_is_not_taken_over_is_sent_again(
    tmp_path: Path, committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "REPORT_SECONDS", 10)
    committing_pacs.at_once = lambda transaction, uids: (
        report(transaction, failed=uids) if len(committing_pacs.requests) == 1 else report(transaction, uids)
    )
    outbox = Outbox(tmp_path, [committing(committing_pacs)])
    (uid,) = outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    assert committing_pacs.received == [uid, uid]
    assert outbox.rows()[0]["refusals"] == 1


def test_a_report_that_comes_hours_late_and_twice_confirms_once(
    tmp_path: Path, committing_pacs: CommittingPacs
) -> None:
    outbox = sent(tmp_path, committing_pacs)
    hours_pass(outbox, 5)
    outbox.worker().run_once()  # looks at it, and asks nobody
    assert (len(committing_pacs.requests), committing_pacs.questions, outbox.states()["unconfirmed"]) == (
        1,
        [],
        1,
    )
    (transaction, uids) = committing_pacs.requests[0]
    for _ in range(2):
        reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.DELIVERY_CONFIRMED.number] == 1


@pytest.mark.parametrize("fit", ["transaction", "title", "object"])
def test_a_report_that_fits_no_request_changes_nothing(
    tmp_path: Path, committing_pacs: CommittingPacs, fit: str
) -> None:
    outbox = sent(tmp_path, committing_pacs)
    (transaction, uids) = committing_pacs.requests[0]
    reported(
        outbox,
        "2.25.1" if fit == "transaction" else transaction,
        ["1.2.3"] if fit == "object" else uids,
        [],
        "STRANGER" if fit == "title" else "PACS",
    )
    assert outbox.states() == {"unconfirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_UNKNOWN.number] == (fit != "object")


def test_without_a_report_a_person_is_told_and_a_late_one_still_confirms(
    tmp_path: Path, committing_pacs: CommittingPacs
) -> None:
    outbox = sent(tmp_path, committing_pacs, commitment_else="give_up", commitment_hours=2)
    hours_pass(outbox, 3)
    outbox.run_until("dead")
    assert outbox.rows()[0]["reason"] == "acknowledged, but unconfirmed: no storage commitment report came"
    assert (committing_pacs.questions, outbox.study_states()) == ([], ["failed"])
    (transaction, uids) = committing_pacs.requests[0]
    reported(outbox, transaction, [], uids)  # too late to be sent again for
    assert outbox.states() == {"dead": 1}
    reported(outbox, transaction, uids, [])
    assert (outbox.states(), outbox.study_states()) == ({"confirmed": 1}, ["delivered"])


@pytest.mark.parametrize(("otherwise", "state"), [("query", "confirmed"), ("give_up", "dead")])
def test_a_pacs_without_storage_commitment_is_noticed_at_once(
    tmp_path: Path, otherwise: str, state: str
) -> None:
    with run_pacs(Pacs(free_port())) as committing_pacs:
        outbox = Outbox(tmp_path, [committing(committing_pacs, commitment_else=otherwise)])
        outbox.add_study(["pacs"], ONE)
        outbox.run_until(state)
        checks = open_destination(outbox.settings.peers[0], outbox.settings).test()
        assert [check.ok for check in checks if check.name == "commitment"] == [False]


def test_a_kill_between_request_and_answer_loses_nothing(
    tmp_path: Path, committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = StorageCommitment.ask

    def killed(self: StorageCommitment, *words: object) -> None:
        ask(self, *words)  # type: ignore[arg-type]
        raise KeyboardInterrupt  # as kill -9 does

    outbox = Outbox(tmp_path, [committing(committing_pacs)])
    outbox.add_study(["pacs"], ONE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StorageCommitment, "ask", killed)
        outbox.worker(lease_seconds=0.1).run_once()
    (transaction, uids) = committing_pacs.requests[0]
    outbox.worker().run_once()
    assert len(committing_pacs.requests) == 2  # nobody knows whether the first one arrived
    reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    assert len(outbox.scalars(select(Commitment))) == 2


def test_a_report_is_answered_only_when_it_is_kept(
    committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "REPORT_SECONDS", 10)
    committing_pacs.at_once = report
    peer = committing(committing_pacs)
    requestor = StorageCommitment(peer, Settings(peers=(peer,)))

    def keep(_: CommitmentReport) -> None:
        raise OSError("the database is away")

    requestor.ask("2.25.7", [], keep)
    assert committing_pacs.report_statuses == [0x0213]


def test_a_report_to_the_listener_reaches_the_outbox(tmp_path: Path, committing_pacs: CommittingPacs) -> None:
    outbox = sent(tmp_path / "node", committing_pacs)
    (transaction, uids) = committing_pacs.requests[0]
    with receiving(
        tmp_path / "listener", peers=[committing(committing_pacs).model_dump(mode="json")]
    ) as listener:
        assert send_report(listener.port, report(transaction, uids)) == 0x0000
        listener.kill()  # at once: what was answered is kept
        JournalIngest(outbox.database, listener.data_dir / "journal").run_once()
        JournalIngest(outbox.database, listener.data_dir / "journal").run_once()  # and after a restart here
    assert commitment_requests.enter_reports(outbox.database, outbox.settings) == 1
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1


@pytest.mark.debian("orthanc")
def test_a_real_orthanc_takes_over_and_reports_on_an_association_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    peers = [{"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port, "may": ["receive"]}]
    peers[0] |= {"confirm": "commitment"}
    with receiving(tmp_path / "listener", peers=peers) as listener:
        us = {"AET": "AINODE", "Host": "127.0.0.1", "Port": listener.port}
        with start_orthanc(
            tmp_path / "orthanc", config={"DicomPort": port, "DicomModalities": {"us": us}}
        ) as orthanc:
            outbox = Outbox(tmp_path / "node", [PeerSettings.model_validate(peers[0])])
            uids = outbox.add_study(["pacs"])
            worker, ingest = outbox.worker(), JournalIngest(outbox.database, listener.data_dir / "journal")
            stop = threading.Event()

            def follow() -> None:
                while not stop.wait(0.1):
                    ingest.run_once()

            following = threading.Thread(target=follow)
            following.start()
            try:
                outbox.run_until("confirmed", worker=worker)
            finally:
                stop.set()
                following.join()
            assert orthanc.instances() == sorted(uids)
    assert [(row["queries"], row["reason"]) for row in outbox.rows()] == [(0, "")] * 3  # not by a query
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1


KINDS = ("Device", "DiagnosticReport", "ImagingStudy", "Observation")
ONE_REPORT = {"Device": 1, "DiagnosticReport": 1, "ImagingStudy": 1, "Observation": 3}
PATIENT = {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": "PID-CR"}]}


@pytest.fixture(scope="module")
def fhir_server() -> Iterator[FhirServer]:
    with start_fhir() as server:
        yield server


@pytest.fixture
def server(fhir_server: FhirServer) -> FhirServer:
    """With nothing in it."""
    fhir_server.forget()
    return fhir_server


def there(server: FhirServer) -> dict[str, int]:
    return {kind: len(server.all_of(kind)) for kind in KINDS}


def destination(server: FhirServer, **more: Any) -> Destination:
    peer = fhir_peer(server.url, **more)
    return open_destination(peer, Settings(peers=(peer,)))


def send(server: FhirServer, *files: Path) -> list[SendStatus]:
    return [report.status for report in destination(server).send([outgoing_report(one) for one in files])]


def remove(server: FhirServer, file: Path) -> Outcome:
    peer = fhir_peer(server.url, withdraw="delete")
    return open_remover(peer, Settings(peers=(peer,))).remove(outgoing_report(file))


def statuses(server: FhirServer, kind: str) -> Counter[str]:
    return Counter(one["status"] for one in server.all_of(kind))


def test_a_report_is_delivered_and_shown(tmp_path: Path, server: FhirServer) -> None:
    outbox = Outbox(tmp_path, [fhir_peer(server.url)])
    uid = add_report(outbox)
    outbox.run_until("confirmed")
    assert there(server) == ONE_REPORT
    [report] = server.all_of("DiagnosticReport")
    assert report["identifier"] == [{"use": "official", "system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}]
    assert report["conclusion"].startswith(
        "AI, chest-lite0@1, not for diagnostic use, not assessed when made:\n"
    )
    assert {one["reference"].partition("/")[0] for one in report["result"]} == {"Observation"}
    assert set(outbox.study_states()) == {"delivered"}


def test_the_patient_is_named_where_the_server_knows_exactly_one(tmp_path: Path, server: FhirServer) -> None:
    known = server.create(PATIENT)
    send(server, report_file(tmp_path))
    for kind in ("DiagnosticReport", "Observation", "ImagingStudy"):
        assert {one["subject"]["reference"] for one in server.all_of(kind)} == {known}
    server.create(PATIENT)
    send(server, report_file(tmp_path, "other"))
    assert sum("reference" not in one["subject"] for one in server.all_of("DiagnosticReport")) == 1


def test_an_id_of_another_issuer_is_nobodys_here(tmp_path: Path, server: FhirServer) -> None:
    server.create(PATIENT)
    elsewhere = destination(server, patient_systems={"ELSEWHERE": SYSTEM})
    [report] = elsewhere.send([outgoing_report(report_file(tmp_path))])
    [filed] = server.all_of("DiagnosticReport")
    assert report.status is SendStatus.STORED
    assert filed["subject"] == {
        "type": "Patient",
        "identifier": {"value": "PID-CR", "assigner": {"display": "HOSPITAL"}},
    }


def test_a_newer_report_takes_the_place_of_the_earlier_one(tmp_path: Path, server: FhirServer) -> None:
    first = report_file(tmp_path, "first", measured=False)
    second = report_file(tmp_path, "second", outgoing_report(first).sop_instance_uid, measured=False)
    third = report_file(tmp_path, "third", outgoing_report(second).sop_instance_uid, measured=False)
    assert send(server, first, second) == [SendStatus.STORED] * 2
    [report] = server.all_of("DiagnosticReport")
    assert (report["status"], len(report["result"])) == ("preliminary", 2)
    assert statuses(server, "Observation") == {"entered-in-error": 2, "preliminary": 2}
    assert send(server, third) == [SendStatus.STORED]
    uses = [
        (one["use"], one["value"].split(":")[-1])
        for one in server.all_of("DiagnosticReport")[0]["identifier"]
    ]
    uids = [outgoing_report(one).sop_instance_uid for one in (third, second, first)]
    assert uses == list(zip(("official", "old", "old"), uids, strict=True))


def test_a_withdrawn_report_is_entered_in_error(tmp_path: Path, server: FhirServer) -> None:
    file = report_file(tmp_path)
    send(server, file, report_file(tmp_path, "other"))
    [mine, _] = server.all_of("DiagnosticReport")
    added = server.create(
        {"resourceType": "Observation", "status": "final", "code": {"text": "Seen by a physician"}}
    )
    server.put({**mine, "result": [*mine["result"], {"reference": added}]})
    assert remove(server, file) == Done()
    assert statuses(server, "DiagnosticReport") == {"entered-in-error": 1, "preliminary": 1}
    assert statuses(server, "Observation") == {"entered-in-error": 3, "final": 1, "preliminary": 3}
    assert remove(server, file) == Done()


@pytest.mark.parametrize("passes", [0, 20], ids=["nothing", "half a status line"])
def test_an_answer_that_is_lost_makes_nothing_twice(tmp_path: Path, server: FhirServer, passes: int) -> None:
    with valve_before(server.port) as valve:
        valve.from_peer = passes
        outbox = Outbox(
            tmp_path, [fhir_peer(f"http://127.0.0.1:{valve.port}", patient_systems={})], answer_seconds=1
        )
        add_report(outbox)
        outbox.worker().run_once()
        assert there(server) == ONE_REPORT
        assert outbox.states() == {"pending": 1}
        valve.open()
        outbox.run_until("confirmed")
    assert there(server) == ONE_REPORT


REPORT = [ResultKind.SR]


@pytest.fixture
def ris() -> Iterator[Receiver]:
    with run_receiver(Receiver()) as receiver:
        yield receiver


def test_a_report_is_one_message_and_confirmed_by_its_acknowledgement(tmp_path: Path, ris: Receiver) -> None:
    outbox = Outbox(tmp_path, [ris.peer(hl7_fields={"MSH-6": "HOSPITAL"})])
    outbox.settings = outbox.settings.model_copy(
        update={"console": ConsoleSettings(url="https://ai.example.org/")}
    )
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert outbox.study_states() == ["delivered"]
    [row] = outbox.rows()
    assert (row["status"], row["attempts"], row["queries"]) == ("AA", 1, 0)
    [message] = ris.received
    assert ris.numbers() == [control_id(uid)]
    assert str(message["PID"][0][5]) == "Probe^Ä^^^^^L^A"
    assert str(message["MSH"][0][6]) == "HOSPITAL"
    assert "https://ai.example.org/studies/1^^TEXT^HTML" in [str(obx[5]) for obx in message["OBX"]]


@pytest.mark.parametrize("code", ["AE", "CR"])
def test_a_refusal_is_a_dead_letter_with_its_code_and_without_its_words(
    tmp_path: Path, ris: Receiver, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = (
        f"MSH|^~\\&|RIS||AINODE||2025||ACK|1|P|2.5.1\rMSA|{code}|{{number}}|Mr Canary is unknown\r"
        "ERR|||204^Canary|E||||Canary\r"
    )

    def refuse(message: object, times: int) -> bytes:
        return b"\x0b" + answer.format(number=ris.numbers()[-1]).encode() + b"\x1c\x0d"

    ris.answer = refuse
    outbox = Outbox(tmp_path, [ris.peer()])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    [row] = outbox.rows()
    assert (row["status"], row["attempts"]) == (f"{code} 204", 3)
    assert "unknown key identifier" in row["reason"]
    assert "Canary" not in f"{row}{caplog.text}"


@pytest.mark.parametrize("fault", [LOSE, WRONG_MESSAGE, b"\x0bMSH|^~\\&|RIS"])
def test_a_lost_or_wrong_acknowledgement_is_sent_again_under_the_same_number(
    tmp_path: Path, ris: Receiver, fault: str | bytes
) -> None:
    ris.answer = lambda message, times: fault if times < 3 else "AA"
    outbox = Outbox(tmp_path, [ris.peer()])
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert ris.numbers() == [control_id(uid)] * 3
    assert len({str(message) for message in ris.received}) == 1
    assert outbox.rows()[0]["attempts"] == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not as an HL7 receiver does"),
        (b"\x0bMSH|^~\\&|x\rMSA\x1c\x0d", "not as an HL7 receiver does"),
        (b"\x0b\x1c\x0d", "not as an HL7 receiver does"),
        (b"\x0b" + b"A" * 70_000, "longer than 64 KiB"),
    ],
)
def test_no_nonsense_is_an_acknowledgement(
    tmp_path: Path, ris: Receiver, answer: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ris.answer = lambda message, times: answer
    outbox = Outbox(tmp_path, [ris.peer()], retry_seconds=0.01, retry_limit_seconds=0.01)
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    assert reason in outbox.rows()[0]["reason"]
    assert len(ris.received) == 3
    assert not any(record.exc_info for record in caplog.records)


def test_a_report_that_never_went_there_is_not_withdrawn_there(tmp_path: Path, ris: Receiver) -> None:
    other = Receiver()
    with run_receiver(other):
        outbox = Outbox(tmp_path, [ris.peer(iocm=True), other.peer(name="other", iocm=True)])
        outbox.add_study(["ris", "other"], REPORT * 2)
        outbox.write(Session.execute, delete(Delivery).where(Delivery.id.in_((2, 3))))  # one report each
        outbox.run_until("confirmed")
        assert outbox.withdraw() == {}
        outbox.run_until("confirmed")
    for receiver in (ris, other):
        report, note = receiver.received
        assert len(note["OBR"]) == 1
        assert len(set(receiver.numbers())) == 2
        assert [str(row[5]) for row in note["OBX"]] == [str(row[5]) for row in report["OBX"]]


def test_tls_needs_the_right_authority_on_both_sides(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ca"), Authority(tmp_path, "foreign")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*ours.certify("ris"))
    node, stranger = ours.certify("node"), foreign.certify("stranger")
    with run_receiver(Receiver(), tls=context) as receiver:
        outbox = Outbox(tmp_path, [receiver.peer(tls=True)])
        outbox.add_study(["ris"], REPORT)
        for (certificate, key), authority, state in (
            (node, foreign, "pending"),
            (stranger, ours, "pending"),
            (node, ours, "confirmed"),
        ):
            tls = TlsSettings(certificate=certificate, private_key=key, trusted=authority.certificate)
            outbox.settings = outbox.settings.model_copy(update={"listener": ListenerSettings(tls=tls)})
            [check] = open_destination(outbox.settings.peers[0], outbox.settings).test()
            assert check.ok is (state == "confirmed"), check.text
            time.sleep(0.6)
            outbox.worker().run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert "TLSv1" in check.text
        assert len(receiver.received) == 1
