"""Segments with escaped values, and the message that hl7apy builds from them (HL7 2.5.1 chapter 2).

Of the two libraries that write HL7 v2, hl7apy knows the segments and groups of 2.5.1 and escapes text for
UTF-8; python-hl7 has no tables of them, and writes each letter beyond ASCII as bytes in hexadecimal. So
hl7apy builds the message, and the tests read it with python-hl7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

VERSION: Final = "2.5.1"
Component = str | tuple[str, ...]
"""A text, or its subcomponents."""

_NULL = '""'  # "delete what you have" (2.5.3): no value of ours means that
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


class SegmentFields:
    """One segment: its fields by number, each with repetitions of components."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[int, list[list[str]]] = {}

    def put(self, number: int, *components: Component) -> None:
        """Fill a field; its former content is replaced."""
        self.fields[number] = [[_joined(one) for one in components]]

    def repeat(self, number: int, *components: Component) -> None:
        """Add a repetition to a field."""
        self.fields.setdefault(number, []).append([_joined(one) for one in components])

    def put_component(self, number: int, component: int, text: str) -> None:
        """Fill one component of a field, in its first repetition."""
        [first, *_] = self.fields.setdefault(number, [[]])
        first.extend([""] * (component - len(first)))
        first[component - 1] = _joined(text)

    def has(self, number: int) -> bool:
        """Whether a field has any text."""
        return any(text for components in self.fields.get(number, ()) for text in components[:1])

    def copy(self, number: int, other: SegmentFields, source: int) -> None:
        """Fill an empty field with field ``source`` of another segment."""
        if source in other.fields:
            self.fields.setdefault(number, other.fields[source])


def er7(
    header: SegmentFields, patient: Sequence[SegmentFields], orders: Sequence[Sequence[SegmentFields]]
) -> bytes:
    """The message ORU^R01 with these segments, as bytes; each order has ORC, OBR and its OBX segments."""
    from hl7apy.core import Message

    message = Message("ORU_R01", version=VERSION)
    del message.msh.msh_7  # the present time: it would differ at each try
    _fill(message.msh, header)
    result = message.add_group("ORU_R01_PATIENT_RESULT")
    person: Any = result.add_group("ORU_R01_PATIENT") if patient else None
    for segment in patient:
        visit = segment.name == "PV1"
        group = person.add_group("ORU_R01_VISIT") if visit else person
        _fill(group.add_segment(segment.name), segment)
    for order in orders:
        group = result.add_group("ORU_R01_ORDER_OBSERVATION")
        for segment in order:
            observed = segment.name == "OBX"  # NTE stands beside the OBR
            holder = group.add_group("ORU_R01_OBSERVATION") if observed else group
            _fill(holder.add_segment(segment.name), segment)
    return f"{message.to_er7()}\r".encode()


def escaped(text: str) -> str:
    """The text with delimiters escaped by the library, on one line.

    The library leaves text that looks like an escape sequence unchanged, so the escape character is escaped
    first (2.7.1).
    """
    plain = _CONTROLS.sub(" ", text).strip()
    return "" if plain == _NULL else str(_string()(plain.replace("\\", "\\E\\")).to_er7())


@cache
def _string() -> Any:
    from hl7apy.v2_5_1 import ST

    return ST


def _joined(component: Component) -> str:
    return escaped(component) if isinstance(component, str) else "&".join(map(escaped, component)).rstrip("&")


def _fill(target: Any, segment: SegmentFields) -> None:
    for number, repetitions in sorted(segment.fields.items()):
        for components in repetitions:
            if text := "^".join(components).rstrip("^"):
                target.add_field(f"{segment.name}_{number}".lower()).value = text
