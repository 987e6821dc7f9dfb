"""The settings that a peer with ``transport = "hl7"`` has in addition: fields that a site fills in its own
way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from dicom_node.base.config.section import Section, did_you_mean
from dicom_node.base.lifecycle import ResultKind

if TYPE_CHECKING:
    from dicom_node.base.config.peer import PeerSettings
    from dicom_node.base.config.settings import Settings
    from dicom_node.people.preflight import Found

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
    """Return (segment, field number, component number) of a key such as "OBR-5" or "PID-3.4"; the component
    is None for a whole field.

    Raises ValueError for any other key.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f'{key!r}: write a field as "OBR-5", or a component as "PID-3.4"')
    segment, number, component = found.groups()
    if segment not in FIELDS:
        raise ValueError(f"{key}: no such segment here; {did_you_mean(segment, FIELDS)}")
    return segment, int(number), int(component) if component else None


class Hl7Peer(Section):
    """Mixin that adds the keys of HL7 receivers to the settings of a peer (``[[peers]]``)."""

    by_address: ClassVar = frozenset({"hl7"})
    reads_reports: ClassVar = frozenset({"hl7"})
    takes_over: ClassVar = frozenset({"hl7"})  # MSA-1 AA
    hl7_fields: Annotated[dict[str, str], AfterValidator(checked_hl7_fields)] = Field({}, max_length=50)
    """With transport = "hl7": fields (or components) filled as the receiver wants them, such as
    {"MSH-6" = "RIS", "OBR-3" = "{accession}", "PID-3.5" = "MR"}. Placeholders: docs/connect/ris.md."""

    @model_validator(mode="before")
    @classmethod
    def _follows_hl7(cls, given: Any) -> Any:
        """Fill in ``results`` (reports only) and ``confirm`` ("none": HL7 has no query) in the raw settings
        ``given`` of an HL7 peer that does not set them.
        """
        if not isinstance(given, dict) or given.get("transport") != "hl7":
            return given
        return {"results": (ResultKind.SR,), "confirm": "none", **given}

    @field_validator("deidentify", mode="before", check_fields=False)
    @classmethod
    def _names_the_patient(cls, deidentify: Any, info: ValidationInfo) -> Any:
        """Refuse ``deidentify`` for an HL7 peer, whose messages name the patient. Raises ValueError."""
        is_set = TypeAdapter(bool).validate_python(deidentify)  # before the core: its remedy is no HL7 peer's
        if is_set and info.data.get("transport") == "hl7":
            raise ValueError('a message of transport = "hl7" names the patient: leave out deidentify')
        return deidentify

    @model_validator(mode="after")
    def _can_take_messages(self) -> Self:
        """Refuse settings of an HL7 peer that a receiver of messages cannot serve. Raises ValueError."""
        peer = cast("PeerSettings", self)
        if peer.transport != "hl7":
            if self.hl7_fields:
                raise ValueError('hl7_fields is for peers with transport = "hl7"')
            return self
        if peer.may != ("receive",):
            raise ValueError('transport = "hl7" is for peers with may = ["receive"] alone')
        if peer.results != (ResultKind.SR,):
            raise ValueError('an HL7 message is made of a report: leave out results, or set results = ["sr"]')
        if peer.confirm != "none":
            raise ValueError(
                "HL7 has no question for a result: its acknowledgement counts; leave out confirm"
            )
        if peer.assessments:
            raise ValueError("assessments are sent as SR only: leave them out, or use another transport")
        if peer.charset != "utf8":
            raise ValueError("HL7 messages are in UTF-8 always: leave out charset")
        return self


def check(settings: Settings) -> Found:
    """Yield HL7 peers for which the library hl7apy is not installed."""
    for peer in settings.peers:
        if peer.transport == "hl7" and find_spec("hl7apy") is None:
            yield f"peers.{peer.name}.transport", "'hl7'", "needs hl7apy: pip install 'dicom-ai-node[hl7]'"
