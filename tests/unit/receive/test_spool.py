"""The spool, its journal, and how much of it may wait."""

import errno
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from pydicom.uid import UltrasoundImageStorage

from dicom_node.base.errors import SpoolError, SpoolFull
from dicom_node.base.events import ASSOCIATION_ACCEPTED, ASSOCIATION_RELEASED, Event
from dicom_node.receive.journal import JournalWriter, read_journal, remove_read
from dicom_node.receive.spool import Arrival, Spool, Turns, WaitingObjects, mark_of, read_arrival
from tests.inbox_lab import spooled

IMPLICIT = "1.2.840.10008.1.2"


# (0008,0018) SOP Instance UID "1.2.3", Implicit VR Little Endian.
DATA_SET = b"\x08\x00\x18\x00\x06\x00\x00\x001.2.3\x00"


def arrival(calling: str = "US1") -> Arrival:
    return Arrival("a" * 32, calling, "AINODE", "192.0.2.7", 1, datetime(2026, 1, 2, tzinfo=UTC))


def store(spool: Spool, *chunks: bytes) -> str:
    return spooled(spool, arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT, chunks or [DATA_SET])


def stored(spool: Spool) -> Path:
    """The file of one object, the only one that waits."""
    store(spool)
    (path,) = spool.pending()
    return path


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", minimum_free_bytes=0)


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_stored_object_is_a_part_10_file_with_its_arrival_and_the_bytes_as_they_came(spool: Spool) -> None:
    before = datetime.now(UTC)
    name = store(spool, DATA_SET[:5], memoryview(DATA_SET)[5:])
    (path,) = spool.pending()
    ds = dcmread(path)
    assert path.name == f"{name}.dcm"
    assert path.read_bytes().endswith(DATA_SET)
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert ds.file_meta.MediaStorageSOPClassUID == UltrasoundImageStorage
    assert ds.file_meta.TransferSyntaxUID == IMPLICIT
    assert ds.file_meta.SourceApplicationEntityTitle == ds.file_meta.SendingApplicationEntityTitle == "US1"
    assert (found := read_arrival(path)).received_at >= before
    assert found == replace(arrival(), received_at=found.received_at)


@pytest.mark.parametrize("calling", ["US1", "US12", "SIXTEEN.LETTERS."])
def test_the_header_is_what_pydicom_would_write(spool: Spool, calling: str) -> None:
    spooled(spool, arrival(calling), UltrasoundImageStorage, "1.2.3", IMPLICIT, [DATA_SET])
    (path,) = spool.pending()
    again = path.with_name("again")
    dcmread(path).save_as(again, enforce_file_format=True)
    assert again.read_bytes() == path.read_bytes()


def test_a_foreign_file_has_no_arrival(spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "foreign.dcm"
    path.write_bytes(b"no DICOM")
    with pytest.raises(SpoolError, match="no spooled object"):
        read_arrival(path)


def test_pending_lists_the_oldest_first_and_what_is_abandoned_half_written_leaves_nothing(
    spool: Spool, tmp_path: Path
) -> None:
    names = [store(spool) for _ in range(3)]
    half = spool.open(arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT)
    half.write(DATA_SET)
    assert [path.stem for path in spool.pending()] == names
    half.abandon()
    half.abandon()
    assert everything_in(tmp_path) == [f"{name}.dcm" for name in names]


def test_what_a_killed_listener_left_is_removed_at_start(tmp_path: Path) -> None:
    killed = Spool(tmp_path / "spool", 0)
    store(killed)
    half = killed.open(arrival(), UltrasoundImageStorage, "1.2.4", IMPLICIT)
    half.write(DATA_SET)
    spool = Spool(tmp_path / "spool", 0)
    assert spool.remove_leftovers() == 1
    assert len(everything_in(tmp_path)) == len(spool.pending()) == 1


def test_under_the_watermark_nothing_is_taken(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", minimum_free_bytes=2**62)
    with pytest.raises(SpoolFull, match="minimum_free_mib"):
        store(spool)
    assert everything_in(tmp_path) == []


def test_threads_that_begin_at_once_do_not_take_an_unknown_space_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_usage, together = shutil.disk_usage, threading.Barrier(4)

    def slow(folder: Path) -> object:
        time.sleep(0.05)
        return disk_usage(folder)

    def begin(_: int) -> str:
        together.wait()
        return store(spool)

    monkeypatch.setattr(shutil, "disk_usage", slow)
    spool = Spool(tmp_path / "spool", minimum_free_bytes=1)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(begin, range(4)))) == 4


def test_an_object_that_brings_the_disk_under_the_watermark_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", minimum_free_bytes=3 * 2**20)
    incoming = spool.open(arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT)
    monkeypatch.setattr("dicom_node.receive.spool._FREE_SPACE_SECONDS", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 2 * 2**20))
    with pytest.raises(SpoolFull, match=r"^2 MiB free, spool\.minimum_free_mib asks for 3$"):
        incoming.write(DATA_SET)
    incoming.abandon()
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "fault", "is_full"),
    [*((call, errno.ENOSPC, True) for call in ("write", "pwrite", "fdatasync", "fsync")),
     ("fdatasync", errno.EIO, False)],
)  # fmt: skip
def test_a_disk_that_fills_up_or_breaks_leaves_no_half_object(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: int, is_full: bool
) -> None:
    def fail(*_: object) -> int:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(SpoolError) as caught:
        store(spool)
    assert isinstance(caught.value, SpoolFull) is is_full
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("done", [["commit"], ["abandon"]], ids=str)
def test_what_a_disk_that_became_read_only_keeps_is_no_error_of_its_own(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    incoming = spool.open(arrival(), "1.2", "1.2.3", "1.2.840.10008.1.2")
    incoming.write(b"data")
    broken = Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    monkeypatch.setattr(Path, "unlink", broken)
    if done == ["commit"]:
        with pytest.raises(SpoolError):
            incoming.commit()
    incoming.abandon()
    assert broken.called


def test_the_same_object_from_two_associations_makes_two_files(spool: Spool) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: store(spool), range(8)))) == 8
    assert [path.read_bytes()[-len(DATA_SET) :] for path in spool.pending()] == [DATA_SET] * 8


def test_one_directory_sync_serves_all_that_wait(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, first_began, go = [], threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(file: int) -> None:
        syncs.append(file)
        first_began.set()
        go.wait(60)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor(8) as pool:
        pool.submit(store, spool)
        assert first_began.wait(60)
        for _ in range(7):
            pool.submit(store, spool)
        while len(spool.pending()) < 8:
            pass
        go.set()
    assert len(syncs) == 2


def test_no_object_is_acknowledged_before_its_directory_sync(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    for name in ("fdatasync", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda file, name=name, real=real: (steps.append(name), real(file)))
    store(spool)
    assert steps == ["fdatasync", "fsync"]


@pytest.mark.parametrize(("study", "folder"), [("study-1", "study-1"), (None, "quarantine")])
def test_an_indexed_object_moves_to_its_study_and_a_faulty_one_aside_once(
    spool: Spool, tmp_path: Path, study: str | None, folder: str
) -> None:
    path = stored(spool)
    new = spool.place(path, study)
    for _ in range(2):
        spool.settle(path, new)
    assert (new.parent.name, new.name) == (folder, path.name)
    assert spool.pending() == []
    assert everything_in(tmp_path) == [path.name]


def test_nothing_in_the_spool_is_overwritten(spool: Spool) -> None:
    path = stored(spool)
    kept = spool.place(path, "study-1")
    spool.settle(path, kept)
    path.write_bytes(b"another")
    with pytest.raises(SpoolError, match="two folders"):
        spool.settle(path, kept)
    assert kept.read_bytes().endswith(DATA_SET)
    with pytest.raises(SpoolError, match="not in the spool"):
        spool.settle(path.with_name("gone.dcm"), spool.place(path.with_name("gone.dcm"), "study-1"))


@pytest.mark.parametrize("folder", ["", "..", "../up", "a/b", ".hidden"])
def test_a_study_folder_cannot_lead_out_of_the_spool(spool: Spool, folder: str) -> None:
    with pytest.raises(SpoolError, match="folder name"):
        spool.place(stored(spool), folder)


def test_bytes_that_are_kept_already_are_kept_once_and_a_lost_file_is_made_good(spool: Spool) -> None:
    store(spool), store(spool), store(spool)
    first, second, third = spool.pending()
    place = spool.place(first, "study-1")
    spool.settle(first, place)
    spool.settle(second, place)
    assert (place.is_file(), second.exists()) == (True, False)
    place.unlink()
    spool.settle(third, place)
    assert (place.is_file(), third.exists()) == (True, False)


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def event(number: int = 1, padding: str = "") -> Event:
    return Event(ASSOCIATION_ACCEPTED, NOW, {"association": f"a{number}", "objects": number, "note": padding})


def read_all(folder: Path, cursor: dict[str, int]) -> list[Event]:
    events = []
    while found := read_journal(folder, cursor):
        for name, offset, one in found:
            cursor[name] = offset
            events.append(one)
    return events


def test_each_event_is_read_once_as_it_was_written(tmp_path: Path) -> None:
    writer, cursor = JournalWriter(tmp_path, "l1"), dict[str, int]()
    for number in (1, 2):
        writer.append(event(number))
        assert read_all(tmp_path, cursor) == [event(number)]
    assert read_all(tmp_path, cursor) == []
    assert all("l1" in name for name in cursor)


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "l1")

    def write() -> None:
        for number in range(200):
            writer.append(event(number, "x" * number))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(write)
    assert len(read_all(tmp_path, {})) == 800


def test_a_line_that_is_not_complete_waits_for_its_end(tmp_path: Path) -> None:
    JournalWriter(tmp_path, "l1").append(event(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    cursor = dict[str, int]()
    path.write_bytes(whole + whole[:20])
    assert read_all(tmp_path, cursor) == [event(1)]
    path.write_bytes(whole + whole)
    assert read_all(tmp_path, cursor) == [event(1)]


def test_a_full_disk_spoils_only_the_line_that_it_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, "l1")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:10]))
    with pytest.raises(OSError, match="in part"):
        writer.append(event(1))
    monkeypatch.setattr(os, "write", write)
    writer.append(event(2))
    assert read_all(tmp_path, {}) == [event(2)]


def test_events_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "2026-l1.jsonl").write_text('{"event":1999,"at":"2026-01-02T00:00:00+00:00"}\n')
    JournalWriter(tmp_path, "l2").append(event(2))
    assert read_all(tmp_path, {}) == [event(2)]


def test_a_long_journal_goes_on_in_a_new_file_and_the_old_one_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.receive.journal._FILE_BYTES", 1000)
    writer = JournalWriter(tmp_path, "l1")
    events = [event(number) for number in range(40)]
    for one in events:
        writer.append(one)
    cursor = dict[str, int]()
    files = len(list(tmp_path.iterdir()))
    assert files > 2
    remove_read(tmp_path, cursor)
    assert len(list(tmp_path.iterdir())) == files
    assert read_all(tmp_path, cursor) == events
    remove_read(tmp_path, cursor)
    assert len(list(tmp_path.iterdir())) == 1
    writer.append(Event(ASSOCIATION_RELEASED, NOW, {"association": "a1"}))
    assert [one.type for one in read_all(tmp_path, cursor)] == [ASSOCIATION_RELEASED]


LIMITS = (3, 1)  # objects, MiB


def put(folder: Path, sender: str, number: int, size: int = 10) -> Path:
    path = folder / f"20261123T000000{number:06d}Z-0badcafe-{number:08x}{mark_of(sender)}.dcm"
    path.write_bytes(bytes(size))
    return path


def test_senders_take_turns_and_each_keeps_its_order(tmp_path: Path) -> None:
    flood = [put(tmp_path, "FLOODER", number) for number in range(50)]
    good = [put(tmp_path, "US1", number) for number in range(100, 102)]
    by_hand = [tmp_path / "by-hand.dcm"]
    turns = Turns()
    found = list(turns.in_turn([*flood, *good, *by_hand]))
    assert found == [flood[0], good[0], by_hand[0], flood[1], good[1], *flood[2:]]
    turns.took(flood[0], 20)  # a round ends after a slow object: the next one is another sender's
    assert list(turns.in_turn([*flood[1:], *good]))[:2] == good


def test_a_sender_with_too_many_objects_or_bytes_has_no_room_and_others_have(tmp_path: Path) -> None:
    waiting = WaitingObjects(tmp_path)
    for number in range(3):
        put(tmp_path, "FLOODER", number)
        waiting.add("FLOODER", 10)
    put(tmp_path, "LARGE", 9, 2**20)
    waiting.add("LARGE", 2**20)
    for counts in (waiting, WaitingObjects(tmp_path)):  # what waited before a start counts
        assert [counts.has_room(sender, *LIMITS) for sender in ("FLOODER", "LARGE", "US1")] == [
            False,
            False,
            True,
        ]


def test_there_is_room_again_when_objects_were_indexed_and_the_folder_is_listed_once_a_second(
    tmp_path: Path,
) -> None:
    now = [0.0]
    waiting = WaitingObjects(tmp_path, clock=lambda: now[0])
    paths = [put(tmp_path, "FLOODER", number) for number in range(3)]
    for _ in paths:
        waiting.add("FLOODER", 10)
    assert not waiting.has_room("FLOODER", *LIMITS)
    paths[0].unlink()
    assert not waiting.has_room("FLOODER", *LIMITS), "listed a moment ago"
    now[0] += 1.1
    assert waiting.has_room("FLOODER", *LIMITS)


def test_the_folder_is_not_listed_while_a_count_is_within_the_limits(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    waiting = WaitingObjects(folder)
    folder.rmdir()  # a listing would fail
    for _ in range(2):
        assert waiting.has_room("US1", *LIMITS)
        waiting.add("US1", 10)
