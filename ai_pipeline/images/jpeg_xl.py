"""What a JPEG XL declares of its image in its header (ISO/IEC 18181-1 annex D), read before it is decoded."""

import struct
from collections.abc import Iterator
from itertools import chain

from ai_pipeline.errors import CodestreamFault

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
"""How a code stream begins, and a file that has one in boxes (ISO/IEC 18181-2), as a recompressed JPEG."""
_HEADER = 64
"""Bytes that the header of an image as DICOM has them takes at most."""
_SIDE = (1, 9), (1, 13), (1, 18), (1, 30)
_RATIOS = (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1)
"""Width to height, by a number from 1 on (table of SizeHeader)."""
_GREY = 1


class _Bits:
    """The fields of a header, from the lowest bit of each byte on (annex B)."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")
        self._count = 8 * len(data)

    def number(self, bits: int) -> int:
        """The next field, of so many ``bits``. Raises CodestreamFault at the end of the data."""
        self._count -= bits
        if self._count < 0:
            raise CodestreamFault("the code stream ends within its header")
        value = self._left & ((1 << bits) - 1)
        self._left >>= bits
        return value

    def chosen(self, *ways: tuple[int, int]) -> int:
        """The next field U32: two bits choose among four ``ways``, each a smallest value and the bits of what
        is added to it.
        """
        least, bits = ways[self.number(2)]
        return least + self.number(bits)


def declared(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples of a pixel (1 or 3) and bits of a sample. Raises CodestreamFault, also for what
    no image of DICOM has (PS3.5 8.2.15): another orientation, a preview, several pictures, fractions, and
    channels beyond the colours.
    """
    start = _codestream_start(frame)
    if not start.startswith(CODESTREAM):
        raise CodestreamFault("the frame is no JPEG XL")
    bits = _Bits(start[len(CODESTREAM) :])
    rows, columns = _sides(bits)
    if bits.number(1):  # everything as is usual
        return rows, columns, 3, 8
    if bits.number(1) and bits.number(6):
        raise CodestreamFault("the JPEG XL is turned, moves, or has a preview")
    if bits.number(1):
        raise CodestreamFault("the JPEG XL has fractions for samples")
    precision = bits.chosen((8, 0), (10, 0), (12, 0), (1, 6))
    bits.number(1)  # whether 16 bits are enough to decode it
    if bits.chosen((0, 0), (1, 0), (2, 4), (1, 12)):
        raise CodestreamFault("the JPEG XL has channels beyond its colours")
    bits.number(1)  # whether it is in the colour space XYB, which the decoder leaves
    if bits.number(1):  # sRGB
        return rows, columns, 3, precision
    bits.number(1)  # whether it has an ICC profile
    space = bits.chosen((0, 0), (1, 0), (2, 4), (18, 6))
    return rows, columns, 1 if space == _GREY else 3, precision


def _sides(bits: _Bits) -> tuple[int, int]:
    """Rows and columns, of the field SizeHeader."""
    by_eights = bits.number(1)

    def side() -> int:
        return 8 * (1 + bits.number(5)) if by_eights else bits.chosen(*_SIDE)

    rows = side()
    ratio = bits.number(3)
    if not ratio:
        return rows, side()
    across, down = _RATIOS[ratio - 1]
    return rows, rows * across // down


def _codestream_start(frame: bytes) -> bytes:
    """The first bytes of the code stream, which may lie in boxes."""
    if not frame.startswith(CONTAINER):
        return frame[:_HEADER]
    parts = chain.from_iterable(_parts(frame))
    return bytes(byte for byte, _ in zip(parts, range(_HEADER), strict=False))


def _parts(frame: bytes) -> Iterator[bytes]:
    """The code stream's first bytes in each of the boxes jxlc or jxlp that have it (ISO/IEC 18181-2)."""
    place = len(CONTAINER)
    while place + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, place)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame.ljust(place + 16, b"\0"), place + 8)
            head = 16
        end = place + length if length else len(frame)  # 0: to the end
        if kind in {b"jxlc", b"jxlp"}:
            begin = place + head + (4 if kind == b"jxlp" else 0)  # jxlp: its number first
            yield frame[begin : min(end, begin + _HEADER)]
        if end < place + head:
            raise CodestreamFault("the frame is no JPEG XL")
        place = end
