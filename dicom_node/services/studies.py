"""A person's actions on a study: release it from quarantine, run its rules again, delete its images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.model.kinds import AuditAction
from dicom_node.model.lifecycle import END_STATES, StudyState
from dicom_node.services import audit, open_database, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.typed import PRINTABLE, Row, ServiceRequest, ServiceResult
from dicom_node.store.database import Database
from dicom_node.store.intake import purgeable
from dicom_node.store.tables import Instance, Study
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, find_study


class StudyRow(Row):
    """A study; ``id`` is its number here."""

    id: int
    study: str
    state: StudyState
    reason: str
    revision: int


class Studies(ServiceResult):
    """One page; ``next`` is ``after`` of the next one, null at the end."""

    studies: list[StudyRow]
    next: int | None


class Wanted(ServiceRequest):
    """Whole values, or their beginning and an asterisk; of ``name`` whole words. No address holds them."""

    patient: str = Field("", max_length=64, pattern=PRINTABLE)
    name: str = Field("", max_length=64, pattern=PRINTABLE)
    accession: str = Field("", max_length=16, pattern=PRINTABLE)


def versions(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The choices to make before a study can be released; they name patients. Raises NotFound."""
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        return Choice(database, settings).rows(_number_of(database, study_instance_uid))


def release(
    settings: Settings,
    study_instance_uid: str,
    take: Sequence[int] = (),
    by: Person = COMMAND_LINE,
    *,
    as_of: str | None = None,
) -> None:
    """Release a study from quarantine with the options ``take``, one for each question of ``versions``.

    ``as_of``: the rows that the person saw. Raises NotFound, or NotAllowedNow if it is not in quarantine, a
    choice is missing, or objects of the study have arrived since.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = _number_of(database, study_instance_uid)

        def note(session: Session, what: dict[str, Any]) -> None:
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, what=what, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


def rerun_rules(
    settings: Settings, study_instance_uids: Sequence[str], by: Person = COMMAND_LINE
) -> list[dict[str, Any]]:
    """Apply the rules to these studies again, all or none; a row for each study and rule that takes it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import rerun

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in rerun.rerun(session, study, settings)]


def readings_of(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The readings of a study's burned-in annotation, decrypted; the audit gets event 4010.

    Raises NotFound, ConfigurationError (the site key cannot be read), ReadingsSealed (another key encrypted
    them).
    """
    from dicom_node.jobs.worker import readings

    def note(session: Session, study: int) -> None:
        audit.note(session, COMMAND_LINE, AuditAction.STUDY_SEEN, study_id=study, readings=True)

    with open_database(settings) as database:
        return readings.show(database, settings, study_instance_uid, note)


def delete_by_uid(settings: Settings, study_instance_uids: Sequence[str]) -> list[View]:
    """Delete the received objects of studies, by UID. Raises NotFound."""
    with open_database(settings) as database, database.read() as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
    return delete_received(settings, studies)


def delete_received(settings: Settings, studies: Sequence[int], by: Person = COMMAND_LINE) -> list[View]:
    """Delete the received objects of these studies now; a row for each, with the reason why not, or "".

    The rule is that of ``spool.keep_days`` without the days: a study must have ended, and each of its results
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


def _number_of(database: Database, study_instance_uid: str) -> int:
    with database.read() as session:
        return find_study(session, study_instance_uid).id


def _why_not(session: Session, number: int) -> str:
    study = session.get_one(Study, number)
    there = select(Instance.id).where(Instance.study_id == number, Instance.purged.is_(False)).limit(1)
    if study.state is StudyState.QUARANTINED:
        return "it is in quarantine: release it first"
    if study.state not in END_STATES:
        return f"it is {study.state.value}: wait until it has ended"
    if session.scalar(there) is None:
        return "its images were deleted before"
    if purgeable(session, utc_now() + timedelta(days=1), 1, [number]):
        return "it was being changed at that moment: try again"
    return "a result is not confirmed yet, or a job is held: send, discard or cancel it first"
