"""Studies of peers: queries for them, their retrieval into the spool, earlier and missing studies.

Queries store each study to fetch once. One peer's studies are fetched one at a time, within its rate limit;
all state is in the database. The start of a retrieval is stored before the peer is asked, so that no kill
makes the next one too early. Objects that come on the node's own connection are spooled like objects of a
C-STORE from the peer, and inspected like all others.

Earlier studies of a patient whose study is being received are fetched before batches of old studies. A
question is stored in the transaction of the object that caused it, and an answer in the transaction of the
rows to fetch: no kill loses one, and nothing is fetched twice.

A study of the last days is missing if the rules want a result of it and none is here.
"""

import itertools
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import RuleSettings, matches
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import META_BYTES, is_uid
from dicom_node.base.dicom.identity import Patient, are_one_patient
from dicom_node.base.errors import FaultyInput, SpoolFull, Unavailable
from dicom_node.base.events import (
    ARCHIVE_ANSWERED,
    ARCHIVE_NOT_AWAITED,
    ARCHIVE_WAIT_ENDED,
    FETCH_ASKED,
    FETCH_CANCELLED,
    FETCH_DONE,
    FETCH_FAILED,
    FETCH_RETRIED,
    FETCH_STARTED,
    STUDIES_MISSING,
)
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    DeliveryState,
    FetchPurpose,
    FetchState,
    JobState,
    ObjectRole,
    QuestionState,
    StudyState,
)
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import Lane
from dicom_node.base.store import fetches, intake
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.tables import ArchiveQuestion, Delivery, Fetch, Instance, Job, Result, Study
from dicom_node.base.store.transitions import record, try_move, update_queue_place, utc_now
from dicom_node.deliver import scu
from dicom_node.receive.policy import accepted_classes
from dicom_node.receive.spool import Arrival, Spool, WaitingObjects, check_accepted, read_meta

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


_S = scu.RetrieveStatus
ATTEMPTS = 3
"""Tries of a peer that answers; one that does not is tried for ever."""
ATTEMPTS_OF_KILLED = 10
"""Tries of a study at which the node ends each time."""
_WATCH_SECONDS = 0.2
_LOOK_SECONDS = 30.0  # between looks whether the next study is still wanted


class Fetcher(Lane[Fetch]):
    """Background work that retrieves requested studies from one peer; one node of a site at a time does
    it.
    """

    table = Fetch

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings, owner: str) -> None:
        """Prepare the retrievals from ``peer``; ``owner`` is the process that asks for the lease."""
        seconds = peer.retrieve_seconds + 120  # for associations and the database
        super().__init__(database, settings, f"fetch from {peer.name}", owner, seconds)
        self._peer = peer
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._waiting = WaitingObjects(self._spool.incoming)

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """SQL conditions: retrievals from this peer that are queued, or that a process left unfinished when
        it ended.
        """
        return Fetch.state.in_(OPEN_FETCHES), Fetch.peer == self._peer.name

    def order(self) -> Sequence[Any]:
        """SQL order: retrievals left unfinished come first, then those that another study waits for."""
        return Fetch.state != FetchState.FETCHING, Fetch.urgent.desc(), Fetch.attempts, Fetch.id

    def work(self, row: Fetch, stop: threading.Event) -> Outcome:
        """Wait until the peer may be called, mark the study as being fetched, and retrieve it."""
        if row.state is FetchState.FETCHING:  # while we have the lease: whoever fetched it is gone
            with self._database.write() as session:
                session.add(row)
                reason = f"the node ended while it was fetched, try {row.attempts}"
                event = FETCH_RETRIED if row.attempts < ATTEMPTS_OF_KILLED else FETCH_FAILED
                try_move(session, row, event, reason=reason, next_at=utc_now())
            return NotYet()
        with self._database.read() as session:
            wait = self._pause(
                row,
                session.scalar(select(func.max(Fetch.started_at)).where(Fetch.peer == self._peer.name)),
                utc_now(),
            )
        if wait > 0:
            stop.wait(min(wait, _LOOK_SECONDS))
            return NotYet()
        with self._database.write() as session:
            session.add(row)
            if not try_move(session, row, FETCH_STARTED, started_at=utc_now(), attempts=row.attempts + 1):
                return NotYet()  # a person cancelled it
        archive = scu.open_archive(self._peer, self._settings)
        sink = RetrievalSink(self._spool, self._waiting, self._settings, self._peer, row.id)
        with closing_on_stop(stop, archive):
            found = archive.retrieve(row.study_instance_uid, sink)
        row.objects = found.objects
        status, why = found.status, found.text[:500]
        if status is not _S.RETRIEVED and stop.is_set():
            return Retry(why, after=timedelta())
        if status is _S.UNREACHABLE or (
            status not in (_S.RETRIEVED, _S.REFUSED, _S.ABSENT) and row.attempts < ATTEMPTS
        ):
            return Retry(why)
        return Done(why) if status in (_S.RETRIEVED, _S.INCOMPLETE) else Failed(why)

    def _pause(self, fetch: Fetch, last: datetime | None, now: datetime) -> float:
        """Return the seconds from ``now`` until this retrieval may start, by the limit of studies per minute.
        ``last``: when the last retrieval from the peer started, None for never.
        """
        pause = 60 / min(fetch.per_minute or self._peer.fetch_per_minute, self._peer.fetch_per_minute)
        return min((last - now).total_seconds() + pause, pause) if last is not None else 0.0

    def move(self, session: Session, row: Fetch, outcome: Outcome) -> None:
        """Record whether the study was fetched, could not be fetched, or is to be tried again."""
        if isinstance(outcome, Retry):
            try_move(session, row, FETCH_RETRIED)
        else:
            event = FETCH_DONE if isinstance(outcome, Done) else FETCH_FAILED
            try_move(session, row, event, ended_at=utc_now())


@contextmanager
def closing_on_stop(stop: threading.Event, called: Any) -> Iterator[None]:
    """Context manager: call ``called.close()`` (an archive or worklist manager) when another thread sets
    ``stop``, which ends its calls.
    """
    done = threading.Event()

    def watch() -> None:
        """Close ``called`` once ``stop`` is set, unless the scope has ended before."""
        while not done.is_set():
            if stop.wait(_WATCH_SECONDS):
                called.close()
                return

    watcher = threading.Thread(target=watch, name="fetch watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


ASSOCIATION = "fetch-"
"""How the identifiers of such associations begin; the number of the fetch follows."""


class RetrievalSink:
    """Stores the objects that one retrieval brings (a ``scu.ObjectSink``). ``number``: id of the retrieval's
    row.
    """

    def __init__(
        self, spool: Spool, waiting: WaitingObjects, settings: Settings, peer: PeerSettings, number: int
    ) -> None:
        """Store objects from ``peer`` in ``spool``, within the limits of ``waiting``. ``number``: id of the
        retrieval's row.
        """
        self._spool, self._waiting, self._settings, self._peer = spool, waiting, settings, peer
        self._association = f"{ASSOCIATION}{number}"
        self.sop_classes: Collection[str] = accepted_classes(settings.listener.further_storage_classes)
        self.largest_bytes = settings.listener.maximum_object_mib * 2**20
        """The size of the largest object that is accepted."""

    def take_object(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[bytes]
    ) -> None:
        """Store an encoded data set with these UIDs in the spool. Raises FaultyInput, SpoolError."""
        if not is_uid(sop_instance_uid):
            raise FaultyInput("it has no valid SOP Instance UID")
        check_accepted(sop_class_uid, transfer_syntax_uid, self.sop_classes)
        if not self._waiting.has_room(
            self._peer.name, self._settings.spool.waiting_objects, self._settings.spool.waiting_mib
        ):
            raise SpoolFull("too many objects of this peer wait to be indexed")
        arrival = Arrival(
            self._association,
            self._peer.ae_title,
            self._settings.node.ae_title,
            self._peer.host,
            priority=0,  # medium, PS3.7 9.1.1
            received_at=datetime.now(UTC),
        )
        incoming = self._spool.open(
            arrival, sop_class_uid, sop_instance_uid, transfer_syntax_uid, self._peer.name
        )
        self._waiting.add(self._peer.name, incoming.take(data, self.largest_bytes))

    def take_file(self, pieces: Iterable[bytes]) -> None:
        """Store a Part 10 file in the spool. Raises FaultyInput, SpoolError."""
        rest = iter(pieces)
        start = b""
        while len(start) < META_BYTES and (piece := next(rest, b"")):
            start += piece
        meta = read_meta(start[:META_BYTES])
        self.take_object(
            meta.sop_class_uid,
            meta.sop_instance_uid,
            meta.transfer_syntax_uid,
            itertools.chain([start[meta.length :]], rest),
        )


_ON_ITS_WAY = frozenset(
    {StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING, StudyState.UNASSESSED}
)
_SETTLED = frozenset({StudyState.DELIVERED, StudyState.DELIVERING, StudyState.NOT_APPLICABLE})


@dataclass(frozen=True, slots=True)
class MissingStudy:
    """A study at a peer that has no result. ``rule``: the first rule that should take it. ``why``: the reason
    in words. ``fetchable``: whether fetching it may help.
    """

    found: scu.FoundStudy
    rule: str
    why: str
    fetchable: bool = True


def missing(database: Database, settings: Settings, peer: PeerSettings, days: int) -> list[MissingStudy]:
    """Return the studies at the peer, of today and the ``days`` days before, that a rule should take and that
    have no result. Raises Unavailable.
    """
    today = date.today()  # Study Date is local
    archive = scu.open_archive(peer, settings)
    # Modalities to ask for; none, so all, where a rule takes any or has a pattern.
    named = {pattern for rule in settings.rules for pattern in rule.when.modality or ("*",)}
    modalities = [] if any(sign in name for name in named for sign in "*?") else sorted(named)
    asked = daily_queries(today - timedelta(days=days), today, modalities)
    answers = {study.study_instance_uid: study for one in asked for study in archive.find(one).studies}
    wanted = [(study, rule) for study in answers.values() if (rule := _rule_for(study, settings.rules))]
    with database.read() as session:
        return [row for batch in batches(wanted) for row in _without_result(session, peer, batch)]


def fetch_missing(session: Session, peer: str, study: MissingStudy) -> None:
    """Queue the retrieval of the study from ``peer``, even if it was fetched or given up before."""
    row = fetches.of_study(session, study.found.study_instance_uid)
    if row is None:
        queue_fetch(session, peer, study.found)
    elif row.state not in OPEN_FETCHES:
        row.peer = peer
        try_move(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())


def report_missing(database: Database, settings: Settings) -> int:
    """Record event 2057 for each peer with the setting ``missing_days`` that has studies without a result;
    return the number of studies.
    """
    total = 0
    for peer in settings.peers:
        if "query" not in peer.may or not peer.missing_days:
            continue
        try:
            rows = missing(database, settings, peer, peer.missing_days)
        except Unavailable:  # tomorrow again; deliveries to it say that it is away
            continue
        if rows:
            uids = [row.found.study_instance_uid for row in rows[:20]]  # so many stand in an event
            with database.write() as session:
                record(session, STUDIES_MISSING, peer=peer.name, number=len(rows), studies=uids)
        total += len(rows)
    return total


def _rule_for(study: scu.FoundStudy, rules: Sequence[RuleSettings]) -> str:
    """Return the first rule whose conditions may hold by the query answer (conditions on images cannot be
    tested); "" if none.
    """
    for rule in rules:
        wanted, texts = rule.when.modality, rule.when.study_description
        if _may_fit(wanted, study.modalities) and _may_fit(texts, [study.description]):
            return rule.name
    return ""


def _may_fit(patterns: Sequence[str], values: Sequence[str]) -> bool:
    """Return whether one of the ``values`` matches one of the ``patterns``; True also if there are no
    patterns or no values.
    """
    known = [value for value in values if value]
    return not patterns or not known or any(matches(one, value) for one in patterns for value in known)


def _without_result(
    session: Session, peer: PeerSettings, wanted: Sequence[tuple[scu.FoundStudy, str]]
) -> Iterator[MissingStudy]:
    """Yield those of the ``wanted`` studies (with the rules that take them) that never arrived, are
    incomplete or lack a result, with the reason. Studies whose fetch is under way are left out.
    """
    uids = [study.study_instance_uid for study, _ in wanted]
    here, asked = fetches.present_studies(session, uids), fetches.of_studies(session, uids)
    for study, rule in wanted:
        known, row = here.get(study.study_instance_uid), asked.get(study.study_instance_uid)
        if row is not None and row.state in OPEN_FETCHES:
            continue
        if known is None:
            why = "it never came" if row is None else f"fetching it: {row.state} {row.reason}".rstrip()
            yield MissingStudy(study, rule, why)
        elif why := _lacks(session, peer, study, known):
            yield MissingStudy(study, rule, why, fetchable=why.startswith("incomplete"))


def _lacks(session: Session, peer: PeerSettings, study: scu.FoundStudy, known: Study) -> str:
    """Return why a study that is here lacks its result; "" if it has the result or will have it."""
    if known.state in _ON_ITS_WAY:
        return ""
    received = session.scalar(
        select(func.count(Instance.id)).where(Instance.study_id == known.id, Instance.role != ObjectRole.OWN)
    )
    ours = session.scalar(
        select(func.count(Delivery.id))
        .join(Delivery.result)
        .where(
            Result.study_id == known.id,
            Delivery.destination == peer.name,
            Delivery.state == DeliveryState.CONFIRMED,
        )
    )
    received, theirs = received or 0, (study.instances or 0) - (ours or 0)
    if theirs > received:
        return f"incomplete: {received} of {theirs} objects came"
    return "" if known.state in _SETTLED else f"{known.state}: {known.reason}"[:200]


def daily_queries(first: date, last: date, modalities: Sequence[str]) -> list[scu.StudyQuery]:
    """Return one query for each day from ``first`` to ``last`` and each modality, so that no answer exceeds
    an archive's limit; no modalities: one query a day.
    """
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [scu.StudyQuery(day, day, modality) for day in days for modality in modalities or ("",)]


def ask(
    database: Database,
    archive: scu.Archive,
    peer: str,
    queries: Sequence[scu.StudyQuery],
    *,
    rule: str = "",
    per_minute: float = 0,
) -> dict[str, int]:
    """Query the archive and queue the retrieval of the studies found; a repeated call continues. Returns
    counts.

    ``found``: studies in the answers; ``here``: of these, the node has them; ``before``: fetched or given up
    before; ``wanted``: queued now or before; ``first``: the lowest id of those rows; ``strays``: answers that
    did not fit the query. ``rule``: the only rule that may take the studies, "" for all. ``per_minute``:
    studies to fetch a minute, 0 for the peer's setting. Raises Unavailable; rows stored before remain.
    """
    outcome = dict.fromkeys(("found", "here", "before", "strays", "wanted", "first"), 0)
    for question in queries:
        found = archive.find(question)
        outcome["strays"] += found.strays
        for batch in batches(found.studies):
            with database.write() as session:
                uids = [study.study_instance_uid for study in batch]
                here, known = fetches.present_studies(session, uids), fetches.of_studies(session, uids)
                for study in batch:
                    outcome["found"] += 1
                    row = known.get(study.study_instance_uid)
                    if row is None and study.study_instance_uid in here:
                        outcome["here"] += 1
                    elif row is not None and row.state not in OPEN_FETCHES:
                        outcome["before"] += 1
                    else:
                        row = row or queue_fetch(session, peer, study, rule, per_minute)
                        outcome["wanted"] += 1
                        outcome["first"] = min(outcome["first"] or row.id, row.id)
    return outcome


def queue_fetch(
    session: Session,
    peer: str,
    study: scu.FoundStudy,
    rule: str = "",
    per_minute: float = 0,
    purpose: FetchPurpose = FetchPurpose.ASKED,
) -> Fetch:
    """Queue the retrieval of a study from ``peer``; earlier studies for comparison come first.

    ``rule``, ``per_minute``: as of :func:`ask`.
    """
    now = utc_now()
    row = Fetch(
        peer=peer,
        study_instance_uid=study.study_instance_uid,
        rule=rule,
        per_minute=per_minute,
        purpose=purpose,
        urgent=purpose is not FetchPurpose.ASKED,
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        patient=str(study.patient),
        asked_at=now,
        next_at=now,
    )
    session.add(row)
    session.flush()
    record(session, FETCH_ASKED, study=row.study_instance_uid, peer=peer)
    return row


def fetch_again(session: Session, peer: str) -> int:
    """Queue again the retrievals from this peer that failed or were cancelled; return their number."""
    return sum(
        try_move(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())
        for row in fetches.listed(session, peer, (FetchState.FAILED, FetchState.CANCELLED))
    )


def cancel(session: Session, peer: str) -> int:
    """Cancel the waiting retrievals from this peer; return their number."""
    return sum(
        try_move(session, row, FETCH_CANCELLED, ended_at=utc_now())
        for row in fetches.listed(session, peer, (FetchState.WAITING,))
    )
