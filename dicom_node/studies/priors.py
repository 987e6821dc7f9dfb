"""Queries for patients' earlier studies, for comparison.

Earlier studies of a patient whose study is being received are fetched before batches of old studies. A
question is stored in the transaction of the object that caused it, and an answer in the transaction of the
rows to fetch: no kill loses one, and nothing is fetched twice.
"""

import threading
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Self

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, patient_id_of
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
_MOST_PRIORS, _MOST_LOOKED_AT = 2, 20  # of those that fit, the newest first
_PRIOR_YEARS = 5  # from the day of the new study
_PROJECTION = frozenset({"CR", "DX"})
_COMES = frozenset({StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING})


@dataclass(frozen=True, slots=True)
class ComparedStudy:
    """The new study with which earlier ones are compared: its patient, if the images agree, and the
    modalities and body parts of its images.
    """

    study_instance_uid: str | None
    patient: Patient
    modalities: Set[str]
    body_parts: Set[str]

    @classmethod
    def read(cls, session: Session, study: Study) -> Self:
        """Read what the images of the study say; projection radiographs are compared with each other."""
        images = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
        modalities = {image.modality for image in images}
        parts = {str(image.attributes.get("BodyPartExamined", "")).strip().upper() for image in images}
        patients = intake.patients(session, study.id, [ObjectRole.SOURCE])
        return cls(
            study.study_instance_uid,
            patients[0] if intake.of_one_patient(session, [study.id]) else Patient(),
            modalities | _PROJECTION if modalities & _PROJECTION else modalities,
            parts - {""},
        )

    def fits(self, found: scu.FoundStudy) -> bool:
        """Return whether a study of the answer is an earlier one of this patient, with such images."""
        if not found.study_date or found.study_instance_uid == self.study_instance_uid:
            return False
        if found.modalities and not self.modalities & set(found.modalities):
            return False
        # The query named the ID, and issuers are seldom answered.
        return self.patient.is_surely(replace(found.patient, id=self.patient.id))

    def newest(self, fitting: Iterable[scu.FoundStudy], archive: scu.Archive) -> list[scu.FoundStudy]:
        """Return the newest ones of the same body part, as far as the peer names one. Raises Unavailable."""
        newest_first = sorted(fitting, key=lambda found: found.study_date, reverse=True)
        same_part = (found for found in newest_first[:_MOST_LOOKED_AT] if self._has_its_part(found, archive))
        return list(islice(same_part, _MOST_PRIORS))

    def _has_its_part(self, found: scu.FoundStudy, archive: scu.Archive) -> bool:
        """Return whether the study shows the same body part; True also if one of the two names none."""
        theirs = archive.body_parts(found.study_instance_uid) if self.body_parts else ()
        return not theirs or not self.body_parts.isdisjoint(theirs)


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
        query = query_for(study)
        if query is None:
            return Failed("without a Patient ID that can be asked for")
        with self._database.read() as session:
            new = ComparedStudy.read(session, study)
        if not new.patient.id:
            return Failed("its patient has neither a birth date nor a name and a sex")
        archive = scu.open_archive(self._peer, self._settings)
        try:
            with closing_on_stop(stop, archive):
                fitting = [found for found in archive.find(query).studies if new.fits(found)]
                chosen = new.newest(fitting, archive)
        except Unavailable:
            return Retry(after=timedelta(seconds=5))
        named = [
            # Of the new study's patient, or none: what comes is compared with it.
            replace(
                found,
                patient=new.patient,
                issuer_of_patient_id=query.issuer_of_patient_id or found.issuer_of_patient_id,
            )
            for found in chosen
        ]
        # Another process may write the same study down: asked again at once.
        with suppress(IntegrityError), self._database.write() as session:
            session.add(row)
            _store_answer(session, row, named, found=len(fitting))
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


def query_for(study: Study) -> scu.StudyQuery | None:
    """Return the query for the patient's studies of the years before; None if the Patient ID cannot be asked
    for.
    """
    patient_id = patient_id_of(study.patient_id)
    if not patient_id or {*patient_id} & {*"*?\\"}:  # wildcards of PS3.4 C.2.2.2.4, PS3.5 6.2
        return None
    day = date_of(study.study_date) or utc_now().astimezone().date()  # Study Date is local
    return scu.StudyQuery(
        first=day - timedelta(days=round(365.25 * _PRIOR_YEARS)),
        last=day - timedelta(days=1),
        patient_id=patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id.strip(),
    )


def _store_answer(
    session: Session, row: ArchiveQuestion, priors: Sequence[scu.FoundStudy], *, found: int
) -> None:
    """Store which earlier studies are awaited, and queue the retrieval of those that are not here. ``found``:
    how many fitted.
    """
    row.priors, row.state = [prior.study_instance_uid for prior in priors], QuestionState.ANSWERED
    here = fetches.present_studies(session, row.priors)
    known = fetches.of_studies(session, row.priors)
    missing = [prior for prior in priors if prior.study_instance_uid not in here.keys() | known.keys()]
    for prior in missing:
        queue_fetch(session, row.peer, prior, rule=row.rule, purpose=FetchPurpose.PRIOR)
    for fetch in known.values():
        fetch.urgent = True
    record(
        session,
        ARCHIVE_ANSWERED,
        row.study_id,
        peer=row.peer,
        rule=row.rule,
        asked="priors",
        found=found,
        fetched=len(missing),
    )


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
