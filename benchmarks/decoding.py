"""What it costs to decode a frame in the confined process, beside the same decoder in this one.

``python benchmarks/decoding.py``: a chest of 2500 × 2500 pixels of 12 bits and an ultrasound still of
1024 × 768 in RGB, drawn, in turn: milliseconds by the clock (median) and of processor time (mean). On a
machine that does other things too, only the second says something, with ``--rounds 50``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import psutil
from pydicom.encoders import get_encoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.decoder_process import DECODERS

ME = psutil.Process()
Decode = Callable[[], bytes | bytearray | memoryview]
PICTURES = {
    "chest 2500 x 2500": ((2500, 2500), np.uint16, 12),
    "ultrasound 1024 x 768": ((768, 1024, 3), np.uint8, 8),
}
SYNTAXES = {"JPEG 2000": ("openjpeg", JPEG2000Lossless), "JPEG-LS": ("charls", JPEGLSLossless)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="frames of each kind and way")
    rounds = parser.parse_args().rounds
    DECODER.start()
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
