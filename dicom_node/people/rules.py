"""Rules: their text, and the effect of present or changed rules on files, new studies and past studies."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import PeerSettings, RuleSettings, Settings
from dicom_node.base.dicom.uids import role_of
from dicom_node.base.errors import FaultyInput
from dicom_node.base.kinds import AuditAction, ObjectRole
from dicom_node.base.lifecycle import HeldState, JobState, StudyState
from dicom_node.base.store import intake, results, transitions
from dicom_node.base.store.tables import HeldResult, Instance, Job, Study
from dicom_node.base.store.views import View, columns
from dicom_node.jobs.queue import decide, decide_study, explain, why_none
from dicom_node.people import Row, audit, entered, open_database
from dicom_node.receive.inspection import Inspected, inspect

TRIED = 50
"""Studies that rules are tried against, the newest."""


class RuleRow(Row):
    """A rule; ``version`` is null if it is in the configuration files."""

    name: str
    pipeline: str
    version: int | None


class RuleTrial(Row):
    """One of the newest studies, with the rules that take it ``now``, and ``then`` with the changed rules."""

    study_instance_uid: str | None
    changes: bool


_ReadFile = tuple[Path, Inspected, Instance]


def listed(settings: Settings) -> list[View]:
    """The rules in their order; a study gets a job for each rule that takes it."""
    return [
        {
            "name": rule.name,
            "when": {key: list(value) for key, value in rule.when if value},
            "pipeline": rule.pipeline,
            "send_to": list(rule.send_to),
            "forward": list(rule.forward),
            "then": [str(one) for one in rule.then],
            "priority": rule.priority,
            "options": {key: toml_value(value) for key, value in rule.options.items()},
            "limits": _limits(rule),
            "version": rule.entered or None,
        }
        for rule in settings.rules
    ]


def as_toml(settings: Settings) -> str:
    """The rules as TOML, without keys that have their default."""
    return "\n".join(f"[[rules]]\n{entered.as_text('rules', _shown(rule))}" for rule in settings.rules)


def parsed(settings: Settings, text: str) -> Settings:
    """The settings with the rules in ``text`` instead of the present ones. Raises FaultyInput with every
    mistake.
    """
    data = entered.tables(text)
    if set(data) != {"rules"}:
        raise FaultyInput("write only rules, each under a line [[rules]]")
    return entered.checked(settings, data).settings


def with_rule(settings: Settings, content: View) -> Settings:
    """The settings with this rule added, or replaced if it exists. Raises FaultyInput with every mistake."""
    others = [_shown(rule) for rule in settings.rules if rule.name != content["name"]]
    return entered.checked(settings, {"rules": [*others, content]}).settings


def _shown(rule: RuleSettings) -> dict[str, Any]:
    return rule.model_dump(mode="json", exclude_defaults=True, exclude={"entered"})


def tried(session: Session, settings: Settings, other: Settings | None = None) -> list[View]:
    """The rules that take each of the newest studies; ``other``: changed rules to compare."""
    settled = Study.state.not_in((StudyState.RECEIVING, StudyState.QUARANTINED))
    chosen = select(Study).where(settled).order_by(Study.last_received_at.desc(), Study.id.desc())
    found = []
    for study in session.scalars(chosen.limit(TRIED)):
        row = columns(study, "id", "state", "last_received_at", "study_instance_uid")
        row["now"] = _decided(session, study, settings)
        if other is not None:
            row["then"] = _decided(session, study, other)
            row["changes"] = _outcome(row["then"]) != _outcome(row["now"])
        sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
        row["modalities"] = sorted({source.modality for source in sources})
        found.append(row)
    return found


def try_files(settings: Settings, files: Sequence[Path], sender: str = "") -> list[dict[str, Any]]:
    """One row per file (also of folders) and rule: whether the rule applies, and why (not).

    ``sender``: name or AE title of the peer that is assumed to have sent them. Raises UnknownPeer.
    """
    from dicom_node.deliver.scu.dimse import dicom_files

    peer = settings.sender(sender) if sender else None
    read = [_read(path, settings, peer) for path in dicom_files(files)]
    held = _held(settings, read)
    rows: list[dict[str, Any]] = []
    for path, image, facts in read:
        about = {
            "file": str(path),
            "study_instance_uid": image.study_instance_uid,
            "sop_instance_uid": image.sop_instance_uid,
            "modality": image.modality,
        }
        if image.fault:
            none = {"rule": "", "pipeline": "", "applies": False}
            rows.append({**about, **none, "reason": f"quarantined: {image.fault}", "then": []})
            continue
        for rule, failed in explain(settings.rules, facts, settings.sender_names):
            limit = "" if failed else held.get((image.study_instance_uid, rule.name), "")
            rows.append(
                {
                    **about,
                    "rule": rule.name,
                    "pipeline": rule.pipeline,
                    "applies": not failed,
                    "reason": f"held: {limit}" if limit else failed or "all conditions hold",
                    "then": [] if failed else [str(one) for one in rule.then],
                }
            )
    return rows


def replay(settings: Settings, since: datetime, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Apply the rules to studies received since ``since`` that should now get a job which they did not get.

    With ``dry_run`` the rules are not applied. Returns a row for each such study and rule that takes it.
    """
    from dicom_node.studies import choose

    def note(session: Session, study: int) -> None:
        audit.note(session, audit.COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study, replay=True)

    with open_database(settings) as database:
        return choose.replay(database, settings, since, None if dry_run else note)


def _decided(session: Session, study: Study, settings: Settings) -> View:
    """Rules that take the study, with the limit that would hold the job; else why none does."""
    sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
    decisions = decide_study(session, study, sources, settings)
    return {
        "rules": [
            {
                "name": decision.rule.name,
                "images": len(decision.source_uids),
                "held": decision.held_reason,
                "send_to": list(decision.rule.send_to),
                "then": _would_do(session, study, decision.rule),
            }
            for decision in decisions
        ],
        "why": "" if decisions else why_none(settings.rules, sources, settings.sender_names),
    }


def _outcome(decided: View) -> set[tuple[str, ...]]:
    return {(rule["name"], *rule["then"]) for rule in decided["rules"]}


def _would_do(session: Session, study: Study, rule: RuleSettings) -> list[str]:
    """Which conditions hold for what the rule's pipeline made of the study last."""
    if not rule.then:
        return []
    states = (JobState.SUCCEEDED, JobState.FAILED, JobState.NOT_APPLICABLE)
    ended = (Job.study_id == study.id, Job.pipeline == rule.pipeline, Job.state.in_(states))
    job = session.scalar(select(Job).where(*ended).order_by(Job.id.desc()).limit(1))
    if job is None:
        return []
    present = results.suspected(session, study.id, rule.pipeline)
    assessed = job.state is JobState.SUCCEEDED
    rejected = exists().where(HeldResult.study_id == study.id, HeldResult.state == HeldState.REJECTED)
    withheld = bool(session.scalar(select(rejected)))
    return [
        str(one)
        for one in rule.then
        if (withheld if one.when == "withheld" else one.holds(present, assessed=assessed))
        and not (one.finding and withheld)
    ]


def _limits(rule: RuleSettings) -> list[str]:
    applies = {
        f"holds studies older than {rule.max_study_age_days:g} days": rule.max_study_age_days,
        f"secondary captures of {', '.join(rule.secondary_captures_from)} too": rule.secondary_captures_from,
        "results wait until a person has accepted them": rule.assess_first,
    }
    return [text for text, value in applies.items() if value]


def _held(settings: Settings, read: Sequence[_ReadFile]) -> dict[tuple[str, str], str]:
    """The limit that would hold a job for a person, by study and rule."""
    held = {}
    intact = [(image, facts) for _, image, facts in read if not image.fault]
    for uid in {image.study_instance_uid for image, _ in intact}:
        members = [(image.study_date, facts) for image, facts in intact if image.study_instance_uid == uid]
        facts, today = [facts for _, facts in members], transitions.utc_now().date()
        for decision in decide(settings.rules, members[0][0], facts, today, settings.sender_names):
            held[uid, decision.rule.name] = decision.held_reason
    return held


def _read(path: Path, settings: Settings, sender: PeerSettings | None) -> _ReadFile:
    found = inspect(path, sender.assume_charset if sender else "")
    name = sender.name if sender else ""
    takes = any(name in rule.secondary_captures_from for rule in settings.rules)
    role = role_of(
        found.sop_class_uid,
        frozenset(settings.listener.further_storage_classes),
        takes_secondary_captures=takes,
    )
    facts = Instance(
        sop_instance_uid=found.sop_instance_uid,
        sop_class_uid=found.sop_class_uid,
        modality=found.modality,
        role=ObjectRole.OWN if found.own else role,
        calling_ae=sender.ae_title if sender else "",
        called_ae=settings.node.ae_title,
        attributes=dict(found.attributes),
    )
    return path, found, facts
