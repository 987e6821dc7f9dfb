"""Queries for patients' earlier studies, for comparison.

Earlier studies of a patient whose study is being received are fetched before batches of old studies. A
question is stored in the transaction of the object that caused it, and an answer in the transaction of the
rows to fetch: no kill loses one, and nothing is fetched twice.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, are_one_patient
from dicom_node.base.errors import Unavailable
from dicom_node.base.events import (
    ARCHIVE_ANSWERED,
    ARCHIVE_NOT_AWAITED,
    ARCHIVE_WAIT_ENDED,
)
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    FetchPurpose,
    JobState,
    ObjectRole,
    QuestionState,
    StudyState,
)
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import Lane
from dicom_node.base.store import fetches, intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import ArchiveQuestion, Job, Study
from dicom_node.base.store.transitions import record, update_queue_place, utc_now
from dicom_node.deliver import scu
from dicom_node.studies.fetch import closing_on_stop
from dicom_node.studies.fetch_queue import queue_fetch

_LOOK = timedelta(seconds=2)  # between looks whether all came
_MOST_PRIORS, _PRIOR_YEARS = 2, 5  # the newest, from the day of the new study
_PROJECTION = frozenset({"CR", "DX"})
_COMES = frozenset({StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING})


class PriorQueries(Lane[ArchiveQuestion]):
    """Background work that queries one peer for patients' earlier studies; one node of a site at a time does
    it.
    """

    table = ArchiveQuestion

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings, owner: str) -> None:
        """Prepare the queries to ``peer``; ``owner`` is the process that asks for the lease."""
        super().__init__(
            database, settings, f"questions to {peer.name}", owner, settings.outbox.answer_seconds
        )
        self._peer = peer

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """SQL conditions: queries that wait for an answer, or for the studies that the answer named."""
        return ArchiveQuestion.state != QuestionState.ENDED, ArchiveQuestion.peer == self._peer.name

    def work(self, row: ArchiveQuestion, stop: threading.Event) -> Outcome:
        """Send one query to the peer; once it is answered, check whether all studies are here, the time is
        over, or the study has changed.
        """
        rule, now = self._settings.rule(row.rule), utc_now()
        is_answered = row.state is QuestionState.ANSWERED
        with self._database.read() as session:
            study = session.get_one(Study, row.study_id)
            if study.state is StudyState.QUARANTINED or study.revision > row.revision:
                return Failed("the study was quarantined, or changed")
            if is_answered and all(_is_settled(session, uid, now) for uid in row.priors):
                return Done()
            session.expunge(study)
        if row.until is not None and row.until <= now:
            return Failed("the time to wait is over" if is_answered else "no answer in time")
        if is_answered:
            return Retry(after=_LOOK)
        if rule is None or rule.priors is None:
            return Failed("the rule has no priors any more")
        return self._ask(row, study, stop)

    def _ask(self, row: ArchiveQuestion, study: Study, stop: threading.Event) -> Outcome:
        """Send the query for the patient's earlier studies, choose fitting ones from the answer, and queue
        their retrieval.
        """
        patient_id, issuer = study.patient_id.strip(), study.issuer_of_patient_id.strip()
        if not patient_id or {*patient_id} & {*"*?\\"}:  # wildcards of PS3.4 C.2.2.2.4, PS3.5 6.2
            return Failed("without a Patient ID that can be asked for")
        with self._database.read() as session:
            images = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
            parts = {
                str(image.attributes.get("BodyPartExamined", "")).strip().upper() for image in images
            } - {""}
            modalities = {image.modality for image in images}
            patients = intake.patients(session, study.id, [ObjectRole.SOURCE])
        patient = replace(patients[0], id="") if patients and are_one_patient(patients) else Patient()
        if modalities & _PROJECTION:
            modalities |= _PROJECTION
        day = date_of(study.study_date) or utc_now().date()
        query = scu.StudyQuery(
            first=day - timedelta(days=round(365.25 * _PRIOR_YEARS)),
            last=day - timedelta(days=1),
            patient_id=patient_id,
            issuer_of_patient_id=issuer,
        )
        archive = scu.open_archive(self._peer, self._settings)
        chosen: list[scu.FoundStudy] = []
        try:
            with closing_on_stop(stop, archive):
                fitting = [
                    found
                    for found in archive.find(query).studies
                    if found.study_date
                    and found.study_instance_uid != study.study_instance_uid
                    and (not found.modalities or modalities & set(found.modalities))
                    and not found.patient.disagrees(patient)
                ]
                # The newest of the same body part, as far as the peer names one.
                for found in sorted(fitting, key=lambda found: found.study_date, reverse=True)[:20]:
                    if parts:
                        theirs = archive.body_parts(found.study_instance_uid)
                        if theirs and not theirs & parts:
                            continue
                    chosen.append(found)
                    if len(chosen) == _MOST_PRIORS:
                        break
        except Unavailable:
            return Retry(after=timedelta(seconds=5))
        # Another process may write the same study down: asked again at once.
        with suppress(IntegrityError), self._database.write() as session:
            session.add(row)
            row.priors, row.state = [found.study_instance_uid for found in chosen], QuestionState.ANSWERED
            here, known = (
                fetches.present_studies(session, row.priors),
                fetches.of_studies(session, row.priors),
            )
            missing = [one for one in chosen if one.study_instance_uid not in here.keys() | known.keys()]
            for found in missing:
                # Of the new study's patient, or none: what comes is compared with it.
                named = replace(
                    found, patient=patient, issuer_of_patient_id=issuer or found.issuer_of_patient_id
                )
                queue_fetch(session, row.peer, named, rule=row.rule, purpose=FetchPurpose.PRIOR)
            for fetch in known.values():
                fetch.urgent = True
            record(
                session,
                ARCHIVE_ANSWERED,
                row.study_id,
                peer=row.peer,
                rule=row.rule,
                asked="priors",
                found=len(fitting),
                fetched=len(missing),
            )
        return NotYet()

    def move(self, session: Session, row: ArchiveQuestion, outcome: Outcome) -> None:
        """End the query and let the rule's job run; the outcome says what is missing."""
        if isinstance(outcome, Retry):
            return
        row.state = QuestionState.ENDED
        event = ARCHIVE_NOT_AWAITED if outcome.why else ARCHIVE_WAIT_ENDED
        record(session, event, row.study_id, peer=row.peer, rule=row.rule, reason=outcome.why)
        mine = (Job.study_id == row.study_id, Job.study_revision == row.revision, Job.rule == row.rule)
        waits = (Job.state == JobState.QUEUED, Job.attempts == 0, Job.run_at > utc_now())
        for job in session.scalars(select(Job).where(*mine, *waits).with_for_update()).all():
            job.run_at = utc_now()
            session.flush()
            update_queue_place(session, job)


def _is_settled(session: Session, study_instance_uid: str, now: datetime) -> bool:
    """Return whether an earlier study is here with its result, or will not arrive."""
    fetch = fetches.of_study(session, study_instance_uid)
    if fetch is not None and fetch.state in OPEN_FETCHES:
        return False
    study = fetches.present_studies(session, [study_instance_uid]).get(study_instance_uid)
    if study is not None:
        return study.state not in _COMES
    return (
        fetch is None or fetch.ended_at is None or fetch.ended_at + timedelta(seconds=5) < now
    )  # indexed by then
