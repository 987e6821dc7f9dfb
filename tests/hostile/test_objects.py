"""Objects that nest, inflate, claim or mutate, and those that kill who reads them."""

import logging
import random
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
)

from dicom_node.base.dicom.elements import Limits
from dicom_node.base.lifecycle import Outcome
from dicom_node.receive.inspection import Inspector
from tests.hostile.association_lab import mutated
from tests.inbox_lab import Inbox, encoded
from tests.modality import (
    ultrasound,
)
from tests.unit.receive.objects import small_xray

UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
SEQUENCE = b"\x04\x00\x20\x12"  # (0004,1220), a public sequence that stands before all others
PRIVATE = b"\x09\x00\x01\x10"
Make = Callable[..., Inbox]


def length(value: bytes) -> bytes:
    return struct.pack("<I", len(value))


def empty_items(count: int, vr: bytes = b"SQ", *, told: bool = False) -> bytes:
    """Those whose length is told a parser reads only when it is asked for: another reader may."""
    items = (ITEM + bytes(4)) * count
    return SEQUENCE + vr + bytes(2) + (length(items) + items if told else UNDEFINED + items + SEQUENCE_END)


def nested(count: int) -> bytes:
    return (SEQUENCE + b"SQ\0\0" + UNDEFINED + ITEM + UNDEFINED) * count + (ITEM_END + SEQUENCE_END) * count


def attributes(count: int) -> bytes:
    return b"".join(
        struct.pack("<HH2sH", 9 + number // 60_000 * 2, number % 60_000, b"LO", 0) for number in range(count)
    )


def large_value(size: int) -> bytes:
    value = PRIVATE + b"OB\0\0" + struct.pack("<I", size) + bytes(size)
    return SEQUENCE + b"SQ\0\0" + UNDEFINED + ITEM + UNDEFINED + value + ITEM_END + SEQUENCE_END


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Inbox] = []

    def make(**limits: Any) -> Inbox:
        made.append(Inbox(tmp_path / "var", inspector=Inspector(Limits(**limits))))
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
    while inbox.spool.pending():  # a second try is made beside the others
        inbox.index()
    return inbox.outcomes()


@pytest.mark.parametrize(
    ("bomb", "limit"),
    [
        (lambda: empty_items(50_000), " items"),
        (lambda: empty_items(50_000, told=True), " items"),
        (lambda: empty_items(50_000, b"UN", told=True), " items"),
        (lambda: nested(1000), "sequences within"),
        (lambda: attributes(210_000), " attributes"),
        (lambda: large_value(65 * 2**20), " MiB"),
    ],
    ids=["items", "told length", "unknown VR", "nested", "attributes", "value"],
)
def test_a_header_bomb_is_quarantined(inbox: Inbox, bomb: Callable[[], bytes], limit: str) -> None:
    inbox.receive(ultrasound("first"))
    inbox.index()  # the process runs
    uid = send(inbox, bomb())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the bomb was made in this process
    assert outcomes(inbox) == ["new", "quarantined", "new"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    [event] = inbox.events(2005)
    assert limit in event.fields["reason"]
    assert event.fields["instance"] == uid
    assert len(list((inbox.folder / "spool" / "quarantine").glob("*.dcm"))) == 1


@pytest.mark.parametrize("is_undefined", [True, False])
def test_of_private_sequences_nothing_is_read_so_they_may_be_large(make: Make, is_undefined: bool) -> None:
    """A three-dimensional ultrasound has its volume there."""
    inbox = make(header_mib=1)
    items = ITEM + length(volume := PRIVATE + b"OB\0\0" + length(bytes(2**21)) + bytes(2**21)) + volume
    sequence = b"\xdf\x7f\x01\x10SQ\0\0" + (UNDEFINED if is_undefined else length(items)) + items
    image = ultrasound("volume")
    del image.PixelData, image.Rows, image.Columns
    image.SOPClassUID = BasicTextSRStorage
    data = encoded(image) + sequence + SEQUENCE_END * is_undefined
    inbox.receive_bytes(data, image.SOPClassUID, image.SOPInstanceUID, ExplicitVRLittleEndian)
    assert outcomes(inbox) == ["new", "new"]


def test_a_deflated_bomb_is_inflated_to_its_limit_and_no_further(make: Make) -> None:
    inbox = make(inflated_mib=16)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    value = PRIVATE + b"OB\0\0" + struct.pack("<I", 2**26)
    bomb = deflate.compress(value) + b"".join(deflate.compress(bytes(2**20)) for _ in range(64))
    image = ultrasound("deflated")
    inbox.receive_bytes(
        bomb + deflate.flush(), image.SOPClassUID, image.SOPInstanceUID, DeflatedExplicitVRLittleEndian
    )
    assert outcomes(inbox) == ["quarantined", "new"]
    [event] = inbox.events(2005)
    assert "more than 16 MiB" in event.fields["reason"]


@pytest.mark.parametrize(
    ("limits", "bomb", "reason"),
    [
        (
            {"items": 10**9, "seconds": 0.02, "memory_mib": 4096},
            lambda: empty_items(150_000),
            "reading it took",
        ),
        ({"header_mib": 1000, "memory_mib": 64}, lambda: large_value(80 * 2**20), ""),
    ],
    ids=["time", "memory"],
)
def test_what_passes_the_count_still_has_a_limit(
    make: Make, limits: dict[str, Any], bomb: Callable[[], bytes], reason: str
) -> None:
    inbox = make(**limits)
    send(inbox, bomb())
    while inbox.spool.pending():
        inbox.index()
    assert inbox.outcomes() == ["quarantined"]
    assert reason in inbox.study(None).reason


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
    inbox.inspector._process.kill()
    inbox.inspector._process.wait()
    assert outcomes(inbox) == ["new", "new"]


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    with closing(Inbox(tmp_path / "var")) as inbox:
        yield inbox


_AT_ONCE = 100


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what it reads; the node logs none of it
def test_each_mutated_object_is_indexed_or_quarantined(
    tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dicom_node"), "disabled", True)
    monkeypatch.setattr(
        logging.getLogger("dicom_node.base.events"), "disabled", True
    )  # pytest would keep all
    chance = random.Random(20261121)
    inbox = Inbox(tmp_path)
    good = small_xray("good")
    data, syntax = encoded(good), str(good.file_meta.TransferSyntaxUID)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for first in range(0, rounds, _AT_ONCE):
        for number in range(first, first + min(_AT_ONCE, rounds - first)):
            # Only the header: what follows it is compared, not read.
            wrong = mutated(data[:1500], chance) + data[1500:]
            inbox.receive_bytes(wrong, str(good.SOPClassUID), f"1.2.826.0.1.{number}", syntax)
        inbox.index()
        assert inbox.spool.pending() == []
    inbox.receive(good)
    inbox.index()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB
    outcomes = inbox.outcomes()
    assert len(outcomes) == rounds + 1
    assert set(outcomes) <= {outcome.value for outcome in Outcome}
    assert Outcome.QUARANTINED.value in outcomes
    inbox.close()
