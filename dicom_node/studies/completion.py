"""When a study is complete.

It is when no open association brings it objects and its quiet time has passed; also when the upload of a
person that brought it has ended, and when its performed procedure steps have ended and all objects that they
refer to are here, if its peer reports steps.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, false, func, select, true, update
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import are_one_patient, in_words
from dicom_node.base.events import (
    STEPS_FULFILLED,
    STEPS_NOT_AWAITED,
    STUDY_COMPLETE,
    STUDY_MAY_BE_INCOMPLETE,
)
from dicom_node.base.files import all_uploaded, bucket_of
from dicom_node.base.lifecycle import ObjectRole, StepStatus, StudyState, StudyWarning
from dicom_node.base.store import completeness, fetches, intake, patients, requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Study
from dicom_node.base.store.transitions import move_study, record, steady_now
from dicom_node.jobs.queue import enqueue_study
from dicom_node.studies.corrections import hold_if_replaced
from dicom_node.studies.fetched import OTHER_PATIENT, is_of_another_patient, note_other_patient
from dicom_node.studies.judgement import NOT_AS_REGISTERED, TWO_PATIENTS
from dicom_node.studies.quarantine import quarantine_study

# An open association that brought a study nothing for so long no longer keeps it open: if the journal loses
# the line with the association's end, the study is completed all the same.
_SILENCE = timedelta(hours=1)


class Assembler:
    """Decides when studies are complete, because nothing arrived for a while, and creates their jobs by the
    rules.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        """Prepare the rules and the quiet times of these settings."""
        self._database, self._settings = database, settings
        # Where there is an object store, workers of other machines find all of the study in it.
        self._is_readable = all_uploaded() if bucket_of(settings) else true()
        self._fetches = any("query" in peer.may for peer in settings.peers)
        self._mpps = [peer.name for peer in settings.peers if peer.mpps]
        self._at_once = requested.complete_by_steps(self._mpps) if self._mpps else false()
        of_site = settings.assembly.quiet_seconds, settings.assembly.quiet_seconds_us
        self._longest = timedelta(
            seconds=max(*of_site, *(peer.quiet_seconds or 0 for peer in settings.peers))
        )

    def run_once(self, now: datetime | None = None, behind: Collection[str] = ()) -> int:
        """Complete every due study, creating its jobs, in one transaction each; return how many.

        ``now``: UTC by :func:`steady_now`; None for the present. ``behind``: marks of senders with objects
        that are not indexed yet, whose studies may still get objects.
        """
        now = now or steady_now()
        at_once = self._at_once | intake.is_uploaded(now - _SILENCE)
        due = intake.is_due(now, now - _SILENCE, at_once) & self._is_readable
        if behind:
            due &= intake.came_from_none_of(behind)
        if self._fetches:  # what is half fetched would be analysed twice
            due &= fetches.is_not_under_way(now - _SILENCE)
        if self._mpps:
            silent_since = now - timedelta(minutes=self._settings.assembly.mpps_minutes)
            due &= ~requested.waits_for_steps(self._mpps, silent_since)
        # A later end of a quiet time was written by a clock that has been set back since.
        latest = now + 2 * self._longest
        late = (Study.state == StudyState.RECEIVING) & (Study.due_at > latest)
        with self._database.read() as session:
            is_late = session.scalar(select(exists().where(late)))
        if is_late:
            with self._database.write() as session:
                session.execute(update(Study).where(late).values(due_at=latest))
        done = 0
        while self._complete_next(due):
            done += 1
        return done

    def seconds_to_next(self) -> float:
        """Return the seconds until the next study becomes due; infinite if none is being received."""
        now = steady_now()
        with self._database.read() as session:
            due = session.scalar(select(func.min(Study.due_at)).where(Study.due_at > now))
        return (due - now).total_seconds() if due else float("inf")

    def _complete_next(self, due: ColumnElement[bool]) -> bool:
        """Complete the next study that is ``due`` (a SQL condition), or quarantine it; return False if none
        is.
        """
        with self._database.read() as session:
            if not intake.any_due(session, due):
                return False
        with self._database.write() as session:
            study = intake.next_due(session, due)
            if study is None:
                return False
            if self._quarantine_wrong_patient(session, study):
                return True
            # How far the steps of the study were fulfilled.
            named = requested.steps_of(session, study.study_instance_uid, self._mpps) if self._mpps else ()
            missing = requested.objects_missing(session, [row.id for row in named])
            going_on = sum(row.status is StepStatus.IN_PROGRESS for row in named)
            if missing or going_on:
                record(
                    session,
                    STEPS_NOT_AWAITED,
                    study.id,
                    steps=len(named),
                    going_on=going_on,
                    missing=missing,
                )
            elif named:
                record(session, STEPS_FULFILLED, study.id, steps=len(named))
            unread = intake.unread_beside(session, study.id)
            broken_off = completeness.broken_off(session, completeness.only(study.id))
            if unread or broken_off:
                reason = StudyWarning.BROKEN_OFF.value if broken_off else ""
                record(session, STUDY_MAY_BE_INCOMPLETE, study.id, unreadable=unread, reason=reason)
            study.due_at = None
            session.flush()
            move_study(session, study, STUDY_COMPLETE)
            enqueue_study(session, study, self._settings)
            return True

    def _quarantine_wrong_patient(self, session: Session, study: Study) -> bool:
        """Quarantine a study of which it is in doubt whose it is; return whether that was done."""
        if not are_one_patient(intake.patients(session, study.id, [ObjectRole.SOURCE])):
            quarantine_study(session, study, TWO_PATIENTS)
        elif self._fetches and is_of_another_patient(session, study):
            note_other_patient(session, study)
            quarantine_study(session, study, OTHER_PATIENT)
        elif differences := patients.differences_from_registration(session, study):
            quarantine_study(session, study, NOT_AS_REGISTERED.format(differences=in_words(differences)))
        else:
            return hold_if_replaced(session, study)
        return True
