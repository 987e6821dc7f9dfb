"""``[hl7]``: the listener for messages. The settings that a peer with ``transport = "hl7"`` has in addition:
fields that a site fills in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self, cast

from pydantic import (
    AfterValidator,
    Field,
    IPvAnyNetwork,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dicom_node.base.config.section import Host, Name, Port, Section, did_you_mean
from dicom_node.base.connectors import typed_section
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.tls import server_context

if TYPE_CHECKING:
    from dicom_node.base.config.loading import TomlFiles
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
_INSTALL: Final = "needs hl7apy: pip install 'dicom-ai-node[hl7]'"


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


def checked_authority(text: str) -> str:
    """Return an assigning authority if it is a name, or NAME&ID&TYPE. Raises ValueError for another text."""
    parts = text.split("&")
    if len(parts) not in (1, 3) or not text.isprintable() or not text.isascii():
        raise ValueError('write it as HL7 does: "HOSP" or "HOSP&1.2.840.1&ISO"')
    return text


class Hl7TlsSettings(Section):
    """``[hl7.tls]``: our certificate, and the authorities whose clients are accepted."""

    certificate: Path = Field(examples=["tls/node.pem"])
    """PEM file with our certificate and its chain."""
    private_key: Path = Field(examples=["tls/node.key"])
    """PEM file with its key."""
    trusted: Path | None = Field(None, examples=["tls/house-ca.pem"])
    """PEM file of CAs whose client certificates are accepted; set: a client certificate is required."""


class Hl7Settings(Section):
    """``[hl7]``: takes HL7 v2 messages over MLLP (docs/connect/hl7-in.md)."""

    port: Port | None = Field(None, examples=[2575])
    """TCP port; not set: no messages are taken."""
    host: Host = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    senders: dict[Name, tuple[IPvAnyNetwork, ...]] = Field(
        {}, max_length=50, examples=[{"ris": ["192.168.1.30"]}]
    )
    """Who may send: a name, and addresses or networks. Connections of others are closed."""
    assigning_authority: Annotated[str, Field(max_length=255), AfterValidator(checked_authority)] = Field(
        "", examples=["HOSP"]
    )
    """Whose Patient IDs count, as in PID-3.4: "HOSP" or "HOSP&1.2.840.1&ISO"; empty: IDs without one."""
    order_rules: dict[Annotated[str, Field(min_length=1, max_length=64)], Name] = Field(
        {}, max_length=100, examples=[{"XCHEST2": "chest"}]
    )
    """Rules that orders may start: by the code of the ordered procedure (OBR-4.1) the rule's name."""
    order_hours: float = Field(72, gt=0, le=8760)
    """How long an order waits for its study."""
    message_kib: int = Field(1024, ge=1, le=1024)
    """Longer messages (KiB) are refused, and end their connection."""
    connections: int = Field(20, ge=1, le=200)
    """Connections at the same time, over all senders."""
    messages_a_second: float = Field(20, gt=0, le=1000)
    """Of one sender; what comes faster waits in its connection."""
    idle_seconds: float = Field(600, gt=0, le=86400)
    """A connection without a message for so long is ended."""
    tls: Hl7TlsSettings | None = None
    """Certificates; absent: plain MLLP."""

    @model_validator(mode="after")
    def _knows_its_senders(self) -> Self:
        """Refuse a listener that nobody may send to. Raises ValueError."""
        if self.port and not self.senders:
            raise ValueError('senders is missing: who may send, as senders = {ris = ["192.168.1.30"]}')
        return self


class Hl7Part(Section):
    """Mixin that adds the table ``[hl7]`` to the node's settings."""

    hl7: Hl7Settings = Hl7Settings()


def check_rules(settings: Settings, read: TomlFiles) -> None:
    """Add to ``read`` the names in ``hl7.order_rules`` that no rule has."""
    known = [name for _, name in read.numbered_names("rules")]
    for code, name in typed_section(settings, Hl7Part).hl7.order_rules.items():
        if read.all_named("rules") and name not in known:
            read.add(("hl7", "order_rules", code), repr(name), f"no such rule; {did_you_mean(name, known)}")


def check(settings: Settings) -> Found:
    """Yield what HL7 peers and the listener lack: the library hl7apy, and files that can be read."""
    installed = find_spec("hl7apy") is not None
    for peer in settings.peers:
        if peer.transport == "hl7" and not installed:
            yield f"peers.{peer.name}.transport", "'hl7'", _INSTALL
    hl7 = typed_section(settings, Hl7Part).hl7
    if hl7.port and not installed:
        yield "hl7.port", str(hl7.port), _INSTALL
    if hl7.port and hl7.tls:
        try:
            server_context(hl7.tls.certificate, hl7.tls.private_key, hl7.tls.trusted)
        except OSError as error:  # ssl.SSLError is one
            why = error.strerror or "no PEM file, or a key of another certificate"
            yield "hl7.tls", str(hl7.tls.certificate), f"cannot be used: {why}"
