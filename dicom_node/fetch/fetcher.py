"""Fetches studies from one peer, one at a time, within its rate limit. All state is in the database.

The start of a retrieval is stored before the peer is asked, so that no kill makes the next one too early.

Objects that a retrieval receives on the node's own connection, on their way into the spool.
They are spooled like objects of a C-STORE from the peer, and inspected like all others.

Studies of the last days that should have a result according to the rules, and have none.

Queries to a peer for studies to fetch; each study is stored once.
"""

import itertools
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, RuleSettings, Settings, matches
from dicom_node.dicom.file_meta import META_BYTES, is_uid
from dicom_node.errors import FaultyInput, PeerUnreachable, SpoolFull
from dicom_node.events import (
    FETCH_ASKED,
    FETCH_CANCELLED,
    FETCH_DONE,
    FETCH_FAILED,
    FETCH_RETRIED,
    FETCH_STARTED,
    STUDIES_MISSING,
)
from dicom_node.inbox.header import Arrival, check_taken, read_meta
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.model.kinds import FetchPurpose
from dicom_node.model.lifecycle import OPEN_FETCHES, FetchState, StudyState
from dicom_node.model.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.runner import Lane
from dicom_node.scp.contexts import accepted_classes
from dicom_node.store import fetches
from dicom_node.store.database import Database
from dicom_node.store.tables import Fetch, Study
from dicom_node.store.transitions import move_fetch, record, utc_now

_S = scu.RetrieveStatus
ATTEMPTS = 3
"""Tries of a peer that answers; one that does not is tried for ever."""
ATTEMPTS_OF_KILLED = 10
"""Tries of a study at which the node ends each time."""
_MARGIN_SECONDS = 120.0  # of the lease, above what a retrieval may take: associations, the database
_WATCH_SECONDS = 0.2
_LOOK_SECONDS = 30.0  # between looks whether the next study is still wanted


class Fetcher(Lane[Fetch]):
    """Fetches from one peer. Several nodes may share a database; one at a time holds the peer's lease."""

    table = Fetch

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings, owner: str) -> None:
        seconds = peer.retrieve_seconds + _MARGIN_SECONDS
        super().__init__(database, settings, f"fetch from {peer.name}", owner, seconds)
        self._peer = peer
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._waiting = WaitingObjects(self._spool.incoming)

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Those of this peer that wait for their turn, for another try, or for somebody in place of a process
        that has ended.
        """
        return Fetch.state.in_(OPEN_FETCHES), Fetch.peer == self._peer.name

    def order(self) -> Sequence[Any]:
        """After what a process left when it ended, those that another study waits for."""
        return Fetch.state != FetchState.FETCHING, Fetch.urgent.desc(), Fetch.attempts, Fetch.id

    def work(self, row: Fetch, stop: threading.Event) -> Outcome:
        """Wait for the peer's turn, write down that the study is being fetched, and fetch it."""
        if row.state is FetchState.FETCHING:  # while we have the lease: whoever fetched it is gone
            with self._database.write() as session:
                session.add(row)
                reason = f"the node ended while it was fetched, try {row.attempts}"
                event = FETCH_RETRIED if row.attempts < ATTEMPTS_OF_KILLED else FETCH_FAILED
                move_fetch(session, row, event, reason=reason, next_at=utc_now())
            return NotYet()
        with self._database.read() as session:
            wait = self._pause(row, fetches.last_start(session, self._peer.name), utc_now())
        if wait > 0:
            stop.wait(min(wait, _LOOK_SECONDS))
            return NotYet()
        with self._database.write() as session:
            session.add(row)
            started = {"started_at": utc_now(), "attempts": row.attempts + 1}
            if not move_fetch(session, row, FETCH_STARTED, **started):  # a person cancelled it
                return NotYet()
        archive = scu.open_archive(self._peer, self._settings)
        sink = Incoming(self._spool, self._waiting, self._settings, self._peer, row.id)
        with closed_at(stop, archive):
            found = archive.retrieve(row.study_instance_uid, sink)
        row.objects = found.objects
        status, why = found.status, found.text[:500]
        if status is not _S.RETRIEVED and stop.is_set():
            return Retry(why, after=timedelta())
        is_final = status in (_S.RETRIEVED, _S.REFUSED, _S.ABSENT)
        if status is _S.UNREACHABLE or (not is_final and row.attempts < ATTEMPTS):
            return Retry(why)
        return Done(why) if status in (_S.RETRIEVED, _S.INCOMPLETE) else Failed(why)

    def _pause(self, fetch: Fetch, last: datetime | None, now: datetime) -> float:
        """Seconds until the peer may be asked again; a last start that lies ahead is of a clock put back."""
        pause = 60 / min(fetch.per_minute or self._peer.fetch_per_minute, self._peer.fetch_per_minute)
        return min((last - now).total_seconds() + pause, pause) if last is not None else 0.0

    def move(self, session: Session, row: Fetch, outcome: Outcome) -> None:
        """Fetched, failed, or waiting again."""
        if isinstance(outcome, Retry):
            move_fetch(session, row, FETCH_RETRIED)
        else:
            event = FETCH_DONE if isinstance(outcome, Done) else FETCH_FAILED
            move_fetch(session, row, event, ended_at=utc_now())


@contextmanager
def closed_at(stop: threading.Event, called: Any) -> Iterator[None]:
    """Close the calls of an archive or a worklist manager when another thread sets ``stop``."""
    done = threading.Event()

    def watch() -> None:
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


class Incoming:
    """Stores the objects of one retrieval (``scu.ObjectSink``). ``number``: of the retrieval's row."""

    def __init__(
        self, spool: Spool, waiting: WaitingObjects, settings: Settings, peer: PeerSettings, number: int
    ) -> None:
        self._spool, self._waiting, self._settings, self._peer = spool, waiting, settings, peer
        self._association = f"{ASSOCIATION}{number}"
        self.sop_classes: Collection[str] = accepted_classes(settings.listener.further_storage_classes)
        self.largest_bytes = settings.listener.maximum_object_mib * 2**20
        """The size of the largest object that is accepted."""

    def take_object(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[bytes]
    ) -> None:
        """Store an encoded data set. Raises FaultyInput, SpoolError."""
        if not is_uid(sop_instance_uid):
            raise FaultyInput("it has no valid SOP Instance UID")
        check_taken(sop_class_uid, transfer_syntax_uid, self.sop_classes)
        limits = self._settings.spool
        if not self._waiting.has_room(self._peer.name, limits.waiting_objects, limits.waiting_mib * 2**20):
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
        """Store a Part 10 file. Raises FaultyInput, SpoolError."""
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


_BATCH = 500  # studies of one query or transaction
_ON_ITS_WAY = frozenset(
    {StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING, StudyState.UNASSESSED}
)
_SETTLED = frozenset({StudyState.DELIVERED, StudyState.DELIVERING, StudyState.NOT_APPLICABLE})


@dataclass(frozen=True, slots=True)
class MissingStudy:
    """A study of the peer without a result. ``rule``: the first rule that should take it. ``why``: in words.

    ``fetchable``: whether fetching the study may help.
    """

    found: scu.FoundStudy
    rule: str
    why: str
    fetchable: bool = True


def missing(database: Database, settings: Settings, peer: PeerSettings, days: int) -> list[MissingStudy]:
    """Query the peer for studies of today and of the ``days`` days before. Raises PeerUnreachable."""
    today = date.today()  # Study Date is local
    archive = scu.open_archive(peer, settings)
    # Modalities to ask for; none, so all, where a rule takes any or has a pattern.
    named = {pattern for rule in settings.rules for pattern in rule.when.modality or ("*",)}
    modalities = [] if any(sign in name for name in named for sign in "*?") else sorted(named)
    asked = questions(today - timedelta(days=days), today, modalities)
    answers = {study.study_instance_uid: study for one in asked for study in archive.find(one).studies}
    wanted = [(study, rule) for study in answers.values() if (rule := _rule_for(study, settings.rules))]
    batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]
    with database.read() as session:
        return [row for batch in batches for row in _without_result(session, peer, batch)]


def fetch_missing(session: Session, peer: str, study: MissingStudy) -> None:
    """Queue the study to be fetched, even if it was fetched or given up before."""
    row = fetches.of_study(session, study.found.study_instance_uid)
    if row is None:
        write_down(session, peer, study.found)
    elif row.state not in OPEN_FETCHES:
        row.peer = peer
        move_fetch(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())


def report_missing(database: Database, settings: Settings) -> int:
    """Record event 2057 for each peer with ``missing_days`` and such studies; returns the number of
    studies.
    """
    total = 0
    for peer in settings.peers:
        if "query" not in peer.may or not peer.missing_days:
            continue
        try:
            rows = missing(database, settings, peer, peer.missing_days)
        except PeerUnreachable:  # tomorrow again; deliveries to it say that it is away
            continue
        if rows:
            uids = [row.found.study_instance_uid for row in rows[:20]]  # so many stand in an event
            with database.write() as session:
                record(session, STUDIES_MISSING, peer=peer.name, number=len(rows), studies=uids)
        total += len(rows)
    return total


def _rule_for(study: scu.FoundStudy, rules: Sequence[RuleSettings]) -> str:
    """The first rule whose conditions hold as far as an answer says; those on images cannot be tried."""
    for rule in rules:
        wanted, texts = rule.when.modality, rule.when.study_description
        of_modality = not wanted or not study.modalities or _any(wanted, study.modalities)
        if of_modality and (not texts or not study.description or _any(texts, [study.description])):
            return rule.name
    return ""


def _any(patterns: Sequence[str], values: Sequence[str]) -> bool:
    return any(matches(pattern, value) for pattern in patterns for value in values)


def _without_result(
    session: Session, peer: PeerSettings, wanted: Sequence[tuple[scu.FoundStudy, str]]
) -> Iterator[MissingStudy]:
    uids = [study.study_instance_uid for study, _ in wanted]
    here, asked = fetches.here(session, uids), fetches.of_studies(session, uids)
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
    """What is wrong with a study that is here; "" where it has its result, or will have it."""
    if known.state in _ON_ITS_WAY:
        return ""
    received = fetches.received_objects(session, known.id)
    theirs = (study.instances or 0) - fetches.results_at(session, known.id, peer.name)
    if theirs > received:
        return f"incomplete: {received} of {theirs} objects came"
    if known.state in _SETTLED:
        return ""
    return f"{known.state}: {known.reason}"[:200]


def questions(first: date, last: date, modalities: Sequence[str]) -> list[scu.StudyQuery]:
    """One query for each day and modality: short answers, whatever limit the archive has."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [scu.StudyQuery(day, day, modality) for day in days for modality in modalities or ("",)]


def ask(
    database: Database,
    archive: scu.Archive,
    peer: str,
    asked: Sequence[scu.StudyQuery],
    *,
    rule: str = "",
    per_minute: float = 0,
) -> dict[str, int]:
    """Query the archive, and store which studies are to be fetched; a repeated call continues.

    Returns how many studies were ``found``, of which ``here``: this node has them; ``before``: fetched, or
    given up, before; ``wanted``: written down, or waiting already, ``first``: the lowest number of their
    rows. ``strays``: answers that did not fit the question. Raises PeerUnreachable; rows that
    were stored before remain.
    """
    outcome = dict.fromkeys(("found", "here", "before", "strays", "wanted", "first"), 0)
    for question in asked:
        found = archive.find(question)
        outcome["strays"] += found.strays
        for start in range(0, len(found.studies), _BATCH):
            batch = found.studies[start : start + _BATCH]
            with database.write() as session:
                uids = [study.study_instance_uid for study in batch]
                here, known = fetches.here(session, uids), fetches.of_studies(session, uids)
                for study in batch:
                    outcome["found"] += 1
                    row = known.get(study.study_instance_uid)
                    if row is None and study.study_instance_uid in here:
                        outcome["here"] += 1
                    elif row is not None and row.state not in OPEN_FETCHES:
                        outcome["before"] += 1
                    else:
                        row = row or write_down(session, peer, study, rule, per_minute)
                        outcome["wanted"] += 1
                        outcome["first"] = min(outcome["first"] or row.id, row.id)
    return outcome


def write_down(
    session: Session,
    peer: str,
    study: scu.FoundStudy,
    rule: str = "",
    per_minute: float = 0,
    purpose: FetchPurpose = FetchPurpose.ASKED,
) -> Fetch:
    """Add a row for a study to fetch; studies that another study waits for are fetched first."""
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


def ask_again(session: Session, peer: str) -> int:
    """Fetch again the studies of this peer that were given up or cancelled; returns their number."""
    return sum(
        move_fetch(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())
        for row in fetches.listed(session, peer, (FetchState.FAILED, FetchState.CANCELLED))
    )


def cancel(session: Session, peer: str) -> int:
    """Cancel the waiting fetches from this peer; returns the number of studies."""
    return sum(
        move_fetch(session, row, FETCH_CANCELLED, ended_at=utc_now())
        for row in fetches.listed(session, peer, (FetchState.WAITING,))
    )
