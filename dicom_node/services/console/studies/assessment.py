"""Results that wait until a person has accepted them: shown, accepted, rejected."""

from __future__ import annotations

from sqlalchemy.orm import Session

from dicom_node import outbox
from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import AuditAction, HoldVerdict
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.console.studies import feedback
from dicom_node.services.work import said
from dicom_node.store import held
from dicom_node.store.views import View, as_json, columns, find_study


def show(session: Session, study: int) -> View:
    """What waits of a study or was rejected, since when, and what was decided by whom.

    ``as_of`` is to be given with a decision, so that it is about what was seen.
    """
    rows = outbox.in_question(session, study)
    decisions = {
        (row.decided_at, row.decided_by, row.verdict): columns(
            row, "decided_at", "decided_by", "verdict", "because"
        )
        for row in held.decided(session, study)
    }
    return {
        "waiting": sum(row.verdict is None for row in rows),
        "rejected": sum(row.verdict is HoldVerdict.REJECTED for row in rows),
        "since": as_json(min((row.since for row in rows), default=None)),
        "as_of": outbox.mark(rows) if rows else "",
        "decisions": list(decisions.values()),
    }


def accept(
    settings: Settings, study_instance_uid: str, by: Person = COMMAND_LINE, *, as_of: str | None = None
) -> int:
    """Let the results of a study leave that wait, or were rejected; returns how many.

    What they call present and nobody has assessed counts as accepted by this person. Raises NotFound, or
    NotAllowedNow where nothing waits, other results wait than those of ``as_of``, or a finding in them was
    not accepted: who gets them would see it all the same.
    """
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        if others := feedback.contested(session, settings, study):
            raise NotAllowedNow(
                f"{', '.join(others)}: not accepted as it stands in the results, and they cannot be changed. "
                "Reject the results, or assess the finding anew"
            )
        number = outbox.accept(session, study, by.name, as_of)
        feedback.accept_rest(session, settings, study, by)
        _note(session, by, study, HoldVerdict.ACCEPTED, number)
    return number


def reject(
    settings: Settings,
    study_instance_uid: str,
    by: Person = COMMAND_LINE,
    *,
    because: str,
    as_of: str | None = None,
) -> int:
    """Let none of a study's results leave that wait; returns how many. Raises NotFound, NotAllowedNow,
    FaultyInput."""
    words = said(because)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        number = outbox.reject(session, study, by.name, words, as_of)
        _note(session, by, study, HoldVerdict.REJECTED, number)
    return number


def _note(session: Session, by: Person, study: int, verdict: HoldVerdict, results: int) -> None:
    audit.note(
        session, by, AuditAction.RESULTS_ASSESSED, study_id=study, verdict=verdict.value, results=results
    )
