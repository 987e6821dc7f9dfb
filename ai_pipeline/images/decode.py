"""Decode DICOM, PNG or JPEG to :class:`ai_pipeline.contract.SourceImage`; the node has no other decoder.

Frames are decoded from the file one at a time when asked for, so that a long cine is never in memory as a
whole.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from ai_pipeline.contract import ImageHeader, PixelArray
from ai_pipeline.errors import CodestreamFault, HeaderError, OutOfMemory, PixelError
from ai_pipeline.images import codestreams, resolutions
from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.display import GreyDisplay, colour_display, grey_range
from ai_pipeline.images.header import (
    NONE_GIVEN,
    GivenAttributes,
    check_palette,
    embedded_overlays,
    picture_header,
    read_header,
)
from ai_pipeline.images.limits import LIMITS, ImageLimits, lacks_memory
from ai_pipeline.images.numbers import whole_of

Picture = npt.NDArray[np.uint8]
MOST_PADDING = 0.05
"""Bytes after the last frame that are taken for padding, as a share of the frames."""


def open_dicom(file: Path | str, limits: ImageLimits = LIMITS) -> DicomImage:
    """Read the header of a DICOM file (Part 10); decodes no pixel yet.

    Raises :class:`PixelError`, also for an image beyond ``limits`` or in a transfer syntax that this package
    does not decode.
    """
    image = read_dicom(file, limits)
    image.check_decodable()
    return image


def read_dicom(file: Path | str, limits: ImageLimits = LIMITS) -> DicomImage:
    """Read the header of a DICOM file as :func:`open_dicom` does, whatever its transfer syntax."""
    path = Path(file)
    with _pydicom_may_warn(), _as_pixel_error("the file is not readable as DICOM"):
        codestreams.check_inflation(path, limits.inflated_mib)
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
        header = read_header(dataset)
        samples, bits = whole_of(dataset, "SamplesPerPixel", 1), whole_of(dataset, "BitsAllocated", 0)
        if header.photometric == "PALETTE COLOR":
            samples, bits = 3, max(bits, 16)
        if fault := limits.fault(header.rows, header.columns, header.frames, samples, bits):
            raise PixelError(fault)
    return DicomImage(path, dataset, header, syntax)


def open_picture(
    path: Path, modality: str, limits: ImageLimits = LIMITS, given: GivenAttributes = NONE_GIVEN
) -> PictureImage:
    """Open a PNG or JPEG as an image of ``modality`` (``"US"``, ``"DX"`` …) with the attributes ``given``.

    The UID is derived from the file's bytes (UUIDv5 under 2.25), so the same picture has the same UID.
    """
    return picture_of(path.read_bytes(), modality, limits, given)


def picture_of(data: bytes, modality: str, limits: ImageLimits, given: GivenAttributes) -> PictureImage:
    """Open the bytes of a PNG or JPEG as :func:`open_picture` opens a file."""
    with (
        _pydicom_may_warn(),
        _as_pixel_error("the file is not a readable picture"),
        Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture,
    ):
        if fault := limits.fault(picture.height, picture.width, samples=3):
            raise PixelError(fault)
        lossy = picture.format != "PNG"
        samples = _picture_samples(picture, data)
    digest = hashlib.sha256(data).hexdigest()
    uid = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, digest).int}"
    return PictureImage(uid, f"{uid}.1"[:64], picture_header(samples, modality, lossy, given), samples)


def open_image(
    path: Path, modality: str | None = None, given: GivenAttributes = NONE_GIVEN
) -> DicomImage | PictureImage:
    """Open a DICOM file or a picture. A picture needs ``modality``; for DICOM, ``modality`` and ``given`` are
    ignored.

    Raises :class:`PixelError`.
    """
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return open_dicom(path)
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        if modality is None:
            raise PixelError("a PNG or JPEG says nothing of its modality: give --modality US or DX")
        return open_picture(path, modality, given=given)
    raise PixelError("neither DICOM (Part 10) nor PNG nor JPEG")


def decoded_sha256(image: DicomImage | PictureImage | Path) -> str:
    """The hash of the decoded samples of all frames; it does not depend on the transfer syntax.

    The hash is over the shape, then little-endian samples before palette and LUTs; one frame in memory at a
    time.
    """
    source = open_dicom(image) if isinstance(image, Path) else image
    digest = hashlib.sha256()
    for index in range(source.header.frames):
        samples = source.decoded(index)
        if index == 0:
            digest.update(f"{source.header.frames}x{'x'.join(map(str, samples.shape))}".encode())
        digest.update(np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def samples_photometric(header: ImageHeader) -> Literal["MONOCHROME1", "MONOCHROME2", "RGB"]:
    """The photometric interpretation of the samples that ``stored()`` returns."""
    if header.photometric in {"MONOCHROME1", "MONOCHROME2"}:
        return cast(Literal["MONOCHROME1", "MONOCHROME2"], header.photometric)
    return "RGB"


@dataclass(slots=True)
class DicomImage:
    """A DICOM image whose frames are decoded on demand (:class:`ai_pipeline.contract.SourceImage`).

    Not for use by several threads at once: it keeps the frame decoded last.
    """

    path: Path
    dataset: Dataset = field(repr=False)  # it holds the patient's name
    header: ImageHeader
    transfer_syntax: UID
    _whole: Dataset | None = field(default=None, repr=False)
    _last: tuple[int, PixelArray] | None = field(default=None, repr=False)
    _whole_frames: bool = field(default=False, repr=False)

    def check_decodable(self) -> None:
        """Raise :class:`PixelError` if the header shows that the frames cannot be decoded."""
        with _pydicom_may_warn(), _as_pixel_error("the file is not readable as DICOM"):
            codestreams.check_decodable(self.transfer_syntax)
            if self.header.photometric == "PALETTE COLOR":
                check_palette(self.dataset, self.transfer_syntax)
            _check_length(self.path, self.dataset, self.transfer_syntax)

    @property
    def uid(self) -> str:
        with _pydicom_may_warn():
            return str(self.dataset.get("SOPInstanceUID") or "")

    @property
    def series_uid(self) -> str:
        with _pydicom_may_warn():
            return str(self.dataset.get("SeriesInstanceUID") or "")

    def stored(self, frame: int = 0) -> PixelArray:
        samples = self.decoded(frame)
        if self.header.photometric != "PALETTE COLOR":
            return samples
        with _pydicom_may_warn(), _as_pixel_error("the colour palette is unusable"):
            return _eight_bit_palette(np.asarray(apply_color_lut(samples, self.dataset)))

    def display(self, frame: int = 0, shorter_side: int = 0) -> Picture:
        times = resolutions.halvings(self.header, shorter_side) if shorter_side else 0
        samples = self._halved(frame, times) if times else None
        return self.show(self.stored(frame) if samples is None else samples, frame)

    def show(self, samples: PixelArray, frame: int = 0) -> Picture:
        if samples.ndim == 3:
            return colour_display(samples, self.header.bits_stored)
        with _pydicom_may_warn(), _as_pixel_error("the grey LUTs of the header are unusable"):
            return self.grey_display(frame).show(samples)

    def grey_display(self, frame: int = 0) -> GreyDisplay:
        """The windowing of frame ``frame``; its ``choice`` says where the window came from."""
        return GreyDisplay.from_dataset(_frame_attributes(self.dataset, frame))

    def decoded(self, frame: int) -> PixelArray:
        """The frame's samples, colour as RGB, palette indices not yet looked up."""
        self._check_frame(frame)
        if self._last is None or self._last[0] != frame:
            self._last = (frame, self._decode(frame))
        return self._last[1]

    def forget(self) -> None:
        """Free the memory of the frame that was decoded last."""
        self._last = self._whole = None

    def _decode(self, frame: int) -> PixelArray:
        self._check_ends()
        codestreams.prepare(self.transfer_syntax)
        with _pydicom_may_warn(), _as_pixel_error(f"the pixels do not decode ({self.transfer_syntax.name})"):
            samples = self._samples(frame)
        if samples.shape[:2] != (self.header.rows, self.header.columns):
            raise PixelError(
                f"decoded {samples.shape[0]} × {samples.shape[1]} pixels, "
                f"the header says {self.header.rows} × {self.header.columns}"
            )
        return _stored_bits(samples, self.dataset)

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < self.header.frames:
            raise PixelError(f"there is no frame {frame + 1} among {self.header.frames}")

    def _halved(self, frame: int, times: int) -> PixelArray | None:
        """The samples halved ``times``; None where only those of the image itself are right."""
        self._check_frame(frame)
        plain = self.dataset.get("PixelRepresentation") == 0 and self.dataset.get("SamplesPerPixel") == 1
        if not plain or "PixelPaddingValue" in self.dataset:
            return None
        with _pydicom_may_warn(), _as_pixel_error("the frames cannot be separated"):
            samples = resolutions.decoded(self.path, self.transfer_syntax, self.header, frame, times)
        if samples is not None:
            return samples
        return resolutions.halved(self.decoded(frame), self.header.bits_stored, times)

    def _check_ends(self) -> None:
        if self._whole_frames:
            return
        with _pydicom_may_warn(), _as_pixel_error("the frames cannot be separated"):
            cut = codestreams.first_cut_frame(self.path, self.transfer_syntax, self.header.frames)
        if cut is not None:
            raise PixelError(f"frame {cut} of {self.header.frames} is cut off ({self.transfer_syntax.name})")
        self._whole_frames = True

    def _samples(self, frame: int) -> PixelArray:
        # Bits above Bits Stored are cleared by us: below High Bit there may be more of them (old overlays).
        how = {"decoding_plugin": codestreams.plugin(self.transfer_syntax), "correct_unused_bits": False}
        # pydicom reads single frames straight from the file, but cannot inflate there.
        if self._whole is None and self.transfer_syntax != DeflatedExplicitVRLittleEndian:
            try:
                return np.asarray(pixel_array(self.path, index=frame, **how))
            except (AttributeError, ValueError):
                # ... and believes the transfer syntax: an implicit VR dataset under a JPEG syntax (seen in
                # the field) is found out only by dcmread. A truly damaged object fails there again.
                pass
        if self._whole is None:
            self._whole = pydicom.dcmread(self.path)
        return np.asarray(pixel_array(self._whole, index=frame, **how))


@dataclass(frozen=True, slots=True)
class PictureImage:
    """A PNG or JPEG as a pipeline sees it."""

    uid: str
    series_uid: str
    header: ImageHeader
    samples: PixelArray

    def stored(self, frame: int = 0) -> PixelArray:
        return self.decoded(frame)

    def decoded(self, frame: int) -> PixelArray:
        if frame != 0:
            raise PixelError(f"there is no frame {frame + 1} in a picture")
        return self.samples

    def display(self, frame: int = 0, shorter_side: int = 0) -> Picture:  # noqa: ARG002  (it is decoded)
        return self.show(self.decoded(frame))

    def show(self, samples: PixelArray, frame: int = 0) -> Picture:  # noqa: ARG002  (there is one)
        if samples.ndim == 3:
            return colour_display(samples, self.header.bits_stored)
        return grey_range(samples, self.header.bits_stored)


def _check_length(path: Path, dataset: Dataset, syntax: UID) -> None:
    """Refuse uncompressed pixels that are many more than the header describes: one of the two is wrong.

    Too few are found when decoding; some padding after the last frame is common.
    """
    if syntax.is_compressed:
        return
    pixels = pydicom.dcmread(path, specific_tags=["PixelData"], defer_size=1024)
    element = pixels.get_item("PixelData", keep_deferred=True)
    length, expected = getattr(element, "length", None), get_expected_length(dataset)
    if length is not None and length > expected * (1 + MOST_PADDING):
        raise PixelError(f"the pixel data are {length} bytes, the header describes {expected}")


def _frame_attributes(dataset: Dataset, frame: int) -> Dataset:
    """Return the LUT attributes valid for a frame; enhanced objects keep them in functional groups."""
    if "SharedFunctionalGroupsSequence" not in dataset:
        return dataset
    merged = Dataset()
    merged.file_meta = dataset.file_meta
    for keyword in ("PhotometricInterpretation", "BitsStored", "PixelRepresentation", "PixelPaddingValue"):
        if keyword in dataset:
            setattr(merged, keyword, dataset[keyword].value)
    groups = [dataset.SharedFunctionalGroupsSequence[0]]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups += [per_frame[frame]] if frame < len(per_frame) else []
    for group in groups:
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(macro) or [])[:1]:
                merged.update(item)
    return merged


def _stored_bits(samples: PixelArray, dataset: Dataset) -> PixelArray:
    """Clear what lies around the stored bits (old overlays, PS3.5 8.1.1) and extend the sign."""
    allocated = int(dataset.BitsAllocated)
    stored = whole_of(dataset, "BitsStored", 0, most=64) or allocated
    if samples.dtype.kind not in "iu" or stored >= allocated or samples.size == 0:
        return samples
    numbers = cast(npt.NDArray[np.integer[Any]], samples)
    below = _bits_below(dataset, stored)
    signed = samples.dtype.kind == "i"
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    if not below and low <= int(numbers.min()) and int(numbers.max()) <= high:
        return samples
    unused = allocated - stored
    return (numbers << (unused - below)) >> unused


def _bits_below(dataset: Dataset, stored: int) -> int:
    """How many bits lie under the stored ones; today none do (PS3.5 8.1.1).

    High Bit is wrong more often than it says this, so it is believed only when an overlay lies there.
    """
    below = whole_of(dataset, "HighBit", 0) + 1 - stored
    overlays = any(bit < below for bit in embedded_overlays(dataset)) if below > 0 else False
    return min(below, int(dataset.BitsAllocated) - stored) if overlays else 0


def _eight_bit_palette(colours: PixelArray) -> PixelArray:
    colours = colours[..., :3]
    if colours.dtype == np.uint8:
        return colours
    # 16-bit entries hold the colour in their high byte (PS3.3 C.7.6.3.1.6), some makers in the low one.
    numbers = cast(npt.NDArray[np.integer[Any]], colours)
    return (numbers >> (8 if int(numbers.max()) > 255 else 0)).astype(np.uint8)


def _picture_samples(picture: Image.Image, data: bytes) -> PixelArray:
    """Decoded by another process; in this one Pillow has read the header only."""
    colours = () if picture.mode in {"1", "L", "LA", "I", "I;16", "I;16B"} else (3,)
    depth = np.uint16 if picture.mode.startswith("I") else np.uint8
    samples = np.empty((picture.height, picture.width, *colours), depth)
    samples.data.cast("B")[:] = DECODER.decode("picture", data, samples.nbytes)
    return samples


_ABOUT_PIXELS = re.compile(
    "reshape|[Dd]ecode|Transfer Syntax|pixel data|Pixel Data|Offset Table|code stream|JPEG|RLE"
)
"""Words of a decoder's message that speaks of pixels, not of values of the header."""
# What pydicom and its decoders raise on damaged input (seen on its own damaged test files and by fuzzing).
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    HeaderError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    UnidentifiedImageError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    SyntaxError,
)


@contextmanager
def _as_pixel_error(what: str) -> Iterator[None]:
    try:
        yield
    except PixelError:
        raise
    except (HeaderError, CodestreamFault) as error:
        raise PixelError(str(error)) from error
    except _DAMAGE as error:
        if lacks_memory(error):
            raise OutOfMemory(f"{what}: there is not enough memory for it") from error
        raise PixelError(f"{what}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """Repeat the decoder's message where it is about pixels; header values (PHI) are not repeated."""
    if isinstance(error, Image.DecompressionBombError):
        return "its header asks for more pixels than a picture may have"
    text = " ".join(str(error).split()).rpartition(f"available plugins: {codestreams.PLUGIN}: ")[2]
    text = re.sub("value '[^']*'", "value …", text)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if _ABOUT_PIXELS.search(text):
        return text[:200]
    return type(error).__name__


@contextmanager
def _pydicom_may_warn() -> Iterator[None]:
    """Let the deviations pass that are common in the field and do not change a pixel."""
    with warnings.catch_warnings():
        for message in (
            "Expected explicit VR, but found implicit VR",
            "Expected implicit VR, but found explicit VR",
            r"Invalid value for VR",
            r"The value length \(\d+\) exceeds the maximum length",
            r"A value of .* for \(0028,0008\)",
            "The .0028,0004. 'Photometric Interpretation' value is",
            "The number of bytes of pixel data is sufficient to contain",
            r"The pixel data is \d+ bytes long, which indicates it contains",
            "The decoded RLE segment contains non-conformant padding",
            r"\d+ frames have been found in the encapsulated pixel data",
            "The number of items in .7FE0,0001.",
            "Unknown encoding|Incorrect value for Specific Character Set|Value .* cannot be used as code ext",
            "Failed to decode byte string",
            "The number of bytes of compressed pixel data matches",
            "The .0028,0101. 'Bits Stored' value|The .0028,0103.|A mismatch was found",
        ):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield
