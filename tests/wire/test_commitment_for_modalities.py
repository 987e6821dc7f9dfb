"""A modality asks a whole node for storage commitment; the archive is an Orthanc, and once the modality."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from dicom_node import preflight, scu
from dicom_node.config import loading
from dicom_node.config.sections import OutboxSettings
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom import commitment
from dicom_node.services import peers
from tests.asking_modality import AskingModality, ask
from tests.modality import ultrasound
from tests.node_lab import PROGRAM, Node, running, site_config, store
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc

pytestmark = pytest.mark.debian("orthanc")


def images(number: int = 3) -> list[Dataset]:
    return [ultrasound("asked", number=one) for one in range(1, number + 1)]


def uids(sent: Sequence[Dataset]) -> list[str]:
    return [str(image.SOPInstanceUID) for image in sent]


def a_node(folder: Path, archive: int, modality: int, *, hours: float = 24, calling: str = "US1") -> Node:
    """One whose rule forwards to the archive; results go nowhere that matters."""
    rule = PROGRAM.replace("send_to", 'forward = ["pacs"]\nsend_to')
    asking = (
        f'[[peers]]\nname = "us1"\nae_title = "{calling}"\nhost = "127.0.0.1"\nport = {modality}\n'
        f'commit_after = "delivered"\ncommit_hours = {hours}\n'
    )
    config = site_config(archive, asking + rule, ae_title="ORTHANC", senders=())
    return Node(folder, config)


@contextmanager
def archive(folder: Path, port: int = 0) -> Iterator[Orthanc]:
    with start_orthanc(folder, config={"DicomPort": port or free_port()}) as orthanc:
        yield orthanc


def test_what_the_archive_has_is_committed_also_after_a_kill_and_while_the_modality_is_away(
    tmp_path: Path,
) -> None:
    modality, sent, port = AskingModality(), images(), free_port()
    node = a_node(tmp_path / "node", port, modality.port)
    with running(node):
        assert store(node.port, sent, "US1") == [0] * 3
        assert ask(node.port, "2.25.1", uids(sent)) == 0x0000
        node.kill()  # at once
        node.start()
        with modality.listening():
            assert modality.reports == [], "no archive has them"
        with archive(tmp_path / "archive", port) as orthanc:
            wait_until(lambda: set(uids(sent)) <= set(orthanc.instances()), 120, "in the archive")
            wait_until(lambda: len(node.cli("events", "list", "--number", "1072")) == 1, 120, "decided")
            node.kill()
            node.start()
            modality.answer = lambda times: 0x0213 if times == 1 else 0x0000  # it cannot keep it yet
            with modality.listening():
                wait_until(lambda: len(modality.reports) == 2, 120, "the report, twice")
                wait_until(lambda: bool(node.cli("events", "list", "--number", "1073")), 60, "noted")
                node.kill()
                node.start()
                assert ask(node.port, "2.25.2", uids(sent)) == 0x0000
                wait_until(lambda: len(modality.reports) == 3, 120, "the next report")
            first, again, second = modality.said()
            assert first == again == ("2.25.1", uids(sent), {})
            assert second == ("2.25.2", uids(sent), {})


def test_unknown_objects_and_those_that_no_archive_took_are_failures(tmp_path: Path) -> None:
    modality, sent = AskingModality(), images(1)
    node = a_node(tmp_path / "node", free_port(), modality.port, hours=0.002)
    with running(node), modality.listening():
        assert store(node.port, sent, "US1") == [0]
        assert ask(node.port, "2.25.1", [*uids(sent), "1.2.3"]) == 0x0000
        wait_until(lambda: bool(modality.reports), 120, "the report")
    assert modality.said() == [("2.25.1", [], {uids(sent)[0]: 0x0110, "1.2.3": 0x0112})]
    assert modality.event_types == [2]


def test_an_orthanc_that_sends_gets_its_report(tmp_path: Path) -> None:
    own, port = free_port(), free_port()
    node = a_node(tmp_path / "node", port, own, calling="MODALITY")
    to_node = {"AET": "AINODE", "Host": "127.0.0.1", "Port": node.port}
    config = {"DicomPort": own, "DicomModalities": {"node": to_node}}
    with (
        archive(tmp_path / "archive", port) as pacs,
        start_orthanc(tmp_path / "modality", ae_title="MODALITY", config=config) as orthanc,
        running(node),
    ):
        for image in images(2):
            buffer = DicomBytesIO()
            image.save_as(buffer, enforce_file_format=True)
            orthanc.upload(buffer.getvalue())
        stored = [item["ID"] for item in orthanc.get("/instances?expand")]
        body = json.dumps({"Resources": stored, "StorageCommitment": True, "Synchronous": False}).encode()
        job = json.loads(orthanc.call("POST", "/modalities/node/store", body))["ID"]

        def content() -> dict[str, Any]:
            found: dict[str, Any] = orthanc.get(f"/jobs/{job}")
            return found

        wait_until(lambda: content()["State"] == "Success", 60, "sent", shown=content)
        transaction = content()["Content"]["StorageCommitmentTransactionUID"]

        def said() -> dict[str, Any]:
            found: dict[str, Any] = orthanc.get(f"/storage-commitment/{transaction}")
            return found

        wait_until(lambda: said()["Status"] != "Pending", 120, "the report", shown=said)
        assert said()["Status"] == "Success"
        assert set(uids(images(2))) <= set(pacs.instances()), "beside the report, which may be there by now"


def test_the_test_of_a_peer_says_whether_it_takes_reports() -> None:
    modality = AskingModality()
    peer = PeerSettings(
        name="us1", ae_title="US1", host="127.0.0.1", port=modality.port, commit_after="delivered"
    )
    settings = Settings(peers=(peer,))
    for role, how in ((True, "roles reversed"), (False, "without role selection")):
        with modality.listening(takes_role=role):
            (row,) = peers.try_peers(settings, [])
            assert row.ok
            assert how in row.text
            information = commitment.report("2.25.1", {"1.2": "1.3"}, {})
            assert scu.open_reporter(peer, settings).report(information, 1) == ""
    (row,) = peers.try_peers(settings, [])
    assert not row.ok


def test_a_modality_that_hangs_is_cut_off_and_was_not_told() -> None:
    def late(_: int) -> int:
        time.sleep(4)
        return 0

    modality = AskingModality(answer=late)
    peer = PeerSettings(
        name="us1", ae_title="US1", host="127.0.0.1", port=modality.port, commit_after="delivered"
    )
    settings = Settings(peers=(peer,), outbox=OutboxSettings(answer_seconds=1))
    with modality.listening():
        began = time.monotonic()
        information = commitment.report("2.25.1", {"1.2": "1.3"}, {})
        assert (
            scu.open_reporter(peer, settings).report(information, 1) == "association lost before the answer"
        )
        assert time.monotonic() - began < 3.5


def test_check_wants_an_archive_that_confirms(tmp_path: Path) -> None:
    node = a_node(tmp_path, free_port(), free_port())
    text = node.config.read_text()
    for faulty in (
        text.replace('forward = ["pacs"]\n', ""),
        text.replace('ae_title = "ORTHANC"', 'ae_title = "ORTHANC"\nconfirm = "none"'),
    ):
        node.config.write_text(faulty)
        (problem,) = preflight.check([node.config]).problems
        assert "commit_after = 'delivered': no archive confirms" in str(problem)
    node.config.write_text(text)
    assert not preflight.check([node.config]).problems
    assert loading.load([node.config]).peer("us1").requesting_titles == ("US1",)


@pytest.mark.parametrize("lacks", ["host", "port", "send"])
def test_a_peer_that_asks_needs_an_address_for_our_report(lacks: str) -> None:
    given: dict[str, Any] = {"name": "us1", "ae_title": "US1", "host": "h", "port": 104}
    given["commit_after"] = "delivered"
    if lacks == "send":
        given["may"] = ["receive"]
    else:
        del given[lacks]
    with pytest.raises(ValueError, match="commit_after is for peers"):
        PeerSettings.model_validate(given)
