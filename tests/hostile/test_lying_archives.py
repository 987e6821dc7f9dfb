"""Archives that lie, hang or send what nobody asked for: nothing of it starts a job, and every call ends."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset

from dicom_node import fetch
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import PeerUnreachable
from dicom_node.events import FETCHED_OTHER_PATIENT
from dicom_node.model.lifecycle import FetchState, StudyState
from dicom_node.scu import FoundStudy, RetrieveStatus, open_archive, transport
from dicom_node.store import fetches
from dicom_node.studies.fetched import OTHER_PATIENT, OTHER_STUDY
from dicom_node.studies.quarantine import release_study
from tests.archive_lab import PIXELS, QUERY, FakeArchive, answer_for, fetched, film, inbox_beside, peer
from tests.hostile.valve import valve_before
from tests.hostile.web import answering
from tests.inbox_lab import Inbox
from tests.modality import chest
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.wire.test_archives import Sink

HEAD = bytes(128) + b"DICM"
LONG = b"\2\0\1\0OB\0\0\xff\xff\xff\x7f"  # an element of 2 GiB


def states(inbox: Inbox) -> list[FetchState]:
    with inbox.database.read() as session:
        return [row.state for row in fetches.listed(session)]


def test_an_honest_answer_starts_its_job_though_the_study_is_old(tmp_path: Path) -> None:
    image = film("honest")
    with run_pacs(FakeArchive(free_port(), answers=[answer_for(image)], gives=[image]), classes=()) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port)
        fetched(inbox)
    assert states(inbox) == [FetchState.FETCHED]
    assert [job.rule for job in inbox.jobs()] == ["films"]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "ANOTHER"},
        {"PatientName": "Somebody^Else"},
        {"PatientBirthDate": "19010101"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_images_of_another_patient_than_the_answer_go_to_quarantine(
    tmp_path: Path, other: dict[str, str]
) -> None:
    image = film("another")
    with run_pacs(
        FakeArchive(free_port(), answers=[answer_for(image, **other)], gives=[image]), classes=()
    ) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port)
        fetched(inbox)
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.reason) == (StudyState.QUARANTINED, OTHER_PATIENT)
    assert not inbox.jobs()
    [event] = [row for row in inbox.events() if row.number == FETCHED_OTHER_PATIENT.number]
    assert not {*other.values(), image.PatientID} & set(map(str, event.fields.values()))
    with inbox.database.write() as session:
        release_study(session, study.id)
    inbox.settle()
    assert [job.rule for job in inbox.jobs()] == ["films"]
    assert states(inbox) == [FetchState.OTHER_PATIENT]


def test_a_study_that_nobody_asked_for_goes_to_quarantine(tmp_path: Path) -> None:
    wanted, other = film("wanted"), film("other")
    with run_pacs(
        FakeArchive(free_port(), answers=[answer_for(wanted)], gives=[wanted, other]), classes=()
    ) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port)
        fetched(inbox)
    assert inbox.study(wanted.StudyInstanceUID).state is StudyState.QUEUED
    study = inbox.study(other.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED
    assert OTHER_STUDY in study.reason


@pytest.mark.filterwarnings("ignore:.* for VR UI")  # pydicom's, in the archive of the test
def test_answers_to_another_question_are_left_out() -> None:
    image = film("asked for")
    wrong = [
        answer_for(image, StudyInstanceUID=""),
        answer_for(image, StudyInstanceUID="../../etc"),
        answer_for(image, StudyInstanceUID="1.2.3", StudyDate="19990101"),
        answer_for(image, StudyInstanceUID="1.2.4", ModalitiesInStudy="CT"),
        answer_for(Dataset(), StudyInstanceUID="1." * 40 + "1"),
    ]
    with run_pacs(FakeArchive(free_port(), answers=[*wrong, answer_for(image)] * 2), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        found = open_archive(settings.peers[0], settings).find(QUERY)
    assert [study.study_instance_uid for study in found.studies] == [image.StudyInstanceUID]
    assert found.strays == 2 * len(wrong)


def test_a_retrieval_that_trickles_is_cut_off_and_tried_again(tmp_path: Path) -> None:
    images = [film("slow") for _ in range(20)]
    liar = FakeArchive(free_port(), answers=[answer_for(images[0])], gives=images, pause=0.5)
    with run_pacs(liar, classes=()) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port, retrieve_minutes=0.02)
        began = time.monotonic()
        fetched(inbox)
        assert time.monotonic() - began < 30
    assert states(inbox) == [FetchState.FAILED]


@pytest.mark.parametrize("passes", [0, 100, 300], ids=["nothing", "a part of the answer", "an association"])
def test_a_line_that_hangs_ends_in_words(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.scu.association._NEGOTIATE_SECONDS", 0.3)
    monkeypatch.setattr("dicom_node.scu.association._ASSOCIATE_SECONDS", 0.6)
    image = film("hung")
    liar = FakeArchive(free_port(), answers=[answer_for(image)], gives=[image])
    with run_pacs(liar, classes=()) as pacs, valve_before(pacs.port) as valve:
        valve.from_peer = passes
        one = PeerSettings.model_validate(peer(valve.port, retrieve_minutes=0.02))
        settings = Settings.model_validate({"peers": [one], "outbox": {"answer_seconds": 0.5}})
        began = time.monotonic()
        with pytest.raises(PeerUnreachable):
            open_archive(one, settings).find(QUERY)
        outcome = open_archive(one, settings).retrieve("1.2.3", Sink())
        assert outcome.status in (RetrieveStatus.RETRY, RetrieveStatus.UNREACHABLE)
        assert time.monotonic() - began < 60


def test_answers_without_an_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAXIMUM_ANSWER_BYTES", 2**16)
    image = film("endless")
    with run_pacs(FakeArchive(free_port(), answers=[answer_for(image)] * 5000), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        with pytest.raises(PeerUnreachable, match="does not end"):
            open_archive(settings.peers[0], settings).find(QUERY)


def test_an_object_that_is_too_large_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAXIMUM_ANSWER_BYTES", 2**16)
    monkeypatch.setattr(Sink, "largest_bytes", 2**16)
    large = chest("large", np.zeros((1024, 1024), np.uint16))
    sink = Sink()
    with run_pacs(FakeArchive(free_port(), gives=[large]), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        outcome = open_archive(settings.peers[0], settings).retrieve("1.2.3", sink)
    assert outcome.status is RetrieveStatus.RETRY
    assert not sink.taken


def test_many_objects_that_were_taken_do_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAXIMUM_ANSWER_BYTES", 2**16)
    monkeypatch.setattr(Sink, "largest_bytes", 2**16)
    images = [chest("many", np.zeros((128, 128), np.uint16), number=one) for one in range(1, 13)]
    sink = Sink()
    with run_pacs(FakeArchive(free_port(), gives=images), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        outcome = open_archive(settings.peers[0], settings).retrieve("1.2.3", sink)
    assert (outcome.status, outcome.objects) == (RetrieveStatus.RETRIEVED, 12), outcome


def test_more_objects_than_a_study_may_have_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.scu.dimse_archive.MOST_OBJECTS", 3)
    images = [chest("more", PIXELS, number=one) for one in range(1, 8)]
    sink = Sink()
    with run_pacs(FakeArchive(free_port(), gives=images), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        outcome = open_archive(settings.peers[0], settings).retrieve("1.2.3", sink)
    assert (outcome.status, len(sink.taken)) == (RetrieveStatus.RETRY, 3), outcome


def test_a_peer_that_takes_our_storage_classes_and_no_c_get_refuses() -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        outcome = open_archive(settings.peers[0], settings).retrieve("1.2.3", Sink())
    assert outcome.status is RetrieveStatus.REFUSED


def test_a_study_at_which_the_node_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    inbox = inbox_beside(tmp_path, free_port())
    fetcher = fetch.Fetcher(inbox.database, inbox.settings, inbox.settings.peer("archive"), "test")
    with inbox.database.write() as session:
        row = fetch.asking.write_down(session, "archive", FoundStudy("1.2.3"))
        row.state, row.attempts = FetchState.FETCHING, fetch.fetcher.ATTEMPTS_OF_KILLED
    fetcher.run_once(threading.Event())
    assert states(inbox) == [FetchState.FAILED]


def file_of(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def wado(*parts: bytes, end: bytes = b"--b--") -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in parts) + end


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[]", "application/json", RetrieveStatus.RETRY),
        (b"", "multipart/related; boundary=b", RetrieveStatus.RETRY),
        (wado(), "multipart/related; boundary=b", RetrieveStatus.ABSENT),
        (wado(b"no DICOM"), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(HEAD + b"\xff" * 500), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(HEAD + LONG * 20), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(file_of(film("cut")), end=b""), "multipart/related; boundary=b", RetrieveStatus.RETRY),
    ],
    ids=["JSON", "nothing", "no part", "no DICOM", "no meta", "bad lengths", "no end"],
)
def test_what_is_no_answer_of_wado_stores_nothing_faulty(
    tmp_path: Path, body: bytes, kind: str, status: RetrieveStatus
) -> None:
    with answering(body=body, Content_Type=kind) as (url, _):
        inbox = inbox_beside(tmp_path, 1, transport="dicomweb", url=url)
        archive = inbox.settings.peer("archive")
        sink = fetch.incoming.Incoming(
            inbox.spool, fetch.incoming.WaitingObjects(inbox.spool.incoming), inbox.settings, archive, 1
        )
        outcome = open_archive(archive, inbox.settings).retrieve("1.2.3", sink)
    assert outcome.status is status, outcome
    assert not inbox.spool.pending()


@pytest.mark.parametrize("transport_", ["orthanc", "dicomweb"])
@pytest.mark.parametrize(
    "body",
    [b"{}", b"[1]", b"null", b'[{"ID": "../system"}]', b"[" * 100_000, b"<html>", b'[{"0020000D": 5}]'],
)
def test_nonsense_is_no_study_and_no_traceback(transport_: str, body: bytes) -> None:
    with answering(body=body, Content_Type="application/json") as (url, asked):
        one = PeerSettings.model_validate(peer(1, transport=transport_, url=url))
        archive = open_archive(one, Settings(peers=(one,)))
        try:
            assert archive.find(QUERY).studies == ()
        except PeerUnreachable as error:
            assert "pacs" not in str(error) and len(str(error)) > 10
        assert archive.retrieve("1.2.3", Sink()).objects == 0
    assert not any("system" in one for one in asked)
