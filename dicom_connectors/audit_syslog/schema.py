"""The schema of audit messages (PS3.15 A.5.1.1), limited to the parts that the node writes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, ParseError, fromstring

from dicom_node.base.errors import FaultyMessage


@dataclass(frozen=True, slots=True)
class _MessagePart:
    """What an element may hold: patterns of its children's names, of its attributes (``?``: optional), of its
    text."""

    children: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    text: str = r"\s*"


_TOKEN = r"[^\t\r\n]*"
_BASE64 = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_DATE_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"
_BOOLEAN = "true|false|0|1"
_CODED = _MessagePart(
    attributes={
        "csd-code": _TOKEN,
        "codeSystemName": _TOKEN,
        "displayName?": _TOKEN,
        "originalText": _TOKEN,
    }
)
_CONTENTS: Mapping[str, _MessagePart] = {
    "AuditMessage": _MessagePart(
        "EventIdentification (ActiveParticipant )+AuditSourceIdentification "
        "(ParticipantObjectIdentification )*"
    ),
    "EventIdentification": _MessagePart(
        "EventID (EventTypeCode )*(EventOutcomeDescription )?",
        {
            "EventActionCode?": "[CRUDE]",
            "EventDateTime": _DATE_TIME,
            "EventOutcomeIndicator": "0|4|8|12",
        },
    ),
    "EventID": _CODED,
    "EventTypeCode": _CODED,
    "EventOutcomeDescription": _MessagePart(text=".*"),
    "ActiveParticipant": _MessagePart(
        "(RoleIDCode )*",
        {
            "UserID": ".*",
            "AlternativeUserID?": ".*",
            "UserName?": ".*",
            "UserIsRequestor": _BOOLEAN,
            "NetworkAccessPointID?": _TOKEN,
            "NetworkAccessPointTypeCode?": "[1-5]",
        },
    ),
    "RoleIDCode": _CODED,
    "AuditSourceIdentification": _MessagePart(
        "(AuditSourceTypeCode )*", {"AuditEnterpriseSiteID?": _TOKEN, "AuditSourceID": _TOKEN}
    ),
    "AuditSourceTypeCode": _MessagePart(attributes={"csd-code": "[1-9]"}),
    "ParticipantObjectIdentification": _MessagePart(
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*",
        {
            "ParticipantObjectID": _TOKEN,
            "ParticipantObjectTypeCode?": "[1-4]",
            "ParticipantObjectTypeCodeRole?": "[1-9]|1[0-9]|2[0-6]",
        },
    ),
    "ParticipantObjectIDTypeCode": _CODED,
    "ParticipantObjectName": _MessagePart(text=_TOKEN),
    "ParticipantObjectQuery": _MessagePart(text=_BASE64),
    "ParticipantObjectDetail": _MessagePart(attributes={"type": _TOKEN, "value": _BASE64}),
}


def check_message(message: bytes) -> None:
    """Validate a message as a repository would. Raises FaultyMessage for the first violation of the
    schema.
    """
    try:
        root = fromstring(message)
    except (ParseError, UnicodeError) as error:
        raise FaultyMessage(f"no parser reads it: {type(error).__name__}") from None
    if root.tag != "AuditMessage":
        raise FaultyMessage("its root is no AuditMessage")
    for element in root.iter():
        _check(element)


def _check(element: Element) -> None:
    allowed = _CONTENTS.get(element.tag)
    if allowed is None:
        raise FaultyMessage("an element that the schema does not have")
    if not re.fullmatch(allowed.children, "".join(f"{child.tag} " for child in element)):
        raise FaultyMessage(f"{element.tag} has other elements than the schema says")
    if not re.fullmatch(allowed.text, element.text or "", re.DOTALL):
        raise FaultyMessage(f"{element.tag} has another text than the schema says")
    known = {name.rstrip("?"): pattern for name, pattern in allowed.attributes.items()}
    required = {name for name in allowed.attributes if not name.endswith("?")}
    if not required <= element.attrib.keys() <= known.keys():
        raise FaultyMessage(f"{element.tag} has other attributes than the schema says")
    for name, value in element.attrib.items():
        if not re.fullmatch(known[name], value):
            raise FaultyMessage(f"{name} of {element.tag} has a value that the schema does not take")
