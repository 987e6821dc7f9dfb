"""Separate the frames of compressed Pixel Data, whose bytes come in fragments (PS3.5 A.4).

A frame begins where a fragment begins a code stream. Offset tables are not read: they are wrong more often
than a fragment within a frame begins like a code stream.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ai_pipeline.errors import CodestreamFault

MOST_FRAGMENTS = 200_000
"""Fragments of an image: the most frames that ``images.frames`` may allow, several each."""
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_STARTS = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
"""JPEG and JPEG-LS (ITU-T T.81 B.2.1), JPEG 2000 (T.800 A.4.1, A.5.1), JP2 file (T.800 I.5.1)."""
_RLE_OFFSET = 64
"""The first segment of an RLE frame follows its header (PS3.5 G.5)."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """Where the fragments of each frame lie in a file: the first byte and the length of each."""

    path: Path
    frames: Sequence[Sequence[tuple[int, int]]]

    @staticmethod
    def find(path: Path, start: int, frames: int) -> Fragments:
        """The fragments of ``frames`` frames; ``start``: position of the element Pixel Data in the file.

        Raises CodestreamFault for another number of frames than ``frames``: nobody knows which number is
        right, and a reader of the header would not see the further ones.
        """
        found: list[list[tuple[int, int]]] = []
        with path.open("rb") as file:
            for place in (place for place in _places(file, start) if place[1]):
                if not found or _begins_frame(file, *place):
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
    """The place of each fragment behind the Basic Offset Table. Encapsulated data is little endian."""
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


def _begins_frame(file: BinaryIO, start: int, length: int) -> bool:
    head = _read(file, start, min(length, 8))
    if head.startswith(_STARTS):
        return True
    segments, offset = struct.unpack("<II", head.ljust(8, b"\0"))
    return bool(1 <= segments <= 15 and offset == _RLE_OFFSET)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)
