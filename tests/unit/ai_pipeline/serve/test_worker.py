"""What a cleaning process answers on real images: nothing of a name is legible in what it hands back."""

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000MC, JPEGLSLossless, RLELossless

from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.confinement import landlock
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.limits import LIMITS
from ai_pipeline.serve import worker
from ai_pipeline.serve.karnak_image import matching_tags
from ai_pipeline.serve.tasks import MOST_BYTES, Answer, Outcome, Task
from tests.modality import add_overlay, set_pixels, ultrasound_from
from tests.ultrasound_lab import ENCODINGS, SECRETS, SIZE, Reader, decoded, picture, write

SENSITIVE = {"PatientName": "Kowalska^Maria", "PatientBirthDate": "19570823", "PatientSex": "F"}


@pytest.fixture(scope="module")
def tools() -> Tools:
    return shared_tools()


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(side=240)


def ask(tools: Tools, content: bytes, task: Task | None = None) -> tuple[Answer, bytes]:
    """The answer to a task on a file of this content, and what was written."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(content)
        source.flush()
        source.seek(0)
        answer = worker.answered(task or Task(), source, target, tools, LIMITS)
        target.seek(0)
        return answer, target.read()


def bears_no_secret(answer: Answer) -> bool:
    return not any(secret in answer.packed().decode().upper() for secret in SECRETS)


@pytest.mark.parametrize("name", ENCODINGS)
def test_nothing_of_a_name_is_left_in_a_dicom_file(
    name: str, tmp_path: Path, tools: Tools, reader: Reader
) -> None:
    source = write(ENCODINGS[name], tmp_path)
    answer, cleaned = ask(tools, source.read_bytes())
    assert answer.outcome is Outcome.CLEANED, answer.reason
    assert bears_no_secret(answer)
    assert sum(answer.report["removed"].values()) > 0
    frames = decoded(cleaned)
    assert frames.shape[:3] == decoded(source).shape[:3]
    eight_bits = (frames >> 8 * (frames.dtype.itemsize - 1)).astype(np.uint8)
    assert [secret for frame in eight_bits for secret in reader.secrets(frame)] == []


@pytest.fixture(scope="module")
def hiding(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """An ultrasound that has other pictures of the patient beside its pixels, and a name in its preamble."""
    image = ultrasound_from("hiding", picture(3, SIZE, colour=True))
    image.PatientName = "Müller^Jürgen"
    add_overlay(image)
    icon = Dataset()
    set_pixels(icon, np.zeros((4, 4), np.uint8), "MONOCHROME2", 8)
    image.IconImageSequence = [icon]
    reference = Dataset()
    reference.IconImageSequence = [icon]
    image.ReferencedStudySequence = [reference]
    image.EncapsulatedDocument = b"another picture!"
    image.PixelDataProviderURL = "https://pacs.example.org/picture"
    image[0x00081140] = DataElement(0x00081140, "OB", b"another picture!")
    block = image.private_block(0x0009, "MAKER", create=True)
    block.add_new(0x01, "OB", b"another picture!")
    image.preamble = b"KOWALSKA".ljust(128)
    return image


@pytest.fixture(scope="module")
def cleaned(hiding: Dataset, tools: Tools) -> Dataset:
    file = io.BytesIO()
    hiding.save_as(file, enforce_file_format=True)
    answer, content = ask(tools, file.getvalue())
    again, same = ask(tools, file.getvalue())
    assert content == same, "the same input gives the same object"
    dataset = dcmread(io.BytesIO(content))
    assert answer.report["sop_instance_uid"] == again.report["sop_instance_uid"] == dataset.SOPInstanceUID
    return dataset


def test_other_pictures_do_not_leave(cleaned: Dataset) -> None:
    assert cleaned.preamble == b"\0" * 128
    assert [str(element.tag) for element in cleaned.iterall() if element.tag.is_private] == []
    assert [element.name for element in cleaned.iterall() if element.tag.group in range(0x6000, 0x6100)] == []
    assert [element.name for element in cleaned.iterall() if element.keyword == "IconImageSequence"] == []
    assert len(cleaned.ReferencedStudySequence) == 1
    named = {"EncapsulatedDocument", "PixelDataProviderURL", "ReferencedImageSequence"}
    assert {element.keyword for element in cleaned.iterall()} & named == set()


def test_the_header_says_what_was_done(cleaned: Dataset, hiding: Dataset) -> None:
    assert cleaned.SOPInstanceUID != hiding.SOPInstanceUID
    assert cleaned.SeriesInstanceUID != hiding.SeriesInstanceUID
    assert cleaned.file_meta.MediaStorageSOPInstanceUID == cleaned.SOPInstanceUID
    assert cleaned.SourceImageSequence[0].ReferencedSOPInstanceUID == hiding.SOPInstanceUID
    assert cleaned.ImageType[0] == "DERIVED"
    assert cleaned.BurnedInAnnotation == "NO"
    assert "not for diagnostic use" in cleaned.DerivationDescription
    assert "burnin-text" in cleaned.DerivationDescription


def test_patient_and_study_stay_in_their_own_spelling(cleaned: Dataset, hiding: Dataset) -> None:
    assert cleaned.PatientName == hiding.PatientName
    assert cleaned.StudyInstanceUID == hiding.StudyInstanceUID
    assert cleaned.SOPClassUID == hiding.SOPClassUID


def test_no_pixel_changes_outside_what_was_filled(cleaned: Dataset, hiding: Dataset) -> None:
    before, after = hiding.pixel_array, cleaned.pixel_array
    assert 0 < (before != after).any(axis=-1).mean() < 0.5
    assert np.array_equal(before[60:100, 200:], after[60:100, 200:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_nothing_of_a_name_is_left_in_a_picture(kind: str, tools: Tools, reader: Reader) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(5, SIZE, colour=True)).save(file, kind)
    answer, content = ask(tools, file.getvalue())
    assert (answer.outcome, answer.media_type) == (Outcome.CLEANED, "image/png")
    handed_back = Image.open(io.BytesIO(content))
    assert handed_back.format == "PNG"
    assert reader.secrets(np.asarray(handed_back)) == []


def huge_png() -> bytes:
    """A PNG of 50,000 × 50,000 pixels in some hundred bytes: a bomb."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def huge_dicom() -> bytes:
    image = ultrasound_from("huge", np.zeros((4, 4, 3), np.uint8))
    image.Rows = image.Columns = 50_000
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def without_pixels() -> bytes:
    image = ultrasound_from("none", np.zeros((4, 4, 3), np.uint8))
    del image.PixelData
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (huge_png, Outcome.TOO_LARGE),
        (huge_dicom, Outcome.TOO_LARGE),
        (without_pixels, Outcome.UNREADABLE),
        (lambda: huge_dicom()[:200], Outcome.UNREADABLE),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), Outcome.UNREADABLE),
        (lambda: b"", Outcome.UNSUPPORTED),
        (lambda: b"%PDF-1.7 KOWALSKA", Outcome.UNSUPPORTED),
    ],
    ids=["PNG of 50,000", "DICOM of 50,000", "no pixels", "half a header", "no PNG", "nothing", "a PDF"],
)
def test_what_cannot_be_read_gets_a_reason(make: Callable[[], bytes], outcome: Outcome, tools: Tools) -> None:
    answer, content = ask(tools, make())
    assert answer.outcome is outcome
    assert answer.reason
    assert bears_no_secret(answer)
    assert content == b""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (CleaningFailed("text is left", [(1, 2, 3, 4)]), Outcome.WITHHELD),
        (MemoryError(), Outcome.FAILED),
        (ValueError("KOWALSKA"), Outcome.FAILED),
    ],
    ids=["withheld", "no memory", "a defect"],
)
@pytest.mark.parametrize("kind", ["clean", "masks"])
def test_what_cannot_be_cleaned_is_kept_back(
    kind: Any, error: Exception, outcome: Outcome, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(worker, "clean", fail)
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(file, "PNG")
    answer, content = ask(tools, file.getvalue(), Task(kind, form={"sensitive_data_list": "{}"}))
    assert answer.outcome is outcome
    assert bears_no_secret(answer)
    assert content == b""
    assert "masks" not in answer.report


def form_of(dataset: Dataset, **fields: str) -> dict[str, str]:
    """The fields that Karnak's DeidentifyImageService sends with the pixels of a data set."""
    return {
        "sensitive_data_list": json.dumps(SENSITIVE),
        "sop_instance_uid": str(dataset.SOPInstanceUID),
        "transfer_syntax_uid": str(dataset.file_meta.TransferSyntaxUID),
        "rows": str(dataset.Rows),
        "columns": str(dataset.Columns),
        "bits_allocated": str(dataset.BitsAllocated),
        "samples_per_pixel": str(dataset.SamplesPerPixel),
        "photometric_interpretation": str(dataset.PhotometricInterpretation),
    } | fields


def native(*frames: np.ndarray) -> Dataset:
    image = ultrasound_from("karnak", frames[0])
    image.PixelData = np.stack(frames).tobytes()
    return image


def by_plane(frame: np.ndarray) -> Dataset:
    image = native(frame)
    image.PixelData, image.PlanarConfiguration = frame.transpose(2, 0, 1).tobytes(), 1
    return image


def compressed(frame: np.ndarray, syntax: str) -> Dataset:
    image = native(frame)
    image.compress(syntax, generate_instance_uid=False)
    return image


COLOUR = picture(9, SIZE, colour=True)
GREY = np.repeat(picture(9, SIZE, colour=False)[..., None], 3, axis=-1)
BLANK = np.zeros_like(COLOUR)


def test_a_tinted_picture_whose_samples_may_be_by_plane_is_refused(tools: Tools) -> None:
    sepia = (GREY * np.array([1.0, 0.84, 0.66])).astype(np.uint8)
    answer, _ = ask(tools, by_plane(sepia).PixelData, Task("masks", form=form_of(by_plane(sepia))))
    assert answer.outcome is Outcome.UNREADABLE
    assert "by pixel or by plane" in answer.reason


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        pytest.param(native(COLOUR), COLOUR, id="by pixel"),
        pytest.param(native(BLANK, COLOUR), COLOUR, id="second frame"),
        pytest.param(by_plane(GREY), GREY, id="by plane"),
        pytest.param(compressed(COLOUR, JPEGLSLossless), COLOUR, id="JPEG-LS"),
        pytest.param(compressed(COLOUR, RLELossless), COLOUR, id="RLE"),
    ],
)
def test_the_masks_for_karnak_cover_every_name(
    image: Dataset, shown: np.ndarray, tools: Tools, reader: Reader
) -> None:
    is_native = not image.file_meta.TransferSyntaxUID.is_compressed
    sent = image.PixelData if is_native else next(generate_frames(image.PixelData, number_of_frames=1))
    answer, content = ask(tools, sent, Task("masks", form=form_of(image)))
    assert answer.outcome is Outcome.CLEANED, answer.reason
    assert reader.secrets(shown) != []
    covered = shown.copy()
    for mask in answer.report["masks"]:
        for rectangle in mask["rectangles"]:
            left, top, width, height = map(int, rectangle.split())
            covered[top : top + height, left : left + width] = bytes.fromhex(mask["color"])[0]
    assert reader.secrets(covered) == []
    assert answer.report["detected_tags"] == ["PatientName", "PatientBirthDate"]
    assert bears_no_secret(answer)
    assert content == b""


def test_one_pixel_in_its_own_colour_is_no_change(tools: Tools) -> None:
    answer, _ = ask(tools, BLANK.tobytes(), Task("masks", form=form_of(native(BLANK))))
    assert answer.report["masks"] == [{"stationName": "*", "color": "000000", "rectangles": ["0 0 1 1"]}]


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"rows": ""}, Outcome.UNREADABLE),
        ({"rows": "-1"}, Outcome.UNREADABLE),
        ({"rows": "99999", "columns": "99999"}, Outcome.UNREADABLE),
        ({"rows": "50000", "columns": "50000", "transfer_syntax_uid": JPEGLSLossless}, Outcome.TOO_LARGE),
        ({"bits_allocated": "64"}, Outcome.UNREADABLE),
        ({"transfer_syntax_uid": JPEG2000MC}, Outcome.UNREADABLE),
        ({"transfer_syntax_uid": "KOWALSKA"}, Outcome.UNREADABLE),
        ({"palette_color_lut": '{"red": [1]}'}, Outcome.UNREADABLE),
        ({"window_width": "wide"}, Outcome.UNREADABLE),
        ({"photometric_interpretation": "KOWALSKA\\RGB"}, Outcome.UNREADABLE),
    ],
    ids=[
        "no rows",
        "rows below 0",
        "too few bytes",
        "50,000",
        "64 bits",
        "JPEG 2000 part 2",
        "syntax",
        "palette",
        "window",
        "term",
    ],
)
def test_fields_of_karnak_that_do_not_fit_are_refused(
    fields: dict[str, str], outcome: Outcome, tools: Tools
) -> None:
    answer, _ = ask(tools, BLANK.tobytes(), Task("masks", form=form_of(native(BLANK), **fields)))
    assert answer.outcome is outcome
    assert bears_no_secret(answer)
    assert answer.report == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Kowalska^Maria", "Kowalska, M."),
        ("MÜLLER^HANS", "Muller 3"),
        ("19570823", "23.08.1957"),
        ("19570823", "08/23/1957"),
        ("000048271935", "ID 48271935"),
        ("034Y", "age 34Y"),
    ],
)
def test_a_value_is_found_in_any_usual_spelling(value: str, text: str) -> None:
    assert matching_tags({"Tag": value}, [text]) == ["Tag"]


@pytest.mark.parametrize(
    ("value", "text"), [("F", "FR 30 Hz"), ("", "TIS 0.4"), ("Kowalska^Maria", "Gain 50")]
)
def test_a_value_that_is_short_or_elsewhere_is_not_found(value: str, text: str) -> None:
    assert matching_tags({"Tag": value}, [text]) == []


def test_an_answer_that_no_message_holds_becomes_a_refusal() -> None:
    report = {"masks": [{"color": f"{number:06x}", "rectangles": ["0 0 1 1"]} for number in range(5000)]}
    message = worker.message_of(Answer(Outcome.CLEANED, report=report))
    assert len(message) <= MOST_BYTES
    assert Answer.of(message).outcome is Outcome.FAILED
    assert Answer.of(message).report == {}


OPENS = """
import sys
from pathlib import Path
from ai_pipeline.serve import worker

assert worker._confine(Path(sys.argv[1])) == ""
for path in sys.argv[2:]:
    try:
        open(path, "ab" if path.endswith("new") else "rb").close()
        print("open")
    except PermissionError:
        print("denied")
"""


@pytest.mark.skipif(landlock.version() < landlock.LEAST, reason="the kernel has no Landlock")
def test_a_cleaning_process_opens_only_what_it_needs(tmp_path: Path) -> None:
    ours, others, rules = (tmp_path / name for name in ("ours", "others", "rules"))
    for folder in (ours, others, rules):
        folder.mkdir()
        (folder / "file").touch()
    tried = [ours / "new", ours / "file", rules / "file", worker.__file__]
    denied = [
        others / "file",
        others / "new",
        rules / "new",
        "/etc/passwd",
        "/etc/hostname",
        "/proc/1/status",
    ]
    done = subprocess.run(
        [sys.executable, "-c", OPENS, str(rules), *map(str, [*tried, *denied])],
        env={**os.environ, "TMPDIR": str(ours)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["open"] * len(tried) + ["denied"] * len(denied)
