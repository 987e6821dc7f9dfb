#!/usr/bin/env python3
"""The chest model: what the pipeline adds to its network, and pixels in → findings out.

    benchmarks/inference.py [--data DIR] [--rounds N] [--images N] [--json FILE]

    example: benchmarks/inference.py --data ../shared/data --json inference.json

A table in Markdown of a 2,500 × 2,500 DX, uncompressed and as lossless JPEG 2000: the pipeline as a worker
runs it (open, decode, display, accept, network, boxes; then with heat maps), decoding apart, against
pydicom's decoding and the bare forward pass of the same image (paired by image and round).

The images are the public ones under ``--data``, enlarged and with detector noise, so that JPEG 2000 has as
much to decode as in real life. Absolute figures belong to the machine and to what else it does: the load
average is printed, read the ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import JPEG2000Lossless

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Accept
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models import engine
from ai_pipeline.models.registry import find, network_input
from benchmarks.lab import command_line
from benchmarks.paired import paired_ratio, ratio_text
from benchmarks.turnaround import SIZE, chests

NOISE = 16  # grey values of 4,096: lossless JPEG 2000 then reaches about 3 : 1, as on real detectors
SYNTAXES = ("uncompressed", "JPEG 2000 lossless")
MOST_OVERHEAD, MOST_SECONDS = 1.3, 0.5  # the design's targets
BARE = "bare: pydicom's decoding and the forward pass"
Spans = tuple[float, float]  # seconds: decoding, and the rest


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the public sets"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each image")
    parser.add_argument("--images", type=int, default=8, help="chest X-rays for the pipeline")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    machine = {"processor": platform.processor() or platform.machine(), "cores": engine.usable_cores()}
    print(f"{machine['cores']} cores, load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="inference-") as name:
        files = make_files(arguments.data, Path(name), arguments.images)
        pipeline = measure_pipeline(files, arguments.rounds)
    print_pipeline(pipeline)
    print(f"\nload average after: {os.getloadavg()[0]:.1f}")
    if arguments.json:
        report = {"machine": machine, "pipeline": pipeline}
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


def make_files(data: Path, folder: Path, count: int) -> dict[str, list[Path]]:
    """``count`` chest X-rays that the pipeline accepts, as DICOM files in each of ``SYNTAXES``."""
    pipeline = ChestXray()
    found: dict[str, list[Path]] = {syntax: [] for syntax in SYNTAXES}
    for number, dataset in enumerate(chests(data, 3 * count)):
        noise = np.random.default_rng(number).integers(0, NOISE, (SIZE, SIZE), np.uint16)
        dataset.PixelData = np.minimum(dataset.pixel_array + noise, 4095).astype("<u2").tobytes()
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        if not isinstance(pipeline.accepts([open_dicom(path)]), Accept):
            continue
        dataset.compress(JPEG2000Lossless)
        smaller = folder / f"{number}-j2k.dcm"
        dataset.save_as(smaller, enforce_file_format=True)
        for syntax, made in zip(SYNTAXES, (path, smaller), strict=True):
            found[syntax].append(made)
        if len(found[SYNTAXES[0]]) == count:
            break
    return found


def measure_pipeline(files: dict[str, list[Path]], rounds: int) -> list[dict[str, Any]]:
    """Measure the pipeline, and decoder and network alone (``BARE``), on the same files in turn, ``rounds``
    times after a round that is not counted.

    Returns a row for each transfer syntax and way, medians in ms. ``decode``: from the file to stored
    samples; ``rest``: from there to the findings, for ``BARE`` only the network's forward pass; ``ratio``: of
    the whole time to that of ``BARE``, by pairs of the same file.
    """
    runner = _Runner()
    spans: dict[tuple[str, str], list[Spans]] = {
        (syntax, asked): [] for syntax in files for asked in runner.ways
    }
    for number in range(rounds + 1):
        for syntax, paths in files.items():
            for path in paths:
                ways = list(runner.ways.items())
                for asked, way in ways if number % 2 else reversed(ways):
                    found = way(path)
                    if number:
                        spans[syntax, asked].append(found)
    return [
        _pipeline_row(syntax, asked, found, spans[syntax, BARE]) for (syntax, asked), found in spans.items()
    ]


class _Runner:
    """The ways to run one file, by name; each returns the seconds that decoding took, and the seconds of the
    rest.
    """

    def __init__(self) -> None:
        """Load the pipeline, and the network that it runs."""
        self._pipeline = ChestXray()
        self._pipeline.warm_up()
        self._card = find(CLASSIFIER.shipped)
        self._network = engine.load(self._card, "classifier")  # the one that the pipeline runs
        self._prepared: dict[Path, npt.NDArray[np.float32]] = {}
        self.ways: dict[str, Callable[[Path], Spans]] = {
            BARE: self._bare,
            "findings and boxes": lambda path: self._whole(path, heatmaps=False),
            "with heat maps": lambda path: self._whole(path, heatmaps=True),
        }

    def _bare(self, path: Path) -> Spans:
        """Decode a file by pydicom alone, and run the network alone, on an input that was prepared before the
        clock starts.
        """
        if path not in self._prepared:
            assert self._card.input is not None
            self._prepared[path] = network_input(open_dicom(path).display(), self._card.input)[0]
        began = time.perf_counter()
        samples = pydicom.dcmread(path).pixel_array
        decoded = time.perf_counter()
        self._network(self._prepared[path])
        done = time.perf_counter()
        assert samples.shape == (SIZE, SIZE)
        return decoded - began, done - decoded

    def _whole(self, path: Path, *, heatmaps: bool) -> Spans:
        """Run the whole pipeline on a file, with or without heat maps."""
        began = time.perf_counter()
        image = open_dicom(path)
        accepted = self._pipeline.accepts([image])
        result = self._pipeline.run([image], lambda _share, _what: None, {"heatmaps": heatmaps})
        done = time.perf_counter()
        assert isinstance(accepted, Accept) and result.findings
        decoding = result.timings["decode"]  # with windowing, and halving
        return decoding, done - began - decoding


def print_pipeline(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of ``measure_pipeline`` as a table in Markdown, and whether they reach the design's
    targets.
    """
    print(f"\nDX {SIZE} × {SIZE}, ms\n")
    print("| encoding | asked | decode p50 | rest p50 | whole p50 | whole p95 | × bare | n |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            "| {syntax} | {asked} | {decode:.1f} | {rest:.1f} | {whole:.1f} | {whole_p95:.1f} | {beside} "
            "| {runs} |".format(**row, beside=ratio_text(row["ratio"]))
        )
    print("\n| target | aim | found | met |")
    print("|---|---|---|---|")
    for row in rows:
        if row["asked"] == BARE:
            continue
        name, ratio = f"{row['syntax']}, {row['asked']}", row["ratio"][0]
        print(f"| overhead, {name} | ≤ {MOST_OVERHEAD} × | {ratio:.2f} × | {_yes(ratio <= MOST_OVERHEAD)} |")
        apart = row["syntax"] != SYNTAXES[0]
        milliseconds = row["rest" if apart else "whole"]
        what = "findings out, decoding apart" if apart else "findings out"
        met = _yes(milliseconds <= 1000 * MOST_SECONDS)
        print(f"| {what}, {name} | ≤ {1000 * MOST_SECONDS:.0f} ms | {milliseconds:.0f} ms | {met} |")


def _pipeline_row(syntax: str, asked: str, found: Sequence[Spans], bare: Sequence[Spans]) -> dict[str, Any]:
    """A row of ``measure_pipeline``. ``found``: the times of the way ``asked``; ``bare``: those of ``BARE``
    on the same files.
    """
    whole = [decode + rest for decode, rest in found]
    return {
        "syntax": syntax,
        "asked": asked,
        "runs": len(found),
        "decode": 1000 * statistics.median(decode for decode, _ in found),
        "rest": 1000 * statistics.median(rest for _, rest in found),
        "whole": 1000 * statistics.median(whole),
        "whole_p95": 1000 * float(np.percentile(whole, 95)),
        "ratio": paired_ratio(whole, [decode + rest for decode, rest in bare]),
    }


def _yes(met: bool) -> str:
    return "yes" if met else "no"


if __name__ == "__main__":
    sys.exit(main())
