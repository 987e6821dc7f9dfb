"""Completion of studies: no open association brings a study objects, and its quiet time has passed.

A study is also complete when its performed procedure steps have ended and all objects that they refer to are
here, if its peer reports steps.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from math import inf

from sqlalchemy import ColumnElement, exists, func, select, update

from dicom_node.config.settings import Settings
from dicom_node.dicom.identity import are_one_patient
from dicom_node.events import STEPS_FULFILLED, STEPS_NOT_AWAITED, STUDY_COMPLETE, STUDY_MAY_BE_INCOMPLETE
from dicom_node.jobs import enqueue_study
from dicom_node.model.kinds import ObjectRole, StepStatus
from dicom_node.model.lifecycle import StudyState
from dicom_node.object_store.files import bucket_of, is_whole
from dicom_node.store import fetches, intake, steps
from dicom_node.store.database import Database
from dicom_node.store.tables import Study
from dicom_node.store.transitions import move_study, record, steady_now
from dicom_node.studies.indexing import OTHER_PATIENT, TWO_PATIENTS, is_of_another_patient, note_other_patient
from dicom_node.studies.quarantine import quarantine_study

# An open association that brought a study nothing for so long no longer keeps it open: if the journal loses
# the line with the association's end, the study is completed all the same.
_SILENCE = timedelta(hours=1)


class Assembler:
    """Completes studies that are quiet and has their jobs created by the rules."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        # Where there is an object store, workers of other machines find all of the study in it.
        self._also = [is_whole()] if bucket_of(settings) else []
        self._fetches = any("query" in peer.may for peer in settings.peers)
        self._mpps = [peer.name for peer in settings.peers if peer.mpps]
        self._at_once = steps.complete(self._mpps) if self._mpps else None
        of_site = settings.assembly.quiet_seconds, settings.assembly.quiet_seconds_us
        of_peers = [peer.quiet_seconds or 0 for peer in settings.peers]
        self._longest = timedelta(seconds=max(*of_site, *of_peers))

    def run_once(self, now: datetime | None = None, behind: Collection[str] = ()) -> int:
        """Complete every due study, jobs included, in one transaction each; returns how many.

        ``now`` is UTC by :func:`steady_now`. ``behind``: marks of senders with objects that are not indexed
        yet: their studies may still get objects.
        """
        now = now or steady_now()
        also = [*self._also, *([intake.came_from_none_of(behind)] if behind else [])]
        if self._fetches:  # what is half fetched would be analysed twice
            also.append(fetches.is_not_under_way(now - _SILENCE))
        if self._mpps:
            silent_since = now - timedelta(minutes=self._settings.assembly.mpps_minutes)
            also.append(~steps.hold(self._mpps, silent_since))
        # A later end of a quiet time was written by a clock that has been set back since.
        latest = now + 2 * self._longest
        late = (Study.state == StudyState.RECEIVING) & (Study.due_at > latest)
        with self._database.read() as session:
            is_late = session.scalar(select(exists().where(late)))
        if is_late:
            with self._database.write() as session:
                session.execute(update(Study).where(late).values(due_at=latest))
        done = 0
        while self._complete_next(now, also):
            done += 1
        return done

    def seconds_to_next(self) -> float:
        """Seconds until the next quiet time ends; infinite if there is none."""
        now = steady_now()
        with self._database.read() as session:
            due = session.scalar(select(func.min(Study.due_at)).where(Study.due_at > now))
        return (due - now).total_seconds() if due else inf

    def _complete_next(self, now: datetime, also: Sequence[ColumnElement[bool]]) -> bool:
        with self._database.read() as session:
            if not intake.any_due(session, now, now - _SILENCE, *also, at_once=self._at_once):
                return False
        with self._database.write() as session:
            study = intake.next_due(session, now, now - _SILENCE, *also, at_once=self._at_once)
            if study is None:
                return False
            if not are_one_patient(intake.patients(session, study.id, [ObjectRole.SOURCE])):
                quarantine_study(session, study, TWO_PATIENTS)
                return True
            if self._fetches and is_of_another_patient(session, study):
                note_other_patient(session, study)
                quarantine_study(session, study, OTHER_PATIENT)
                return True
            # How far the steps of the study were fulfilled.
            named = steps.of_study(session, study.study_instance_uid, self._mpps) if self._mpps else ()
            missing = steps.missing(session, [row.id for row in named])
            going_on = sum(row.status is StepStatus.IN_PROGRESS for row in named)
            if missing or going_on:
                counts = {"steps": len(named), "going_on": going_on, "missing": missing}
                record(session, STEPS_NOT_AWAITED, study.id, **counts)
            elif named:
                record(session, STEPS_FULFILLED, study.id, steps=len(named))
            if unread := intake.unread_beside(session, study.id):
                record(session, STUDY_MAY_BE_INCOMPLETE, study.id, objects=unread)
            study.due_at = None
            session.flush()
            move_study(session, study, STUDY_COMPLETE)
            enqueue_study(session, study, self._settings)
            return True
