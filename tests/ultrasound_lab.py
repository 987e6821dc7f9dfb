"""Ultrasound with a known name, date and number burned in, in encodings of every kind that scanners send."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import (
    JPEG2000,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.modality import add_overlay, name_in_japanese, set_pixels, ultrasound_from
from tests.unit.ai_pipeline.phantoms import burn, echo, flow

NAME, BORN, NUMBER = "KOWALSKA MARIA", "1957-08-23", "48271935"
SECRETS = ("KOWALSKA", "MARIA", BORN, NUMBER)
SIZE = (160, 240)  # rows, columns: hardly more than the text takes, most of the time is the search for it
FRAMES = 4
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
FRAME_TIME = 0x00181063


@dataclass(frozen=True)
class Encoding:
    """One way to store ultrasound.

    ``write`` makes pixel data of 8-bit samples ``[frames, rows, columns(, 3)]`` in a prepared data set.
    """

    name: str
    frames: int
    colour: bool
    write: Callable[[Dataset, np.ndarray], None]


def picture(seed: int, size: tuple[int, int], *, colour: bool) -> np.ndarray:
    """Speckle with a name and a date above it and a number in the tissue; colour has flow in it too."""
    clean = echo(seed, size)
    base = flow(clean)[0] if colour else clean
    yellow: Any = (255, 230, 0) if colour else 255
    white: Any = (255, 255, 255) if colour else 255
    rows, columns = size
    height = max(13, round(rows / 18))  # the reader needs so much
    marked = burn(base, NAME, (8, 4), yellow, height)
    marked = burn(marked, BORN, (8, 10 + height), white, height)
    return burn(marked, "ID " + NUMBER, (columns // 3, round(rows * 0.78)), white, height)


def write(encoding: Encoding, folder: Path) -> Path:
    samples = np.stack([picture(7 + frame, SIZE, colour=encoding.colour) for frame in range(encoding.frames)])
    ds = ultrasound_from(f"us-{encoding.name}", np.zeros((*SIZE, 3), np.uint8))
    del ds.PixelData, ds.PlanarConfiguration
    if encoding.frames > 1:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MULTI_FRAME
        ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = encoding.frames, 40, FRAME_TIME
    ds.BurnedInAnnotation = "YES"
    encoding.write(ds, samples)
    path = folder / f"{encoding.name}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def decoded(file: Path | bytes) -> np.ndarray:
    """The samples ``[frames, rows, columns(, 3)]`` by pydicom, after one YBR→RGB or palette→RGB step."""
    ds = dcmread(file if isinstance(file, Path) else io.BytesIO(file))
    samples = pixel_array(ds)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        samples = apply_color_lut(samples, ds)
        samples = (samples >> 8).astype(np.uint8) if samples.dtype == np.uint16 else samples
    return samples if int(ds.get("NumberOfFrames") or 1) > 1 else samples[None]


class Reader:
    """Reads with rapidocr as it is installed; remembers what it read of a picture.

    ``side``: to which the shorter side of smaller pictures is enlarged (pixels).
    """

    def __init__(self, side: int = 736) -> None:
        from rapidocr import RapidOCR

        how = {
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Det.limit_side_len": side,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,  # more threads spin
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self._reader = RapidOCR(params=how)
        self._known: dict[tuple[object, ...], list[str]] = {}

    def secrets(self, picture: np.ndarray) -> list[str]:
        """Which secrets can be read in the picture, also in part."""
        key = (picture.shape, picture.tobytes())
        if key not in self._known:
            self._known[key] = told(words(picture, self._reader))
        return self._known[key]


def words(image: np.ndarray, reader: Any) -> str:
    """Everything that ``reader``, a ``rapidocr.RapidOCR``, reads in an 8-bit picture; letters and digits."""
    three = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    return "".join(filter(str.isalnum, "".join(reader(np.ascontiguousarray(three)).txts or ()))).upper()


def told(text: str) -> list[str]:
    """Which of the secrets stand in ``text``, also in part: four characters in a row are enough."""
    return [secret for secret in SECRETS if any(piece in text for piece in pieces(secret))]


def pieces(secret: str) -> list[str]:
    """All runs of four characters of the secret's letters and digits."""
    plain = "".join(filter(str.isalnum, secret))
    return [plain[start : start + 4] for start in range(len(plain) - 3)]


def _native(
    ds: Dataset, samples: np.ndarray, photometric: str = "", dtype: str = "u1", bits: int = 8
) -> None:
    pixels = (samples.astype(np.int64) * (2**bits - 1) // 255).astype(dtype)
    set_pixels(ds, pixels, photometric or ("RGB" if samples.ndim == 4 else "MONOCHROME2"), bits)


def _compressed(ds: Dataset, samples: np.ndarray, syntax: str, photometric: str = "", **how: Any) -> None:
    _native(ds, samples, photometric)
    ds.compress(syntax, generate_instance_uid=False, **how)  # it was never stored as anything else
    if syntax == JPEG2000:
        _say_lossy(ds, "ISO_15444_1")


def _jpeg(ds: Dataset, samples: np.ndarray, **how: Any) -> None:
    frames = []
    for frame in samples:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=92, **how)
        frames.append(file.getvalue())
    photometric = "MONOCHROME2" if samples.ndim == 3 else "RGB" if how.get("keep_rgb") else "YBR_FULL_422"
    _native(ds, samples, photometric)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    _say_lossy(ds, "ISO_10918_1")


def _say_lossy(ds: Dataset, method: str) -> None:
    ds.LossyImageCompression, ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = "01", 8, method


def _palette(ds: Dataset, samples: np.ndarray, bits: int = 8, syntax: str = "") -> None:
    """Grey indices under a palette that tints: dark is blue, light is yellow."""
    if syntax:
        _compressed(ds, samples, syntax, "PALETTE COLOR")
    else:
        _native(ds, samples, "PALETTE COLOR")
    grey = np.arange(256)
    for channel, tint in (("Red", grey), ("Green", grey * 9 // 10), ("Blue", 30 + grey // 3)):
        # A 16-bit entry holds the colour in its high byte (PS3.3 C.7.6.3.1.6); 8-bit entries are packed.
        entries = tint.astype("<u2") * 257 if bits == 16 else tint.astype(np.uint8)
        setattr(ds, f"{channel}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(ds, f"{channel}PaletteColorLookupTableData", entries.tobytes())


def _deep(ds: Dataset, samples: np.ndarray) -> None:
    """16 bits, bright where the sample is small; with an overlay, of a patient with a Japanese name."""
    _native(ds, 255 - samples, "MONOCHROME1", "<u2", 16)
    name_in_japanese(ds)
    add_overlay(ds)


ENCODINGS: Mapping[str, Encoding] = {
    one.name: one
    for one in (
        Encoding("still-jpeg-rgb", 1, True, partial(_jpeg, keep_rgb=True)),
        Encoding(
            "still-jpeg-2000-ict", 1, True,
            partial(_compressed, syntax=JPEG2000, photometric="YBR_ICT", j2k_psnr=[46]),
        ),
        Encoding("still-rle-palette-16", 1, False, partial(_palette, bits=16, syntax=RLELossless)),
        Encoding("still-inverted-16-bit", 1, False, _deep),
        Encoding("cine-jpeg-ybr-full-422", FRAMES, True, partial(_jpeg, subsampling="4:2:2")),
        Encoding("cine-grey", FRAMES, False, _native),
    )
}  # fmt: skip
"""Stills and cines of different kinds. That each form is decoded right: tests/unit/ai_pipeline/images."""
