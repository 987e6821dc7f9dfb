"""What the listener wrote to the journal is read once, in order, whatever happened to the disk."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.events import ASSOCIATION_ACCEPTED, ASSOCIATION_RELEASED, LISTENER_STARTED, Event
from dicom_node.inbox import journal
from dicom_node.inbox.journal import JournalReader, JournalWriter

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def event(number: int = 1, padding: str = "") -> Event:
    return Event(ASSOCIATION_ACCEPTED, NOW, {"association": f"a{number}", "objects": number, "note": padding})


def read_all(reader: JournalReader, cursor: dict[str, int]) -> list[Event]:
    events = []
    while found := reader.read(cursor):
        for name, offset, one in found:
            cursor[name] = offset
            events.append(one)
    return events


def test_an_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    JournalWriter(tmp_path, "l1").append(event(7))
    ((name, _, found),) = JournalReader(tmp_path).read({})
    assert found == event(7)
    assert "l1" in name


def test_each_event_is_read_once(tmp_path: Path) -> None:
    writer, reader, cursor = JournalWriter(tmp_path, "l1"), JournalReader(tmp_path), dict[str, int]()
    writer.append(event(1))
    assert read_all(reader, cursor) == [event(1)]
    writer.append(event(2))
    assert read_all(reader, cursor) == [event(2)]
    assert read_all(reader, cursor) == []


def test_listeners_are_read_in_the_order_of_their_starts(tmp_path: Path) -> None:
    for listener in ("z", "a"):
        writer = JournalWriter(tmp_path, listener)
        writer.append(Event(LISTENER_STARTED, NOW, {"listener": listener}))
    found = read_all(JournalReader(tmp_path), {})
    assert [one.fields["listener"] for one in found] == ["z", "a"]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "l1")

    def write() -> None:
        for number in range(200):
            writer.append(event(number, "x" * number))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_all(JournalReader(tmp_path), {})) == 800


def test_a_line_that_is_not_complete_waits_for_its_end(tmp_path: Path) -> None:
    JournalWriter(tmp_path, "l1").append(event(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    reader, cursor = JournalReader(tmp_path), dict[str, int]()
    path.write_bytes(whole + whole[:20])
    assert read_all(reader, cursor) == [event(1)]
    path.write_bytes(whole + whole)
    assert read_all(reader, cursor) == [event(1)]


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
    assert read_all(JournalReader(tmp_path), {}) == [event(2)]


def test_events_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "2026-l1.jsonl").write_text('{"event":1999,"at":"2026-01-02T00:00:00+00:00"}\n')
    JournalWriter(tmp_path, "l2").append(event(2))
    assert read_all(JournalReader(tmp_path), {}) == [event(2)]


def test_a_long_journal_goes_on_in_a_new_file_and_the_old_one_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_FILE_BYTES", 1000)
    writer = JournalWriter(tmp_path, "l1")
    events = [event(number) for number in range(40)]
    for one in events:
        writer.append(one)
    reader, cursor = JournalReader(tmp_path), dict[str, int]()
    files = len(list(tmp_path.iterdir()))
    assert files > 2
    assert reader.remove_read(cursor) == 0
    assert read_all(reader, cursor) == events
    assert reader.remove_read(cursor) == files - 1
    writer.append(Event(ASSOCIATION_RELEASED, NOW, {"association": "a1"}))
    assert [one.type for one in read_all(reader, cursor)] == [ASSOCIATION_RELEASED]
