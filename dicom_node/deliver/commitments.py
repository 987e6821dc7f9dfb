"""Storage commitment (PS3.4 Annex J): our requests and their reports, and answers to requests of peers.

A request is stored before it is sent, and a report before it is answered: a kill in between loses nothing,
and a report may come first, hours late or twice. No transaction is open while the node waits for the network.

Answers to peers' requests for storage commitment, based on an archive's confirmation (PS3.4 J.3).
The node stores no object for good, so it commits to none itself: an instance is reported as committed when an
archive that rules forward to has confirmed the very bytes that the peer sent last. A report is decided once,
stored, and sent until the peer accepts it: a kill or a lost answer costs only a second, identical report.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import datetime, timedelta
from typing import Final

from pydicom.uid import generate_uid
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.dicom import commitment
from dicom_node.base.events import (
    COMMITMENT_ANSWER_GIVEN_UP,
    COMMITMENT_ANSWERED,
    COMMITMENT_DECIDED,
    COMMITMENT_ENTERED,
    COMMITMENT_REQUESTED,
    COMMITMENT_SET_ASIDE,
    COMMITMENT_UNKNOWN,
)
from dicom_node.base.lifecycle import CommitmentState, DeliveryState, RequestedState
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import Lane
from dicom_node.base.store import deliveries, intake, requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Commitment, Delivery, RequestedCommitment, WaitingReport
from dicom_node.base.store.transitions import (
    move,
    record,
    settle_studies,
    utc_now,
)
from dicom_node.deliver import scu
from dicom_node.deliver.outbox import Moves

_BATCH: Final = 20
_KEEP: Final = timedelta(days=90)  # longer than any report is waited for: late ones are still understood


Entering = Callable[[Collection[int]], AbstractContextManager[tuple[Session, Moves, Mapping[int, Delivery]]]]
"""A transaction with these deliveries, as far as they are the caller's still."""


def request_commitment(
    settings: Settings,
    peer: PeerSettings,
    entering: Entering,
    opened: Callable[[scu.CommitmentUser], None],
    objects: Mapping[int, scu.Outgoing],
) -> list[int]:
    """Request commitment for deliveries (by number) that have no request under way.

    Returns the deliveries to query instead, because no report came or the peer accepts no request.
    ``opened``: is told of the client that requests, so that its call can be ended.
    """
    transaction = generate_uid()
    wanted, to_query = _written_down(transaction, peer, entering, objects)
    if not wanted:
        return to_query

    def keep(report: commitment.CommitmentReport) -> None:
        """Keep a report that came on the association of the request."""
        calling, lines = peer.reporting_titles[-1], (report.committed, report.failed)
        with entering(()) as (session, _, _):
            intake.keep_report(session, report.transaction_uid, calling, *lines, utc_now())

    requestor = scu.open_commitment(peer, settings)
    opened(requestor)
    answer = requestor.ask(transaction, [objects[number] for number in wanted], keep)
    with entering(wanted) as (session, moves, rows):
        if isinstance(answer, Done):
            request = _locked(session, transaction)
            if request is not None and request.state is CommitmentState.ASKED:
                move(session, request, COMMITMENT_REQUESTED)
        for row in _unconfirmed(rows):
            if isinstance(answer, Done):
                moves.await_report(row)
            elif isinstance(answer, Retry):
                moves.ask_again(row, answer.why)
            else:
                row.transaction_uid = ""
                to_query += _without(moves, row, answer.why)
    return to_query


def _written_down(
    transaction: str, peer: PeerSettings, entering: Entering, numbers: Collection[int]
) -> tuple[list[int], list[int]]:
    """Store a request; the deliveries that it is for, and those that are to be queried."""
    wanted, to_query = [], []
    with entering(numbers) as (session, moves, rows):
        for row in _unconfirmed(rows):
            before = select(Commitment.state).where(Commitment.transaction_uid == row.transaction_uid)
            if row.sent_at is None:
                to_query.append(row.id)
            elif moves.commitment_is_overdue(row):
                to_query += _without(moves, row, "no storage commitment report came")
            # In a request that reached the destination; a kill may have stopped one that was asked.
            elif session.scalar(before) in (CommitmentState.ACCEPTED, CommitmentState.REPORTED):
                moves.await_report(row)
            else:
                wanted.append(row.id)
                row.transaction_uid = transaction
        if wanted:
            about = {"destination": peer.name, "deliveries": wanted, "asked_at": utc_now()}
            session.add(Commitment(transaction_uid=transaction, **about))
            session.flush()
    return wanted, to_query


def _unconfirmed(rows: Mapping[int, Delivery]) -> list[Delivery]:
    """Those that no report confirmed meanwhile."""
    return [row for row in rows.values() if row.state is DeliveryState.UNCONFIRMED]


def _without(moves: Moves, row: Delivery, reason: str) -> list[int]:
    """No commitment is to be had: the delivery is given up, or returned to be queried."""
    moves.commitment_missing(row, reason)
    return [row.id] if row.state is DeliveryState.UNCONFIRMED else []


def enter_reports(database: Database, settings: Settings) -> int:
    """Process the waiting commitment reports; returns how many. Processes share them: each is processed
    once.
    """
    with database.read() as session:
        waiting = session.scalars(select(WaitingReport.id).order_by(WaitingReport.id).limit(_BATCH)).all()
    return sum(_enter_one(database, settings, number) for number in waiting)


def forget_requests(database: Database, _: Settings) -> None:
    """Delete requests for storage commitment, by us or by peers, that expect no more reports."""
    with database.write() as session:
        session.execute(delete(Commitment).where(Commitment.asked_at < utc_now() - _KEEP))
        requested.forget_requests(session, utc_now() - _KEEP)


def _enter_one(database: Database, settings: Settings, number: int) -> bool:
    """In a transaction of its own: what one report does wrong, or waits for, is no other's matter."""
    chosen = select(WaitingReport).where(WaitingReport.id == number)
    try:
        with database.write() as session:
            report = session.scalar(chosen.with_for_update(skip_locked=True))
            if report is None:
                return False
            _enter(session, settings, report)
            session.delete(report)
    except (OperationalError, InterfaceError):  # the database is away, or two waited for each other: later
        raise
    except Exception as error:  # noqa: BLE001  (no report may keep others, and deliveries, from their turn)
        reason = type(error).__name__  # without its text, which quotes what was to be written
        with database.write() as session:
            report = session.scalar(chosen)
            if report is None:
                return False
            record(
                session,
                COMMITMENT_SET_ASIDE,
                transaction=report.transaction_uid,
                calling=report.calling_ae,
                reason=reason,
            )
            session.delete(report)
    return True


def _enter(session: Session, settings: Settings, report: WaitingReport) -> None:
    commitment = _locked(session, report.transaction_uid)
    asked = commitment.destination if commitment is not None else None
    peer = next((one for one in settings.peers if one.name == asked), None)
    titles = {title.strip() for title in peer.reporting_titles} if peer is not None else ()
    if commitment is None or peer is None or report.calling_ae.strip() not in titles:
        record(session, COMMITMENT_UNKNOWN, calling=report.calling_ae, transaction=report.transaction_uid)
        return
    if commitment.state is not CommitmentState.REPORTED:  # a second report may name what the first did not
        move(session, commitment, COMMITMENT_ENTERED)
    moves = Moves(session, peer, settings.outbox, utc_now())
    failed = dict(line.split(" ", 1) for line in report.failed)
    committed = {uid: sop_class for uid, _, sop_class in (line.partition(" ") for line in report.committed)}
    rows = deliveries.of_numbers(session, commitment.deliveries).values()
    for row in rows:
        uid, sop_class = row.item.sop_instance_uid, row.item.sop_class_uid
        if uid in failed:
            moves.not_committed(row, report.transaction_uid, int(failed[uid], 16))
        elif committed.get(uid) == sop_class:
            moves.committed(row)
    settle_studies(session, [row.item.study_id for row in rows])


def _locked(session: Session, transaction_uid: str) -> Commitment | None:
    return session.scalar(
        select(Commitment).where(Commitment.transaction_uid == transaction_uid).with_for_update()
    )


_ANSWERS_AT_ONCE: Final = 20
_CALL_SECONDS: Final = 150.0  # an association made and released, at its slowest
INDEXED_AFTER: Final = timedelta(minutes=5)
"""An object that a peer sent before it asked is in the index by then; until then it may be unknown."""


class CommitmentAnswers(Lane[RequestedCommitment]):
    """Decides on the requests of one peer, and reports to it; all state is in the database."""

    table, is_one_peer = RequestedCommitment, True

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        open_reporter: Callable[[PeerSettings, Settings], scu.CommitmentProvider] = scu.open_reporter,
    ) -> None:
        seconds = settings.outbox.answer_seconds + _CALL_SECONDS
        super().__init__(database, settings, f"commitment to {peer.name}", owner, seconds)
        self._peer, self._open = peer, open_reporter
        self._limit = timedelta(hours=peer.commit_hours)
        forwarded_to = {name for rule in settings.rules for name in rule.forward}
        self._archives = forwarded_to & {one.name for one in settings.peers if one.confirm != "none"}

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Those that wait to be decided, or whose report waits to be taken."""
        open_states = (RequestedState.WAITING, RequestedState.DECIDED)
        return RequestedCommitment.peer == self._peer.name, RequestedCommitment.state.in_(open_states)

    def _decide(self, row: RequestedCommitment) -> None:
        now = utc_now()
        with self._database.write() as session:
            failed = self._failed(session, row, now)
            session.add(row)
            if failed is None:
                wait = max((now - row.asked_at) / 10, timedelta(seconds=1))
                row.next_at = now + min(wait, timedelta(seconds=60))
            else:
                move(session, row, COMMITMENT_DECIDED, failed=failed, decided_at=now)

    def _failed(self, session: Session, row: RequestedCommitment, now: datetime) -> list[str] | None:
        """The objects that are not committed, "UID reason"; None while one may still be.

        None is committed while a newer version of it may wait to be indexed.
        """
        title = self._peer.ae_title
        asked = dict(line.split(" ", 1) for line in row.objects)
        uids = list(asked)
        sent = requested.sent_by(session, title, uids)
        classes = requested.classes(session, uids)
        if requested.awaits_index(session, title, row.asked_at, now - INDEXED_AFTER):
            archived = set()
        else:
            archived = requested.archived(session, title, uids, self._archives)
        left_out = requested.left_out(session, uids)
        age, failed, waits = now - row.asked_at, [], False
        for uid, sop_class in asked.items():
            reason = None
            if uid not in sent:
                reason = commitment.NO_SUCH_OBJECT if age >= min(INDEXED_AFTER, self._limit) else None
            elif classes.get(uid, sop_class) != sop_class:
                reason = commitment.CLASS_CONFLICT
            elif uid in archived:
                continue
            elif age >= self._limit or uid in left_out:
                reason = commitment.PROCESSING_FAILURE
            waits = waits or reason is None
            failed.append(f"{uid} {reason or 0:04X}")
        return None if waits else failed

    def work(self, row: RequestedCommitment, _: threading.Event) -> Outcome:
        """Decide it if that is possible, then report to the peer once."""
        if row.state is RequestedState.WAITING:
            self._decide(row)
            return NotYet()
        objects = dict(line.split(" ", 1) for line in row.objects)
        failed = {uid: int(code, 16) for uid, code in (line.split(" ") for line in row.failed)}
        event_type = commitment.SOME_FAILED if failed else commitment.ALL_COMMITTED
        with closing(self._open(self._peer, self._settings)) as reporter:
            reason = reporter.report(commitment.report(row.transaction_uid, objects, failed), event_type)
        if not reason:
            return Done()
        is_over = row.decided_at is not None and utc_now() - row.decided_at >= self._limit
        return Failed(reason) if is_over else Retry(reason)

    def move(self, session: Session, row: RequestedCommitment, outcome: Outcome) -> None:
        """Reported, given up, or still decided."""
        if isinstance(outcome, Done):
            move(session, row, COMMITMENT_ANSWERED)
        elif isinstance(outcome, Failed):
            move(session, row, COMMITMENT_ANSWER_GIVEN_UP)


def give_up_others(database: Database, settings: Settings) -> None:
    """Give up the requests of peers that may no longer ask."""
    peers = [peer.name for peer in settings.peers if peer.commit_after]
    with database.read() as session:
        if not requested.requests_of_others(session, peers, 1):
            return
    with database.write() as session:
        for row in requested.requests_of_others(session, peers, _ANSWERS_AT_ONCE):
            row.reason = "the peer is not configured with commit_after any more"
            session.flush()
            move(session, row, COMMITMENT_ANSWER_GIVEN_UP)
