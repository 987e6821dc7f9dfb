"""Cines that cleaning was not made for: one frame too few, one name too many, more frames than memory."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGBaseline8Bit
from typer.testing import CliRunner

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.cli import app
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import BORN, ENCODINGS, NAME, NUMBER, SECRETS, Reader, write
from tests.unit.ai_pipeline.phantoms import (
    ArrayImage,
    Picture,
    burn,
    cine,
    echo,
    flow,
    silent,
    stacked,
    write_dicom,
)

SIZE = (480, 640)
SMALL = (160, 240)
LONG, WARM = 48, 16  # frames; the first are a window
TRUNCATED = [
    pytest.param(0.02, id="its header alone"),
    pytest.param(0.5, id="half of it"),
    pytest.param(0.97, id="all but its last bytes"),
]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def coloured(frames: Sequence[Picture]) -> list[Picture]:
    """The frames with colour flow in them."""
    return [flow(frame)[0] for frame in frames]


@pytest.mark.parametrize(("shown_in", "colour"), [(0, False), (7, True), (16, False), (17, True)])
def test_a_name_in_one_frame_goes_whichever_it_is(shown_in: int, colour: bool, reader: Reader) -> None:
    frames = coloured(cine(18, size=SMALL)) if colour else cine(18, size=SMALL)
    frames[shown_in] = burn(frames[shown_in], NAME, (60, 80), (255, 255, 255) if colour else 255, 16)
    image = ArrayImage(stacked(frames), photometric="RGB" if colour else "MONOCHROME2")
    assert frames_with_secrets(image.frames, [shown_in], reader) == [shown_in]
    assert left_over(image, [shown_in], reader) == []


def test_a_name_that_moves_goes_from_every_frame(reader: Reader) -> None:
    frames = [
        burn(frame, NAME, (10 + 9 * index, 20 + 11 * index), 255, 16) for index, frame in enumerate(cine(8))
    ]
    assert left_over(ArrayImage(stacked(frames)), range(0, 8, 2), reader) == []


def test_a_name_that_fades_in_goes(reader: Reader) -> None:
    frames = [burn(frame, NAME, (8, 10), 40 * index, 16) for index, frame in enumerate(cine(6, size=SMALL))]
    assert left_over(ArrayImage(stacked(frames)), range(6), reader) == []


def test_names_that_take_turns_at_one_place_go(reader: Reader) -> None:
    texts = (NAME, "BORN " + BORN, "ID " + NUMBER)
    frames = [
        burn(frame, texts[index % 3], (8, 10), 255, 16) for index, frame in enumerate(cine(6, size=SMALL))
    ]
    assert left_over(ArrayImage(stacked(frames)), range(3), reader) == []


def left_over(image: ArrayImage, numbers: Sequence[int], reader: Reader) -> list[int]:
    """Frames in which a secret can be read after cleaning; none where nothing leaves."""
    try:
        result = clean(image, silent)
    except CleaningFailed:
        return []
    frames, masks = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    assert np.array_equal(frames[~masks], image.frames[~masks])
    return frames_with_secrets(frames, numbers, reader)


def frames_with_secrets(frames: np.ndarray, numbers: Sequence[int], reader: Reader) -> list[int]:
    return [number for number in numbers if reader.secrets(np.asarray(frames[number]))]


@pytest.mark.parametrize("left", TRUNCATED)
def test_of_a_cine_with_a_damaged_frame_nothing_leaves(left: float, tmp_path: Path) -> None:
    path, _ = write(ENCODINGS["cine-jpeg-ybr-full-422"], tmp_path)
    ds = dcmread(path)
    frames = list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
    frames[2] = frames[2][: int(len(frames[2]) * left)]
    ds.PixelData = encapsulate(frames)
    ds.save_as(path)
    assert ds.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    with pytest.raises(PixelError):
        clean(open_dicom(path), silent)
    with pytest.raises(PixelError):
        create("ultrasound").run([open_dicom(path)], silent, {})


def test_of_a_cine_that_ends_too_early_nothing_leaves(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "short.dcm", stacked([burn(frame, NAME) for frame in cine(6)]))
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(PixelError):
        clean(open_dicom(path), silent)


MEASURE = """
import re, sys, threading, time
from pathlib import Path
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.images.decode import open_dicom

def anonymous():  # what belongs to the process alone: the pages of the temporary file can be given back
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.01)

peak, peaks = [0.0], []
threading.Thread(target=watch, daemon=True).start()
for path in sys.argv[1:]:
    clean(open_dicom(Path(path)), lambda share, what: None)
    peaks.append(peak[0])
print(peaks[1] - peaks[0])
"""


# The allocator gives freed arrays back at once, so that what is measured is what is held.
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account of memory")
def test_a_long_cine_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    base = np.stack(
        [burn(flow(echo(seed, SIZE))[0], NAME, (12, 10), (255, 255, 255), 22) for seed in range(4)]
    )
    short = write_dicom(tmp_path / "short.dcm", np.tile(base, (WARM // 4, 1, 1, 1)))
    long = write_dicom(tmp_path / "long.dcm", np.tile(base, (LONG // 4, 1, 1, 1)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(short), str(long)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | GIVING_BACK,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole = LONG * base[0].nbytes / 2**20
    assert float(done.stdout) < 0.4 * whole, f"of {whole:.0f} MiB"


@pytest.mark.parametrize("policy", CleaningPolicy)
def test_nothing_that_the_pipeline_says_repeats_a_name(
    policy: CleaningPolicy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    still, _ = write(ENCODINGS["still-jpeg-rgb"], tmp_path)
    moving, _ = write(ENCODINGS["cine-grey"], tmp_path)
    result = create("ultrasound").run(
        [open_dicom(still), open_dicom(moving)], silent, {"policy": policy.value}
    )
    assert len(result.images) == 4
    said = [repr(result), caplog.text, *capfd.readouterr()]
    assert [secret for secret in SECRETS for text in said if secret in text] == []


def test_no_name_stands_in_the_json_or_in_what_the_command_prints(tmp_path: Path) -> None:
    files = [str(write(ENCODINGS[name], tmp_path)[0]) for name in ("still-jpeg-rgb", "cine-rle-palette")]
    ran = CliRunner().invoke(app, ["run", *files, "--out", str(tmp_path / "out"), "--json"])
    assert ran.exit_code == 0, ran.output
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [record["accepted"] for record in records] == [True, True]
    assert [secret for secret in SECRETS if secret in ran.output] == []
    for path in (tmp_path / "out").rglob("*"):
        assert [secret for secret in SECRETS if secret in path.name] == []


def test_no_error_names_anybody(tmp_path: Path) -> None:
    page = np.full((360, 480), 255, np.uint8)
    for line in range(0, 360, 20):
        page = burn(page, f"{NAME} {BORN} {NUMBER}", (0, line), 0, 17)
    image = ArrayImage(page[None])
    with pytest.raises(CleaningFailed) as refusal:
        create("ultrasound").run([image], silent, {})
    chain = [refusal.value, refusal.value.__cause__, refusal.value.__context__]
    assert [secret for secret in SECRETS for error in chain if secret in repr(error)] == []
