"""Each record of the audit as PS3.15 A.5.1 writes it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from xml.etree.ElementTree import fromstring

import pytest

from dicom_node.audit_trail.message import KINDS, AuditSource, audit_message
from dicom_node.audit_trail.schema import check_message
from dicom_node.model.kinds import AuditAction
from dicom_node.store.accounts import AuditRow

SOURCE = AuditSource("AINODE", "STATION", "host.example.org", "hospital")


def row(action: AuditAction, **fields: object) -> AuditRow:
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    return AuditRow(at=at, actor="anna", address="192.0.2.7", action=action, fields=fields)


@pytest.mark.parametrize("study", ["1.2.3", ""])
def test_each_action_is_a_message_of_the_schema(study: str) -> None:
    for action in AuditAction:
        text = audit_message(row(action, peer="pacs", empty=[]), study, "P-1" if study else "", SOURCE)
        check_message(text)
        root = fromstring(text)
        event = root[0]
        assert event.get("EventDateTime") == "2026-01-02T03:04:05.678+00:00"
        assert event.get("EventActionCode") in set("CRUDE")
        assert event[0].get("csd-code") == KINDS[action].event.value
        ids = [found.get("ParticipantObjectID") for found in root.iter("ParticipantObjectIdentification")]
        assert ids == (["1.2.3", "P-1"] if study else [action.value])


def test_who_saw_a_study_is_told_with_its_patient() -> None:
    root = fromstring(audit_message(row(AuditAction.STUDY_SEEN), "1.2.3", "P-1", SOURCE))
    person, program = root.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("NetworkAccessPointID")) == ("anna", "192.0.2.7")
    assert (person.get("UserIsRequestor"), program.get("UserIsRequestor")) == ("true", "false")
    assert program.get("AlternativeUserID") == "AETITLES=AINODE"
    source = root.find("AuditSourceIdentification")
    assert source is not None
    assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == ("STATION", "hospital")


def test_a_refused_sign_in_is_a_failure() -> None:
    root = fromstring(audit_message(row(AuditAction.SIGN_IN_REFUSED), "", "", SOURCE))
    assert root[0].get("EventOutcomeIndicator") == "4"
    assert [code.get("originalText") for code in root[0].iter("EventTypeCode")] == ["Login"]


def test_what_a_caller_wrote_cannot_change_the_message() -> None:
    bad = row(AuditAction.SIGN_IN_REFUSED, note='"/><x>\x00\u202e')
    bad.actor = 'x" UserIsRequestor="false"/><!--\x1b\n'
    root = fromstring(audit_message(bad, "", 'P<&">\x00', SOURCE))
    assert root.findall("ActiveParticipant")[0].get("UserIsRequestor") == "true"
    [detail] = root.iter("ParticipantObjectDetail")
    assert base64.b64decode(detail.get("value", "")).decode() == '"/><x>\x00\u202e'
