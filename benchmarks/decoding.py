"""What it costs to decode a frame in the confined process, beside the same decoder in this one.

    python benchmarks/decoding.py [--rounds N] [--data DIR] [--pictures N]

    example: python benchmarks/decoding.py --rounds 50 --data ../shared/data

**Frames.** A chest of 2500 × 2500 pixels of 12 bits and an ultrasound still of 1024 × 768 in RGB, drawn, in
turn: milliseconds by the clock (median) and of processor time (mean). On a machine that does other things
too, only the second says something, with ``--rounds 50``.

**Pictures.** With ``--data``: from the file to findings, or to a cleaned picture, with the one and with the
other, in turn; the ratio is the geometric mean of the pairs with its 95 % interval.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
from pydicom import Dataset, dcmread
from pydicom.encoders import get_encoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Accept, Pipeline
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.decoder_process import DECODERS
from benchmarks.lab import command_line
from benchmarks.paired import paired_ratio, ratio_text
from benchmarks.turnaround import chests, ultrasounds

ME = psutil.Process()
Decode = Callable[[], bytes | bytearray | memoryview]
PICTURES = {
    "chest 2500 x 2500": ((2500, 2500), np.uint16, 12),
    "ultrasound 1024 x 768": ((768, 1024, 3), np.uint8, 8),
}
SYNTAXES = {"JPEG 2000": ("openjpeg", JPEG2000Lossless), "JPEG-LS": ("charls", JPEGLSLossless)}


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="frames of each kind and way")
    parser.add_argument("--data", type=Path, help="folder with the public sets: whole pictures too")
    parser.add_argument("--pictures", type=int, default=12, help="of each kind, each in turn three times")
    arguments = parser.parse_args()
    DECODER.start()
    _frames(arguments.rounds)
    if arguments.data:
        _pictures(arguments.data, arguments.pictures)


def _frames(rounds: int) -> None:
    print(f"{'':36}{'by the clock, ms':>30}{'processor time, ms':>30}")
    print(f"{'picture':24}{'syntax':12}" + f"{'here':>10}{'confined':>10}{'more':>10}" * 2)
    for picture, (shape, kind, bits) in PICTURES.items():
        samples = _speckle(shape, kind, bits)
        for syntax, (name, uid) in SYNTAXES.items():
            frame = _encoded(samples, bits, str(uid))
            ways: dict[str, Decode] = {
                "here": partial(DECODERS[name], frame),
                "confined": partial(DECODER.decode, name, frame, samples.nbytes),
            }
            figures = "".join(
                f"{here:10.1f}{confined:10.1f}{confined - here:10.1f}"
                for here, confined in zip(*_costs(ways, samples.nbytes, rounds), strict=True)
            )
            print(f"{picture:24}{syntax:12}{figures}")


def _pictures(data: Path, count: int) -> None:
    print(f"\n{'picture':24}{'syntax':12}{'here, ms':>10}{'confined, ms':>14}{'confined : here':>22}")
    with tempfile.TemporaryDirectory(prefix="decoding-") as name:
        for picture, pipeline, made in (
            ("chest 2500 x 2500", ChestXray(), chests(data, 3 * count)),
            ("ultrasound 1024 x 768", Ultrasound(), ultrasounds(data, 3 * count)),
        ):
            pipeline.warm_up()
            for syntax, paths in _written(made, Path(name), pipeline, count).items():
                spans = [(_here(pipeline, path), _seconds(pipeline, path)) for path in 3 * paths][1:]
                here, confined = zip(*spans, strict=True)
                ratio = ratio_text(paired_ratio(confined, here))
                print(
                    f"{picture:24}{syntax:12}{1000 * statistics.median(here):10.0f}"
                    f"{1000 * statistics.median(confined):14.0f}{ratio:>22}"
                )


def _written(made: Iterator[Dataset], folder: Path, pipeline: Pipeline, count: int) -> dict[str, list[Path]]:
    """``count`` pictures that ``pipeline`` accepts, as files in each of ``SYNTAXES``."""
    found: dict[str, list[Path]] = {syntax: [] for syntax in SYNTAXES}
    for dataset in made:
        plain = folder / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(plain, enforce_file_format=True)
        if not isinstance(pipeline.accepts([open_dicom(plain)]), Accept):
            continue
        for syntax, (name, uid) in SYNTAXES.items():
            path = plain.with_suffix(f".{name}.dcm")
            smaller = dcmread(plain)
            smaller.compress(uid)
            smaller.save_as(path)
            found[syntax].append(path)
        if len(found["JPEG-LS"]) == count:
            break
    return found


def _here(pipeline: Pipeline, path: Path) -> float:
    """As :func:`_seconds`, decoded in this process."""
    with mock.patch.object(DECODER, "decode", lambda name, frame, _: memoryview(DECODERS[name](frame))):
        return _seconds(pipeline, path)


def _seconds(pipeline: Pipeline, path: Path) -> float:
    began = time.perf_counter()
    images = [open_dicom(path)]
    assert isinstance(pipeline.accepts(images), Accept)
    with contextlib.suppress(CleaningFailed):  # as long a way
        pipeline.run(images, lambda _share, _what: None, {})
    return time.perf_counter() - began


def _costs(ways: dict[str, Decode], length: int, rounds: int) -> list[tuple[float, float]]:
    """Of each way: milliseconds by the clock (median) and of processor time (mean), in turn.

    The samples are copied, as pydicom does. The first round is not counted.
    """
    place = np.empty(length, np.uint8)
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processors = dict.fromkeys(ways, 0.0)
    for number in range(rounds + 1):
        for name, decode in ways.items():
            busy, began = _processor_seconds(), time.perf_counter()
            place[:] = np.frombuffer(decode(), np.uint8)
            if number:
                clock[name].append(time.perf_counter() - began)
                processors[name] += _processor_seconds() - busy
    return [(statistics.median(clock[name]) * 1000, processors[name] / rounds * 1000) for name in ways]


def _processor_seconds() -> float:
    """Of this process and the decoder's, which counts those of its frames when they have ended."""
    return time.process_time() + sum(sum(process.cpu_times()[:4]) for process in ME.children())


def _speckle(shape: tuple[int, ...], kind: type[np.generic], bits: int) -> np.ndarray:
    """Smooth shades with noise, which compress as films do."""
    down, across = np.indices(shape[:2])
    shades = (np.sin(down / 180) + np.cos(across / 230) + 2) / 4
    noise = np.random.default_rng(1).normal(0, 0.004, shape)
    grey = shades.reshape(*shape[:2], *(1,) * (len(shape) - 2)) * 0.9 + noise
    return (np.clip(grey, 0, 1) * (2**bits - 1)).astype(kind)


def _encoded(samples: np.ndarray, bits: int, syntax: str) -> bytes:
    colour = samples.ndim == 3
    return get_encoder(syntax).encode(
        samples,
        rows=samples.shape[0],
        columns=samples.shape[1],
        samples_per_pixel=3 if colour else 1,
        number_of_frames=1,
        bits_allocated=samples.itemsize * 8,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="RGB" if colour else "MONOCHROME2",
        planar_configuration=0,
    )


if __name__ == "__main__":
    main()
