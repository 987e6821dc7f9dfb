"""Delivery to a PACS that misbehaves in every way that PS3.4 allows, on real sockets."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import evt

from dicom_node.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_IN_DOUBT,
    DELIVERY_NARROWED,
    DELIVERY_SENT,
    DELIVERY_WARNED,
)
from dicom_node.model.kinds import ResultKind
from dicom_node.outbox import retry_all
from dicom_node.scu import open_destination
from tests.inbox_lab import enter_peer
from tests.outbox_lab import THREE_FACES, Outbox
from tests.pacs_lab import ABORT, Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import start_postgres
from tests.waiting import wait_until

ONE = (ResultKind.SC,)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as pacs:
        yield pacs


def test_three_faces_of_a_finding_go_on_one_association_and_are_confirmed(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    sent = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert pacs.received == sent
    assert pacs.associations == 2  # one to store, one to ask
    assert outbox.study_states() == ["delivered"]
    numbers = outbox.numbers()
    assert (numbers[DELIVERY_SENT.number], numbers[DELIVERY_CONFIRMED.number]) == (3, 3)


def test_the_bytes_that_leave_are_the_bytes_on_disk(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    sent = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert sent
    for uid in sent:
        assert outbox.file_of(uid).read_bytes().endswith(pacs.stored[uid])


def test_a_pacs_of_implicit_vr_only_gets_the_same_data_set_converted(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), syntaxes=[ImplicitVRLittleEndian]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        (uid,) = outbox.add_study(["pacs"], ONE)
        outbox.run_until("confirmed")
        assert pacs.syntaxes[uid] == ImplicitVRLittleEndian
        (tmp_path / "got.dcm").write_bytes(pacs.stored[uid])
        got, built = dcmread(tmp_path / "got.dcm", force=True), dcmread(outbox.file_of(uid))
        assert [element.value for element in got] == [element.value for element in built]


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_status_means_stored_and_is_an_event(tmp_path: Path, pacs: Pacs, status: int) -> None:
    pacs.answer = lambda uid, times: status
    outbox = Outbox(tmp_path, [pacs.peer()])
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    assert outbox.rows()[0]["status"] == f"{status:04X}"
    assert outbox.numbers()[DELIVERY_WARNED.number] == 1


@pytest.mark.parametrize("status", [0xA700, 0x0110, ABORT])
def test_what_waiting_may_cure_is_tried_more_often_than_refusals_are(
    tmp_path: Path, pacs: Pacs, status: int
) -> None:
    pacs.answer = lambda uid, times: status if times <= 5 else 0
    outbox = Outbox(tmp_path, [pacs.peer()], retry_seconds=0.02, refusals=3)
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    row = outbox.rows()[0]
    assert (row["attempts"], row["refusals"]) == (6, 0)


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xC123])
def test_three_refusals_make_a_dead_letter_and_a_failed_study(
    tmp_path: Path, pacs: Pacs, status: int
) -> None:
    pacs.answer = lambda uid, times: status
    outbox = Outbox(tmp_path, [pacs.peer()], retry_seconds=0.02)
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("dead")
    row = outbox.rows()[0]
    assert (len(pacs.received), row["refusals"], row["status"]) == (3, 3, f"{status:04X}")
    assert outbox.study_states() == ["failed"]


def test_a_person_retries_dead_letters_and_the_study_is_delivered(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda uid, times: 0xC000
    outbox = Outbox(tmp_path, [pacs.peer()], retry_seconds=0.02)
    outbox.add_study(["pacs"])
    outbox.run_until("dead")
    pacs.answer = lambda uid, times: 0x0000
    with outbox.database.write() as session:
        assert len(retry_all(session, "pacs")) == 3
    assert outbox.study_states() == ["delivering"]
    outbox.run_until("confirmed")
    assert outbox.study_states() == ["delivered"]


def test_a_duplicate_status_is_no_proof_until_the_pacs_shows_the_object(tmp_path: Path, pacs: Pacs) -> None:
    pacs.answer = lambda uid, times: 0x0111
    pacs.shows = lambda uid, questions: questions > 1
    outbox = Outbox(tmp_path, [pacs.peer()])
    outbox.add_study(["pacs"], ONE)
    worker = outbox.worker()
    worker.run_once()
    assert outbox.states() == {"unconfirmed": 1}
    outbox.run_until("confirmed", worker=worker)
    assert len(pacs.received) == 1
    assert outbox.numbers()[DELIVERY_IN_DOUBT.number] == 1


def test_an_index_that_lags_is_asked_again_and_nothing_is_sent_twice(tmp_path: Path, pacs: Pacs) -> None:
    pacs.shows = lambda uid, questions: questions >= 3
    outbox = Outbox(tmp_path, [pacs.peer()])
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    row = outbox.rows()[0]
    assert (pacs.received.count(pacs.received[0]), row["queries"]) == (1, 3)


def test_what_the_pacs_never_shows_is_sent_again_and_then_given_up(tmp_path: Path, pacs: Pacs) -> None:
    pacs.shows = lambda uid, questions: False
    outbox = Outbox(tmp_path, [pacs.peer()], confirm_seconds=0.1, retry_seconds=0.02)
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("dead")
    assert len(pacs.received) == 3
    assert "not shown" in outbox.rows()[0]["reason"]


def test_a_pacs_that_cannot_be_asked_keeps_the_delivery_open(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), finds=False) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        outbox.add_study(["pacs"], ONE)
        outbox.worker().run_once()
        row = outbox.rows()[0]
        assert row["state"] == "unconfirmed"
        assert "Query/Retrieve" in row["reason"]
        assert outbox.study_states() == ["delivering"]


def test_store_and_query_may_be_two_applications(tmp_path: Path, pacs: Pacs) -> None:
    with run_pacs(Pacs(free_port(), ae_title="STOREONLY"), finds=False) as archive:
        archive.stored, archive._series = pacs.stored, pacs._series
        peer = archive.peer(query_ae_title="PACS", query_port=pacs.port)
        outbox = Outbox(tmp_path, [peer])
        outbox.add_study(["pacs"], ONE)
        outbox.run_until("confirmed")
        assert len(pacs.questions) == 1


def test_a_profile_without_confirmation_says_so_in_the_reason(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer(confirm="none")])
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    assert "not asked" in outbox.rows()[0]["reason"]
    assert pacs.questions == []


def test_classes_that_the_pacs_does_not_accept_are_left_out_with_a_warning(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), classes=[SecondaryCaptureImageStorage]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        outbox.add_study(["pacs"], THREE_FACES)
        outbox.run_until("confirmed", "cancelled")
        assert outbox.states() == {"confirmed": 1, "cancelled": 2}
        assert outbox.numbers()[DELIVERY_NARROWED.number] == 2
        assert outbox.study_states() == ["delivered"]


def test_a_pacs_that_takes_none_of_the_results_makes_the_study_fail(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), classes=[MRImageStorage]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        outbox.add_study(["pacs"], THREE_FACES)
        outbox.run_until("dead")
        assert outbox.study_states() == ["failed"]
        assert all("none of the results" in row["reason"] for row in outbox.rows())


def test_one_object_that_makes_the_pacs_abort_does_not_hold_up_the_others(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    poison = outbox.add_study(["pacs"])[0]
    pacs.answer = lambda uid, times: ABORT if uid == poison else 0
    outbox.worker().run_once()
    assert outbox.states() == {"pending": 1, "confirmed": 2}


def test_a_pacs_that_is_away_gets_everything_once_when_it_is_back(tmp_path: Path) -> None:
    pacs = Pacs(free_port())
    outbox = Outbox(tmp_path, [pacs.peer()])
    sent = [uid for _ in range(10) for uid in outbox.add_study(["pacs"])]
    stop = threading.Event()
    thread = threading.Thread(target=outbox.worker().run_forever, args=(stop,))
    thread.start()
    try:
        time.sleep(2)
        assert set(outbox.states()) <= {"pending", "sending"}  # some may just be tried again
        with run_pacs(pacs):
            outbox.wait_until("confirmed")
    finally:
        stop.set()
        thread.join()
    assert Counter(pacs.received) == Counter(sent)


def test_a_pacs_that_is_away_is_not_called_for_every_object(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, [Pacs(free_port()).peer()], retry_seconds=60, retry_limit_seconds=60)
    for _ in range(10):
        outbox.add_study(["pacs"], ONE)
    worker = outbox.worker()
    while worker.run_once():
        pass
    assert sum(row["attempts"] for row in outbox.rows()) == 1


def test_a_dead_pacs_does_not_hold_up_another(tmp_path: Path, pacs: Pacs) -> None:
    with run_pacs(Pacs(free_port(), ae_title="SLOW")) as slow:
        answers = threading.Event()
        slow.answer = lambda uid, times: 0 if answers.wait(120) else ABORT
        outbox = Outbox(tmp_path, [slow.peer("slow"), pacs.peer("quick"), Pacs(free_port()).peer("away")])
        for _ in range(3):
            outbox.add_study(["slow", "quick", "away"], ONE)
        stop = threading.Event()
        thread = threading.Thread(target=outbox.worker().run_forever, args=(stop,))
        thread.start()
        try:
            wait_until(lambda: len(pacs.stored) == 3, what="all for the quick one")
            assert slow.stored == {}
        finally:
            answers.set()
            stop.set()
            thread.join()


def test_two_delivery_workers_on_one_outbox_send_nothing_twice(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    sent = [uid for _ in range(15) for uid in outbox.add_study(["pacs"], ONE)]
    stop = threading.Event()
    threads = [threading.Thread(target=outbox.worker().run_forever, args=(stop,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    outbox.wait_until("confirmed")
    stop.set()
    for thread in threads:
        thread.join()
    assert Counter(pacs.received) == Counter(sent)


def test_a_damaged_result_file_never_leaves(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    damaged, missing, _ = outbox.add_study(["pacs"])
    outbox.file_of(damaged).write_bytes(outbox.file_of(damaged).read_bytes()[:-2])
    outbox.file_of(missing).unlink()
    outbox.run_until("dead", "confirmed")
    assert outbox.states() == {"dead": 2, "confirmed": 1}
    assert len(pacs.received) == 1


def test_a_peer_that_was_taken_out_of_the_configuration_makes_dead_letters(
    tmp_path: Path, pacs: Pacs
) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    outbox.add_study(["gone"], ONE)
    outbox.run_until("dead")
    assert "configure it" in outbox.rows()[0]["reason"]


def test_what_goes_to_a_peer_that_was_entered_elsewhere_waits_until_it_is_known_here(
    tmp_path: Path, pacs: Pacs
) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    outbox.add_study(["new"], ONE)
    enter_peer(outbox.database, "new")
    for _ in range(3):
        outbox.worker().run_once()
    assert outbox.states() == {"pending": 1}


def test_a_rejected_association_is_tried_again_and_says_why(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer(ae_title="SOMEBODY_ELSE")])
        outbox.add_study(["pacs"], ONE)
        outbox.worker().run_once()
    row = outbox.rows()[0]
    assert row["state"] == "pending"
    assert "rejected" in row["reason"]


def test_peers_test_says_what_the_pacs_takes(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), classes=[Comprehensive3DSRStorage], finds=False) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        checks = open_destination(outbox.settings.peer("pacs"), outbox.settings).test()
    assert {check.name for check in checks if check.ok} == {"echo", "sr"}
    assert {check.name for check in checks if not check.ok} == {"gsps", "sc", "query"}


class SilentToStrangers(Pacs):
    """As Orthanc does with a node that its DicomModalities do not name."""

    def handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        return [*super().handlers(), (evt.EVT_C_FIND, self._refuse)]

    @staticmethod
    def _refuse(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        event.assoc.abort()
        yield 0xC000, None


def test_peers_test_asks_a_pacs_that_accepts_queries_and_answers_none(tmp_path: Path) -> None:
    with run_pacs(SilentToStrangers(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        checks = open_destination(outbox.settings.peer("pacs"), outbox.settings).test()
    assert [check.name for check in checks if not check.ok] == ["query"]


@pytest.mark.debian("postgresql")
def test_three_workers_deliver_the_same_studies_to_two_pacs_without_deadlock(tmp_path: Path) -> None:
    with (
        start_postgres() as server,
        run_pacs(Pacs(free_port(), ae_title="A")) as first,
        run_pacs(Pacs(free_port(), ae_title="B")) as second,
    ):
        peers = [first.peer("first"), second.peer("second")]
        outbox = Outbox(tmp_path, peers, database_url=server.new_database())
        sent = [uid for _ in range(15) for uid in outbox.add_study(["first", "second"])]
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
