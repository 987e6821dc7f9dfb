"""``rules try``: the rules' decisions on files that were not received."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom.sop_classes import role_of
from dicom_node.inbox.inspection import Inspected, inspect
from dicom_node.jobs.rules import ImageFacts, StudyFacts, decide, explain
from dicom_node.model.kinds import ObjectRole
from dicom_node.store.transitions import utc_now


@dataclass(frozen=True, slots=True)
class _ReadFile:
    path: Path
    found: Inspected
    facts: ImageFacts


def try_rules(settings: Settings, files: Sequence[Path], sender: PeerSettings | None) -> list[dict[str, Any]]:
    """One row per file and rule: does it apply, and why (not). ``sender``: who is supposed to send them."""
    read = [_read(path, settings, sender) for path in files]
    held = _held(settings, read)
    rows: list[dict[str, Any]] = []
    for item in read:
        if item.found.fault:
            rows.append(_row(item, "", "", applies=False, reason=f"quarantined: {item.found.fault}"))
            continue
        for found in explain(settings.rules, item.facts):
            limit = held.get((item.found.study_instance_uid, found.rule), "") if found.applies else ""
            reason = f"held: {limit}" if limit else found.reason
            rows.append(_row(item, found.rule, found.pipeline, applies=found.applies, reason=reason))
    return rows


def _held(settings: Settings, read: Sequence[_ReadFile]) -> dict[tuple[str, str], str]:
    """By study and rule, the limit that would hold the job for a person (daily caps are not known here)."""
    held = {}
    for uid in dict.fromkeys(item.found.study_instance_uid for item in read):
        members = [item for item in read if item.found.study_instance_uid == uid and not item.found.fault]
        if members:
            facts = StudyFacts(members[0].found.study_date, utc_now().date())
            for decision in decide(settings.rules, facts, [item.facts for item in members]):
                held[uid, decision.rule.name] = decision.held_reason
    return held


def _read(path: Path, settings: Settings, sender: PeerSettings | None) -> _ReadFile:
    found = inspect(path, sender.assume_charset if sender else "")
    name = sender.name if sender else ""
    facts = ImageFacts(
        sop_instance_uid=found.sop_instance_uid,
        sop_class_uid=found.sop_class_uid,
        modality=found.modality,
        role=ObjectRole.OWN if found.own else _role(found.sop_class_uid, settings, name),
        calling_ae=sender.ae_title if sender else "",
        called_ae=settings.node.ae_title,
        sender=name,
        attributes=found.attributes,
    )
    return _ReadFile(path, found, facts)


def _role(sop_class_uid: str, settings: Settings, sender: str) -> ObjectRole:
    takes = any(sender in rule.secondary_captures_from for rule in settings.rules)
    further = frozenset(settings.listener.further_storage_classes)
    return role_of(sop_class_uid, further, takes_secondary_captures=takes)


def _row(item: _ReadFile, rule: str, pipeline: str, *, applies: bool, reason: str) -> dict[str, Any]:
    return {
        "file": str(item.path),
        "study_instance_uid": item.found.study_instance_uid,
        "sop_instance_uid": item.found.sop_instance_uid,
        "modality": item.found.modality,
        "rule": rule,
        "pipeline": pipeline,
        "applies": applies,
        "reason": reason,
    }
