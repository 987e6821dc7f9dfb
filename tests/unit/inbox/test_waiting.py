"""Whose turn it is to be indexed, and who has too much waiting."""

from __future__ import annotations

from pathlib import Path

from dicom_node.inbox.spool import WaitingObjects, in_turn, mark_of, marked

LIMITS = 3, 1000  # objects, bytes


def put(folder: Path, sender: str, number: int, size: int = 10) -> Path:
    path = folder / f"20261123T000000{number:06d}Z-0badcafe-{number:08x}{mark_of(sender)}.dcm"
    path.write_bytes(bytes(size))
    return path


def test_senders_take_turns_and_each_keeps_its_order(tmp_path: Path) -> None:
    flood = [put(tmp_path, "FLOODER", number) for number in range(50)]
    good = [put(tmp_path, "US1", number) for number in range(100, 102)]
    by_hand = [tmp_path / "by-hand.dcm"]
    found = list(in_turn([*flood, *good, *by_hand]))
    assert found[:5] == [flood[0], good[0], by_hand[0], flood[1], good[1]]
    assert found[5:] == flood[2:]


def test_a_name_of_a_former_version_has_no_mark(tmp_path: Path) -> None:
    assert marked("20261123T000000000000Z-0badcafe-00000001.dcm") == ""
    assert marked(put(tmp_path, "US1", 1).name) == mark_of("US1") != mark_of("US2")


def test_a_sender_with_too_many_objects_or_bytes_has_no_room_and_others_have(tmp_path: Path) -> None:
    waiting = WaitingObjects(tmp_path)
    for number in range(3):
        put(tmp_path, "FLOODER", number)
        waiting.add("FLOODER", 10)
    put(tmp_path, "LARGE", 9, 1000)
    waiting.add("LARGE", 1000)
    assert not waiting.has_room("FLOODER", *LIMITS)
    assert not waiting.has_room("LARGE", *LIMITS)
    assert waiting.has_room("US1", *LIMITS)


def test_what_waited_before_the_start_counts(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, "FLOODER", number)
    assert not WaitingObjects(tmp_path).has_room("FLOODER", *LIMITS)


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
