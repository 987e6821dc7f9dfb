"""The effect of rules: their list, and what they take of files, of new studies and of past ones."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input, all_of
from dicom_node.base.actions.columns import JOBS_OF_RULES, Column, fields, yes_no
from dicom_node.base.actions.inputs import SINCE, moment
from dicom_node.base.actions.nouns import RULES
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import RuleSettings
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ExitCode
from dicom_node.base.lifecycle import AuditAction, ObjectRole, StudyState, UserRole
from dicom_node.base.store import intake
from dicom_node.base.store.tables import Instance, Study
from dicom_node.base.store.views import View, columns
from dicom_node.jobs.queue import FIRST_STUDIES, decide, decide_study, explain, present_day, why_none
from dicom_node.jobs.roles import role_by_rules
from dicom_node.people import audit, open_database
from dicom_node.people.audit import COMMAND_LINE
from dicom_node.receive.inspection import Inspected, inspect

TRIED = 50
"""Studies that rules are tried against, the newest."""


@Action(
    RULES,
    "list",
    "List the rules in their order; a study gets a job for each rule that takes it.",
    columns=(
        *fields(
            "name", "when", "pipeline", "to: send_to", "forward", "priority", "options", "then", "limits"
        ),
        Column("entered", lambda row: "at the console" if row["version"] else "in the files"),
    ),
    none="No rules are configured: nothing is analysed. `dicom-node config sample rules` prints some.",
)
def list_rules(settings: Settings) -> list[View]:
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
            "limits": _limits_in_words(rule),
            "version": rule.entered or None,
        }
        for rule in settings.rules
    ]


def _limits_in_words(rule: RuleSettings) -> list[str]:
    """The limits of a rule, such as the age of studies, as texts."""
    applies = {
        f"holds studies older than {rule.max_study_age_days:g} days": rule.max_study_age_days,
        f"secondary captures of {', '.join(rule.secondary_captures_from)} too": rule.secondary_captures_from,
        "results wait until a person has accepted them": rule.assess_first,
    }
    return [text for text, value in applies.items() if value]


def try_rules(session: Session, settings: Settings, other: Settings | None = None) -> list[View]:
    """Show for each of the newest studies which rules take it (rows, the newest first).

    ``other``: changed settings to compare with; None: no comparison.
    """
    chosen = (
        select(Study)
        .where(Study.state.not_in((StudyState.RECEIVING, StudyState.QUARANTINED)))
        .order_by(Study.last_received_at.desc(), Study.id.desc())
        .limit(TRIED)
    )
    found = []
    for study in session.scalars(chosen):
        row = columns(study, "id", "state", "last_received_at", "study_instance_uid")
        row["now"] = _rules_taking(session, study, settings)
        if other is not None:
            row["then"] = _rules_taking(session, study, other)
            row["changes"] = _rules_and_actions(row["then"]) != _rules_and_actions(row["now"])
        row["modalities"] = sorted({image.modality for image in _images(session, study)})
        found.append(row)
    return found


@Action(
    RULES,
    "try",
    "Say which rules would take these files, which not, and why. Nothing is sent or stored.",
    "image.dcm --from us1 --config node.toml",
    columns=(
        Column("file", lambda row: row["file"].rpartition("/")[2]),
        *fields("modality"),
        Column("rule", lambda row: row["rule"] or "–"),
        yes_no("applies", "applies"),
        Column("pipeline", lambda row: row["pipeline"] if row["applies"] else "–"),
        *fields("why: reason"),
        Column("then", lambda row: "; ".join(row["then"]) or "–"),
    ),
    none="No files, or no rules are configured.",
    status=all_of("rule", ExitCode.DATA),
)
def try_files(
    settings: Settings,
    files: Annotated[Sequence[Path], Input("DICOM files, and folders of them.", metavar="FILES...")],
    sender: Annotated[str, Input("As if this peer (name or AE title) had sent them.", "--from", "PEER")] = "",
) -> list[View]:
    """Show for each file (also in folders) and rule whether the rule applies, and why (not), as rows.

    ``sender``: name or AE title of the peer that is assumed to have sent them, "" for none. Raises NotFound.
    """
    from dicom_node.deliver.scu.storage import dicom_files

    peer = settings.sender(sender) if sender else None
    rows: list[View] = []
    for path in dicom_files(files):
        image, facts = _read_file(path, settings, peer)
        about = {
            "file": str(path),
            **columns(image, "study_instance_uid", "sop_instance_uid", "modality"),
        }
        if image.fault:
            rows.append(
                {
                    **about,
                    "rule": "",
                    "pipeline": "",
                    "applies": False,
                    "reason": f"quarantined: {image.fault}",
                    "then": [],
                }
            )
            continue
        day = present_day([facts])
        taken = decide(settings.rules, image.study_date, [facts], day, settings.sender_names)
        held = {decision.rule.name: decision.held_reason for decision in taken}
        for rule, failed in explain(settings.rules, facts, settings.sender_names):
            limit = held.get(rule.name, "")
            rows.append(
                {
                    **about,
                    "rule": rule.name,
                    "pipeline": rule.pipeline,
                    "applies": not failed,
                    "reason": f"a person must start it, except of the first {FIRST_STUDIES} studies: {limit}"
                    if limit
                    else failed or "all conditions hold",
                    "then": [] if failed else [str(one) for one in rule.then],
                }
            )
    return rows


@Action(
    RULES,
    "replay",
    "Queue the jobs that the rules now start for studies received earlier, and that these did not "
    "get.\n\nUses the rules in these files: run `dicom-node reload` first, so that the node uses "
    "them too.",
    "--since 7d --dry-run --config node.toml",
    columns=JOBS_OF_RULES,
    none="All studies of this time had the jobs that the rules want.",
    role=UserRole.ADMIN,
)
def replay_rules(
    settings: Settings,
    since: Annotated[datetime, Input(SINCE.help, "--since", "WHEN", reads=moment, default="7d")],
    *,
    dry_run: Annotated[
        bool, Input("List the jobs that would be queued; change nothing.", "--dry-run")
    ] = False,
) -> list[View]:
    """Apply the rules to studies received after ``since`` that should get a job by now and did not get it.

    Returns a row for each such study and rule that takes it. ``dry_run``: only return the rows.
    """
    from dicom_node.studies import reruns

    def note(session: Session, study: int) -> None:
        """Note in the audit that the rules were applied to this study."""
        audit.note(session, COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study, replay=True)

    with open_database(settings) as database:
        return reruns.replay(database, settings, since, None if dry_run else note)


def _rules_taking(session: Session, study: Study, settings: Settings) -> View:
    """The rules that take the study, each with the limit that would hold its job; ``why``: why none takes
    it.
    """
    images = _images(session, study)
    decisions = decide_study(session, study, images, settings)
    return {
        "rules": [
            {
                "name": decision.rule.name,
                "images": len(decision.source_uids),
                "held": decision.held_reason,
                "send_to": list(decision.rule.send_to),
                "then": [str(one) for one in decision.rule.then],
            }
            for decision in decisions
        ],
        "why": "" if decisions else why_none(settings.rules, images, settings.sender_names),
    }


def _images(session: Session, study: Study) -> Sequence[Instance]:
    """The images of a study; of one without any its other objects, among which may be secondary captures that
    a rule takes.
    """
    sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
    return sources or intake.instances_of(session, study.id, [ObjectRole.NON_SOURCE])


def _rules_and_actions(decided: View) -> set[tuple[str, ...]]:
    """The rules that take a study and what they do with it, as a set for a comparison."""
    return {(rule["name"], *rule["then"]) for rule in decided["rules"]}


def _read_file(path: Path, settings: Settings, sender: PeerSettings | None) -> tuple[Inspected, Instance]:
    """Read a DICOM file as rules see it; returns (what the inspection found, the row that it would get)."""
    found = inspect(path, sender.assume_charset if sender else "")
    role = role_by_rules(settings, found.sop_class_uid, found.modality, sender.name if sender else "")
    return found, Instance(
        sop_instance_uid=found.sop_instance_uid,
        sop_class_uid=found.sop_class_uid,
        modality=found.modality,
        role=ObjectRole.OWN if found.own else role,
        calling_ae=sender.ae_title if sender else "",
        called_ae=settings.node.ae_title,
        attributes=dict(found.attributes),
    )
