"""A real Orthanc: asked and delivered to by each transport, withdrawn from, forwarding, fetched from."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)
from sqlalchemy import select
from werkzeug.wrappers import Request, Response

from dicom_node.base.config.settings import ListenerSettings, PeerSettings, Settings, TlsSettings
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME
from dicom_node.base.errors import FaultyInput, PeerUnreachable
from dicom_node.base.events import RESULT_NOT_REMOVED, RESULT_REMOVED
from dicom_node.base.kinds import ResultKind
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store.tables import Delivery, Removal, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.outbox import Removals
from dicom_node.deliver.scu import open_archive, open_destination
from dicom_node.deliver.scu.interfaces import RetrieveStatus, StudyQuery
from dicom_node.people.results import show
from dicom_node.receive.policy import accepted_classes
from tests.certificates_lab import Authority
from tests.hostile.web import answering
from tests.modality import chest, part_10, ultrasound, ultrasound_from
from tests.node_lab import PROGRAM, Node, running, site_config
from tests.outbox_lab import Outbox, a_result
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

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
    allowed = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
    with start_orthanc(tmp_path_factory.mktemp("orthanc"), plugins=[DICOMWEB], config=allowed) as orthanc:
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
    name = str(films[0].PatientName)
    same = Patient.from_values("", "", name, films[0].PatientBirthDate, films[0].PatientSex)
    assert not study.patient.disagrees(same)
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
    with pytest.raises(PeerUnreachable, match=way):
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
    assert checks and [check for check in checks if not check.ok] == []
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
def test_an_orthanc_that_is_down_gets_everything_once_when_it_is_back(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc, way, **TAKING) for way in TRANSPORTS], retry_limit_seconds=0.3)
    sent = [uid for way in TRANSPORTS for uid in outbox.add_study([way])]
    outbox.worker().run_once()
    orthanc.kill()
    sent += [uid for way in TRANSPORTS for uid in outbox.add_study([way])]
    outbox.worker().run_once()
    assert outbox.states()["pending"] >= 9
    orthanc.start()
    outbox.run_until("confirmed")
    assert [uid for uid in orthanc.instances() if uid in sent] == sorted(sent)


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
    known = {"name": "pacs", "ae_title": "PACS", "transport": "dicomweb", "url": url, **TAKING_BACK}
    return PeerSettings.model_validate(known)


def shown(outbox: Outbox) -> dict[str, list[dict[str, object]]]:
    found = outbox.read(show, outbox.settings, 1)
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
    assert removal_states(outbox) == {"asked"} and first in orthanc.instances()
    run_until(outbox, "gone")
    assert first not in orthanc.instances() and {gone, replaced} <= set(orthanc.instances())
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
    assert "another object" in str(found[replaced]["reason"]) and replaced in orthanc.instances()
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
    assert row["reason"] and (not refuses or str(status) in str(row["reason"]))
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
            assert node.run("fetch", *ASKED, "--no-wait").returncode == 0
            wait_until(lambda: len(starts(node)) >= 2, 120, "the first studies")
            node.kill()
            node.start()
            done = node.run("fetch", *ASKED)
            assert done.returncode == 0, done.stderr
            assert [row["state"] for row in node.cli("fetches", "list")] == ["fetched"] * 4
            assert node.cli("fetches", "missing", "pacs", "--days", "1") == []
            assert node.run("check").returncode == 0
            wait_until(lambda: set(orthanc.reports()) == set(uids), 120, "a report for each")
            assert node.stop() == 0
            assert orthanc.reports() == Counter(dict.fromkeys(uids, 1))
            jobs = node.cli("jobs", "list", "--limit", "0")
            states = Counter(row["state"] for row in jobs)
            assert states.pop("succeeded") == 4
            assert {*states} <= {"cancelled"}  # begun on the first film of two, after a kill between them
            asked = starts(node)
            gaps = [(later - sooner).total_seconds() for sooner, later in pairwise(asked)]
            assert min(gaps) >= 0.4, gaps  # a start is written down a moment after it was timed
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
        uids = {str(image.SOPInstanceUID) for image in sent}
        assert uids <= set(pacs.instances()), "beside the report, which may be there by now"
