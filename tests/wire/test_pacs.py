"""Delivery by DIMSE to a PACS that refuses, narrows, lies or is away; each result once."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_DEAD,
    DELIVERY_IN_DOUBT,
    DELIVERY_NARROWED,
    DELIVERY_WARNED,
)
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.store.tables import Study
from dicom_node.deliver.scu import (
    open_destination,
)
from dicom_node.deliver.scu.calling_ae import CallingAE
from dicom_node.studies.quarantine import stop_study
from tests.node_lab import in_background
from tests.outbox_lab import (
    ONE,
    THREE_FACES,
    Outbox,
)
from tests.pacs_lab import Pacs, run_pacs
from tests.postgres_lab import POSTGRESQL
from tests.wire.orthanc_lab import (
    needs_orthanc,
    peer,
    start_orthanc,
)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs()) as pacs:
        yield pacs


def test_a_pacs_of_implicit_vr_only_gets_the_same_data_set_converted(tmp_path: Path) -> None:
    with run_pacs(Pacs(), syntaxes=[ImplicitVRLittleEndian]) as pacs:
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
    strict, mute = Pacs(), Pacs(ae_title="MUTE")
    with (
        run_pacs(strict, callers=["WORKSTATION"]),
        start_orthanc(tmp_path / "orthanc", config={"DicomAlwaysAllowFind": False}) as orthanc,
        run_pacs(mute, classes=[Comprehensive3DSRStorage], finds=False),
    ):
        outbox = Outbox(tmp_path, [strict.peer(), peer(orthanc, "dimse", may=["receive"]), mute.peer("mute")])
        outbox.add_study(["pacs", "dimse", "mute"], [ResultKind.SR])
        outbox.run_once()
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
    with run_pacs(Pacs(), classes=[SecondaryCaptureImageStorage]) as pacs:
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


@POSTGRESQL
def test_three_workers_deliver_the_same_studies_to_two_pacs_without_deadlock(
    tmp_path: Path, postgres_url: str
) -> None:
    with (
        run_pacs(Pacs(ae_title="A")) as first,
        run_pacs(Pacs(ae_title="B")) as second,
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
