"""What it costs to decode a frame in the confined process, beside the same decoder in this one.

``python benchmarks/decoding.py``: a chest of 2500 × 2500 pixels of 12 bits and an ultrasound still of
1024 × 768 in RGB, drawn; medians of alternating rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from pydicom.encoders import get_encoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.decoder_process import DECODERS

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
    print(f"{'picture':24}{'syntax':12}{'here ms':>10}{'confined ms':>13}{'more ms':>9}")
    for picture, (shape, kind, bits) in PICTURES.items():
        samples = _speckle(shape, kind, bits)
        for syntax, (name, uid) in SYNTAXES.items():
            frame = _encoded(samples, bits, str(uid))
            ways: dict[str, Callable[[], object]] = {
                "here": partial(DECODERS[name], frame),
                "confined": partial(DECODER.decode, name, frame, samples.nbytes),
            }
            here, confined = _medians(ways, rounds)
            print(f"{picture:24}{syntax:12}{here:10.1f}{confined:13.1f}{confined - here:9.1f}")


def _medians(ways: dict[str, Callable[[], object]], rounds: int) -> list[float]:
    """Milliseconds of each way, in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, decode in ways.items():
            began = time.perf_counter()
            decode()
            seconds[name].append(time.perf_counter() - began)
    return [statistics.median(times[1:]) * 1000 for times in seconds.values()]


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
