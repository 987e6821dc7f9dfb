"""The audit: who did or saw something, or was refused; rows are only ever added."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import AuditAction
from dicom_node.base.store import transitions
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import AuditRow, DecisionRow, Study
from dicom_node.base.store.views import View, columns
from dicom_node.people import decision_copies

SHORTEST_REASON, LONGEST_REASON = 3, 200
"""Characters of a reason."""
_AGAIN = timedelta(minutes=5)  # after which looking at the same study is noted once more


DECISIONS = frozenset(
    {
        AuditAction.RESULT_WITHDRAWN,
        AuditAction.RESULTS_ASSESSED,
        AuditAction.FEEDBACK_GIVEN,
        AuditAction.ASSESSMENT_SENT,
        AuditAction.STUDY_RELEASED,
        AuditAction.STUDY_RERUN,
        AuditAction.CLEANING_JUDGED,
        AuditAction.DISCARDED,
        AuditAction.DELIVERY_RETRIED,
        AuditAction.SENT_TO_PEER,
        AuditAction.OBJECTS_DELETED,
        AuditAction.JOB_CHANGED,
    }
)
"""What persons decide of patients' objects: copied beside the database, a restore does not undo it."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person, and the network address of the person's request.

    ``decided_at``, ``decision``: time and id of the first decision, if it is carried out again after a
    restore.
    """

    name: str
    address: str = ""
    decided_at: datetime | None = None
    decision: str = ""

    @property
    def now(self) -> datetime:
        """The time for the audit: the time of the first decision after a restore, otherwise the present
        time.
        """
        return self.decided_at or transitions.utc_now()


COMMAND_LINE = Person("command line")
"""Whoever uses ``dicom-node``, which knows no users; none of the console's can bear this name."""


def note(
    session: Session,
    by: Person,
    action: AuditAction,
    *,
    study_id: int | None = None,
    what: Mapping[str, Any] | None = None,
    words: str = "",
    **fields: Any,
) -> AuditRow:
    """Add a row in the transaction of the audited action. ``fields`` contain no PHI.

    A decision is also written for its copy: ``what`` names by UIDs what was decided, so that it can be
    applied again in a restored database; ``words``, a person's reason, are encrypted there.
    """
    row = AuditRow(
        at=by.now, actor=by.name, address=by.address[:64], action=action, study_id=study_id, fields=fields
    )
    session.add(row)
    if by.decision:
        decision_copies.apply(session, by.decision)
    elif action in DECISIONS:
        about = dict(what or {})
        study = session.get_one(Study, study_id) if study_id is not None else None
        decision = DecisionRow(
            id=uuid.uuid4().hex,
            at=row.at,
            machine=decision_copies.machine(),
            action=action.value,
            study_uid=(study.study_instance_uid or "") if study else "",
            record={
                "actor": by.name,
                "address": row.address,
                "fields": fields,
                "what": about,
                "words": words,
            },
            copied=False,
            holds=decision_copies.holds(action, about),
            applied_at=row.at,
            waits_for="",
        )
        decision_copies.add(session, decision)
    return row


def note_sight(database: Database, by: Person, study_id: int) -> None:
    """Record that a person sees a study, before it is shown; not again within some minutes."""
    _note_once(database, by, AuditAction.STUDY_SEEN, AuditRow.study_id == study_id, study_id=study_id)


def note_list(database: Database, by: Person, name: str) -> None:
    """Record that a person sees a list of studies or patients; at most once in some minutes, not per page."""
    _note_once(database, by, AuditAction.LIST_SEEN, AuditRow.fields["list"].as_string() == name, list=name)


def rows(
    session: Session,
    *,
    before: int | None = None,
    limit: int = 100,
    actor: str = "",
    action: AuditAction | None = None,
) -> list[View]:
    """The newest rows, filtered by person or kind if given.

    ``before``: only rows older than the row with this number.
    """
    chosen = select(AuditRow, Study.study_instance_uid).join(
        Study, AuditRow.study_id == Study.id, isouter=True
    )
    if before is not None:
        chosen = chosen.where(AuditRow.id < before)
    if actor:
        chosen = chosen.where(AuditRow.actor == actor)
    if action is not None:
        chosen = chosen.where(AuditRow.action == action)
    found = session.execute(chosen.order_by(AuditRow.id.desc()).limit(limit)).all()
    return [
        {"number": row.id, **columns(row, "at", "actor", "address", "action", "study_id"), "study": uid}
        | {"fields": dict(row.fields)}
        for row, uid in found
    ]


def _note_once(
    database: Database, by: Person, action: AuditAction, same: ColumnElement[bool], **fields: Any
) -> None:
    noted = exists().where(
        same,
        AuditRow.actor == by.name,
        AuditRow.action == action,
        AuditRow.at > transitions.utc_now() - _AGAIN,
    )
    with database.read() as session:
        if session.scalar(select(noted)):
            return
    with database.write() as session:
        note(session, by, action, **fields)


def checked_reason(text: str) -> str:
    """A person's reason, in one line. Raises FaultyInput."""
    words = " ".join(text.split())
    if not SHORTEST_REASON <= len(words) <= LONGEST_REASON or not words.isprintable():
        raise FaultyInput(f"say why in {SHORTEST_REASON} to {LONGEST_REASON} characters")
    return words
