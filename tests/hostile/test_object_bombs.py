"""One object, small when sent and huge when read, stops nothing: it lies in quarantine with a reason."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_node.config.sections import InspectionSettings
from dicom_node.inbox.inspector import Inspector
from dicom_node.model.kinds import Outcome
from tests.inbox_lab import Inbox, encoded
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed

UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
SEQUENCE = b"\x04\x00\x20\x12"  # (0004,1220), a public sequence that stands before all others
PRIVATE = b"\x09\x00\x01\x10"

Make = Callable[..., Inbox]


def length(value: bytes) -> bytes:
    return struct.pack("<I", len(value))


def empty_items(count: int) -> bytes:
    return SEQUENCE + b"SQ\0\0" + UNDEFINED + (ITEM + bytes(4)) * count + SEQUENCE_END


def empty_items_of_told_length(count: int) -> bytes:
    """A parser reads it only when it is asked for: this node does not, another reader may."""
    items = (ITEM + bytes(4)) * count
    return SEQUENCE + b"SQ\0\0" + length(items) + items


def empty_items_of_unknown_vr(count: int) -> bytes:
    items = (ITEM + bytes(4)) * count
    return SEQUENCE + b"UN\0\0" + length(items) + items


def nested(count: int) -> bytes:
    return (SEQUENCE + b"SQ\0\0" + UNDEFINED + ITEM + UNDEFINED) * count + (ITEM_END + SEQUENCE_END) * count


def attributes(count: int) -> bytes:
    return b"".join(struct.pack("<HH2sH", 9, number & 0xFFFF, b"LO", 0) for number in range(count))


def large_value(size: int) -> bytes:
    value = PRIVATE + b"OB\0\0" + struct.pack("<I", size) + bytes(size)
    return SEQUENCE + b"SQ\0\0" + UNDEFINED + ITEM + UNDEFINED + value + ITEM_END + SEQUENCE_END


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Inbox] = []

    def make(**limits: float) -> Inbox:
        inspector = Inspector(InspectionSettings.model_validate(limits))
        made.append(Inbox(tmp_path / "var", inspector=inspector))
        return made[-1]

    yield make
    for inbox in made:
        inbox.inspector.close()
        inbox.close()


def send(inbox: Inbox, bomb: bytes, syntax: str = ExplicitVRLittleEndian, name: str = "bomb") -> str:
    """An image with the bomb before it; returns its SOP Instance UID."""
    image = ultrasound(name)
    image.file_meta.TransferSyntaxUID = syntax
    inbox.receive_bytes(bomb + encoded(image), image.SOPClassUID, image.SOPInstanceUID, syntax)
    return str(image.SOPInstanceUID)


def outcomes(inbox: Inbox) -> list[str]:
    """Index the bomb and a good image behind it; what became of them."""
    inbox.receive(ultrasound("good"))
    inbox.index()
    assert inbox.spool.pending() == []
    return inbox.outcomes()


@pytest.mark.parametrize(
    ("bomb", "limit"),
    [
        (empty_items(50_000), "maximum_items"),
        (empty_items_of_told_length(50_000), "maximum_items"),
        (empty_items_of_unknown_vr(50_000), "maximum_items"),
        (nested(1000), "maximum_depth"),
        (attributes(210_000), "maximum_elements"),
        (large_value(65 * 2**20), "maximum_header_mib"),
    ],
    ids=["items", "told length", "unknown VR", "nested", "attributes", "value"],
)
def test_a_header_bomb_is_quarantined(inbox: Inbox, bomb: bytes, limit: str) -> None:
    inbox.receive(ultrasound("first"))
    inbox.index()  # the process runs
    uid = send(inbox, bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the bomb was made in this process
    assert outcomes(inbox) == ["new", "quarantined", "new"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    [event] = [row for row in inbox.events() if row.number == 2005]
    assert limit in event.fields["reason"] and event.fields["instance"] == uid
    assert len(list((inbox.folder / "spool" / "quarantine").glob("*.dcm"))) == 1


def test_items_in_implicit_vr_are_counted_too(inbox: Inbox) -> None:
    bomb = SEQUENCE + UNDEFINED + (ITEM + bytes(4)) * 50_000 + SEQUENCE_END
    send(inbox, bomb, ImplicitVRLittleEndian)
    assert outcomes(inbox) == ["quarantined", "new"]


def test_a_deflated_bomb_is_inflated_to_its_limit_and_no_further(make: Make) -> None:
    inbox = make(maximum_inflated_mib=16)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    value = PRIVATE + b"OB\0\0" + struct.pack("<I", 2**26)
    bomb = deflate.compress(value) + b"".join(deflate.compress(bytes(2**20)) for _ in range(64))
    image = ultrasound("deflated")
    inbox.receive_bytes(
        bomb + deflate.flush(), image.SOPClassUID, image.SOPInstanceUID, DeflatedExplicitVRLittleEndian
    )
    assert outcomes(inbox) == ["quarantined", "new"]
    [event] = [row for row in inbox.events() if row.number == 2005]
    assert "maximum_inflated_mib" in event.fields["reason"]


def test_what_passes_the_count_still_has_a_limit_of_time(make: Make) -> None:
    inbox = make(maximum_items=10**9, seconds=0.2, memory_mib=4096)
    send(inbox, empty_items(500_000))
    inbox.index()
    assert inbox.outcomes() == ["quarantined"]
    assert "inspection.seconds" in inbox.study(None).reason


def test_what_passes_the_count_still_has_a_limit_of_memory(make: Make) -> None:
    inbox = make(maximum_header_mib=1000, memory_mib=64)
    send(inbox, large_value(80 * 2**20))
    assert outcomes(inbox) == ["quarantined", "new"]


def test_an_image_that_would_fill_the_memory_is_not_compared(make: Make) -> None:
    inbox = make(memory_mib=128)
    image = ultrasound("compare")
    header = (
        b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 30000, 30000) + b"\x03\1\x11\0\2\x11\0\3\x11\0"
    )
    frame = header + b"\xff\xda\0\x0c\x03\1\0\2\0\3\0\0\x3f\0\0\xff\xd9"
    frame += b"\0" * (len(frame) % 2)
    huge = changed(image, Rows=30000, Columns=30000)
    huge.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    huge.PixelData = ITEM + bytes(4) + ITEM + length(frame) + frame + SEQUENCE_END
    huge["PixelData"].VR, huge["PixelData"].is_undefined_length = "OB", True
    inbox.receive(image, huge)
    assert outcomes(inbox) == ["new", "conflict", "new"]


def test_what_was_open_when_the_node_died_twice_is_quarantined_and_once_is_not(inbox: Inbox) -> None:
    [name] = inbox.receive(ultrasound("suspect"))
    for deaths, expected in ((0, Outcome.NEW), (1, Outcome.QUARANTINED)):
        if deaths:
            [name] = inbox.receive(ultrasound("suspect again"))
        inbox.spool.crash_record.write_text(f"{deaths} {name}.dcm", encoding="ascii")
        inbox.reopen()
        inbox.index()
        assert inbox.outcomes()[-1] == expected
    assert "died twice" in inbox.events()[-1].fields["reason"]


def test_a_killed_reader_loses_nothing(make: Make) -> None:
    inbox = make()
    inbox.receive(ultrasound("one"))
    inbox.index()
    assert inbox.inspector._process is not None
    inbox.inspector._process.kill()
    inbox.inspector._process.wait()
    assert outcomes(inbox) == ["new", "new"]


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "var")
    yield inbox
    inbox.close()
