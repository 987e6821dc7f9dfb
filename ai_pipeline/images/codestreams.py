"""Decode compressed frames after a check: are they whole, and as large as the header says?

A decoder believes the code stream's own header and allocates the memory that it demands; it fills missing
parts without a warning. So each frame is checked before the decoder gets it.

The bytes of compressed Pixel Data come in fragments (PS3.5 A.4), which are separated into frames here. A
frame begins where a fragment begins a code stream. Offset tables are not read: they are wrong more often than
a fragment within a frame begins like a code stream.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from pydicom.filereader import read_preamble
from pydicom.pixels.decoders.rle import _rle_decode_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ai_pipeline.contract import ImageHeader, PixelArray
from ai_pipeline.errors import CodestreamFault
from ai_pipeline.images import colours, jpeg_xl
from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.header import PixelAttributes
from ai_pipeline.images.part10 import NOT_DEFLATED, read_file_meta
from ai_pipeline.terms import shown_uid_name

JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
JPEG_2000 = frozenset({JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL})
JPEG_XL = frozenset(UID(f"1.2.840.10008.1.2.4.11{last}") for last in (0, 1, 2))
"""Lossless, recompressed JPEG, and either (PS3.5 A.4.13): newer than pydicom's dictionary."""
WITH_END = JPEG_LS | {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
"""Transfer syntaxes whose frames end with the marker EOI (ITU-T T.81 B.1.1.3, T.87 C.1.1)."""
COMPRESSED = WITH_END | JPEG_2000 | JPEG_XL | {RLELossless}
"""What :func:`decoded` decodes."""
_NATIVE = {
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
}  # fmt: skip
END = b"\xff\xd9"
MOST_SCANS = 64
"""Scans of a JPEG: each passes over the whole image, whatever its length (a progressive one has ten)."""
MOST_TILES = 16_384
"""Tiles of a JPEG 2000: each takes 6 kB before a pixel is decoded."""
_CHUNK = 2**20

# Markers of ITU-T T.81 table B.1 and T.87: frame headers SOF0 to SOF15 and SOF55, without DHT, JPG and DAC.
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_HIERARCHY, _SCAN = 0xDE, 0xDA
_STYLE, _TILE_PART = b"\xff\x52", b"\xff\x90"
"""Markers COD and SOT of a JPEG 2000 (ITU-T T.800 A.2)."""
_PRECISION = 42
"""Where a bare JPEG 2000 says how many bits a sample has, less one (T.800 A.5.1)."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a compressed frame's own header declares of its image; ``precision``: bits of a sample."""

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False


def check_inflation(path: Path, most_mib: int) -> None:
    """Raise CodestreamFault if the file's data set is deflated (compressed) and inflates to more than
    ``most_mib`` MiB, or is not deflated as DICOM says; nothing of it is stored.
    """
    with path.open("rb") as file:
        read_preamble(file, False)
        if read_file_meta(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
        rest = file.read(_CHUNK)
        while rest and not inflater.eof:
            try:
                inflated += len(inflater.decompress(rest, _CHUNK))
            except zlib.error:
                raise CodestreamFault(NOT_DEFLATED) from None
            if inflated > most_mib * 2**20:
                raise CodestreamFault(f"the data set inflates to more than {most_mib} MiB")
            rest = inflater.unconsumed_tail or file.read(_CHUNK)


def check_decodable(syntax: UID) -> None:
    """Raise CodestreamFault if this package does not decode the transfer syntax."""
    if not syntax:
        raise CodestreamFault("the file has no Transfer Syntax UID (0002,0010)")
    if syntax not in COMPRESSED | _NATIVE:
        name = shown_uid_name(syntax)
        raise CodestreamFault(f"cannot be decoded: its transfer syntax {name} is not decoded here")


def is_cut(frame: bytes, syntax: UID) -> bool:
    """Whether the compressed ``frame`` lacks its end marker; False if its transfer syntax has none. No scan
    can hold the marker (T.81 F.1.2.3, T.87 A.1); what some makers write after it does not matter.
    """
    return syntax in WITH_END and frame.find(END, frame.rfind(bytes((0xFF, _SCAN)))) < 0


def declared(frame: bytes, syntax: UID) -> Declared:
    """The size and samples that a frame in JPEG, JPEG-LS, JPEG 2000 or JPEG XL declares. Raises
    CodestreamFault.
    """
    if syntax in JPEG_XL:
        return Declared(*jpeg_xl.declared(frame))
    try:
        return _jpeg_2000(frame) if syntax in JPEG_2000 else _jpeg(frame)
    except (IndexError, struct.error):
        raise CodestreamFault("the code stream ends within its header") from None


def decoded(frame: bytes, syntax: UID, header: PixelAttributes) -> PixelArray:
    """Decode a compressed frame to samples ``[rows, columns]`` or ``[rows, columns, 3]`` in RGB, with samples
    as many bytes wide as in the code stream. ``syntax``: transfer syntax UID. Raises CodestreamFault if the
    frame is not the image that ``header`` describes, and NoDecoder.
    """
    if syntax == RLELossless:
        _check_rle(frame, header)
        data = _rle_decode_frame(frame, header.rows, header.columns, header.samples, header.bits_allocated)
        samples = _samples(data, header, header.bits_allocated // 8, planar=True)
        return colours.as_rgb(samples, colours.of_header(header.photometric), header.photometric)
    found = declared(frame, syntax)
    if (found.rows, found.columns, found.samples) != (header.rows, header.columns, header.samples):
        raise CodestreamFault(
            f"the code stream has {found.columns} × {found.rows} pixels of {found.samples} samples, "
            f"the header says {header.columns} × {header.rows} of {header.samples}"
        )
    if found.precision > header.bits_allocated:
        raise CodestreamFault(
            f"the code stream has samples of {found.precision} bits, the header says {header.bits_allocated}"
        )
    width = 1 if found.precision <= 8 else 2 if found.precision <= 16 else 4
    length = header.rows * header.columns * header.samples * width
    if syntax in JPEG_2000:
        frame = without_jp2(frame)
        samples = _samples(DECODER.decode("openjpeg", frame, length), header, width)
        style, count = _segment_of_style(frame), struct.unpack_from(">H", frame, _PRECISION - 2)[0]
        sizes = frame[_PRECISION:][: 3 * count]
        # Its multiple component transform was undone (T.800 A.6.1), or its chrominance enlarged.
        is_rgb = (style and frame[style + 8]) or len(set(zip(sizes[1::3], sizes[2::3], strict=True))) > 1
        says = colours.RGB if is_rgb else colours.of_header(header.photometric)
        samples = _signed(samples, found) if found.signed != header.signed else samples
        return colours.as_rgb(samples, says, header.photometric)
    if syntax in JPEG_XL:  # which has no signed samples, and gives colours as RGB
        samples = _samples(DECODER.decode("libjxl", frame, length), header, width)
        samples = _signed(samples, found) if header.signed else samples
        return colours.as_rgb(samples, colours.RGB, header.photometric)
    says = colours.of_jpeg(list(_segments(frame)), header.photometric)
    if syntax not in JPEG_LS:
        samples = _samples(DECODER.decode(f"jpeg{header.samples}", frame, length), header, width)
        return colours.as_rgb(samples, says, header.photometric)
    # The interleave mode of a JPEG-LS; 0: one component after the other (T.87 C.2.3).
    scan = next(content for marker, content in _segments(frame) if marker == _SCAN)
    planar = not scan[2 + 2 * scan[0]]
    samples = _samples(DECODER.decode("charls", frame, length), header, width, planar=planar)
    samples = _signed(samples, found) if header.signed else samples
    return colours.as_rgb(samples, says, header.photometric)


def _samples(
    data: bytes | bytearray | memoryview, header: PixelAttributes, width: int, *, planar: bool = False
) -> PixelArray:
    """Turn little-endian samples of ``width`` bytes into an array. ``planar``: each colour is stored as a
    plane of its own.
    """
    values = np.frombuffer(data, f"<{'i' if header.signed else 'u'}{width}")
    if header.samples == 1:
        return values.reshape(header.rows, header.columns).copy()
    if planar:
        return np.ascontiguousarray(values.reshape(-1, header.rows, header.columns).transpose(1, 2, 0))
    return values.reshape(header.rows, header.columns, -1).copy()


def _signed(samples: PixelArray, found: Declared) -> PixelArray:
    """Extend or clear the sign of the samples, because the code stream's sign may differ from the
    header's.
    """
    unused = 8 * samples.dtype.itemsize - found.precision
    return (cast(npt.NDArray[np.integer[Any]], samples) << unused) >> unused


def _jpeg(frame: bytes) -> Declared:
    """Read what a JPEG or JPEG-LS declares in its one frame header before the first scan (T.81 B.2.2, T.87
    C.2.2).
    """
    if not frame.startswith(b"\xff\xd8"):
        raise CodestreamFault("the frame is no JPEG")
    if frame.count(bytes((0xFF, _SCAN))) > MOST_SCANS:
        raise CodestreamFault(f"the JPEG has more than {MOST_SCANS} scans")
    found: list[Declared] = []
    for marker, content in _segments(frame):
        if marker in _FRAME_HEADERS:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", content)
            found.append(Declared(rows, columns, samples, precision))
        elif marker == _HIERARCHY:
            raise CodestreamFault("the JPEG is hierarchical: none in DICOM is (PS3.5 8.2.1)")
    if len(found) != 1:
        raise CodestreamFault(f"the JPEG has {len(found)} frame headers before its first scan")
    return found[0]


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment up to the header of the first scan."""
    place = 2
    while True:
        if frame[place] != 0xFF:
            raise CodestreamFault("the JPEG's header is damaged")
        while frame[place] == 0xFF:  # fill bytes (T.81 B.1.1.2)
            place += 1
        marker = frame[place]
        place += 1
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack_from(">H", frame, place)
        yield marker, frame[place + 2 : place + length]
        if marker == _SCAN:
            return
        place += max(length, 2)


def _jpeg_2000(frame: bytes) -> Declared:
    """Read what a JPEG 2000 declares in its segment SIZ, which comes first (ITU-T T.800 A.5.1); a JP2 file
    around it is skipped.
    """
    start = _codestream_of_jp2(frame)
    if frame[start : start + 4] != b"\xff\x4f\xff\x51":
        raise CodestreamFault("the frame is no JPEG 2000")
    right, bottom, left, top, *tile, samples = struct.unpack_from(">8IH", frame, start + 8)
    across, down, tile_left, tile_top = tile
    if not (across and down and left < right and top < bottom and tile_left <= left and tile_top <= top):
        raise CodestreamFault("the JPEG 2000 has no area")
    if -(-(right - tile_left) // across) * -(-(bottom - tile_top) // down) > MOST_TILES:
        raise CodestreamFault(f"the JPEG 2000 has more than {MOST_TILES} tiles")
    kind = frame[start + _PRECISION]  # the highest bit says that samples have a sign
    return Declared(bottom - top, right - left, samples, (kind & 0x7F) + 1, kind > 0x7F)


def decomposition_levels(frame: bytes, header: ImageHeader) -> int:
    """How often the JPEG 2000 code stream ``frame`` (from :func:`without_jp2`) can be halved without decoding
    its finest details (T.800 A.6.1).

    0 if its samples are not unsigned grey as the header says, or if it has several tiles, each of which is
    halved by itself.
    """
    if declared(frame, JPEG2000) != Declared(header.rows, header.columns, 1, header.bits_stored):
        return 0
    try:
        _, _, left, top, across, down, tile_left, tile_top = struct.unpack_from(">8I", frame, 8)
        style = _segment_of_style(frame)
        levels = frame[style + 9] if style else 0
    except (IndexError, struct.error):
        raise CodestreamFault("the code stream ends within its header") from None
    one_tile = tile_left + across >= header.columns and tile_top + down >= header.rows
    return levels if one_tile and not left and not top else 0


def _segment_of_style(frame: bytes) -> int:
    """The position of the segment COD in a JPEG 2000's main header; 0 if it is not among the
    first segments.
    """
    place = 2
    # Segments of a JPEG 2000 among which COD is looked for; it usually is the second.
    for _ in range(64):
        marker, length = struct.unpack_from(">2sH", frame, place)
        if marker == _STYLE:
            return place
        if marker == _TILE_PART or marker[0] != 0xFF or length < 2:
            return 0
        place += 2 + length
    return 0


def without_jp2(frame: bytes) -> bytes:
    """Return the JPEG 2000 code stream without a JP2 file around it, which DICOM does not allow (PS3.5
    A.4.4). Raises CodestreamFault where that file would change the samples: by a palette or another order of
    colours (T.800 I.5.3.4, I.5.3.6).
    """
    start = _codestream_of_jp2(frame)
    if any(box in frame[:start] for box in (b"pclr", b"cdef")):
        raise CodestreamFault("the JPEG 2000 is in a JP2 file with colours of its own")
    return frame[start:]


def _codestream_of_jp2(frame: bytes) -> int:
    """The position of the content of the box jp2c (T.800 I.4); 0 without a JP2 file around the
    code stream.
    """
    if frame[4:8] != b"jP  ":
        return 0
    place = 0
    while True:
        length, kind = struct.unpack_from(">I4s", frame, place)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, place + 8)
            head = 16
        if kind == b"jp2c":
            return place + head
        if length < head:
            raise CodestreamFault("the frame is no JPEG 2000")
        place += length


def _check_rle(frame: bytes, header: PixelAttributes) -> None:
    """Raise CodestreamFault if the frame's RLE segments are too many or too long for the header (PS3.5 G.3 to
    G.5).
    """
    if len(frame) < 64:
        raise CodestreamFault("the RLE header is cut off")
    count, *offsets = struct.unpack_from("<16I", frame)
    wanted = header.samples * ((header.bits_allocated + 7) // 8)
    if count != wanted or count > 15:
        raise CodestreamFault(f"the RLE header names {count} segments, the image has {wanted}")
    ends = [*offsets[1:count], len(frame)]
    # Every byte may be a run of its own; some makers write further bytes after the frame.
    longest = 2 * header.rows * (header.columns + 2) + 64
    if any(
        not 64 <= start <= end <= start + longest for start, end in zip(offsets[:count], ends, strict=True)
    ):
        raise CodestreamFault("the RLE segments are not where, or not as long as, they can be")


MOST_FRAGMENTS = 200_000
"""Fragments of an image: the most frames that ``images.frames`` may allow, several each."""
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_STARTS = (
    b"\xff\xd8",  # JPEG and JPEG-LS (ITU-T T.81 B.2.1)
    b"\xff\x4f\xff\x51",  # JPEG 2000 (T.800 A.4.1, A.5.1)
    b"\0\0\0\x0cjP  ",  # JP2 file (T.800 I.5.1)
)
_STARTS_XL = jpeg_xl.CODESTREAM, jpeg_xl.CONTAINER[:8]
"""Looked for in a JPEG XL only: the first is so short that it may stand within other code streams."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """The places of the fragments of compressed pixel data in a file: for each frame, first byte and length
    of its fragments.
    """

    path: Path
    frames: Sequence[Sequence[tuple[int, int]]]

    @staticmethod
    def find(path: Path, start: int, frames: int, syntax: UID) -> Fragments:
        """Find the fragments of ``frames`` frames; ``start``: position of the element Pixel Data in the file;
        ``syntax``: its transfer syntax. Raises CodestreamFault if the pixel data have another number of
        frames: a reader of the header would not see further ones.
        """
        found: list[list[tuple[int, int]]] = []
        starts = _STARTS_XL if syntax in JPEG_XL else _STARTS
        with path.open("rb") as file:
            for place in (place for place in _places(file, start) if place[1]):
                if not found or _begins_frame(file, *place, starts):
                    found.append([])
                found[-1].append(place)
        if len(found) != frames:
            raise CodestreamFault(
                f"Number of Frames (0028,0008) says {frames}, the pixel data have {len(found)}"
            )
        return Fragments(path, found)

    def frame(self, index: int) -> bytes:
        """The code stream of the frame ``index`` (from 0) and its padding."""
        with self.path.open("rb") as file:
            return b"".join(_read(file, *place) for place in self.frames[index])


def _places(file: BinaryIO, start: int) -> Iterator[tuple[int, int]]:
    """First byte and length of each fragment after the Basic Offset Table. Encapsulated data is little
    endian.
    """
    head = _read(file, start, 12)
    explicit = head[4:6] in {b"OB", b"OW", b"UN"}  # seen: an implicit VR data set under a JPEG syntax
    if head[8 if explicit else 4 :][:4] != b"\xff\xff\xff\xff":
        raise CodestreamFault("the Pixel Data is not in fragments, its transfer syntax is compressed")
    place, end = start + (12 if explicit else 8), file.seek(0, io.SEEK_END)
    for number in range(MOST_FRAGMENTS + 2):
        tag, length = _read(file, place, 4), _read(file, place + 4, 4)
        if tag == _END or (number and not tag):  # the end is missing at the end of some files
            return
        if tag != _ITEM or len(length) < 4:
            raise CodestreamFault("the Pixel Data is not made of fragments (PS3.5 A.4)")
        (size,) = struct.unpack("<I", length)
        if place + 8 + size > end:
            raise CodestreamFault("the Pixel Data is cut off")
        if number:
            yield place + 8, size
        place += 8 + size
    raise CodestreamFault(f"the Pixel Data has more than {MOST_FRAGMENTS} fragments")


def _begins_frame(file: BinaryIO, start: int, length: int, starts: tuple[bytes, ...]) -> bool:
    """Whether the fragment at ``start`` begins with one of the ``starts`` of a code stream, so that a frame
    begins there.
    """
    head = _read(file, start, min(length, 8))
    if head.startswith(starts):
        return True
    segments, offset = struct.unpack("<II", head.ljust(8, b"\0"))
    # The first segment of an RLE frame follows its header (PS3.5 G.5).
    return bool(1 <= segments <= 15 and offset == 64)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    """Read ``length`` bytes from the position ``start``."""
    file.seek(start)
    return file.read(length)
