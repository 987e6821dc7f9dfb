"""Queries to one peer about studies that are being received: number of instances, and earlier studies.

Missing instances and earlier studies are fetched before batches of old studies. A question is stored in the
transaction of the object that caused it, and an answer in the transaction of the rows to fetch: no kill loses
one, and nothing is fetched twice.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node import scu
from dicom_node.config.settings import PeerSettings, PriorsSettings, Settings
from dicom_node.dicom.identity import Patient, are_one_patient
from dicom_node.errors import PeerUnreachable
from dicom_node.events import (
    ARCHIVE_ANSWERED,
    ARCHIVE_NOT_AWAITED,
    ARCHIVE_WAIT_ENDED,
    FETCH_ASKED,
)
from dicom_node.fetch.fetcher import closed_at, write_down
from dicom_node.model.kinds import FetchPurpose, ObjectRole, QuestionKind
from dicom_node.model.lifecycle import OPEN_FETCHES, StudyState
from dicom_node.store import fetches, intake, leases, questions
from dicom_node.store.database import Database
from dicom_node.store.tables import ArchiveQuestion, Study
from dicom_node.store.transitions import move_fetch, record, utc_now

_AGAIN = timedelta(seconds=5)  # until a peer that did not answer is asked again
_INDEXED = timedelta(seconds=5)  # what was fetched is indexed by then
_LEASE_SECONDS = 60.0  # above what the questions may take
_LOOKED_AT = 20  # earlier studies whose body part is asked for
_WILDCARDS = re.compile(r"[*?\\]")  # PS3.4 C.2.2.2.4, PS3.5 6.2
_PROJECTION = frozenset({"CR", "DX"})
_COMES = frozenset({StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING})

Enter = Callable[[Session, ArchiveQuestion], None]


@dataclass(frozen=True, slots=True)
class _About:
    """A study that is being received, as far as a question needs it."""

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    patient: Patient
    day: date
    modalities: frozenset[str]
    body_parts: frozenset[str]


class Questions:
    """The questions to one peer; one node of a site at a time holds the lease for them."""

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings, owner: str) -> None:
        self._database, self._settings, self._peer, self._owner = database, settings, peer, owner
        self._lease_seconds = settings.outbox.answer_seconds + _LEASE_SECONDS
        self.name = f"questions to {peer.name}"

    def run_once(self, stop: threading.Event) -> None:
        """Ask each question that is due, and stop waiting for a study that has arrived or will not arrive."""
        with self._database.read() as session:
            opened = [
                (row.id, row.answered_at is None and row.next_at is not None and row.next_at <= utc_now())
                for row in questions.open_of(session, self._peer.name)
            ]
        for number, is_due in opened:
            if stop.is_set() or not leases.acquire(
                self._database, self.name, self._owner, self._lease_seconds
            ):
                return
            if is_due:
                self._ask(number, stop)
            with self._database.write() as session:
                if row := questions.number(session, number):
                    _look(session, row)

    def _ask(self, number: int, stop: threading.Event) -> None:
        with self._database.read() as session:
            row = questions.number(session, number)
            if row is None:
                return
            about, kind, rule = _about(session, row), row.kind, self._settings.rule(row.rule)
        archive = scu.open_archive(self._peer, self._settings)
        enter: Enter
        try:
            with closed_at(stop, archive):
                if kind is QuestionKind.INSTANCES:
                    enter = _instances(archive, about)
                else:
                    enter = _priors(archive, about, rule.priors if rule else None)
        except PeerUnreachable:
            enter = _put_off
        # Another process may write the same study down: looked at again in a moment.
        with suppress(IntegrityError), self._database.write() as session:
            if row := questions.number(session, number):
                enter(session, row)


def _put_off(session: Session, row: ArchiveQuestion) -> None:
    row.next_at = utc_now() + _AGAIN
    session.flush()


def _about(session: Session, row: ArchiveQuestion) -> _About:
    study = session.get_one(Study, row.study_id)
    images = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
    patients = intake.patients(session, study.id, [ObjectRole.SOURCE])
    parts = {str(image.attributes.get("BodyPartExamined", "")).strip().upper() for image in images}
    return _About(
        study_instance_uid=study.study_instance_uid or "",
        patient_id=study.patient_id.strip(),
        issuer_of_patient_id=study.issuer_of_patient_id.strip(),
        patient=replace(patients[0], id="") if patients and are_one_patient(patients) else Patient(),
        day=date_of(study.study_date) or utc_now().date(),
        modalities=frozenset(image.modality for image in images),
        body_parts=frozenset(parts - {""}),
    )


def _instances(archive: scu.Archive, about: _About) -> Enter:
    """Ask how many instances there are of the study. Raises PeerUnreachable."""
    found = archive.find(scu.StudyQuery(study_instance_uid=about.study_instance_uid)).studies
    theirs = found[0].instances or 0 if found else 0

    def enter(session: Session, row: ArchiveQuestion) -> None:
        row.instances = theirs - fetches.results_at(session, row.study_id, row.peer)
        missing = row.instances - fetches.received_objects(session, row.study_id)
        _answered(session, row, found=theirs, fetched=max(missing, 0))
        if theirs > scu.MOST_OBJECTS:
            _end(session, row, f"more than {scu.MOST_OBJECTS} instances: not believed")
        elif missing > 0 and not _fetch_instances(session, row.peer, found[0]):
            _end(session, row, "the study was fetched before")

    return enter


def _fetch_instances(session: Session, peer: str, study: scu.FoundStudy) -> bool:
    known = fetches.of_study(session, study.study_instance_uid)
    if known is None:
        write_down(session, peer, study, purpose=FetchPurpose.INSTANCES)
        return True
    if known.purpose is not FetchPurpose.INSTANCES:
        return False
    if known.state not in OPEN_FETCHES:
        move_fetch(session, known, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())
    return True


def _priors(archive: scu.Archive, about: _About, wanted: PriorsSettings | None) -> Enter:
    """Ask for earlier studies of the patient. Raises PeerUnreachable."""
    if wanted is None:
        return lambda session, row: _end(session, row, "the rule has no priors any more")
    if not about.patient_id or _WILDCARDS.search(about.patient_id):
        return lambda session, row: _end(session, row, "without a Patient ID that can be asked for")
    query = scu.StudyQuery(
        first=about.day - timedelta(days=round(365.25 * wanted.years)),
        last=about.day - timedelta(days=1),
        patient_id=about.patient_id,
        issuer_of_patient_id=about.issuer_of_patient_id,
    )
    fitting = [study for study in archive.find(query).studies if _fits(study, about)]
    newest = sorted(fitting, key=lambda study: study.study_date, reverse=True)
    chosen = list(_of_same_part(archive, newest, about, wanted))

    def enter(session: Session, row: ArchiveQuestion) -> None:
        row.priors = [study.study_instance_uid for study in chosen]
        here, known = fetches.here(session, row.priors), fetches.of_studies(session, row.priors)
        missing = [one for one in chosen if one.study_instance_uid not in here.keys() | known.keys()]
        for study in missing:
            # Of the new study's patient, or none: what comes is compared with it.
            named = replace(study, patient=about.patient)
            if about.issuer_of_patient_id:
                named = replace(named, issuer_of_patient_id=about.issuer_of_patient_id)
            write_down(session, row.peer, named, rule=row.rule, purpose=FetchPurpose.PRIOR)
        for fetch in known.values():
            fetch.urgent = True
        _answered(session, row, found=len(fitting), fetched=len(missing))

    return enter


def _fits(study: scu.FoundStudy, about: _About) -> bool:
    if not study.study_date or study.study_instance_uid == about.study_instance_uid:
        return False
    ours = about.modalities | (_PROJECTION if about.modalities & _PROJECTION else frozenset())
    same = not study.modalities or bool(ours & set(study.modalities))
    return same and not study.patient.disagrees(about.patient)


def _of_same_part(
    archive: scu.Archive, newest: Sequence[scu.FoundStudy], about: _About, wanted: PriorsSettings
) -> Iterator[scu.FoundStudy]:
    """The first ``most`` of the same body part, as far as the peer names one. Raises PeerUnreachable."""
    left = wanted.most
    for study in newest[:_LOOKED_AT]:
        if not left:
            return
        if wanted.same != "modality" and about.body_parts:
            parts = archive.body_parts(study.study_instance_uid)
            if parts and not parts & about.body_parts:
                continue
        left -= 1
        yield study


def _answered(session: Session, row: ArchiveQuestion, *, found: int, fetched: int) -> None:
    row.answered_at = utc_now()
    record(
        session,
        ARCHIVE_ANSWERED,
        row.study_id,
        peer=row.peer,
        rule=row.rule,
        asked=row.kind.value,
        found=found,
        fetched=fetched,
    )
    session.flush()


def _look(session: Session, row: ArchiveQuestion) -> None:
    """End the wait where everything is here, the time is over, or the study is another one now."""
    study, now = session.get_one(Study, row.study_id), utc_now()
    if study.state is StudyState.QUARANTINED or study.revision > row.revision:
        _end(session, row, "the study was quarantined, or changed")
    elif row.answered_at is not None and row.kind is QuestionKind.INSTANCES:
        came = fetches.received_objects(session, study.id)
        if came >= row.instances:
            _end(session, row)
        elif _is_over(session, study.study_instance_uid or "", now):
            _end(session, row, f"{came} of {row.instances} instances came")
    elif row.answered_at is not None and all(_is_settled(session, uid, now) for uid in row.priors):
        _end(session, row)
    if row.ended_at is None and row.until is not None and row.until <= now:
        _end(session, row, "the time to wait is over" if row.answered_at else "no answer in time")


def _is_over(session: Session, study_instance_uid: str, now: datetime) -> bool:
    """Whether nothing more comes by fetching this study."""
    fetch = fetches.of_study(session, study_instance_uid)
    if fetch is None:
        return True
    return fetch.state not in OPEN_FETCHES and (fetch.ended_at is None or fetch.ended_at + _INDEXED < now)


def _is_settled(session: Session, study_instance_uid: str, now: datetime) -> bool:
    """Whether a prior is here with its result, or will not come."""
    fetch = fetches.of_study(session, study_instance_uid)
    if fetch is not None and fetch.state in OPEN_FETCHES:
        return False
    study = fetches.here(session, [study_instance_uid]).get(study_instance_uid)
    return _is_over(session, study_instance_uid, now) if study is None else study.state not in _COMES


def _end(session: Session, row: ArchiveQuestion, reason: str = "") -> None:
    """Nobody waits for it any more; ``reason``: why something is missing."""
    row.ended_at = utc_now()
    record(
        session,
        ARCHIVE_NOT_AWAITED if reason else ARCHIVE_WAIT_ENDED,
        row.study_id,
        peer=row.peer,
        rule=row.rule,
        asked=row.kind.value,
        reason=reason,
    )
    session.flush()
    if row.kind is QuestionKind.PRIORS:
        questions.let_job_run(session, row)
