"""Delete what was received before its time, as far as the rule of retention allows it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.model.kinds import AuditAction
from dicom_node.model.lifecycle import END_STATES, StudyState
from dicom_node.services import audit, open_database
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.store.intake import purgeable
from dicom_node.store.tables import Instance, Study
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, find_study


def delete_by_uid(settings: Settings, study_instance_uids: Sequence[str]) -> list[View]:
    """The same, with studies named by UID. Raises NotFound."""
    with open_database(settings) as database, database.read() as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
    return delete_received(settings, studies)


def delete_received(settings: Settings, studies: Sequence[int], by: Person = COMMAND_LINE) -> list[View]:
    """Delete the received objects of these studies now; a row for each, with why it was not, or "".

    The rule is that of ``spool.keep_days`` without its days: a study must have ended, and each of its results
    be confirmed, cancelled or discarded. Built results stay.
    """
    from dicom_node.studies.purge import purge_now

    def note(session: Session, study: int) -> None:
        audit.note(session, by, AuditAction.OBJECTS_DELETED, study_id=study)

    with open_database(settings) as database:
        deleted = set(purge_now(database, settings, studies, note))
        with database.read() as session:
            return [
                {
                    "study_instance_uid": session.get_one(Study, study).study_instance_uid,
                    "deleted": study in deleted,
                    "reason": "" if study in deleted else _why_not(session, study),
                }
                for study in studies
            ]


def _why_not(session: Session, number: int) -> str:
    study = session.get_one(Study, number)
    there = select(Instance.id).where(Instance.study_id == number, Instance.purged.is_(False)).limit(1)
    if study.state is StudyState.QUARANTINED:
        return "it stands in quarantine: release it first"
    if study.state not in END_STATES:
        return f"it is {study.state.value}: wait until it has ended"
    if session.scalar(there) is None:
        return "its images were deleted before"
    if purgeable(session, utc_now() + timedelta(days=1), 1, [number]):
        return "it was being changed at that moment: try again"
    return "a result is not confirmed yet, or a job is held: send, discard or cancel it first"
