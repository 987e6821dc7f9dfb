"""Delivery to a real Orthanc: by DIMSE, by its REST API, by DICOMweb, over TLS; and to DCMTK's storescp."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite

from dicom_node.config.settings import ListenerSettings, PeerSettings, Settings, TlsSettings
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.scu import open_destination
from dicom_node.store.tables import Delivery
from tests.certificates_lab import Authority
from tests.outbox_lab import THREE_FACES, Outbox
from tests.ports import free_port
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

pytestmark = pytest.mark.debian("orthanc", "orthanc-dicomweb")

TRANSPORTS = ("dimse", "orthanc", "dicomweb")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with start_orthanc(tmp_path_factory.mktemp("orthanc"), plugins=[DICOMWEB]) as orthanc:
        yield orthanc


def peer(orthanc: Orthanc, transport: str, **settings: object) -> PeerSettings:
    url = orthanc.url + ("/dicom-web" if transport == "dicomweb" else "")
    known = {"name": transport, "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.dicom_port}
    return PeerSettings.model_validate(
        {**known, "may": ("receive",), "transport": transport, "url": url, **settings}
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_results_reach_orthanc_and_are_confirmed(tmp_path: Path, orthanc: Orthanc, transport: str) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc, transport)])
    sent = outbox.add_study([transport])
    outbox.run_until("confirmed")
    assert outbox.study_states() == ["delivered"]
    for uid in sent:
        stored = orthanc.fetch(uid)
        assert dcmread(BytesIO(stored)) == dcmread(outbox.file_of(uid))
        if transport != "dimse":  # C-STORE leaves the file header to the receiver
            assert stored == outbox.file_of(uid).read_bytes()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_same_object_by_all_ways_is_there_once(tmp_path: Path, orthanc: Orthanc, transport: str) -> None:
    ways = [transport, *(other for other in TRANSPORTS if other != transport)]
    outbox = Outbox(tmp_path, [peer(orthanc, way) for way in ways])
    sent = outbox.add_study(ways)
    outbox.run_until("confirmed")
    assert [uid for uid in orthanc.instances() if uid in sent] == sorted(sent)


def test_already_stored_is_not_believed_when_another_object_bears_the_uid(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc, "orthanc")])
    (uid,) = outbox.add_study(["orthanc"], [ResultKind.SC])
    other = dcmread(outbox.file_of(uid))
    other.InstanceNumber = 77
    buffer = BytesIO()
    dcmwrite(buffer, other)
    orthanc.upload(buffer.getvalue())
    outbox.run_until("dead")
    assert "another object" in outbox.rows()[0]["reason"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_object_that_orthanc_lost_is_not_confirmed(
    tmp_path: Path, orthanc: Orthanc, transport: str
) -> None:
    outbox = Outbox(tmp_path, [peer(orthanc, transport)], confirm_seconds=0.1, retry_seconds=0.02)
    (uid,) = outbox.add_study([transport], [ResultKind.SR])
    outbox.run_until("confirmed")
    orthanc.call("DELETE", f"/instances/{orthanc.id_of(uid)}")
    with outbox.database.write() as session:
        session.get_one(Delivery, 1).state = DeliveryState.UNCONFIRMED
    outbox.run_until("confirmed")
    assert outbox.rows()[0]["attempts"] == 2
    assert orthanc.fetch(uid)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_peers_test_passes_on_a_ready_orthanc(orthanc: Orthanc, transport: str) -> None:
    checks = open_destination(peer(orthanc, transport), Settings()).test()
    assert checks
    assert [check for check in checks if not check.ok] == []


def test_two_orthancs_by_rest_do_not_get_each_others_results(tmp_path: Path, orthanc: Orthanc) -> None:
    with start_orthanc(tmp_path / "second") as second:
        peers = [peer(orthanc, "orthanc", name="first"), peer(second, "orthanc", name="second")]
        outbox = Outbox(tmp_path, peers)
        ends = [open_destination(item, outbox.settings) for item in peers]  # both open at once
        assert len(ends) == 2
        to_first = outbox.add_study(["first"], [ResultKind.SR])
        to_second = outbox.add_study(["second"], [ResultKind.SR])
        outbox.run_until("confirmed")
        assert second.instances() == to_second
        assert orthanc.fetch(to_first[0])


@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
def test_a_wrong_password_waits_for_a_person_and_a_right_one_delivers(tmp_path: Path, transport: str) -> None:
    config = {"AuthenticationEnabled": True, "RegisteredUsers": {"node": "right"}}
    with start_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB], config=config, user="node:right") as locked:
        wrong = Outbox(tmp_path, [peer(locked, transport, username="node", password="wrong")])
        wrong.add_study([transport], [ResultKind.SC])
        wrong.worker().run_once()
        assert (wrong.rows()[0]["state"], wrong.rows()[0]["status"]) == ("pending", "HTTP 401")
        right = Outbox(tmp_path, [peer(locked, transport, username="node", password="right")])
        right.run_until("confirmed")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_orthanc_that_is_down_gets_everything_once_when_it_is_back(tmp_path: Path, transport: str) -> None:
    with start_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB]) as orthanc:
        outbox = Outbox(tmp_path, [peer(orthanc, transport)], retry_limit_seconds=0.3)
        sent = [uid for _ in range(3) for uid in outbox.add_study([transport])]
        worker = outbox.worker()
        worker.run_once()
        orthanc.kill()
        for _ in range(5):
            sent += outbox.add_study([transport])
            worker.run_once()
            time.sleep(0.1)
        assert outbox.states()["pending"] >= 15
        orthanc.start()
        outbox.run_until("confirmed", worker=worker)
        assert orthanc.instances() == sorted(sent)


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
        outbox = Outbox(tmp_path, [peer(orthanc, "dimse", tls=True)])
        (uid,) = outbox.add_study(["dimse"], [ResultKind.SR])
        for known, state in ((foreign, "pending"), (ours, "confirmed")):
            tls = TlsSettings(certificate=own, private_key=own_key, trusted=known.certificate)
            listener = ListenerSettings(tls=tls)
            outbox.settings = outbox.settings.model_copy(update={"listener": listener})
            time.sleep(0.3)
            outbox.worker().run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert orthanc.fetch(uid)


@pytest.mark.debian("dcmtk")
def test_storescp_takes_results_of_a_peer_that_is_not_asked(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    command = ["storescp", "--output-directory", str(folder), "--aetitle", "STORESCP", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as storescp:
        try:
            target = PeerSettings(
                name="storescp",
                ae_title="STORESCP",
                host="127.0.0.1",
                port=port,
                may=("receive",),
                confirm="none",
            )
            outbox = Outbox(tmp_path, [target])
            sent = outbox.add_study(["storescp"], THREE_FACES)
            outbox.run_until("confirmed")
        finally:
            storescp.kill()
    received = [dcmread(file) for file in folder.iterdir()]
    assert sorted(ds.SOPInstanceUID for ds in received) == sorted(sent)


def test_a_server_that_is_no_orthanc_is_told_apart(tmp_path: Path, orthanc: Orthanc) -> None:
    wrong = peer(orthanc, "orthanc", url=f"{orthanc.url}/app/explorer.html")
    outbox = Outbox(tmp_path, [wrong])
    outbox.add_study(["orthanc"], [ResultKind.SC])
    outbox.worker().run_once()
    assert outbox.rows()[0]["state"] == "pending"
    assert outbox.rows()[0]["status"].startswith("HTTP 4")
