"""Objects and files that are small when sent and huge when read, or wrong: they cost themselves only."""

import logging
import random
import re
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from sqlalchemy import select

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom, open_picture
from ai_pipeline.images.limits import ImageLimits
from dicom_node.base.dicom.elements import Limits
from dicom_node.base.kinds import Outcome, ResultKind, UserRole
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.tables import Instance, Job, Result, Study
from dicom_node.people import users
from dicom_node.receive.inspection import Inspector
from tests.console_lab import ConsoleLab, add_users, quick_hasher, routes
from tests.hostile.mutation import mutated
from tests.inbox_lab import Inbox, encoded
from tests.modality import assign, quick_ultrasound, ultrasound
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.inbox.objects import changed, small_xray
from tests.unit.jobs.worker_lab import configuration, work
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(600),
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")),
]
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
    [event] = [row for row in inbox.events() if row.number == 2005]
    assert limit in event.fields["reason"] and event.fields["instance"] == uid
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
    [event] = [row for row in inbox.events() if row.number == 2005]
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
    assert inbox.outcomes() == ["quarantined"] and reason in inbox.study(None).reason


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
        count = min(_AT_ONCE, rounds - first)
        for number in range(first, first + count):
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


ROOT = Path(__file__).resolve().parents[2]
NOTHING = np.zeros((1, 64, 64), np.uint8)


def jpeg(rows: int, columns: int, marker: int = 0xC0, scans: int = 1) -> bytes:
    """The header of a grey JPEG or JPEG-LS, and next to no data: 780 bytes that say 30,000 × 30,000."""
    frame = struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, 8, rows, columns, 1, 1, 0x11, 0)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x00" * 8
    return b"\xff\xd8" + frame + scan * scans + b"\x00" * 700 + b"\xff\xd9"


def jpeg_2000(rows: int, columns: int, tile: int = 0) -> bytes:
    size = struct.pack(
        ">HHIIIIIIIIHBBB", 41, 0, columns, rows, 0, 0, tile or columns, tile or rows, 0, 0, 1, 7, 1, 1
    )
    return b"\xff\x4f\xff\x51" + size + b"\xff\x93" + b"\x00" * 600 + b"\xff\xd9"


def rle(segments: int, length: int) -> bytes:
    return struct.pack("<16I", segments, 64, *[0] * 14) + b"\x81\x00" * length


def bomb(folder: Path, frame: bytes, syntax: str, rows: int = 64, columns: int = 64) -> Path:
    """An object whose header says ``rows`` × ``columns`` and whose code stream says what it says."""
    path = write_dicom(folder / "bomb.dcm", NOTHING)
    ds = assign(dcmread(path), Rows=rows, Columns=columns, PixelData=encapsulate([frame]))
    ds.file_meta.TransferSyntaxUID = syntax
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    return path


BOMBS = {
    "both headers": (jpeg(30_000, 30_000), JPEGBaseline8Bit, 30_000, 30_000, "a side"),
    "code stream alone": (jpeg(30_000, 30_000), JPEGBaseline8Bit, 64, 64, "code stream has 30000 × 30000"),
    "8,000 a side": (jpeg(8_000, 8_000), JPEGBaseline8Bit, 8_000, 8_000, "megapixels"),
    "a line": (jpeg(65_535, 1), JPEGBaseline8Bit, 65_535, 1, "a side"),
    "a shorter line": (jpeg(16_000, 100), JPEGBaseline8Bit, 16_000, 100, "times the other"),
    "JPEG-LS": (jpeg(30_000, 30_000, 0xF7), JPEGLSLossless, 64, 64, "code stream has 30000 × 30000"),
    "JPEG 2000": (jpeg_2000(60_000, 60_000), JPEG2000Lossless, 64, 64, "code stream has 60000 × 60000"),
    "a million tiles": (jpeg_2000(5_000, 5_000, 5), JPEG2000Lossless, 5_000, 5_000, "tiles"),
    "RLE segments": (rle(9, 10), RLELossless, 64, 64, "RLE header names 9 segments"),
    "RLE length": (rle(1, 300_000), RLELossless, 64, 64, "RLE segments"),
    "scans": (jpeg(64, 64, scans=5_000), JPEGBaseline8Bit, 64, 64, "scans"),
    "no frame": (b"\xff\xd8\xff\xda" + b"\0" * 80 + b"\xff\xd9", JPEGBaseline8Bit, 64, 64, "0 frame headers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_header_demands_is_refused_before_it_is_decoded(tmp_path: Path, name: str) -> None:
    frame, syntax, rows, columns, reason = BOMBS[name]
    path = bomb(tmp_path, frame, syntax, rows, columns)
    with pytest.raises(PixelError, match=reason):
        open_dicom(path).stored()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"NumberOfFrames": 100_000}, "has 100000 frames"),
        ({"NumberOfFrames": 4_000, "Rows": 4_000, "Columns": 4_000}, "when decoded"),
        ({"SamplesPerPixel": 200}, "Samples per Pixel"),
        ({"BitsAllocated": 4_096}, "Bits Allocated"),
    ],
)
def test_attributes_beyond_what_images_have_are_refused(
    tmp_path: Path, attributes: dict[str, object], reason: str
) -> None:
    path = write_dicom(tmp_path / "bomb.dcm", NOTHING)
    assign(dcmread(path), **attributes).save_as(path)
    with pytest.raises(PixelError, match=reason):
        open_dicom(path).display()


def test_a_deflated_data_set_is_inflated_up_to_the_limit(tmp_path: Path) -> None:
    ds = dcmread(write_dicom(tmp_path / "plain.dcm", np.zeros((1, 2_000, 2_000), np.uint8)))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "bomb.dcm")
    assert open_dicom(tmp_path / "bomb.dcm").stored().shape == (2_000, 2_000)
    with pytest.raises(PixelError, match="more than 1 MiB"):
        open_dicom(tmp_path / "bomb.dcm", ImageLimits(inflated_mib=1))


def test_a_picture_that_demands_too_much_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 7_000, 6_500, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(PixelError, match="megapixels"):
        open_picture(path, "US")


def test_what_modalities_make_is_within_the_limits() -> None:
    limits = ImageLimits()
    assert limits.fault(5_120, 4_096, bits=16) == ""  # a mammogram
    assert limits.fault(768, 1_024, frames=300, samples=3) == ""  # a cine
    assert limits.fault(1_080, 1_920, frames=300, samples=3) == ""
    assert limits.fault(10_000, 3_000, bits=16) == ""  # a stitched spine


@contextmanager
def workers_of(node: Inbox) -> Iterator[Callable[[], None]]:
    """A worker process that is started again when it ends, as the node does. Gives a function that looks."""
    command = [sys.executable, "-m", "tests.unit.jobs.worker_lab", node.settings.for_children()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started: list[subprocess.Popen[bytes]] = []

    def look() -> None:
        if not started or started[-1].poll() is not None:
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, **quiet))
        assert len(started) < 6, "a worker is lost again and again"

    try:
        yield look
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_an_image_that_costs_workers_is_left_out_and_the_rest_of_its_study_analysed(tmp_path: Path) -> None:
    node = Inbox(tmp_path / "var", configuration("hoard", memory_mib=1200, attempts=2))
    good, hostile, better = (ultrasound("one", number=number) for number in (1, 2, 3))
    node.receive(good, changed(hostile, BodyPartExamined="BREAST"), better)
    node.receive(ultrasound("other"))
    node.settle()
    with workers_of(node) as look:
        ended = lambda: look() or {job.state for job in node.jobs()} == {JobState.SUCCEEDED}
        wait_until(ended, 120, shown=lambda: [(job.state, job.reason) for job in node.jobs()])
    assert [result.kind for result in node.rows(Result)].count(ResultKind.SC) == 3
    assert [event.fields["instance"] for event in node.events() if event.number == 3030] == [
        str(hostile.SOPInstanceUID)
    ]
    node.close()


MOST_MIB_OF_A_STILL = 240  # 216 in tiles of both networks; 266 and more where one of them sees it whole
CLEAN = """
import resource, sys
from ai_pipeline.burnin.find import networks, text
from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.images.decode import open_dicom
text.TILE //= 2
networks.TILE //= 2
networks.WHOLE //= 5
for path in sys.argv[1:]:
    result = Ultrasound().run([open_dicom(path)], lambda *_: None, {})
    print(len(result.images), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_large_still_is_cleaned_in_tiles_that_bound_its_memory(tmp_path: Path) -> None:
    """In tiles of half a node's side, above what a small picture takes."""
    files = []
    for rows, columns in ((160, 240), (768, 1456)):
        noise = np.random.default_rng(5).normal(0, 6, (rows, columns)).astype(np.int16)
        picture = np.clip(echo(5, (rows, columns)) + noise, 0, 255).astype(np.uint8)
        cv2.putText(picture, "DOE JANE 1970-01-02", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
        files.append(str(write_dicom(tmp_path / f"{rows}.dcm", picture[None])))
    done = subprocess.run([sys.executable, "-c", CLEAN, *files], capture_output=True, text=True, check=True)
    (_, small), (images, large) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert images == 2, "cleaned, and its mask"
    assert large - small <= MOST_MIB_OF_A_STILL


# What else is no number: tests/unit/ai_pipeline/images/test_decode.py
VALUES = {
    "5,000 digits": b"9" * 5000,
    "NaN": b"NaN",
    "backslashes and control characters": b"1\\\\2\\\x1b\x07\r\n",
}


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> None:
    """These very bytes as the value: in Implicit VR Little Endian nothing says what it should be."""
    dataset.add(DataElement(Tag(keyword), "OB", raw + b" " * (len(raw) % 2)))


def studies() -> Iterator[tuple[str, Dataset]]:
    """Of each value: in all numbers that an image can do without, and in Number of Frames."""
    for number, (name, raw) in enumerate(VALUES.items()):
        image, region = quick_ultrasound(f"numbers-{number}"), Dataset()
        for keyword in (
            *("InstanceNumber", "SeriesNumber", "AcquisitionNumber", "PatientAge", "PatientWeight"),
            *("StudyDate", "StudyTime", "SeriesDate", "ContentDate", "AcquisitionDateTime", "FrameTime"),
            *("PixelSpacing", "PixelAspectRatio", "WindowCenter", "WindowWidth", "RescaleSlope"),
            *("RescaleIntercept", "CineRate", "RecommendedDisplayFrameRate", "HeartRate"),
            "LossyImageCompressionRatio",
            "LongitudinalTemporalOffsetFromEvent",  # FD: eight bytes a number
        ):
            with_raw(image, keyword, raw)
        for keyword in (
            *("PhysicalDeltaX", "PhysicalDeltaY", "RegionFlags", "RegionLocationMinX0"),
            "ReferencePixelX0",
        ):
            with_raw(region, keyword, raw)
        image.SequenceOfUltrasoundRegions = [region]
        frames = quick_ultrasound(f"frames-{number}")
        with_raw(frames, "NumberOfFrames", raw)
        for kind, one in ((name, image), (f"{name} of frames", frames)):
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            yield kind, one


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleLab]:
    """The console of a node that received and analysed them."""
    config = configuration()
    config["rules"][0] |= {"pipeline": "ultrasound", "options": {}}
    config["peers"][1]["results"] = ["sr", "gsps", "sc", "cleaned"]
    with closing(Inbox(tmp_path_factory.mktemp("numbers") / "var", config)) as node:
        node.settle(*(image for _, image in studies()))
        work(node)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(users, "hasher", quick_hasher)
            add_users(node.settings)
            yield ConsoleLab(node.settings, node.database)


def test_the_images_are_analysed_whatever_stands_in_numbers_that_they_can_do_without(lab: ConsoleLab) -> None:
    with lab.database.read() as session:
        found = {str(row.study_instance_uid): (str(row.state), row.reason) for row in session.query(Study)}
    for kind, image in studies():
        state, reason = found[str(image.StudyInstanceUID)]
        assert (state in ("delivering", "delivered")) == (not kind.endswith(" of frames")), (
            kind,
            state,
            reason,
        )
        assert state != "failed", (kind, reason)


def test_no_page_fails(lab: ConsoleLab) -> None:
    """But for the events around the moment of each event: they are two thirds of all links, and one page."""
    browser = lab.browser(UserRole.ADMIN)
    waiting, seen, failed = (
        ["/", "/events?at=2026-01-02T10:15:00Z", *addresses(lab, "/")],
        set[str](),
        list[str](),
    )
    while waiting:
        path = waiting.pop()
        if path in seen or path.startswith(("/live", "/static", "/readyz")):  # the node ended
            continue
        seen.add(path)
        if browser.get(path) >= 500:
            failed.append(path)
        elif b"<html" in browser.content[:200]:
            links = re.findall(r'(?:href|src)="(/[^"#]*)', browser.text)
            waiting += [link.replace("&amp;", "&") for link in links if "?at=" not in link]
    assert failed == []
    assert len(seen) > 60


def test_no_answer_of_the_rest_api_fails(lab: ConsoleLab) -> None:
    token = users.add_token(lab.settings, UserRole.ADMIN.value, "a test", 1)
    client = lab.browser().client
    paths = list(addresses(lab, "/api/"))
    assert len(paths) > 30
    answers = {path: client.get(path, headers={"Authorization": f"Bearer {token}"}) for path in paths}
    assert {path: answer.text for path, answer in answers.items() if answer.status_code >= 500} == {}


def addresses(lab: ConsoleLab, prefix: str) -> Iterator[str]:
    """Every address below this one, of every row that there is, and of a few that there are not."""
    with lab.database.read() as session:
        tables = (Study, Instance, Result, Job)
        numbers = {row for table in tables for row in session.scalars(select(table.id))}
    for route in routes(lab.app.routes):
        if "GET" not in route.methods or not route.path.startswith(prefix):
            continue
        if "{number}" in route.path or "{frame}" in route.path:
            for number in (*sorted(numbers | {0, 10**9}), "9" * 5000, "NaN"):
                address = route.path.replace("{number}", str(number)).replace("{frame}", "1")
                kinds = ("images", "results", "cleaned") if "{which}" in address else ("",)
                yield from (address.replace("{which}", which) for which in kinds)
        elif "{" not in route.path:
            yield route.path
