"""Images that demand far more than they are: refused before they are decoded, and cost one image only."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom, open_picture
from ai_pipeline.images.limits import ImageLimits, lacks_memory
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import JobState
from dicom_node.store.tables import Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.ai_pipeline.phantoms import write_dicom
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import configuration

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
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.Rows, ds.Columns = rows, columns
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    return path


BOMBS = {
    "both headers": (jpeg(30_000, 30_000), JPEGBaseline8Bit, 30_000, 30_000, "images.longest_side"),
    "code stream alone": (jpeg(30_000, 30_000), JPEGBaseline8Bit, 64, 64, "code stream has 30000 × 30000"),
    "8,000 a side": (jpeg(8_000, 8_000), JPEGBaseline8Bit, 8_000, 8_000, "images.megapixels"),
    "a line": (jpeg(65_535, 1), JPEGBaseline8Bit, 65_535, 1, "images.longest_side"),
    "a shorter line": (jpeg(16_000, 100), JPEGBaseline8Bit, 16_000, 100, "images.elongation"),
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
        ({"NumberOfFrames": 100_000}, "images.frames"),
        ({"NumberOfFrames": 4_000, "Rows": 4_000, "Columns": 4_000}, "images.decoded_mib"),
        ({"SamplesPerPixel": 200}, "Samples per Pixel"),
        ({"BitsAllocated": 4_096}, "Bits Allocated"),
    ],
)
def test_attributes_beyond_what_images_have_are_refused(
    tmp_path: Path, attributes: dict[str, object], reason: str
) -> None:
    path = write_dicom(tmp_path / "bomb.dcm", NOTHING)
    ds = dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    with pytest.raises(PixelError, match=reason):
        open_dicom(path).display()


def test_a_slope_that_is_no_number_is_told(tmp_path: Path) -> None:
    ds = dcmread(write_dicom(tmp_path / "bomb.dcm", NOTHING, RescaleIntercept="0"))
    ds[0x00281053] = RawDataElement(Tag(0x00281053), "DS", 4, b"nan ", 0, False, True)
    ds.save_as(tmp_path / "bomb.dcm")
    with pytest.raises(PixelError, match="grey levels are no numbers"):
        open_dicom(tmp_path / "bomb.dcm").display()


def test_a_window_of_any_width_is_shown(tmp_path: Path) -> None:
    for function in ("LINEAR", "SIGMOID", "LINEAR_EXACT"):
        window = {"WindowCenter": "1e300", "WindowWidth": "1e-300", "VOILUTFunction": function}
        assert open_dicom(write_dicom(tmp_path / "x.dcm", NOTHING, **window)).display().shape == (64, 64)


def test_a_deflated_data_set_is_inflated_up_to_the_limit(tmp_path: Path) -> None:
    ds = dcmread(write_dicom(tmp_path / "plain.dcm", np.zeros((1, 2_000, 2_000), np.uint8)))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "bomb.dcm")
    assert open_dicom(tmp_path / "bomb.dcm").stored().shape == (2_000, 2_000)
    with pytest.raises(PixelError, match="inflated_mib = 1"):
        open_dicom(tmp_path / "bomb.dcm", ImageLimits(inflated_mib=1))


def test_a_palette_that_expands_for_ever_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "bomb.dcm", NOTHING, PhotometricInterpretation="PALETTE COLOR")
    ds = dcmread(path)
    for number in range(3):
        ds.add_new(0x00281101 + number, "US", [256, 0, 16])
        table = struct.pack("<3H", 0, 1, 1) + struct.pack("<3H", 1, 65_535, 9) * 100
        ds.add_new(0x00281221 + number, "OW", table)
    ds.save_as(path)
    with pytest.raises(PixelError, match="segmented colour palette"):
        open_dicom(path)


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
    started: list[subprocess.Popen[bytes]] = []

    def look() -> None:
        if not started or started[-1].poll() is not None:
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=ROOT,
                )
            )
        assert len(started) < 6, "a worker is lost again and again"

    try:
        yield look
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("do", ["hoard", "die_at_breasts"])
def test_an_image_that_costs_workers_is_left_out_and_the_rest_of_its_study_analysed(
    tmp_path: Path, do: str
) -> None:
    node = Inbox(tmp_path / "var", configuration(do, memory_mib=1200))
    good, hostile, better = (ultrasound("one", number=number) for number in (1, 2, 3))
    node.receive(good, changed(hostile, BodyPartExamined="BREAST"), better)
    node.receive(ultrasound("other"))
    node.settle()
    end = time.monotonic() + 120
    with workers_of(node) as look:
        while {job.state for job in node.jobs()} != {JobState.SUCCEEDED}:
            assert time.monotonic() < end, [(job.state, job.reason) for job in node.jobs()]
            look()
            time.sleep(0.05)
    with node.database.read() as session:
        captures = session.query(Result).filter_by(kind=ResultKind.SC).count()
    assert captures == 3
    assert [event.fields["instance"] for event in node.events() if event.number == 3030] == [
        str(hostile.SOPInstanceUID)
    ]
    node.close()


def test_a_lack_of_memory_is_known_however_it_is_said() -> None:
    assert lacks_memory(MemoryError())
    assert lacks_memory(RuntimeError("[ONNXRuntimeError] : Failed to allocate memory for requested buffer"))
    assert not lacks_memory(ValueError("something else"))
