"""Pixel data that demands more memory than there may be: compression bombs, and images that cost workers."""

import io
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom, open_image, open_picture
from ai_pipeline.images.limits import ImageLimits
from dicom_node.base.lifecycle import JobState, ResultKind
from dicom_node.base.store.tables import Job, Result
from tests import ROOT
from tests.inbox_lab import Inbox
from tests.modality import (
    assign,
    ultrasound,
    ultrasounds,
)
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.jobs.worker_lab import configuration
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

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


def png_of(columns: int, rows: int) -> bytes:
    """A PNG of next to no data that says that it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    empty = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + empty


def tiff(*tags: tuple[int, int, int, int], pages: int = 1, tail: bytes = b"") -> bytes:
    """A TIFF of these tags (number, type, count, value) in each of its pages, which have no pixels."""
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    places = [8 + number * (len(page) + 4) for number in range(1, pages)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(page + struct.pack("<I", place) for place in places) + tail


def of_size(columns: int, rows: int) -> list[tuple[int, int, int, int]]:
    """Tags of a grey TIFF of 8 bits."""
    return [(256, 4, 1, columns), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, 1, columns * rows)]  # fmt: skip


HUGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG, 45 megapixels": (lambda: png_of(7_000, 6_500), "at most 40 megapixels"),
    "PNG, 10^9 pixels": (lambda: png_of(31_623, 31_623), "at most 16384 a side"),
    "PNG, 2^62 pixels": (lambda: png_of(2**31 - 1, 2**31 - 1), "at most 16384 a side"),
    "JPEG, 900 megapixels": (lambda: jpeg(30_000, 30_000), "at most 16384 a side"),
    "TIFF, 10^9 pixels": (lambda: tiff(*of_size(16_000, 62_500)), "at most 16384 a side"),
    "TIFF of 50,000 pages": (lambda: tiff(*of_size(9, 9), pages=50_000), "several pictures or pages"),
}


@pytest.mark.parametrize("case", HUGE)
def test_a_picture_that_demands_too_much_is_refused_by_its_header(tmp_path: Path, case: str) -> None:
    make, why = HUGE[case]
    (tmp_path / "picture").write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PixelError, match=why):
        open_picture(tmp_path / "picture", "US")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB of this process"


def saved(kind: str, *frames: Image.Image, **how: object) -> bytes:
    data = io.BytesIO()
    frames[0].save(
        data, kind, **how, **({"save_all": True, "append_images": frames[1:]} if frames[1:] else {})
    )
    return data.getvalue()


def cut(kind: str) -> bytes:
    data = saved(kind, Image.fromarray(echo()))
    return data[: len(data) // 2]


TWO = Image.new("L", (64, 48), 10), Image.new("L", (64, 48), 200)
NO_PICTURE: dict[str, tuple[Callable[[], bytes], str]] = {
    "half a PNG": (lambda: cut("PNG"), "truncated"),
    "half a JPEG": (lambda: cut("JPEG"), "truncated"),
    "half a TIFF": (lambda: cut("TIFF"), "truncated|not enough|damaged"),
    "an animated PNG": (lambda: saved("PNG", *TWO), "several pictures or pages"),
    "an animated GIF": (lambda: saved("GIF", *TWO), "neither DICOM"),
    "a TIFF of two pages": (lambda: saved("TIFF", *TWO), "several pictures or pages"),
    "a TIFF of fractions": (lambda: saved("TIFF", Image.new("F", (9, 9))), "fractions"),
    "a TIFF of 32 bits": (lambda: saved("TIFF", Image.new("I", (9, 9), 2**20)), "more than 16 bits"),
    "PNG in name only": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(50), "not a readable picture"),
}


@pytest.mark.parametrize("case", NO_PICTURE)
def test_a_file_that_is_no_whole_picture_is_refused_in_words(tmp_path: Path, case: str) -> None:
    make, why = NO_PICTURE[case]
    (tmp_path / "picture").write_bytes(make())
    with pytest.raises(PixelError, match=why):
        open_image(tmp_path / "picture", "US")


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
    good, hostile, better = ultrasounds("one", 3)
    node.receive(good, changed(hostile, BodyPartExamined="BREAST"), better)
    node.receive(ultrasound("other"))
    node.settle()
    with workers_of(node) as look:
        ended = lambda: look() or set(node.column(Job.state)) == {JobState.SUCCEEDED}
        wait_until(ended, 120, shown=lambda: [(job.state, job.reason) for job in node.jobs()])
    assert node.column(Result.kind).count(ResultKind.SC) == 3
    assert [event.fields["instance"] for event in node.events(3030)] == [str(hostile.SOPInstanceUID)]
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
