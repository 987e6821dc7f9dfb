"""Decode DICOM and pictures to :class:`ai_pipeline.contract.SourceImage`; the node has no other decoder.

Frames are decoded from the file one at a time, so that a long cine is never in memory as a whole.

A JPEG 2000 can be decoded at one of the lower resolutions that it has (ITU-T T.800 B.5): a quarter of the
pixels takes about a quarter of the time. Networks that reduce a film anyway, thumbnails and pages get it so;
whatever copies pixels decodes the frame in full. Other transfer syntaxes are halved by the same filter, so
that a film gives the same findings however it was compressed without loss.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from ai_pipeline.contract import ImageHeader, Picture, PixelArray
from ai_pipeline.errors import CodestreamFault, HeaderError, ImageTooLarge, PixelError, disk_fault
from ai_pipeline.images import codestreams, colours
from ai_pipeline.images.codestreams import Fragments
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.images.decoder import DECODER, DEEPEST, PICTURE_HEADER
from ai_pipeline.images.display import GreyDisplay, colour_display, grey_range
from ai_pipeline.images.header import (
    GREY,
    NO_ATTRIBUTES,
    PixelAttributes,
    StatedAttributes,
    check_palette,
    embedded_overlays,
    normalise_terms,
    picture_header,
    read_header,
)
from ai_pipeline.images.limits import LIMITS, ImageLimits, lacks_memory
from ai_pipeline.images.numbers import value_of, whole, whole_of


def halvings(header: ImageHeader, shorter_side: int) -> int:
    """How often a grey image of up to 16 bits can be halved so that its shorter side still has
    ``shorter_side`` pixels.
    """
    if header.photometric not in GREY or header.bits_stored > 16:
        return 0
    return min(DEEPEST, int(math.log2(max(1.0, min(header.rows, header.columns) / shorter_side))))


def decoded_smaller(frame: bytes, header: ImageHeader, times: int) -> PixelArray | None:
    """Decode a JPEG 2000 at a lower resolution, halved ``times``: uint16 ``[rows, columns]``. None if the
    frame must be decoded in full: it is not of unsigned grey samples, it has no such resolution, or the
    decoding process is not confined here (docs/decisions.md). Raises NoDecoder.
    """
    if DECODER.lacks():
        return None
    try:
        data = codestreams.without_jp2(frame)
        if codestreams.decomposition_levels(data, header) < times:
            return None
        rows, columns = (-(-side // 2**times) for side in (header.rows, header.columns))
        samples = DECODER.decode(f"halved{times}", data, rows * columns * 2)
    except (CodestreamFault, struct.error):  # to decode it in full tells what is wrong
        return None
    return np.frombuffer(samples, np.uint16).reshape(rows, columns).copy()


def halved(samples: PixelArray, bits: int, times: int) -> PixelArray:
    """Halve unsigned grey samples of this many ``bits`` in size, ``times`` times. The result equals that of
    :func:`decoded_smaller` for a lossless file: the low band of the reversible 5-3 filter (T.800 F.4.8).
    """
    band = cast(npt.NDArray[np.integer[Any]], samples)
    for _ in range(times):
        band = _low_band(_low_band(band).T).T
    return np.asarray(np.clip(band, 0, 2**bits - 1), np.uint16)


def _low_band(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """The low band of each column: every other row, smoothed by its neighbours."""
    low = values[::2].astype(np.int32)
    if len(values) < 2:
        return low
    detail = values[1::2].astype(np.int32)
    inner = len(low) - 1  # pairs of even rows; beyond the last row is its mirror image
    detail[:inner] -= (low[:-1] + low[1:]) >> 1
    detail[inner:] -= low[-1]
    low[0] += (2 * detail[0] + 2) >> 2
    between = len(detail) - 1
    low[1 : 1 + between] += (detail[:-1] + detail[1:] + 2) >> 2
    low[1 + between :] += (2 * detail[-1] + 2) >> 2
    return low


def to_full_size(rows: int, header: ImageHeader) -> Affine:
    """The map of coordinates from a picture of ``rows`` rows, halved any number of times, to the full image
    of ``header``. Its samples lie on every second, fourth … sample of the image, the first on the first
    (T.800 annex F).
    """
    times = round(math.log2(header.rows / rows))
    return Affine(2.0**times, 0.0, (1 - 2.0**times) / 2, 0.0, 2.0**times, (1 - 2.0**times) / 2)


PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
"""How the files of pictures begin that are read: PNG, JPEG, and TIFF in both orders of bytes."""
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
        with path.open("rb") as opened:
            dataset = pydicom.dcmread(opened, stop_before_pixels=True)
            pixels_at = opened.tell()
        normalise_terms(dataset)
        syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
        header = read_header(dataset)
        samples, bits = whole_of(dataset, "SamplesPerPixel", 1), whole_of(dataset, "BitsAllocated", 0)
        if header.photometric == "PALETTE COLOR":
            samples, bits = 3, max(bits, 16)
        if fault := limits.fault(header.rows, header.columns, header.frames, samples, bits):
            raise ImageTooLarge(fault)
    return DicomImage(path, dataset, header, syntax, pixels_at)


def read_object(file: Path | str, limits: ImageLimits = LIMITS) -> DicomImage | DicomObject:
    """Read the header of any DICOM file: of what is no image that is decoded here a DicomObject.

    Raises :class:`PixelError` for a file that is not readable as DICOM at all.
    """
    path = Path(file)
    try:
        return read_dicom(path, limits)
    except PixelError as error:
        fault = str(error)
    with _pydicom_may_warn(), _as_pixel_error("the file is not readable as DICOM"):
        codestreams.check_inflation(path, limits.inflated_mib)
        words = ("SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "NumberOfFrames")
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(words))
        uid, series, sop_class, modality = (str(found.get(word) or "") for word in words[:-1])
        frames = whole(value_of(found, "NumberOfFrames")) or 1
    header = replace(NO_PIXELS, modality=modality, sop_class_uid=sop_class, frames=frames)
    return DicomObject(uid, fault, series, header, path)


def open_picture(
    path: Path, modality: str, limits: ImageLimits = LIMITS, given: StatedAttributes = NO_ATTRIBUTES
) -> PictureImage:
    """Open a PNG, JPEG or TIFF as an image of ``modality`` (``"US"``, ``"DX"`` …) with the attributes
    ``given``.

    The UID is derived from the file's bytes (UUIDv5 under 2.25), so the same picture has the same UID. Raises
    :class:`PixelError`.
    """
    if (mib := path.stat().st_size >> 20) > limits.picture_mib:
        raise PixelError(f"the file has {mib} MiB: a picture may have {limits.picture_mib}")
    return picture_of(path.read_bytes(), modality, limits, given)


def picture_of(data: bytes, modality: str, limits: ImageLimits, given: StatedAttributes) -> PictureImage:
    """Open the bytes of a PNG, JPEG or TIFF as :func:`open_picture` opens a file; a picture that says how it
    was held (EXIF Orientation) is turned upright.

    The decoding process reads all of it: first the header alone, then the pixels of a picture within
    ``limits``. Raises :class:`PixelError`, also for a file of several pictures (pages, an animation).
    """
    with _as_pixel_error("the file is not a readable picture"):
        about = PICTURE_HEADER.unpack(DECODER.decode("header", data, PICTURE_HEADER.size))
        rows, columns, colours, size, lossy = about
        if fault := limits.fault(rows, columns, samples=colours, bits=8 * size):
            raise ImageTooLarge(fault)
        sides = (rows, columns, colours) if colours > 1 else (rows, columns)
        samples = np.empty(sides, f"u{size}")
        samples.data.cast("B")[:] = DECODER.decode("picture", data, samples.nbytes)
    digest = hashlib.sha256(data).hexdigest()
    uid = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, digest).int}"
    return PictureImage(uid, f"{uid}.1"[:64], picture_header(samples, modality, bool(lossy), given), samples)


def is_dicom(path: Path) -> bool:
    """Whether the file has the prefix of DICOM behind its preamble (PS3.10 7.1), whatever its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def open_image(
    path: Path, modality: str | None = None, given: StatedAttributes = NO_ATTRIBUTES
) -> DicomImage | PictureImage:
    """Open a DICOM file or a picture. A picture needs ``modality``; for DICOM, ``modality`` and ``given`` are
    ignored.

    Raises :class:`PixelError`.
    """
    if is_dicom(path):
        return open_dicom(path)
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICTURES):
        if modality is None:
            raise PixelError("a picture says nothing of its modality: give --modality US or DX")
        return open_picture(path, modality, given=given)
    raise PixelError("neither DICOM (Part 10) nor PNG, JPEG or TIFF")


def decoded_sha256(image: DicomImage | PictureImage | Path) -> str:
    """The SHA-256 of the decoded samples of all frames, which does not depend on the transfer syntax: of the
    shape, then of little-endian samples before palette and LUTs; one frame is in memory at a time.
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
    """The photometric interpretation of the samples that ``stored()`` returns for this header."""
    if header.photometric in {"MONOCHROME1", "MONOCHROME2"}:
        return cast(Literal["MONOCHROME1", "MONOCHROME2"], header.photometric)
    return "RGB"


NO_PIXELS = ImageHeader("", "", rows=0, columns=0, frames=1, photometric="", bits_stored=0)
"""The header of an object without pixels."""


@dataclass(frozen=True, slots=True)
class DicomObject:
    """A DICOM object without pixels for us (:class:`ai_pipeline.contract.SourceImage`): it is no image, or
    its header was refused; ``fault`` says why. ``path``: of its file, None if nobody may read it.
    """

    uid: str
    fault: str
    series_uid: str = ""
    header: ImageHeader = NO_PIXELS
    path: Path | None = None

    def _no_pixels(self, *_: object, **__: object) -> NoReturn:
        """Raise PixelError."""
        raise PixelError(self.fault)

    stored = _no_pixels
    display = _no_pixels
    show = _no_pixels


@dataclass(slots=True)
class DicomImage:
    """A DICOM image whose frames are decoded on demand (:class:`ai_pipeline.contract.SourceImage`).

    Not for use by several threads at once: it keeps the frame decoded last.
    """

    path: Path
    dataset: Dataset = field(repr=False)  # it holds the patient's name
    header: ImageHeader
    transfer_syntax: UID
    pixels_at: int
    """Position of the element Pixel Data in the file, unless that is deflated."""
    _whole: Dataset | None = field(default=None, repr=False)
    _last: tuple[int, PixelArray] | None = field(default=None, repr=False)
    _fragments: Fragments | None = field(default=None, repr=False)
    _whole_frames: bool = field(default=False, repr=False)

    def check_decodable(self) -> None:
        """Raise :class:`PixelError` if the header shows that the frames cannot be decoded."""
        with _pydicom_may_warn(), _as_pixel_error("the file is not readable as DICOM"):
            codestreams.check_decodable(self.transfer_syntax)
            if self.header.photometric == "PALETTE COLOR":
                check_palette(self.dataset, self.transfer_syntax)
            if self.transfer_syntax in codestreams.COMPRESSED:
                PixelAttributes.of(self.dataset)
                self._separated()
            else:
                self._check_length()

    @property
    def uid(self) -> str:
        """The SOP Instance UID; "" without one."""
        with _pydicom_may_warn():
            return str(self.dataset.get("SOPInstanceUID") or "")

    @property
    def series_uid(self) -> str:
        """The Series Instance UID; "" without one."""
        with _pydicom_may_warn():
            return str(self.dataset.get("SeriesInstanceUID") or "")

    def stored(self, frame: int = 0) -> PixelArray:
        """The samples of a frame (from 0) after decoding; palettes are looked up."""
        samples = self.decoded(frame)
        if self.header.photometric != "PALETTE COLOR":
            return samples
        with _pydicom_may_warn(), _as_pixel_error("the colour palette is unusable"):
            # A header whose palettes' first value mapped is signed if the samples are (PS3.3 C.7.6.3.1.5).
            made = copy(self.dataset)
            signed = whole_of(self.dataset, "PixelRepresentation", 0) == 1
            for colour in ("Red", "Green", "Blue"):
                name = f"{colour}PaletteColorLookupTableDescriptor"
                described = cast("list[object]", value_of(self.dataset, name) or [None] * 3)
                entries, first, bits = (whole(one, least=-0x8000) for one in described)
                if first is not None and signed and first > 0x7FFF:
                    made.add_new(name, "SS", [entries, first - 0x1_0000, bits])
            coloured = np.asarray(apply_color_lut(samples, made))[..., :3]
            if coloured.dtype == np.uint8:
                return coloured
            # 16-bit entries hold the colour in their high byte (PS3.3 C.7.6.3.1.6), some in the low one.
            numbers = cast(npt.NDArray[np.integer[Any]], coloured)
            return (numbers >> (8 if int(numbers.max()) > 255 else 0)).astype(np.uint8)

    def display(self, frame: int = 0, shorter_side: int = 0) -> Picture:
        """The picture of a frame as a viewer shows it; see SourceImage."""
        times = halvings(self.header, shorter_side) if shorter_side else 0
        samples = self._halved(frame, times) if times else None
        return self.show(self.stored(frame) if samples is None else samples, frame)

    def show(self, samples: PixelArray, frame: int = 0) -> Picture:
        """The picture of ``samples``, as a viewer shows this frame."""
        if samples.ndim == 3:
            return colour_display(samples, self.header.bits_stored)
        with _pydicom_may_warn(), _as_pixel_error("the grey LUTs of the header are unusable"):
            return self.grey_display(frame).show(samples)

    def grey_display(self, frame: int = 0) -> GreyDisplay:
        """The steps from samples to grey levels of frame ``frame`` (from 0); their ``choice`` says where the
        window came from.
        """
        return GreyDisplay.from_dataset(_frame_attributes(self.dataset, frame))

    def decoded(self, frame: int) -> PixelArray:
        """The samples of a frame (from 0), colour as RGB; indices of a palette are not looked up."""
        self._check_frame(frame)
        if self._last is None or self._last[0] != frame:
            compressed = self.transfer_syntax in codestreams.COMPRESSED
            with (
                _pydicom_may_warn(),
                _as_pixel_error(f"the pixels do not decode ({self.transfer_syntax.name})"),
            ):
                samples = self._decompressed(frame) if compressed else self._native(frame)
            if samples.shape[:2] != (self.header.rows, self.header.columns):
                raise PixelError(
                    f"decoded {samples.shape[0]} × {samples.shape[1]} pixels, "
                    f"the header says {self.header.rows} × {self.header.columns}"
                )
            self._last = (frame, _stored_bits(samples, self.dataset))
        return self._last[1]

    def forget(self) -> None:
        """Free the memory of the frame that was decoded last."""
        self._last = self._whole = None

    def _check_frame(self, frame: int) -> None:
        """Raise PixelError if the image has no frame ``frame`` (from 0)."""
        if not 0 <= frame < self.header.frames:
            raise PixelError(f"there is no frame {frame + 1} among {self.header.frames}")

    def _halved(self, frame: int, times: int) -> PixelArray | None:
        """The samples halved ``times``; None if the image cannot be halved without changing what is shown."""
        self._check_frame(frame)
        plain = self.dataset.get("PixelRepresentation") == 0 and self.dataset.get("SamplesPerPixel") == 1
        if not plain or "PixelPaddingValue" in self.dataset:
            return None
        if self.transfer_syntax in codestreams.JPEG_2000:
            with _as_pixel_error("the frames cannot be separated"):
                codestream = self._separated().frame(frame)
            if (samples := decoded_smaller(codestream, self.header, times)) is not None:
                return samples
        return halved(self.decoded(frame), self.header.bits_stored, times)

    def _decompressed(self, frame: int) -> PixelArray:
        """Decode a compressed frame (from 0)."""
        header, name = PixelAttributes.of(self.dataset), self.transfer_syntax.name
        fragments, frames = self._separated(), self.header.frames
        if not self._whole_frames:
            for number in range(frames):
                if codestreams.is_cut(fragments.frame(number), self.transfer_syntax):
                    raise CodestreamFault(f"frame {number + 1} of {frames} is cut off ({name})")
            self._whole_frames = True
        try:
            return codestreams.decoded(fragments.frame(frame), self.transfer_syntax, header)
        except CodestreamFault as error:
            raise CodestreamFault(f"the pixels do not decode ({name}): {error}"[:290]) from error

    def _separated(self) -> Fragments:
        """The places of each frame's fragments in the file, found once."""
        self._fragments = self._fragments or Fragments.find(
            self.path, self.pixels_at, self.header.frames, self.transfer_syntax
        )
        return self._fragments

    def _native(self, frame: int) -> PixelArray:
        """Read the samples of an uncompressed frame (from 0)."""
        photometric = self.header.photometric
        says = colours.of_header(photometric)
        if self._has_all_chrominance():
            photometric, says = "RGB", colours.UNKNOWN
        elif "_422" in photometric:
            if self.dataset.get("PlanarConfiguration"):
                raise HeaderError(f"Planar Configuration (0028,0006) is not 0, as {photometric} has it")
            photometric = "YBR_FULL_422"
        # Bits above Bits Stored are cleared by us: below High Bit there may be more of them (old overlays).
        how = {"as_rgb": False, "correct_unused_bits": False, "photometric_interpretation": photometric}
        samples = None
        # pydicom reads single frames straight from the file, but cannot inflate there.
        if self._whole is None and self.transfer_syntax != DeflatedExplicitVRLittleEndian:
            # ... and believes the transfer syntax: another VR encoding (seen in the field) is found out only
            # by dcmread. A truly damaged object fails there again.
            # It gets the open file: of one without a name (/proc/self/fd) it would not find the path.
            with suppress(AttributeError, ValueError), self.path.open("rb") as opened:
                samples = pixel_array(opened, index=frame, **how)
        if samples is None:
            self._whole = self._whole or pydicom.dcmread(self.path)
            samples = pixel_array(self._whole, index=frame, **how)
        if self.header.photometric == "YBR_PARTIAL_422":
            samples = colours.whole_range(np.asarray(samples))
        return colours.as_rgb(np.asarray(samples), says, self.header.photometric)

    def _check_length(self) -> None:
        """Raise PixelError if uncompressed pixel data are much longer than the header describes. Too short
        data are found when decoding; some padding after the last frame is common.
        """
        length = self._pixels_length()
        if not length:  # Float Pixel Data: the attributes of integers are not there
            return
        PixelAttributes.of(self.dataset)
        expected = get_expected_length(self.dataset)
        expected += expected % 2  # PS3.5 8.1.1
        too_long = (
            length > expected * (1 + MOST_PADDING) or (length - expected) * self.header.frames >= expected
        )
        if too_long and not self._has_all_chrominance():
            raise PixelError(f"the pixel data are {length} bytes, the header describes {expected}")

    def _has_all_chrominance(self) -> bool:
        """Whether pixels that are called YBR_FULL_422 have three samples each, as their length shows."""
        least = self.header.rows * self.header.columns * self.header.frames * 3
        named = "_422" in self.header.photometric
        return named and least <= self._pixels_length() <= least * (1 + MOST_PADDING)

    def _pixels_length(self) -> int:
        """The length of Pixel Data in bytes."""
        pixels = pydicom.dcmread(self.path, specific_tags=["PixelData"], defer_size=1024)
        return getattr(pixels.get_item("PixelData", keep_deferred=True), "length", 0)


@dataclass(frozen=True, slots=True)
class PictureImage:
    """A PNG, JPEG or TIFF as a pipeline sees it (:class:`ai_pipeline.contract.SourceImage`), with a ``uid``
    derived from its bytes.
    """

    uid: str
    series_uid: str
    header: ImageHeader
    samples: PixelArray

    def stored(self, frame: int = 0) -> PixelArray:
        """The samples of the picture; ``frame`` must be 0."""
        return self.decoded(frame)

    def decoded(self, frame: int) -> PixelArray:
        """The samples of the picture; raises PixelError unless ``frame`` is 0."""
        if frame != 0:
            raise PixelError(f"there is no frame {frame + 1} in a picture")
        return self.samples

    def display(self, frame: int = 0, shorter_side: int = 0) -> Picture:  # noqa: ARG002  (it is decoded)
        """The picture as a viewer shows it."""
        return self.show(self.decoded(frame))

    def show(self, samples: PixelArray, frame: int = 0) -> Picture:  # noqa: ARG002  (there is one)
        """The picture of ``samples``, as a viewer shows it."""
        if samples.ndim == 3:
            return colour_display(samples, self.header.bits_stored)
        return grey_range(samples, self.header.bits_stored)


def _frame_attributes(dataset: Dataset, frame: int) -> Dataset:
    """The attributes from which the grey display of a frame is made; enhanced objects hold them in functional
    groups.
    """
    if not isinstance(shared := dataset.get("SharedFunctionalGroupsSequence"), Sequence) or not shared:
        return dataset
    merged = Dataset()
    merged.file_meta = dataset.file_meta
    for keyword in ("PhotometricInterpretation", "BitsStored", "PixelRepresentation", "PixelPaddingValue"):
        if keyword in dataset:
            setattr(merged, keyword, dataset[keyword].value)
    groups = [shared[0]]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups += [per_frame[frame]] if frame < len(per_frame) else []
    for group in groups:
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(macro) or [])[:1]:
                merged.update(item)
    normalise_terms(merged)
    return merged


def _stored_bits(samples: PixelArray, dataset: Dataset) -> PixelArray:
    """Remove the bits around the stored ones (old overlays, PS3.5 8.1.1) and extend the sign."""
    allocated = min(int(dataset.BitsAllocated), samples.dtype.itemsize * 8)
    stored = whole_of(dataset, "BitsStored", 0, most=64) or allocated
    if samples.dtype.kind not in "iu" or stored >= allocated or samples.size == 0:
        return samples
    numbers = cast(npt.NDArray[np.integer[Any]], samples)
    below = _bits_below(dataset, stored, numbers)
    signed = samples.dtype.kind == "i"
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    if not below and low <= int(numbers.min()) and int(numbers.max()) <= high:
        return samples
    unused = allocated - stored
    return (numbers << (unused - below)) >> unused


def _bits_below(dataset: Dataset, stored: int, numbers: npt.NDArray[np.integer[Any]]) -> int:
    """The number of unused bits below the stored ones, which the current standard forbids (PS3.5 8.1.1). High
    Bit is often wrong, so it is believed only when an overlay lies there, or when the bits under the stored
    ones are all 0 and those above are not.
    """
    below = min(whole_of(dataset, "HighBit", 0) + 1, int(dataset.BitsAllocated)) - stored
    if below <= 0:
        return 0
    overlays = any(bit < below for bit in embedded_overlays(dataset))
    used = int(np.bitwise_or.reduce(numbers, axis=None))
    return below if overlays or (not used & (2**below - 1) and used >> stored not in {0, -1}) else 0


_ABOUT_PIXELS = re.compile(
    r"reshape|[Dd]ecode|Transfer Syntax|pixel data|Pixel Data|Offset Table|code stream|JPEG|RLE|\(0028,0"
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
    ValueError,
    struct.error,
    zlib.error,
    SyntaxError,
)


@contextmanager
def _as_pixel_error(what: str) -> Iterator[None]:
    """A context manager that turns every fault of the image into a PixelError; faults of the disk pass.
    ``what``: the beginning of its text.
    """
    try:
        yield
    except PixelError:
        raise
    except (HeaderError, CodestreamFault) as error:
        raise PixelError(str(error)) from error
    except _DAMAGE as error:
        if disk_fault(error):
            raise
        if lacks_memory(error):
            raise PixelError(f"{what}: there is not enough memory for it") from error
        raise PixelError(f"{what}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """A decoder's error message as a cause that may be shown: header values (PHI) are removed, and a message
    that is not about pixels is replaced by the error's type.
    """
    if isinstance(error, InvalidDicomError):
        return "the prefix DICM behind its preamble is missing (PS3.10 7.1)"
    text = " ".join(str(error).split())
    text = re.sub(r"Missing required element: (\(.*\)) '(.*)'", r"\2 \1 is missing", text)
    text = re.sub("value '[^']*'", "value …", text)
    if isinstance(error, OSError) and error.strerror:  # without the name of the file
        return error.strerror.lower()
    return text[:200] if _ABOUT_PIXELS.search(text) else type(error).__name__


@contextmanager
def _pydicom_may_warn() -> Iterator[None]:
    """A context manager that silences pydicom's warnings on deviations that are common in the field and
    change no pixel.
    """
    with warnings.catch_warnings():
        for message in (
            "Expected explicit VR, but found implicit VR",
            "Expected implicit VR, but found explicit VR",
            r"Invalid value for VR",
            r"The value length \(\d+\) exceeds the maximum length",
            r"A value of .* for \(0028,0008\)",
            "The number of bytes of pixel data is sufficient to contain",
            r"The pixel data is \d+ bytes long, which indicates it contains",
            "The decoded RLE segment contains non-conformant padding",
            "Unknown encoding|Incorrect value for Specific Character Set|Value .* cannot be used as code ext",
            "Failed to decode byte string",
            "The .0028,0101. 'Bits Stored' value|The .0028,0103.|A mismatch was found",
        ):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield
