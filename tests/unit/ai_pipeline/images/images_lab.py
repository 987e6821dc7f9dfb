"""Pictures in every encoding, and what they are when decoded."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space, pack_bits
from pydicom.uid import JPEGBaseline8Bit

from ai_pipeline.contract import PixelArray
from ai_pipeline.images.decode import DicomImage, open_dicom
from tests.unit.ai_pipeline.phantoms import Picture, burn, cine, echo, encapsulated, rgb, write_dicom
from tests.unit.receive.objects import changed

# Samples of 12 bits with noise and edges.
RAMP = np.random.default_rng(3).integers(0, 40, (403, 310)) + 13 * np.arange(310)[None]


SOURCE = rgb(echo(3, (240, 320)))
SOURCE[100:150, 120:160], SOURCE[100:150, 160:200] = (200, 30, 20), (20, 60, 210)
SOURCE = burn(SOURCE, "MUSTER^PROBE 4711", (8, 8), (255, 255, 255), 16)


YCC = convert_color_space(SOURCE, "RGB", "YBR_FULL")


EVERY = ["RGB", "rgb", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_422"]


def encoded(picture: Picture, kind: str = "JPEG", **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **how)
    return stream.getvalue()


def jpeg(*, rgb: bool = False, subsampling: int = 0, markers: bool = True, identifiers: bytes = b"") -> bytes:
    """A baseline JPEG of SOURCE, perhaps without the markers JFIF and Adobe, its components renamed."""
    data = encoded(SOURCE, quality=95, subsampling=subsampling, keep_rgb=rgb)
    bare = re.sub(rb"\xff\xe0\0\x10JFIF.{10}|\xff\xee\0\x0eAdobe.{7}", b"", data, flags=re.DOTALL)
    renamed = bytearray(data if markers else bare)
    for number, identifier in enumerate(identifiers):
        renamed[renamed.index(b"\xff\xc0") + 10 + 3 * number] = identifier
        renamed[renamed.index(b"\xff\xda") + 5 + 2 * number] = identifier
    return bytes(renamed)


def assert_colours(path: Path, photometric: str) -> None:
    """Called so in its header, the picture has the colours of SOURCE: PSNR over 27."""
    image = open_dicom(relabelled(path, photometric))
    error = (image.stored(image.header.frames - 1).astype(float) - SOURCE) ** 2
    assert 10 * np.log10(255**2 / (error.mean() + 1e-9)) > 27, photometric


def relabelled(path: Path, photometric: str) -> Path:
    dataset = dcmread(path)
    # "rgb" is no code string.
    dataset.add(DataElement(0x00280004, "CS", photometric, validation_mode=IGNORE))
    dataset.save_as(path)
    return path


FRAMES = np.stack(cine(4, size=(96, 128)))


def stream_of(number: int) -> bytes:
    stream = encoded(FRAMES[number], quality=95)
    return stream + b"\0" * (len(stream) % 2)


STREAMS = [stream_of(number) for number in range(4)]


def split(frame: bytes) -> list[bytes]:
    return [frame[:1000], frame[1000:]]


def still(path: Path, frame: bytes, syntax: str = JPEGBaseline8Bit) -> DicomImage:
    return open_dicom(encapsulated(path / "x.dcm", FRAMES[:1], [frame], syntax))


def close_to(image: DicomImage, number: int) -> bool:
    """Whether the decoded frame is as close to the one that was compressed as JPEG lets it be."""
    return bool(abs(image.stored(number).astype(int) - FRAMES[number]).mean() < 3)


ROWS, COLUMNS = 64, 80


def grey(signed: bool) -> PixelArray:
    """All values of 12 bits, by and by."""
    ramp = np.arange(ROWS * COLUMNS).reshape(1, ROWS, COLUMNS) % 4096
    return (ramp - 2048).astype(np.int16) if signed else ramp.astype(np.uint16)


def writing() -> PixelArray:
    drawn = np.zeros((ROWS, COLUMNS), np.uint8)
    drawn[10:20, 5:60:3] = 1
    return drawn


def add_plane(dataset: Dataset, group: int, drawn: PixelArray | None, position: int = 0) -> None:
    """An overlay plane: with its own data, or in bit ``position`` of the pixel data (retired)."""
    elements = [
        *((0x0010, "US", ROWS), (0x0011, "US", COLUMNS), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1])),
        *((0x0100, "US", 1 if drawn is not None else 16), (0x0102, "US", position)),
        *([] if drawn is None else [(0x3000, "OW", pack_bits(drawn.ravel()))]),
    ]
    for element, vr, value in elements:
        dataset.add_new((group, element), vr, value)


def with_planes(path: Path, planes: dict[int, PixelArray]) -> Path:
    dataset = dcmread(path)
    for group, drawn in planes.items():
        add_plane(dataset, group, drawn)
    dataset.save_as(path)
    return path


def embedded(path: Path, syntax: str, values: PixelArray, bit: int, low: int = 0) -> Path:
    """``values`` of 12 bits from bit ``low`` on, with the writing in bit ``bit`` of the same words."""
    words = ((values.view(np.uint16) & 0x0FFF) << low) | (writing()[None].astype(np.uint16) << bit)
    write_dicom(path, words, syntax)  # an encoder must take all 16 bits for stored
    signed = int(values.dtype.kind == "i")
    dataset = changed(dcmread(path), BitsStored=12, HighBit=11 + low, PixelRepresentation=signed)
    add_plane(dataset, 0x6000, None, bit)
    dataset.save_as(path)
    return path


def lut(descriptor: list[int], data: bytes | list[int], kind: str = "US") -> Dataset:
    """The item of a look-up table; ``kind``: the VR of its descriptor."""
    item = Dataset()
    item.add_new("LUTDescriptor", kind, descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return item


def small_picture(seed: int) -> tuple[bytes, bytes]:
    return encoded(echo(seed), "PNG"), echo(seed).tobytes()


DEEP = echo(3, (96, 128)).astype(np.uint16) * 16
