"""A real Orthanc as PACS: results by every way, images forwarded to the node, fetches and kills."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from highdicom.ko import KeyObjectSelectionDocument
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from dicom_node.base.config.settings import (
    ListenerSettings,
    TlsSettings,
)
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME
from dicom_node.base.lifecycle import DeliveryState, ResultKind
from dicom_node.base.store.tables import Delivery
from dicom_node.deliver.scu import (
    open_destination,
)
from tests import ROOT
from tests.certificates_lab import Authority
from tests.modality import chest, ultrasound
from tests.node_lab import PROGRAM, Node, running, site_config, store
from tests.outbox_lab import (
    Outbox,
    a_result,
)
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.orthanc_lab import (
    PIXELS,
    TAKING,
    Orthanc,
    needs_orthanc,
    peer,
    start_orthanc,
    stored,
)

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
            outbox.run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert orthanc.fetch(uid)


FORWARDED = (
    *(UltrasoundImageStorage, UltrasoundMultiFrameImageStorage),
    *(ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation),
)
KEPT = (CTImageStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
FOLDER = ROOT / "orthanc"


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
    node = Pacs(ae_title="AINODE")
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
        run_pacs(Pacs(ae_title="AINODE")) as node,
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
def test_all_that_key_objects_name_is_in_the_pacs(tmp_path: Path) -> None:
    rules = f'{PROGRAM}no_call = ["sr", "gsps", "sc", "kos"]\n'
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        results = ("sr", "gsps", "sc", "kos")
        config = site_config(orthanc.dicom_port, rules, results, ae_title=orthanc.ae_title)
        image = ultrasound("named")
        with running(Node(tmp_path / "node", config)) as node:
            assert set(store(node.port, [image], "US1")) == {0x0000}
            node.wait_for(("delivered",), count=1)
        objects = [dcmread(BytesIO(orthanc.fetch(uid))) for uid in orthanc.instances()]
    [selection] = [ds for ds in objects if ds.SOPClassUID == KeyObjectSelectionDocumentStorage]
    references = KeyObjectSelectionDocument.from_dataset(selection).content.get_references()
    named = {(ref.referenced_sop_class_uid, ref.referenced_sop_instance_uid) for ref in references}
    assert named == {(ds.SOPClassUID, ds.SOPInstanceUID) for ds in objects if ds is not selection}
    assert {ds.Modality for ds in objects} == {"KO", "SR", "PR", "OT"}


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
