#!/usr/bin/env python3
"""Cleaning of ultrasound: seconds of a still, frames per second and memory of a cine.

    benchmarks/cleaning.py [--data DIR] [--stills N] [--rounds N] [--frames N] [--json FILE] [--steps]

    example: benchmarks/cleaning.py --data ../shared/data --json cleaning.json

* **Still.** Public ovarian frames enlarged to 1,024 × 768, with a name and a date burned in: from the file
  to the verified picture, for both policies, beside one pass of rapidocr as it is installed over the same
  picture (which would only find the text) and beside decoding alone. Ratios are paired by still and round.
  Nothing is kept of a picture: a first and a later image of a device take the same.
* **Cine.** ``--frames`` of 640 × 480 in colour with a name that stands, a clock that runs and an echo that
  moves: frames per second for both policies, beside rapidocr on every frame (measured on some and multiplied)
  and beside decoding alone.
* **Memory.** Each cine is cleaned in a process of its own, after one of 16 frames: the most memory that the
  process had for itself, and by how much that is more than for the 16 frames. The pages of temporary files
  are not counted: the system may take them back at any time.

* **Steps** (``--steps``, and nothing else): seconds of processor time, which other work hardly changes, of a
  still by step, and of the cine; beside one pass of rapidocr.

Absolute figures belong to the machine and to what else it does: the load average is printed, read the ratios.
The last lines are what the design asks for under ``clinical``: a still and a cine, each beside rapidocr in
the same run.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find.annotation import CleaningPolicy
from ai_pipeline.burnin.find.networks import LineReader, MarkFinder
from ai_pipeline.burnin.find.text import TextReader
from ai_pipeline.burnin.tools import NetworkInpainter, shared_tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models.engine import usable_cores
from benchmarks.lab import command_line
from benchmarks.paired import paired_ratio, ratio_text
from benchmarks.turnaround import ultrasounds
from tests.modality import set_pixels

STILL, CINE = (1024, 768), (640, 480)  # columns, rows
MOST_SECONDS, LEAST_RATE = 1.5, 10.0  # the design's targets: a still, and frames per second
MOST_TIMES, LEAST_TIMES = 1.5, 8.0  # beside rapidocr: times as long, as fast
WARM_UP = 16  # frames: one window
SAMPLED = 10  # frames that rapidocr reads by itself
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
CLEANED = f"cleaned, {CleaningPolicy.CLINICAL}"
DECODING, EVERY_FRAME = "decoding alone", "rapidocr alone"


STEPS = {
    "text detection": (TextReader, "find"),
    "recognition": (TextReader, "_recognise"),
    "recognition of small letters": (LineReader, "read"),
    "mark network": (MarkFinder, "find"),
    "learnt filling of a tile": (NetworkInpainter, "_generate"),
}
"""Steps whose processor time is measured: the methods that run the networks."""

Row = dict[str, Any]


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the public sets"
    )
    parser.add_argument("--stills", type=int, default=12, help="different stills")
    parser.add_argument("--rounds", type=int, default=3, help="over all stills")
    parser.add_argument("--frames", type=int, default=300, help="of the cine")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--steps", action="store_true", help="processor time by step, and nothing else")
    arguments = parser.parse_args()
    if arguments.steps:
        print_steps(arguments.data, arguments.stills, arguments.frames)
        return 0
    machine = {"processor": platform.processor() or platform.machine(), "cores": usable_cores()}
    print(f"{machine['cores']} cores, load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="cleaning-") as name:
        folder = Path(name)
        stills = measure_stills(write_stills(arguments.data, folder, arguments.stills), arguments.rounds)
        print_stills(stills)
        long = write_cine(arguments.data, folder / "long.dcm", arguments.frames)
        short = write_cine(arguments.data, folder / "short.dcm", WARM_UP)
        cines = measure_cine(short, long, arguments.frames)
        print_cine(cines, arguments.frames)
        print_ratios(stills, cines)
    print(f"\nload average after: {os.getloadavg()[0]:.1f}")
    if arguments.json:
        report = {"machine": machine, "stills": stills, "cine": cines}
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


def write_stills(data: Path, folder: Path, count: int) -> list[Path]:
    """Write ``count`` public frames as uncompressed DICOM files into ``folder``, each with a name and a date
    burned in.
    """
    paths = []
    for number, dataset in enumerate(list(ultrasounds(data, count))[:count]):
        set_pixels(dataset, _marked(dataset.pixel_array, number), "RGB", 8)
        path = folder / f"still-{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_cine(data: Path, path: Path, count: int) -> Path:
    """``count`` frames of one public picture that sways and whose speckle moves, under a name and a clock."""
    dataset: Dataset = next(iter(ultrasounds(data, 1)))
    picture = cv2.resize(dataset.pixel_array, CINE, interpolation=cv2.INTER_AREA)
    generator = np.random.default_rng(1)
    frames = []
    for number in range(count):
        shift = np.array([[1, 0, 4 * math.sin(number / 9)], [0, 1, 3 * math.cos(number / 7)]], np.float32)
        swayed = cv2.warpAffine(picture, shift, CINE, borderMode=cv2.BORDER_REPLICATE)
        speckle = generator.normal(0, 6, swayed.shape[:2])[..., None] * (swayed > 12)
        frames.append(_marked(np.clip(swayed + speckle, 0, 255).astype(np.uint8), number // 30))
    set_pixels(dataset, np.stack(frames), "RGB", 8)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MULTI_FRAME
    dataset.NumberOfFrames, dataset.FrameTime, dataset.FrameIncrementPointer = count, 33, 0x00181063
    dataset.save_as(path, enforce_file_format=True)
    return path


def measure_stills(paths: Sequence[Path], rounds: int) -> list[Row]:
    """Measure every way of handling a still (decode, read, clean) on every file in turn, ``rounds`` times
    after a round that is not counted.

    Returns a row for each way, in seconds; ``detect`` and ``rest`` (fill and verify) are medians of the
    pipeline's own timings. ``ratio``: to one pass of rapidocr over the same file, [value, low, high].
    ``refused``: how often no image was returned.
    """
    shared_tools()
    with _by_itself() as apart:
        ways: dict[str, Callable[[Path], tuple[float, float, float, bool]]] = {
            DECODING: _decode,
            EVERY_FRAME: lambda path: apart.submit(_read, path).result(),
            **{f"cleaned, {policy}": partial(_clean, policy=policy) for policy in CleaningPolicy},
        }
        spans: dict[str, list[tuple[float, float, float, bool]]] = {what: [] for what in ways}
        for number in range(rounds + 1):
            for path in paths:
                order = list(ways.items())
                for what, way in order if number % 2 else reversed(order):
                    found = way(path)
                    if number:
                        spans[what].append(found)
    base = [span[0] for span in spans[EVERY_FRAME]]
    return [_still_row(what, found, base) for what, found in spans.items()]


def measure_cine(short: Path, long: Path, count: int) -> list[Row]:
    """Measure decoding, reading by rapidocr, and cleaning by each policy on the cine ``long`` of ``count``
    frames, in frames per second (``per_second``) and as a multiple of rapidocr's (``times``). Decoding runs
    in this process, all else in fresh ones.

    ``peak``: memory in MiB; ``more``: MiB more than for the cine ``short``, of 16 frames; both None where not
    measured.
    """
    image = open_dicom(long)
    began = time.perf_counter()
    for index in range(count):
        image.stored(index)
    decoding = count / (time.perf_counter() - began)
    shown = [image.display(index) for index in np.linspace(0, count - 1, min(SAMPLED, count)).astype(int)]
    with _by_itself() as apart:
        reading = len(shown) / apart.submit(_seconds_to_read, shown).result()
    found = [(DECODING, count, decoding, None, None), (EVERY_FRAME, len(shown), reading, None, None)]
    for policy in CleaningPolicy:
        seconds, peak, more = _in_own_process(short, long, policy)
        found.append((f"cleaned, {policy}", count, count / seconds, peak, more))
    names = ("what", "frames", "per_second", "peak", "more")
    return [dict(zip(names, row, strict=True)) | {"times": row[2] / reading} for row in found]


def print_stills(rows: Sequence[Row]) -> None:
    """Print the rows of ``measure_stills`` as a table in Markdown, and whether they reach the design's
    targets.
    """
    print(f"\nStill {STILL[0]} × {STILL[1]}, seconds\n")
    print(f"| what | n | p50 | p95 | finding p50 | filling and verifying p50 | × {EVERY_FRAME} | refused |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            "| {what} | {n} | {p50:.3f} | {p95:.3f} | {detect:.3f} | {rest:.3f} | {beside} "
            "| {refused} |".format(**row, beside=ratio_text(row["ratio"]))
        )
    for row in rows[2:]:
        met = "met" if row["p50"] <= MOST_SECONDS else "not met"
        print(f"\n{row['what']}: at most {MOST_SECONDS} s p50: {met}")


def print_cine(rows: Sequence[Row], count: int) -> None:
    """Print the rows of ``measure_cine`` as a table in Markdown, and whether they reach the design's targets.
    ``count``: frames of the cine.
    """
    print(f"\nCine of {count} frames {CINE[0]} × {CINE[1]}, RGB\n")
    print(f"| what | frames measured | frames/s | × {EVERY_FRAME} | peak MiB | more than 16 frames, MiB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        memory = " | " if row["peak"] is None else "{peak:.0f} | {more:.0f}".format(**row)
        print("| {what} | {frames} | {per_second:.1f} | {times:.1f} ".format(**row) + f"| {memory} |")
    whole = count * CINE[0] * CINE[1] * 3 / 2**20
    print(f"\nAll frames together are {whole:.0f} MiB.")
    for row in rows[2:]:
        met = "met" if row["per_second"] >= LEAST_RATE else "not met"
        print(f"\n{row['what']}: at least {LEAST_RATE:.0f} frames/s: {met}")


def print_ratios(stills: Sequence[Row], cines: Sequence[Row]) -> None:
    """Print the ratios to rapidocr alone, each with whether it reaches the design's target."""
    still = next(row["ratio"][0] for row in stills if row["what"] == CLEANED)
    times = next(row["times"] for row in cines if row["what"] == CLEANED)
    print(f"\nBeside {EVERY_FRAME}, {CLEANED}:\n")
    for what, value, aim, met in (
        ("still, times as long", still, f"at most {MOST_TIMES}", still <= MOST_TIMES),
        ("cine, times as fast", times, f"at least {LEAST_TIMES:.0f}", times >= LEAST_TIMES),
    ):
        print(f"* {what}: {value:.2f}, {aim}: {'met' if met else 'not met'}")


def print_steps(data: Path, stills: int, frames: int) -> None:
    """Print the processor time of cleaning by step, as tables in Markdown: ``stills`` under the policy
    clinical, and a cine of so many ``frames``, after one still that is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="cleaning-") as name, _by_itself() as apart:
        folder = Path(name)
        paths = write_stills(data, folder, stills)
        reading = apart.submit(_processor_seconds_to_read, paths).result() / len(paths)
        cine = write_cine(data, folder / "cine.dcm", frames)
        clean(open_dicom(paths[0]), lambda _share, _what: None)
        print(f"rapidocr alone: {reading:.2f} s of processor time a still")
        for what, files, count in (("still", paths, len(paths)), (f"cine of {frames} frames", [cine], 1)):
            print(f"\n| step of a {what} | times | seconds | × rapidocr alone |\n|---|---|---|---|")
            for step, (times, seconds) in _steps(files).items():
                took = seconds / count
                print(f"| {step} | {times / count:.1f} | {took:.3f} | {took / reading:.2f} |")


def _steps(paths: Sequence[Path]) -> dict[str, tuple[int, float]]:
    """How often each step was run in cleaning the files ``paths``, and its seconds of processor time."""
    steps: dict[str, tuple[int, float]] = dict.fromkeys(STEPS, (0, 0.0))

    def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*given, **named)
            finally:
                times, seconds = steps[step]
                steps[step] = times + 1, seconds + time.process_time() - began

        return run

    with contextlib.ExitStack() as patches:
        for step, (owner, name) in STEPS.items():
            patches.enter_context(patch.object(owner, name, timed(step, getattr(owner, name))))
        began = time.process_time()
        for path in paths:
            clean(open_dicom(path), lambda _share, _what: None)
        total = time.process_time() - began
    rest = total - sum(seconds for _, seconds in steps.values())
    return steps | {"all else": (len(paths), rest), "**all**": (len(paths), total)}


def _processor_seconds_to_read(paths: Sequence[Path]) -> float:
    """The seconds of processor time that rapidocr takes to read the files, after a first that is not
    counted.
    """
    ocr = _rapidocr()
    ocr(open_dicom(paths[0]).display())
    began = time.process_time()
    for path in paths:
        ocr(open_dicom(path).display())
    return time.process_time() - began


def _marked(picture: np.ndarray, number: int) -> np.ndarray:
    """The picture with an invented name and birth date, and a clock that shows ``number`` seconds."""
    image = Image.fromarray(picture)
    drawing = ImageDraw.Draw(image)
    height = image.height // 40
    drawing.text((10, 6), "KOWALSKA^MARIA  F  1957-08-23", fill=(255, 255, 255), font_size=height)
    drawing.text(
        (image.width - 12 * height, 6), f"10:15:{number % 60:02d}", fill=(255, 230, 0), font_size=height
    )
    return np.asarray(image)


def _by_itself() -> ProcessPoolExecutor:
    """A process for rapidocr alone: after our networks, its networks would take tiny numbers for zero too."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@cache
def _rapidocr() -> Callable[[np.ndarray], Any]:
    """rapidocr's reader of a whole picture, on all cores."""
    from rapidocr import RapidOCR

    params = {"Global.log_level": "critical", "Global.use_cls": False}
    threads = {"EngineConfig.onnxruntime.intra_op_num_threads": usable_cores()}
    reader: Callable[[np.ndarray], Any] = RapidOCR(params={**params, **threads})
    return reader


def _decode(path: Path) -> tuple[float, float, float, bool]:
    """The seconds that decoding a file takes, as a row of ``measure_stills``."""
    began = time.perf_counter()
    open_dicom(path).stored()
    return time.perf_counter() - began, 0.0, 0.0, False


def _read(path: Path) -> tuple[float, float, float, bool]:
    """The seconds that rapidocr takes to read a file, decoding included, as a row of ``measure_stills``."""
    ocr = _rapidocr()
    began = time.perf_counter()
    ocr(open_dicom(path).display())
    return time.perf_counter() - began, 0.0, 0.0, False


def _seconds_to_read(pictures: Sequence[np.ndarray]) -> float:
    """The seconds that rapidocr takes to read all pictures, after a first one that is not counted."""
    ocr = _rapidocr()
    ocr(pictures[0])
    began = time.perf_counter()
    for picture in pictures:
        ocr(picture)
    return time.perf_counter() - began


def _clean(path: Path, policy: CleaningPolicy) -> tuple[float, float, float, bool]:
    """Clean a file by the pipeline; returns seconds in all, seconds to detect, seconds to fill and verify
    (both NaN if the image was refused), whether it was refused.
    """
    began = time.perf_counter()
    try:
        result = clean(open_dicom(path), lambda _share, _what: None, policy=policy)
    except CleaningFailed:
        return time.perf_counter() - began, math.nan, math.nan, True
    seconds = time.perf_counter() - began
    return seconds, result.timings["detect"], result.timings["fill_and_verify"], False


def _still_row(what: str, found: Sequence[tuple[float, float, float, bool]], base: list[float]) -> Row:
    """A row of ``measure_stills``. ``what``: the way that was measured; ``found``: seconds, detection, rest
    and refusal of each run; ``base``: the seconds of rapidocr in the same runs.
    """
    seconds = [span[0] for span in found]
    return {
        "what": what,
        "n": len(found),
        "p50": statistics.median(seconds),
        "p95": float(np.percentile(seconds, 95)),
        "detect": float(np.nanmedian([span[1] for span in found])),
        "rest": float(np.nanmedian([span[2] for span in found])),
        "ratio": paired_ratio(seconds, base),
        "refused": sum(span[3] for span in found),
    }


def _in_own_process(short: Path, long: Path, policy: CleaningPolicy) -> tuple[float, float, float]:
    """Seconds of the long cine; MiB at its peak, and how much more that is than at the short one's."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_work, args=(short, long, policy, theirs), daemon=True).start()
    theirs.close()
    seconds, before, peak = ours.recv()
    return float(seconds), float(peak), float(peak - before)


def _work(short: Path, long: Path, policy: CleaningPolicy, pipe: Connection) -> None:
    """In a fresh process: clean the cine ``short``, then ``long``; sends (seconds for ``long``, most memory
    until the end of ``short``, most memory in all), memory in MiB without pages of files.
    """
    peaks = [0.0]

    def watch() -> None:
        while True:
            # What belongs to this process alone, without the pages of files.
            own = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
            assert own is not None
            peaks[-1] = max(peaks[-1], int(own[1]) / 1024)
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    clean(open_dicom(short), lambda _share, _what: None, policy=policy)
    peaks.append(peaks[0])
    began = time.perf_counter()
    clean(open_dicom(long), lambda _share, _what: None, policy=policy)
    pipe.send((time.perf_counter() - began, *peaks))


if __name__ == "__main__":
    sys.exit(main())
