"""Records of the audit as DICOM audit messages (PS3.15 A.5, after RFC 3881), checked by the parts of the
schema that the node writes.

With them go records of the node's own actions, made from its events: starts, transfers, queries, refused
callers. They are written only if audit messages are sent (PS3.15 A.5.3): the events are in the database
anyway. The newest of these records names the last event that was read.
"""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound, ResultRefused
from dicom_node.base.lifecycle import AuditAction
from dicom_node.base.logs import printable
from dicom_node.base.store.tables import Association, AuditRow, EventRow, ReceivedObject
from dicom_node.base.store.transitions import utc_now


@dataclass(frozen=True, slots=True)
class _MessagePart:
    """What the XML schema of audit messages allows in one element.

    ``children``: pattern of the child elements' names, each followed by a space; ``attributes``: pattern of
    the value by attribute name (a name with ``?`` is optional); ``text``: pattern of the element's text.
    """

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
    """Raise ResultRefused if the audit message violates the XML schema, with the first violation as text."""
    try:
        root = fromstring(message)
    except (ParseError, UnicodeError) as error:
        raise ResultRefused(f"no parser reads it: {type(error).__name__}") from None
    if root.tag != "AuditMessage":
        raise ResultRefused("its root is no AuditMessage")
    for element in root.iter():
        _check(element)


def _check(element: Element) -> None:
    """Raise ResultRefused if this element violates the schema of audit messages; its children are not
    checked.
    """
    allowed = _CONTENTS.get(element.tag)
    if allowed is None:
        raise ResultRefused("an element that the schema does not have")
    if not re.fullmatch(allowed.children, "".join(f"{child.tag} " for child in element)):
        raise ResultRefused(f"{element.tag} has other elements than the schema says")
    if not re.fullmatch(allowed.text, element.text or "", re.DOTALL):
        raise ResultRefused(f"{element.tag} has another text than the schema says")
    known = {name.rstrip("?"): pattern for name, pattern in allowed.attributes.items()}
    required = {name for name in allowed.attributes if not name.endswith("?")}
    if not required <= element.attrib.keys() <= known.keys():
        raise ResultRefused(f"{element.tag} has other attributes than the schema says")
    for name, value in element.attrib.items():
        if not re.fullmatch(known[name], value):
            raise ResultRefused(f"{name} of {element.tag} has a value that the schema does not take")


_SUCCESS, _MINOR_FAILURE = "0", "4"
_APPLICATION_SERVER = "4"  # Audit Source Type Code
_MACHINE, _ADDRESS = "1", "2"  # Network Access Point Type Code
_PERSON, _SYSTEM_OBJECT = "1", "2"  # Participant Object Type Code
_PATIENT, _REPORT, _USER, _SECURITY_RESOURCE, _QUERY = (
    "1",
    "3",
    "6",
    "13",
    "24",
)  # Participant Object Type Code Role
_PATIENT_NUMBER = Code("2", "RFC-3881", "Patient Number")
_URI = Code("12", "RFC-3881", "URI")
_DCM = codes.DCM


@dataclass(frozen=True, slots=True)
class _AuditedAs:
    """The codes with which audit messages describe one kind of action.

    ``event``: Event ID (CID 400); ``action``: Event Action Code (C, R, U, D or E); ``type``: Event Type Code
    (CID 401), None if the event has none.
    """

    event: Code
    action: str
    type: Code | None = None
    outcome: str = _SUCCESS
    ours: Code | None = None
    """Role of this program in what no person did (CID 402)."""
    theirs: Code | None = None
    """Role of the other application entity."""
    of: str = ""
    """Of an alert: path of its subject, filled with the fields of the record."""


def _access_codes(action: str) -> _AuditedAs:
    """Return the codes for access to a study's objects.

    ``action``: the Event Action Code, such as "R" for reading.
    """
    return _AuditedAs(_DCM.DICOMInstancesAccessed, action)


def _alert_codes(kind: Code, of: str) -> _AuditedAs:
    """Return the codes for a security alert.

    ``kind``: its Event Type Code (CID 401); ``of``: the path of the resource that the alert is about, with
    names of the record's fields in braces.
    """
    return _AuditedAs(_DCM.SecurityAlert, "E", kind, of=of)


_LOGIN, _USERS = _DCM.Login, _DCM.UserSecurityAttributesChanged
_A = AuditAction
KINDS: Mapping[AuditAction, _AuditedAs] = {
    _A.SIGNED_IN: _AuditedAs(_DCM.UserAuthentication, "E", _LOGIN),
    _A.SIGN_IN_REFUSED: _AuditedAs(_DCM.UserAuthentication, "E", _LOGIN, _MINOR_FAILURE),
    _A.SIGNED_OUT: _AuditedAs(_DCM.UserAuthentication, "E", _DCM.Logout),
    _A.USER_ADDED: _alert_codes(_USERS, "users/{user}"),
    _A.USER_REMOVED: _alert_codes(_USERS, "users/{user}"),
    _A.USER_CHANGED: _alert_codes(_USERS, "users/{user}"),
    _A.PASSWORD_SET: _alert_codes(_USERS, "users/{user}"),
    _A.TOKEN_ADDED: _alert_codes(_USERS, "tokens/{token}"),
    _A.TOKEN_REMOVED: _alert_codes(_USERS, "tokens/{token}"),
    _A.STUDY_SEEN: _access_codes("R"),
    _A.LIST_SEEN: _AuditedAs(_DCM.Query, "E"),
    _A.EXPORTED: _AuditedAs(_DCM.Export, "R"),
    _A.STUDY_SEARCHED: _AuditedAs(_DCM.Query, "E"),
    _A.STUDY_RERUN: _access_codes("U"),
    _A.JOB_CHANGED: _access_codes("U"),
    _A.STUDY_RELEASED: _access_codes("U"),
    _A.RESULT_WITHDRAWN: _access_codes("D"),
    _A.DELIVERY_RETRIED: _AuditedAs(_DCM.BeginTransferringDICOMInstances, "E"),
    _A.OBJECTS_DELETED: _access_codes("D"),  # not "Study Deleted": its results stay
    _A.DISCARDED: _access_codes("U"),
    _A.SENT_TO_PEER: _AuditedAs(_DCM.BeginTransferringDICOMInstances, "E"),
    _A.UPLOADED: _AuditedAs(_DCM.Import, "C"),
    _A.PATIENT_ADDED: _alert_codes(_DCM.UseOfRestrictedFunction, "patients/{patient}"),
    _A.PATIENT_CHANGED: _alert_codes(_DCM.UseOfRestrictedFunction, "patients/{patient}"),
    _A.PATIENT_REMOVED: _alert_codes(_DCM.UseOfRestrictedFunction, "patients/{patient}"),
    _A.PEER_SAVED: _alert_codes(_DCM.NetworkConfiguration, "peers/{name}"),
    _A.PEER_REMOVED: _alert_codes(_DCM.NetworkConfiguration, "peers/{name}"),
    _A.RULE_SAVED: _alert_codes(_DCM.SoftwareConfiguration, "rules/{name}"),
    _A.RULE_REMOVED: _alert_codes(_DCM.SoftwareConfiguration, "rules/{name}"),
    _A.PEER_TESTED: _alert_codes(_DCM.UseOfRestrictedFunction, "peers/{peers}"),
    _A.STUDIES_FETCHED: _AuditedAs(_DCM.Query, "E"),
    _A.NOTIFIER_TESTED: _alert_codes(_DCM.UseOfRestrictedFunction, "notifications/{notification}"),
    _A.NOTIFIED_AGAIN: _alert_codes(_DCM.UseOfRestrictedFunction, "notifications/{notifications}"),
    _A.FEEDBACK_GIVEN: _access_codes("U"),
    _A.ASSESSMENT_SENT: _AuditedAs(_DCM.BeginTransferringDICOMInstances, "E"),
    _A.RESULTS_ASSESSED: _access_codes("U"),
    _A.CLEANING_JUDGED: _access_codes("U"),
    _A.DECISION_SETTLED: _alert_codes(_DCM.UseOfRestrictedFunction, "decisions/{decision}"),
    _A.MODEL_ACTIVATED: _alert_codes(_DCM.SoftwareConfiguration, "pipelines/{pipeline}"),
    _A.MODEL_ROLLBACK: _alert_codes(_DCM.SoftwareConfiguration, "pipelines/{pipeline}"),
    _A.CONFIG_RELOADED: _alert_codes(_DCM.SoftwareConfiguration, "configuration"),
    _A.BACKED_UP: _AuditedAs(_DCM.Export, "R"),
    _A.RESTORED: _AuditedAs(_DCM.Import, "C"),
    _A.SPOOL_REINDEXED: _alert_codes(_DCM.UseOfRestrictedFunction, "spool"),
    _A.MACHINE_REMOVED: _alert_codes(_DCM.SoftwareConfiguration, "machines/{machine}"),
    _A.NODE_STARTED: _AuditedAs(_DCM.ApplicationActivity, "E", _DCM.ApplicationStart, ours=_DCM.Application),
    _A.NODE_STOPPING: _AuditedAs(_DCM.ApplicationActivity, "E", _DCM.ApplicationStop, ours=_DCM.Application),
    _A.IMAGES_RECEIVED: _AuditedAs(
        _DCM.DICOMInstancesTransferred, "C", ours=_DCM.DestinationRoleID, theirs=_DCM.SourceRoleID
    ),
    _A.RESULTS_SENT: _AuditedAs(
        _DCM.DICOMInstancesTransferred, "R", ours=_DCM.SourceRoleID, theirs=_DCM.DestinationRoleID
    ),
    _A.PEER_ASKED: _AuditedAs(_DCM.Query, "E", ours=_DCM.SourceRoleID, theirs=_DCM.DestinationRoleID),
    _A.CALLER_REFUSED: _AuditedAs(
        _DCM.SecurityAlert, "E", _DCM.NodeAuthentication, _MINOR_FAILURE, ours=_DCM.Application
    ),
}


@dataclass(frozen=True, slots=True)
class AuditSource:
    """The node that sends an audit message: AE title, station name, host name and site."""

    ae_title: str
    station: str
    host: str
    site: str = ""


def audit_message(row: AuditRow, study_uid: str, patient_id: str, source: AuditSource) -> bytes:
    """Return the audit record ``row`` as an XML audit message in UTF-8, sent by ``source``.

    ``study_uid`` and ``patient_id`` are "" if the record concerns no study. Raises ResultRefused if the
    message would violate the schema.
    """
    kind = KINDS[row.action]
    root = Element("AuditMessage")
    at = row.at.isoformat(timespec="milliseconds")
    event = SubElement(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=at,
        EventOutcomeIndicator=kind.outcome,
    )
    _code(event, "EventID", kind.event)
    if kind.type is not None:
        _code(event, "EventTypeCode", kind.type)
    SubElement(event, "EventOutcomeDescription").text = row.action.value
    _participants(root, row, kind, source)
    reporter = {"AuditSourceID": printable(source.station)}
    if source.site:
        reporter["AuditEnterpriseSiteID"] = printable(source.site)
    SubElement(
        SubElement(root, "AuditSourceIdentification", reporter),
        "AuditSourceTypeCode",
        {"csd-code": _APPLICATION_SERVER},
    )
    if study_uid:
        _object(root, study_uid, _REPORT, _DCM.StudyInstanceUID, row.fields)
    if patient_id:
        _object(root, patient_id, _PATIENT, _PATIENT_NUMBER, {}, person=True)
    if kind.event == _DCM.SecurityAlert:
        _alert_subject(root, row, kind, source)
    elif not study_uid and kind.event != _DCM.ApplicationActivity:  # a start has no object (PS3.15 A.5.3.1)
        role = _QUERY if row.action is _A.STUDY_SEARCHED else _USER
        _object(root, row.action.value, role, _URI, row.fields)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    check_message(written)
    return written


def _participants(root: Element, row: AuditRow, kind: _AuditedAs, source: AuditSource) -> None:
    """Add the message's active participants: the person or other application entity that acted, and this
    program, each with its role (CID 402).

    A message on the start or stop of the program has this program only.
    """
    sends = kind.ours is not None and kind.ours == _DCM.SourceRoleID
    if kind.event != _DCM.ApplicationActivity:
        user = {"UserID": printable(row.actor) or "unknown", "UserIsRequestor": str(not sends).lower()}
        if kind.ours is not None and row.actor:
            user["AlternativeUserID"] = f"AETITLES={printable(row.actor)}"
        if row.address:
            user |= {"NetworkAccessPointID": printable(row.address), "NetworkAccessPointTypeCode": _ADDRESS}
        other = SubElement(root, "ActiveParticipant", user)
        if kind.theirs is not None:
            _code(other, "RoleIDCode", kind.theirs)
    program = SubElement(
        root,
        "ActiveParticipant",
        UserID="dicom-node",
        AlternativeUserID=f"AETITLES={source.ae_title}",
        UserIsRequestor=str(sends).lower(),
        NetworkAccessPointID=source.host,
        NetworkAccessPointTypeCode=_MACHINE,
    )
    _code(program, "RoleIDCode", kind.ours or _DCM.Application)


def _alert_subject(root: Element, row: AuditRow, kind: _AuditedAs, source: AuditSource) -> None:
    """Add the resource that a security alert is about (PS3.15 A.5.3.11), with a description in words.

    It is a resource of this node, or the refused caller's address.
    """
    details = {key: value for key, value in row.fields.items() if value not in (None, "", [])}
    listed = ", ".join(f"{key}={value}" for key, value in details.items())
    text = {"Alert Description": f"{row.action.value.replace('_', ' ')}{': ' if listed else ''}{listed}"}
    if row.action is _A.CALLER_REFUSED:
        _object(root, row.address or row.actor or "unknown", _SECURITY_RESOURCE, _DCM.NodeID, text | details)
        return
    named = {
        key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in details.items()
    }
    path = quote(kind.of.format_map(defaultdict(str, named)))
    _object(root, f"dicom-node://{source.host}/{path}", _SECURITY_RESOURCE, _URI, text | details)


def _object(
    root: Element, name: str, role: str, of: Code, details: Mapping[str, Any], *, person: bool = False
) -> None:
    """Add a participant object, such as a study or a patient, to the message.

    ``name``: its ID; ``role``: its Type Code Role; ``of``: the code for the kind of ``name``, such as a Study
    Instance UID; ``details``: further values by name; ``person``: it is a patient, whose ID is not repeated
    as a name.
    """
    found = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=printable(name),
        ParticipantObjectTypeCodeRole=role,
        ParticipantObjectTypeCode=_PERSON if person else _SYSTEM_OBJECT,
    )
    _code(found, "ParticipantObjectIDTypeCode", of)
    if role == _QUERY:
        SubElement(found, "ParticipantObjectQuery").text = _base64(details)
        return
    SubElement(found, "ParticipantObjectName").text = "" if person else printable(name)
    for key, value in details.items():
        if value not in (None, "", []):
            SubElement(found, "ParticipantObjectDetail", type=key, value=_base64(value))


def _code(parent: Element, name: str, code: Code) -> None:
    """Add to ``parent`` a child element called ``name`` that holds ``code``."""
    words = {"csd-code": code.value, "codeSystemName": code.scheme_designator, "originalText": code.meaning}
    SubElement(parent, name, words)


def _base64(value: object) -> str:
    """Return a value as base64 of its text or JSON; base64 carries characters that XML does not allow (PS3.15
    A.5.1.1, ValuePair).
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return base64.b64encode(text.encode(errors="backslashreplace")).decode("ascii")


AUDITED = {
    events.NODE_STARTED.number: _A.NODE_STARTED,
    events.NODE_STOPPING.number: _A.NODE_STOPPING,
    events.STUDY_COMPLETE.number: _A.IMAGES_RECEIVED,
    events.DELIVERY_SENT.number: _A.RESULTS_SENT,
    events.DELIVERY_WARNED.number: _A.RESULTS_SENT,
    events.ASSOCIATION_REJECTED.number: _A.CALLER_REFUSED,
    events.TLS_FAILED.number: _A.CALLER_REFUSED,
    events.ARCHIVE_ANSWERED.number: _A.PEER_ASKED,
    events.STUDIES_MISSING.number: _A.PEER_ASKED,
    events.WORKITEM_WANTED.number: _A.PEER_ASKED,
}
_AT_ONCE = 100
LATE = timedelta(seconds=2)  # a transaction with a smaller number may still be under way
_OF_A_RERUN = 4  # events that are at most between "rules applied again" and "complete", which brought nothing


def new_records(session: Session, settings: Settings) -> list[AuditRow]:
    """Return new, unsaved audit records for the node's events since the last event that has an audit record.

    Results sent to one peer for one study share a record.
    """
    after = _last_event(session)
    if after is None:
        return []
    rerun = aliased(EventRow)
    repeated = exists().where(
        rerun.number == events.STUDY_RERUN.number,
        rerun.study_id == EventRow.study_id,
        rerun.id.between(EventRow.id - _OF_A_RERUN, EventRow.id),
    )
    chosen = (
        select(EventRow)
        .where(EventRow.id > after, EventRow.number.in_(AUDITED), EventRow.at <= utc_now() - LATE)
        .where((EventRow.number != events.STUDY_COMPLETE.number) | ~repeated)
        .order_by(EventRow.id)
        .limit(_AT_ONCE)
    )
    rows = _records_of(session, settings, session.scalars(chosen).all())
    return sorted(rows, key=lambda row: int(row.fields["event"]))


def _last_event(session: Session) -> int | None:
    """Return the number of the last event that has an audit record.

    Without such records it is the last event before the node's latest start; None if the node has never
    started.
    """
    newest = (
        select(AuditRow.fields)
        .where(AuditRow.action.in_(AUDITED.values()))
        .order_by(AuditRow.id.desc())
        .limit(1)
    )
    if fields := session.scalar(newest):
        return int(fields["event"])
    started = select(func.max(EventRow.id)).where(EventRow.number == events.NODE_STARTED.number)
    number = session.scalar(started)
    return None if number is None else number - 1


def _records_of(session: Session, settings: Settings, found: Sequence[EventRow]) -> Iterator[AuditRow]:
    """Yield an audit record for each of the node's events ``found``.

    Events of results sent to one peer for one study share one record.
    """
    sent: dict[tuple[int | None, str], AuditRow] = {}
    for event in found:
        row = AuditRow(
            at=event.at, action=AUDITED[event.number], study_id=event.study_id, fields={"event": event.id}
        )
        if row.action is _A.RESULTS_SENT:
            peer, instance = str(event.fields.get("destination")), str(event.fields.get("instance"))
            row.actor, row.address = _peer_title_and_host(settings, peer)
            known = sent.setdefault((event.study_id, peer), row)
            instances = [*known.fields.get("instances", ()), instance]
            known.fields = {"event": event.id, "peer": peer, "instances": instances}
            continue
        if row.action is _A.PEER_ASKED:
            peer = str(event.fields.get("peer"))
            row.actor, row.address = _peer_title_and_host(settings, peer)
            row.fields |= {"peer": peer, "asked": str(event.fields.get("asked", "studies without result"))}
        elif row.action is _A.IMAGES_RECEIVED and event.study_id is not None:
            row.actor, row.address = _title_and_address_of_sender(session, event.study_id)
        elif row.action is _A.CALLER_REFUSED:
            row.actor = str(event.fields.get("calling") or "")[:64]
            row.address = str(event.fields.get("address") or "")[:64]
            row.fields |= {"reason": str(event.fields.get("meaning") or "no TLS")}
        else:
            row.actor, row.address = "dicom-node", ""
        yield row
    yield from sent.values()


def _peer_title_and_host(settings: Settings, name: str) -> tuple[str, str]:
    """Return AE title and host of the peer ``name``; (name, "") if that peer is no longer configured."""
    try:
        peer = settings.peer(name)
    except NotFound:
        return name[:64], ""
    return peer.ae_title, peer.host[:64]


def _title_and_address_of_sender(session: Session, study_id: int) -> tuple[str, str]:
    """Return AE title and network address of the sender of a study's last received object; ("", "") if
    unknown.
    """
    last = (
        select(ReceivedObject.calling_ae, Association.address)
        .outerjoin(Association, Association.id == ReceivedObject.association)
        .where(ReceivedObject.study_id == study_id)
        .order_by(ReceivedObject.id.desc())
        .limit(1)
    )
    row = session.execute(last).first()
    return (row.calling_ae, row.address or "") if row else ("", "")
