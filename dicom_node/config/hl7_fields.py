"""``peers.hl7_fields``: fields of an HL7 message that a site fills in its own way, checked by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from dicom_node.config.mistakes import did_you_mean

FIELDS: Final[Mapping[str, int]] = {"MSH": 21, "PID": 39, "PV1": 52, "ORC": 31, "OBR": 50}
"""Segments that a site may fill, with the number of their fields (HL7 2.5.1, chapters 2 to 4)."""
PLACEHOLDERS: Final = (
    "accession",
    "study",
    "study_id",
    "report",
    "rule",
    "patient_id",
    "issuer",
    "description",
)
"""What a value may name in braces: attributes of the report."""
# By these the message is read, answered and recognised, or they say what became of the result.
_OURS: Final = {
    "MSH": {1, 2, 7, 9, 10, 12, 15, 16, 17, 18, 19, 20, 21},
    "PID": {1},
    "PV1": {1},
    "ORC": {1},
    "OBR": {1, 25},
}
_KEY = re.compile(r"([A-Z][A-Z0-9]{2})-([1-9]\d?)(?:\.([1-9]\d?))?")
_LONGEST = 200  # characters of a value


def checked_hl7_fields(fields: dict[str, str]) -> dict[str, str]:
    """Return ``fields`` if all are valid. Raises ValueError that names the first invalid key or value."""
    for key, value in fields.items():
        segment, number, _ = parsed_field(key)
        if number > FIELDS[segment]:
            raise ValueError(f"{key}: {segment} has the fields 1 to {FIELDS[segment]}")
        if number in _OURS[segment]:
            raise ValueError(f"{key}: the node fills this field itself")
        if len(value) > _LONGEST or not value.isprintable():
            raise ValueError(f"{key}: a value is one line of at most {_LONGEST} characters")
        for name in re.findall(r"{([^{}]*)}", value):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
                raise ValueError(f"{key}: {{{name}}} is unknown; there are {known}")
    return fields


def parsed_field(key: str) -> tuple[str, int, int | None]:
    """Segment, field and component (None: the whole field) of ``OBR-5`` or ``PID-3.4``. Raises ValueError."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f'{key!r}: write a field as "OBR-5", or a component as "PID-3.4"')
    segment, number, component = found.groups()
    if segment not in FIELDS:
        raise ValueError(f"{key}: no such segment here; {did_you_mean(segment, FIELDS)}")
    return segment, int(number), int(component) if component else None
