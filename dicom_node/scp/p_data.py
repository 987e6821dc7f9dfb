"""P-DATA-TF PDUs, which carry the fragments of messages (PS3.8 9.3.5, E.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

P_DATA_TF = 0x04


class PData:
    """A P-DATA-TF PDU whose fragments are views into what was read (PS3.8 9.3.5), made when they are taken.

    A PDU may hold a hundred thousand of them. Stands for its own P-DATA primitive.
    """

    def __init__(self, body: bytearray | memoryview) -> None:
        """Raises ValueError when the items do not fill the PDU."""
        self._view = memoryview(body)
        for _ in self._places():
            pass

    def to_primitive(self) -> PData:
        """What the DIMSE provider takes."""
        return self

    @property
    def presentation_data_value_list(self) -> Iterator[tuple[int, memoryview]]:
        """Context identifier and value, from the message control header on."""
        for context_id, start, end in self._places():
            yield context_id, self._view[start:end]

    def _places(self) -> Iterator[tuple[int, int, int]]:
        offset, size = 0, len(self._view)
        while offset < size:
            if offset + 5 > size:
                raise ValueError("PDV item cut off")
            length, context_id = struct.unpack_from(">IB", self._view, offset)
            end = offset + 4 + length
            if length < 1 or end > size:
                raise ValueError("PDV item longer than its PDU")
            yield context_id, offset + 5, end
            offset = end


def p_data_tf(context_id: int, header: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU of one fragment; ``header`` is its message control header (PS3.8 9.3.5, E.2)."""
    length = len(fragment) + 2
    return struct.pack(">BxIIBB", P_DATA_TF, length + 4, length, context_id, header) + fragment
