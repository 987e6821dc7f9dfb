"""Counts the structure of a data set before a parser reads it, so that the parser's limits hold.

The scan reads tags and lengths (PS3.5 7.1, 7.5) and stores nothing, so that a hostile data set costs no more
than its limit. In a damaged data set the scan ends early; the reader then reports the damage.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_VR

from dicom_node.config.sections import InspectionSettings
from dicom_node.errors import FaultyObject

BULK_BYTES: Final = 65536
"""Longer values (bytes) outside of items are skipped by ``inspection``: no attribute read is so long."""
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 7.1.2
_PIXEL_DATA: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF


@dataclass(slots=True)
class _Open:
    """A sequence, an item or a value in fragments that is not closed; ``end``: None where it says none."""

    end: int | None
    implicit: bool
    fragments: bool = False
    is_item: bool = False


@dataclass(slots=True)
class _Scan:
    file: BinaryIO
    little: bool
    limits: InspectionSettings
    open: list[_Open]
    items: int = 0
    elements: int = 0
    read: int = 0
    depth: int = 0
    _tag: struct.Struct = field(init=False)
    _long: struct.Struct = field(init=False)
    _short: struct.Struct = field(init=False)

    def __post_init__(self) -> None:
        order = "<" if self.little else ">"
        self._tag, self._long, self._short = (struct.Struct(order + form) for form in ("HH", "I", "H"))

    def run(self) -> None:
        while len(head := self.file.read(8)) == 8:
            group, element = self._tag.unpack_from(head)
            tag = group << 16 | element
            if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
                self._delimiter(tag, self._long.unpack_from(head, 4)[0])
            elif (tag in _PIXEL_DATA and len(self.open) == 1) or not self._element(tag, head):
                return
            self._close(self.file.tell())

    def _delimiter(self, tag: int, length: int) -> None:
        """An item begins, or an item or a sequence of undefined length ends."""
        if tag != _ITEM:
            if len(self.open) > 1:
                self._pop()
            return
        self.items += 1
        if self.items > self.limits.maximum_items:
            raise FaultyObject(f"more than {self.limits.maximum_items} items (inspection.maximum_items)")
        around = self.open[-1]
        if around.fragments:
            self._skip(length)
        else:
            end = None if length == _UNDEFINED else self.file.tell() + length
            self.open.append(_Open(end, around.implicit, is_item=True))

    def _element(self, tag: int, head: bytes) -> bool:
        """One attribute; whether there may be more."""
        self.elements += 1
        if self.elements > self.limits.maximum_elements:
            raise FaultyObject(
                f"more than {self.limits.maximum_elements} attributes (inspection.maximum_elements)"
            )
        implicit = self.open[-1].implicit
        vr = head[4:6]
        if implicit:
            vr, length = b"", self._long.unpack_from(head, 4)[0]
        elif vr in _LONG:
            more = self.file.read(4)
            if len(more) < 4:
                return False
            length = self._long.unpack(more)[0]
        else:
            length = self._short.unpack_from(head, 6)[0]
        if vr == b"SQ" or (vr in (b"", b"UN") and _is_sequence(tag, length)):
            end = None if length == _UNDEFINED else self.file.tell() + length
            self._push(_Open(end, implicit or vr == b"UN"))  # PS3.5 6.2.2: of VR UN, implicit within
        elif length == _UNDEFINED:
            self._push(_Open(None, implicit, fragments=True))
        else:
            self._skip(length)
        return True

    def _push(self, opened: _Open) -> None:
        self.depth += 1
        if self.depth > self.limits.maximum_depth:
            raise FaultyObject(
                f"sequences within more than {self.limits.maximum_depth} others (inspection.maximum_depth)"
            )
        self.open.append(opened)

    def _skip(self, length: int) -> None:
        if len(self.open) > 1 or length <= BULK_BYTES:
            self.read += length
        if self.read > self.limits.maximum_header_mib * 2**20:
            limit = f"{self.limits.maximum_header_mib} MiB (inspection.maximum_header_mib)"
            raise FaultyObject(f"the attributes are more than {limit}")
        self.file.seek(length, io.SEEK_CUR)

    def _close(self, at: int) -> None:
        """End what has come to its length."""
        while len(self.open) > 1 and (end := self.open[-1].end) is not None and at >= end:
            self._pop()

    def _pop(self) -> None:
        if not self.open.pop().is_item:
            self.depth -= 1


def scan(file: BinaryIO, *, implicit: bool, little: bool, limits: InspectionSettings) -> None:
    """Scan from the file's position to Pixel Data or the end. Raises FaultyObject that names a limit."""
    _Scan(file, little, limits, [_Open(None, implicit)]).run()


def _is_sequence(tag: int, length: int) -> bool:
    """Whether a value without VR is a sequence: a public one, or of undefined length (PS3.5 6.2.2, 7.5)."""
    try:
        return str(dictionary_VR(tag)) == "SQ"
    except KeyError:
        return length == _UNDEFINED
