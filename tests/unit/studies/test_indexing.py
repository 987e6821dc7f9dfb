"""Acknowledged objects are indexed once, whoever dies, floods or cannot be read."""

import errno
import hashlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_node.base.events import (
    OBJECT_QUARANTINED,
    STUDY_MAY_BE_INCOMPLETE,
    STUDY_QUARANTINED,
)
from dicom_node.base.lifecycle import (
    ObjectRole,
    StudyState,
)
from dicom_node.base.store import views
from dicom_node.base.store.tables import (
    EventRow,
    Instance,
    ReceivedObject,
)
from dicom_node.base.store.transitions import steady_now
from dicom_node.receive.inspection import Inspected, Inspector, ReaderLost
from dicom_node.studies import indexing
from tests import ROOT
from tests.inbox_lab import INSPECTOR, Inbox
from tests.modality import ULTRASOUND, assign, ultrasound, ultrasounds
from tests.unit.receive.objects import in_syntax


def test_an_acknowledged_object_is_indexed_once_and_its_bytes_are_kept(inbox: Inbox) -> None:
    image = ultrasound("one")
    [name] = inbox.receive(image)
    sent = (inbox.folder / "spool" / "incoming" / f"{name}.dcm").read_bytes()
    assert [inbox.index(), inbox.index()] == [1, 0]
    row = inbox.instance(image)
    assert (inbox.folder / row.path).read_bytes() == sent
    assert row.role is ObjectRole.SOURCE
    assert row.pixels_sha256 == hashlib.sha256(image.PixelData).hexdigest()
    assert inbox.spool.pending() == []
    study = inbox.study_of(image)
    assert (study.state, study.patient_id, study.revision) == (StudyState.RECEIVING, image.PatientID, 1)


def test_the_same_bytes_again_are_a_duplicate_and_kept_once_while_they_are_there(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.settle(image, image)
    inbox.settle(image)
    assert inbox.outcomes() == ["new", "duplicate", "duplicate"]
    assert len(set(inbox.column(ReceivedObject.path))) == inbox.spool_files() == 1
    study = inbox.study_of(image)
    assert (study.state, study.revision, len(inbox.jobs())) == (StudyState.QUEUED, 1, 1)
    (inbox.folder / inbox.instance(image).path).unlink()
    inbox.index(image)
    assert inbox.spool_files() == 1, "a lost file is made good"


OBJECTS = 80


VICTIM = """
import sys, time
from pathlib import Path
from dicom_node.base.config.settings import Settings
from dicom_node.receive.inspection import Inspector
from dicom_node.receive.spool import Spool
from dicom_node.base.store.database import Database
from dicom_node.studies.indexing import Indexer

folder = Path(sys.argv[1])
settings = Settings.model_validate({"node": {"data_dir": folder}})
inspector = Inspector()
inspector.start()
indexer = Indexer(Database(settings.database_url), Spool(folder / "spool", 0), settings, inspector)
print("ready", flush=True)
while True:
    indexer.run_once()
    time.sleep(0.01)
"""
"""What the node's indexing thread does."""


def test_a_killed_indexer_indexes_each_acknowledged_object_once(inbox: Inbox) -> None:
    chance, kills, names = random.Random(20260102), 0, []
    image = ultrasound("crash", size=(24, 18))
    for number in range(OBJECTS):
        # Four studies; every tenth object comes twice.
        instance, study = f"1.2.3.{number - (number % 10 == 9)}", f"1.2.4.{number // 20}"
        assign(image, SOPInstanceUID=instance, StudyInstanceUID=study)
        names += inbox.receive(image)
    while inbox.spool.pending() and kills < 2:
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(inbox.folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as victim:
            assert victim.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.2))
            victim.kill()
        kills += 1
    assert kills > 1
    inbox.reopen()
    inbox.index()
    assert inbox.spool.pending() == []
    receptions = inbox.rows(ReceivedObject)
    assert sorted(row.spool_name for row in receptions) == sorted(names)
    assert all((inbox.folder / row.path).is_file() for row in receptions)
    assert len(inbox.rows(Instance)) == OBJECTS - OBJECTS // 10
    assert inbox.outcomes().count("duplicate") == OBJECTS // 10


FAULTY = b"\x08\x00\x05\x00CS\x02\x00??"


def flood(inbox: Inbox, objects: int, calling: str = "MODALITY") -> None:
    for number in range(objects):
        inbox.receive_bytes(
            FAULTY, ULTRASOUND, f"2.25.{len(calling)}.{number}", ExplicitVRLittleEndian, calling=calling
        )


def test_faulty_objects_of_one_sender_are_one_entry_with_a_count(inbox: Inbox) -> None:
    flood(inbox, 40)
    flood(inbox, 3, "QUICK")
    inbox.index()
    assert inbox.outcomes() == ["quarantined"] * 43, "each object is kept and known"
    more = "more faulty objects of this sender"
    assert sorted(study["reason"].split("; and ")[1] for study in inbox.read(views.list_studies)) == [
        f"2 {more}",
        f"39 {more}",
    ]
    numbers = inbox.column(EventRow.number)
    assert [numbers.count(one.number) for one in (OBJECT_QUARANTINED, STUDY_QUARANTINED)] == [2, 2]


def test_a_round_of_indexing_ends_and_studies_of_who_is_behind_wait(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_BATCH_SECONDS", 60)  # however busy this machine is
    late = ultrasound("late", number=2)
    inbox.receive(ultrasound("late"), calling="QUICK")
    inbox.receive(ultrasound("good"), calling="MODALITY")
    flood(inbox, 80, "QUICK")
    inbox.receive(late, calling="QUICK")
    inbox.indexer.run_once(seconds=0)
    in_an_hour = steady_now() + timedelta(seconds=50)
    inbox.assembler.run_once(in_an_hour, behind=inbox.indexer.behind)
    assert inbox.indexer.behind
    assert inbox.study_of(ultrasound("good")).state is not StudyState.RECEIVING
    assert inbox.study_of(late).state is StudyState.RECEIVING, "an image of it waits"
    while inbox.indexer.behind:
        inbox.indexer.run_once(seconds=0)
    inbox.assembler.run_once(in_an_hour + timedelta(seconds=50), behind=inbox.indexer.behind)
    study = inbox.study_of(late)
    assert (study.state is not StudyState.RECEIVING, study.revision) == (True, 1)


class Standing(Inspector):
    """An inspector whose process stands still at the first tries, as with a stalled disk; then that of all
    tests reads.
    """

    turn = threading.Lock()

    def __init__(self, tries: int, second_tries: int = 0) -> None:
        super().__init__()
        self.tries, self.second_tries = tries, second_tries
        self.goes_on = threading.Event()

    def fresh(self) -> Inspector:
        fresh = Standing(self.second_tries)
        fresh.inspect = partial(self._wait, fresh.inspect)  # type: ignore[method-assign]
        return fresh

    def _wait(self, inspect: Callable[..., Inspected], *given: Any, **how: bool) -> Inspected:
        self.goes_on.wait(60)
        return inspect(*given, **how)

    def _ask(self, request: dict[str, Any], size: int, again: bool) -> dict[str, Any]:
        self.tries -= 1
        if self.tries >= 0:
            raise ReaderLost("reading it took more than 30 s")
        with self.turn:
            return INSPECTOR._ask(request, size, again)


@pytest.mark.parametrize(("tries", "outcomes"), [((1, 0), ["new"] * 2), ((2, 1), ["new", "quarantined"])])
def test_an_object_is_faulty_only_when_a_second_reader_fails_too(
    open_inbox: Callable[..., Inbox], tries: tuple[int, int], outcomes: list[str]
) -> None:
    images = ultrasounds("stalled", 2)
    with closing(Standing(*tries)) as inspector:
        inbox = open_inbox(inspector=inspector)
        inbox.opened("a1")
        inbox.receive(*images, association="a1")
        inbox.released("a1")
        inbox.index()
        assert inbox.indexer.behind, "its study is not complete"
        assert inbox.index(ultrasound("other"), calling="QUICK") == 1, "a second try holds up nobody else's"
        inspector.goes_on.set()
        while inbox.spool.pending():
            inbox.index()
            assert inbox.spool.pending() == [] or inbox.indexer.behind
        inbox.settle()
        inbox.indexer.leave()
    assert sorted(inbox.outcomes()) == ["new", *outcomes]
    assert inbox.study_of(images[0]).state is StudyState.QUEUED
    told = [row.fields for row in inbox.events(STUDY_MAY_BE_INCOMPLETE.number)]
    assert [row["unreadable"] for row in told] == [1] * outcomes.count("quarantined")


def test_an_object_that_the_disk_cannot_read_is_tried_again_and_its_study_waits(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.receive(*ultrasounds("stalled", 2))
    path = inbox.spool.pending()[0]
    kept = path.rename(inbox.folder / "kept")
    path.symlink_to("/proc/self/mem")  # EIO
    inbox.index()
    assert inbox.outcomes() == ["new"]
    assert inbox.indexer.behind
    monkeypatch.setattr(indexing, "_LONGEST_WAIT", timedelta(seconds=-1))
    inbox.index()
    assert not inbox.indexer.behind, "for a bad sector nothing waits for ever"
    kept.rename(path)
    inbox.reopen()
    inbox.index()
    assert inbox.outcomes() == ["new", "new"]


def test_a_version_with_which_the_disk_lets_nothing_be_compared_now_makes_no_conflict(inbox: Inbox) -> None:
    image = ultrasound("again")
    inbox.index(image)
    place = inbox.folder / inbox.instance(image).path
    kept = place.rename(inbox.folder / "kept")
    place.symlink_to("/proc/self/mem")  # EIO
    with pytest.raises(OSError, match="Input/output error"):
        inbox.inspector.same_image(place, kept)
    inbox.index(in_syntax(image, RLELossless))
    assert inbox.outcomes() == ["new"]
    kept.rename(place)
    inbox.reopen()
    inbox.index()
    assert inbox.outcomes() == ["new", "duplicate"]


def test_a_disk_that_reads_no_file_is_logged_once_and_not_for_each(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.receive(*(ultrasound("one", number=number) for number in range(1, 6)))
    broken = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "read_arrival", broken)
        inbox.indexer.run_once()
    assert broken.call_count == 5
    assert [record.message.count("Input/output error") for record in caplog.records] == [1]
