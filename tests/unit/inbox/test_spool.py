"""The spool keeps what it acknowledged, whole and as it came, and leaves nothing of the rest."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UltrasoundImageStorage

from dicom_node.errors import SpoolError, SpoolFull
from dicom_node.inbox.header import Arrival, read_arrival
from dicom_node.inbox.spool import Spool
from tests.inbox_lab import spooled

IMPLICIT = "1.2.840.10008.1.2"
# (0008,0018) SOP Instance UID "1.2.3", Implicit VR Little Endian.
DATA_SET = b"\x08\x00\x18\x00\x06\x00\x00\x001.2.3\x00"


def arrival(calling: str = "US1") -> Arrival:
    return Arrival("a" * 32, calling, "AINODE", "192.0.2.7", 1, datetime(2026, 1, 2, tzinfo=UTC))


def store(spool: Spool, *chunks: bytes) -> str:
    return spooled(spool, arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT, chunks or [DATA_SET])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", minimum_free_bytes=0)


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_stored_object_is_a_part_10_file_with_the_bytes_as_they_came(spool: Spool) -> None:
    name = store(spool, DATA_SET[:5], memoryview(DATA_SET)[5:])
    (path,) = spool.pending()
    ds = dcmread(path)
    assert path.name == f"{name}.dcm"
    assert path.read_bytes().endswith(DATA_SET)
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert ds.file_meta.MediaStorageSOPClassUID == UltrasoundImageStorage
    assert ds.file_meta.TransferSyntaxUID == IMPLICIT
    assert ds.file_meta.SourceApplicationEntityTitle == ds.file_meta.SendingApplicationEntityTitle == "US1"
    assert ds.file_meta.ReceivingApplicationEntityTitle == "AINODE"


@pytest.mark.parametrize("calling", ["US1", "US12", "SIXTEEN.LETTERS."])
def test_the_header_is_what_pydicom_would_write(spool: Spool, calling: str) -> None:
    spooled(spool, arrival(calling), UltrasoundImageStorage, "1.2.3", IMPLICIT, [DATA_SET])
    (path,) = spool.pending()
    again = path.with_name("again")
    dcmread(path).save_as(again, enforce_file_format=True)
    assert again.read_bytes() == path.read_bytes()


def test_the_arrival_is_read_back_with_the_time_of_the_last_byte(spool: Spool) -> None:
    before = datetime.now(UTC)
    store(spool)
    (path,) = spool.pending()
    found = read_arrival(path)
    assert found.received_at >= before
    assert (found.association, found.calling_ae, found.called_ae) == ("a" * 32, "US1", "AINODE")
    assert (found.address, found.priority) == ("192.0.2.7", 1)


def test_a_foreign_file_has_no_arrival(spool: Spool, tmp_path: Path) -> None:
    path = tmp_path / "foreign.dcm"
    path.write_bytes(b"no DICOM")
    with pytest.raises(SpoolError, match="no spooled object"):
        read_arrival(path)


def test_pending_lists_the_oldest_first_and_nothing_half_written(spool: Spool) -> None:
    names = [store(spool) for _ in range(3)]
    half = spool.open(arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT)
    half.write(DATA_SET)
    assert [path.stem for path in spool.pending()] == names
    half.abandon()


def test_an_abandoned_object_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    incoming = spool.open(arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT)
    incoming.write(DATA_SET)
    incoming.abandon()
    incoming.abandon()
    assert everything_in(tmp_path) == []


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

    monkeypatch.setattr(shutil, "disk_usage", slow)
    spool, names = Spool(tmp_path / "spool", minimum_free_bytes=1), []

    def begin() -> None:
        together.wait()
        names.append(store(spool))

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 4


def test_an_object_that_brings_the_disk_under_the_watermark_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", minimum_free_bytes=1)
    incoming = spool.open(arrival(), UltrasoundImageStorage, "1.2.3", IMPLICIT)
    monkeypatch.setattr("dicom_node.inbox.spool._FREE_SPACE_SECONDS", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(SpoolFull):
        incoming.write(DATA_SET)
    incoming.abandon()
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("call", ["write", "pwrite", "fdatasync", "fsync"])
def test_a_disk_that_fills_up_leaves_no_half_object(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(SpoolFull):
        store(spool)
    assert everything_in(tmp_path) == []


def test_a_broken_disk_is_told_apart_from_a_full_one(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(SpoolError) as caught:
        store(spool)
    assert not isinstance(caught.value, SpoolFull)


def test_the_same_object_from_two_associations_makes_two_files(spool: Spool) -> None:
    threads = [threading.Thread(target=store, args=(spool,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spool.pending()) == 8
    assert all(path.read_bytes().endswith(DATA_SET) for path in spool.pending())


def test_one_directory_sync_serves_all_that_wait(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, first_began, go = [], threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(file: int) -> None:
        syncs.append(file)
        first_began.set()
        go.wait(60)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow)
    threads = [threading.Thread(target=store, args=(spool,)) for _ in range(8)]
    threads[0].start()
    assert first_began.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(spool.pending()) < 8:
        pass
    go.set()
    for thread in threads:
        thread.join()
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


def test_an_indexed_object_moves_to_its_study_once(spool: Spool, tmp_path: Path) -> None:
    name = store(spool)
    (path,) = spool.pending()
    kept = spool.place(path, "study-1")
    spool.settle(path, kept)
    spool.settle(path, kept)
    assert kept.parent.name == "study-1"
    assert kept.stem == name
    assert spool.pending() == []
    assert everything_in(tmp_path) == [kept.name]


def test_a_faulty_object_is_set_aside(spool: Spool, tmp_path: Path) -> None:
    store(spool)
    (path,) = spool.pending()
    aside = spool.quarantine_place(path)
    spool.settle(path, aside)
    spool.settle(path, aside)
    assert aside.parent == tmp_path / "spool" / "quarantine" and aside.is_file()
    assert spool.pending() == []


def test_nothing_in_the_spool_is_overwritten(spool: Spool) -> None:
    store(spool)
    (path,) = spool.pending()
    kept = spool.place(path, "study-1")
    spool.settle(path, kept)
    path.write_bytes(b"another")
    with pytest.raises(SpoolError, match="two folders"):
        spool.settle(path, kept)
    assert kept.read_bytes().endswith(DATA_SET)


def test_a_file_that_is_nowhere_is_an_error(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="not in the spool"):
        spool.settle(tmp_path / "gone.dcm", spool.place(tmp_path / "gone.dcm", "study-1"))


@pytest.mark.parametrize("folder", ["", "..", "../up", "a/b", ".hidden"])
def test_a_study_folder_cannot_lead_out_of_the_spool(spool: Spool, folder: str) -> None:
    store(spool)
    with pytest.raises(SpoolError, match="folder name"):
        spool.place(spool.pending()[0], folder)


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
