"""Synthetic pictures with known burned-in annotation, and images made of arrays."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, generate_uid
from pylopdf_fonts_ko import sans_path

from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.contract import ImageHeader, ModelRef, PixelArray
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.display import GreyDisplay, colour_display
from tests.modality import assign

Picture = np.ndarray
Colour = tuple[int, int, int]
KOREAN_FONT = sans_path()
NAME = "KIM^MINJUN 1970-01-02"


def image_header(**values: Any) -> ImageHeader:
    """Of an ultrasound still in colour, but for what is given."""
    known = {"modality": "US", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1", "rows": 480, "columns": 640}
    return ImageHeader(**known | {"frames": 1, "photometric": "RGB", "bits_stored": 8} | values)


GREY = image_header(sop_class_uid="", photometric="MONOCHROME2")
CHEST = image_header(
    modality="DX",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    rows=512,
    columns=512,
    photometric="MONOCHROME2",
    body_part="CHEST",
    view_position="PA",
    presentation_intent="FOR PRESENTATION",
    age_years=50.0,
)


class ArrayImage:
    """A source image of samples in memory, ``[frames, rows, columns(, 3)]``; its header is as ``like`` but
    for its size, its colours and what is given.
    """

    def __init__(
        self,
        frames: PixelArray,
        *,
        like: ImageHeader = GREY,
        uid: str = "1.2.3",
        **header: Any,
    ) -> None:
        self.frames, self.uid, self.series_uid = frames, uid, "1.2"
        known = dict(zip(("frames", "rows", "columns"), frames.shape, strict=False))
        if frames.ndim == 4:
            known["photometric"] = "RGB"
        self.header = replace(like, **known | header)

    def stored(self, frame: int = 0) -> PixelArray:
        return self.frames[frame]

    def display(self, frame: int = 0, shorter_side: int = 0) -> Picture:
        return self.show(self.frames[frame], frame)

    def show(self, samples: PixelArray, frame: int = 0) -> Picture:
        if samples.ndim == 3:
            return colour_display(samples, self.header.bits_stored)
        return GreyDisplay.from_dataset(
            data_set(
                BitsStored=self.header.bits_stored,
                PhotometricInterpretation=self.header.photometric,
                PixelRepresentation=int(samples.dtype.kind == "i"),
            )
        ).show(samples)


def film(pixels: Picture, **header: Any) -> ArrayImage:
    """A frontal chest X-ray of these pixels."""
    return ArrayImage(pixels[None], like=CHEST, **header)


def echo(seed: int = 1, size: tuple[int, int] = (360, 480)) -> Picture:
    """A fan of speckle on black, ``[rows, columns]``, without any mark."""
    rows, columns = size
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    depth, angle = np.hypot(x - columns / 2, y + rows * 0.1), np.arctan2(x - columns / 2, y + rows * 0.1)
    inside = (np.abs(angle) < 0.6) & (depth > rows * 0.2) & (depth < rows * 1.0)
    speckle = generator.rayleigh(42.0, size)
    blurred = np.asarray(
        Image.fromarray(speckle.astype(np.float32)).resize((columns // 2, rows // 2)).resize((columns, rows))
    )
    tissue = np.clip((40 + 0.4 * blurred) * (1.0 - 0.5 * depth / rows) + 10, 0, 200)
    return np.where(inside, tissue, 0).astype(np.uint8)


def linear_echo(seed: int = 1, size: tuple[int, int] = (360, 480)) -> Picture:
    """The rectangle of a linear array, speckle on black, ``[rows, columns]``, without any mark."""
    rows, columns = size
    picture = np.zeros(size, np.uint8)
    tissue = picture[rows // 5 : rows - rows // 10, columns // 5 : columns - columns // 5]
    speckle = np.random.default_rng(seed).rayleigh(30.0, tissue.shape).astype(np.float32)
    half = tissue.shape[1] // 2, tissue.shape[0] // 2
    smooth = Image.fromarray(speckle).resize(half).resize(tissue.shape[::-1])
    tissue[...] = np.clip(20 + np.asarray(smooth), 5, 200)
    return picture


def noise(shape: tuple[int, ...], low: int = 0, high: int = 256) -> Picture:
    return np.random.default_rng(1).integers(low, high, shape).astype(np.uint8)


def rgb(grey: Picture) -> Picture:
    """The same greys in three channels."""
    return np.repeat(grey[..., None], 3, axis=-1)


def flow(picture: Picture) -> tuple[Picture, np.ndarray]:
    """The picture in RGB with a vessel of colour flow in it, and where the flow is."""
    colour = rgb(picture)
    rows, columns = picture.shape
    y, x = np.mgrid[0:rows, 0:columns]
    vessel = ((x - columns * 0.5) / 70) ** 2 + ((y - rows * 0.55) / 22) ** 2 < 1
    shade = (np.sin(x / 9.0) * 40 + 170).astype(np.uint8)
    red = np.stack([shade, shade // 4, 0 * shade], axis=2)
    colour[vessel] = np.where((x > columns * 0.55)[..., None], red[..., ::-1], red)[vessel]
    return colour, vessel


def burn(
    picture: Picture,
    text: str = NAME,
    place: tuple[int, int] = (12, 10),
    colour: int | Colour = 255,
    size: int = 18,
    *,
    upside_down: bool = False,
    font_file: Path | None = None,
) -> Picture:
    """Write ``text`` into a copy of the picture, as a scanner would."""
    font = ImageFont.truetype(str(font_file), size) if font_file else ImageFont.load_default(size)
    image = Image.fromarray(picture).rotate(180 if upside_down else 0)
    ImageDraw.Draw(image).text(place, text, fill=colour, font=font)
    return np.asarray(image.rotate(180 if upside_down else 0)).copy()


def burned_box(picture: Picture, burned: Picture) -> tuple[slice, slice]:
    """Where ``burn`` has changed the picture."""
    changed = (picture != burned) if picture.ndim == 2 else (picture != burned).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def parts(result: CleaningResult) -> tuple[Picture, np.ndarray]:
    """The first frame of what was cleaned, and its mask."""
    return np.asarray(result.image.frames[0]), np.asarray(result.mask.frames[0]) > 0


def cleaned(picture: Picture, **header: Any) -> tuple[Picture, np.ndarray]:
    """What cleaning leaves of a still, and the mask of what was filled."""
    return parts(clean(ArrayImage(picture[None], **header), silent))


def silent(share: float, what: str) -> None:
    """A progress report that nobody reads."""


def data_set(**values: Any) -> Dataset:
    """A data set of these attributes, in Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return assign(Dataset(), file_meta=meta, **values)


def write_dicom(
    path: Path, samples: PixelArray, syntax: str = ExplicitVRLittleEndian, **attributes: Any
) -> Path:
    """Write ``[frames, rows, columns(, 3)]`` as a Part 10 file; attributes override."""
    colour, bits = samples.ndim == 4, samples.dtype.itemsize * 8
    known = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1",
        **{f"{one}InstanceUID": generate_uid() for one in ("SOP", "Study", "Series")},
        "PatientName": "Secret^Name",
        "PatientID": "SECRETID",
        "Modality": "US",
        **dict(zip(("NumberOfFrames", "Rows", "Columns"), samples.shape, strict=False)),
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        **({"PlanarConfiguration": 0} if colour else {}),
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(samples.dtype.kind == "i"),
    }
    dataset = data_set()
    dataset.add_new("PixelData", "OW" if bits > 8 else "OB", samples.tobytes())
    assign(dataset, **known | attributes)
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


def encapsulated(
    path: Path, samples: PixelArray, fragments: Sequence[bytes], syntax: str, table: Sequence[int] = ()
) -> Path:
    """Write ``samples``' header and, as Pixel Data, these fragments behind this Basic Offset Table (PS3.5
    A.4).
    """
    dataset = pydicom.dcmread(write_dicom(path, samples))
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    parts = [struct.pack(f"<{len(table)}I", *table), *(one + b"\0" * (len(one) % 2) for one in fragments)]
    dataset.PixelData = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(one)) + one for one in parts)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def cine(count: int, seed: int = 5, size: tuple[int, int] = (240, 320)) -> list[Picture]:
    """Frames whose speckle moves."""
    return [echo(seed + index, size) for index in range(count)]


def decodes(folder: Path) -> bool:
    """Whether the next image is decoded as it should be."""
    good = open_dicom(write_dicom(folder / "good.dcm", echo()[None], JPEGLSLossless))
    return np.array_equal(good.stored(), echo())


MODEL = ModelRef("classes", "1", "a" * 64, "b" * 64, calibrated=True)
