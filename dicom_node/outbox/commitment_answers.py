"""Answers to peers' requests for storage commitment, based on an archive's confirmation (PS3.4 J.3).

The node stores no object for good, so it commits to none itself: an instance is reported as committed when an
archive that rules forward to has confirmed the very bytes that the peer sent last. A report is decided once,
stored, and sent until the peer accepts it: a kill or a lost answer costs only a second, identical report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom import commitment
from dicom_node.events import COMMITMENT_ANSWER_GIVEN_UP, COMMITMENT_ANSWERED, COMMITMENT_DECIDED
from dicom_node.model.lifecycle import RequestedState
from dicom_node.outbox.schedule import wait_before_retry
from dicom_node.scu import CommitmentProvider
from dicom_node.store import requested
from dicom_node.store.database import Database
from dicom_node.store.leases import KeptLease
from dicom_node.store.tables import RequestedCommitment
from dicom_node.store.transitions import move_requested, utc_now

_BATCH: Final = 20
_CALL_SECONDS: Final = 150.0  # an association made and released, at its slowest
_LOOK_AGAIN: Final = (timedelta(seconds=1), timedelta(seconds=60))  # the least and the most
INDEXED_AFTER: Final = timedelta(minutes=5)
"""An object that a peer sent before it asked is in the index by then; until then it may be unknown."""
_NOT_ASKED_ANY_MORE: Final = "the peer is not configured with commit_after any more"


class CommitmentAnswers:
    """Decides on the requests of one peer, and reports to it; all state is in the database."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        open_reporter: Callable[[PeerSettings, Settings], CommitmentProvider] = scu.open_reporter,
    ) -> None:
        self._database, self._settings, self._peer = database, settings, peer
        self._open = open_reporter
        self._limit = timedelta(hours=peer.commit_hours)
        forwarded_to = {name for rule in settings.rules for name in rule.forward}
        confirming = {one.name for one in settings.peers if one.confirm != "none"}
        self._archives = forwarded_to & confirming
        seconds = 2 * (settings.outbox.answer_seconds + _CALL_SECONDS)
        self._lease = KeptLease(database, f"commitment to {peer.name}"[:64], owner, seconds)

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Decide the requests that can be decided, then send the reports that are due; returns how many
        were accepted.
        """
        if not self._lease.keep():
            return 0
        self._decide()
        taken = 0
        for number in self._to_report():
            if (stop is not None and stop.is_set()) or not self._lease.keep():
                break
            if not self._report(number):
                break  # the peer is away: the next ones would wait as long
            taken += 1
        return taken

    def _decide(self) -> None:
        now = utc_now()
        with self._database.read() as session:
            if not requested.due(session, self._peer.name, RequestedState.WAITING, now, 1):
                return
        with self._database.write() as session:
            for row in requested.due(session, self._peer.name, RequestedState.WAITING, now, _BATCH):
                failed = self._failed(session, row, now)
                if failed is None:
                    least, most = _LOOK_AGAIN
                    row.next_at = now + min(max((now - row.asked_at) / 10, least), most)
                else:
                    values = {"failed": failed, "decided_at": now, "next_at": now}
                    move_requested(session, row, COMMITMENT_DECIDED, **values)

    def _failed(self, session: Session, row: RequestedCommitment, now: datetime) -> list[str] | None:
        """The objects that are not committed, "UID reason"; None while one may still be.

        None is committed while a newer version of it may wait to be indexed.
        """
        title = self._peer.ae_title
        asked = dict(line.split(" ", 1) for line in row.objects)
        uids = list(asked)
        sent = requested.sent(session, title, uids)
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

    def _to_report(self) -> list[int]:
        with self._database.read() as session:
            rows = requested.due(session, self._peer.name, RequestedState.DECIDED, utc_now(), _BATCH)
            return [row.id for row in rows]

    def _report(self, number: int) -> bool:
        with self._database.read() as session:
            row = session.get_one(RequestedCommitment, number)
            objects = dict(line.split(" ", 1) for line in row.objects)
            failed = {uid: int(code, 16) for uid, code in (line.split(" ") for line in row.failed)}
            transaction = row.transaction_uid
        event_type = commitment.SOME_FAILED if failed else commitment.ALL_COMMITTED
        reporter = self._open(self._peer, self._settings)
        try:
            reason = reporter.report(commitment.report(transaction, objects, failed), event_type)
        finally:
            reporter.close()
        self._note(number, reason)
        return not reason

    def _note(self, number: int, reason: str) -> None:
        now = utc_now()
        with self._database.write() as session:
            row = session.get_one(RequestedCommitment, number)
            if row.state is not RequestedState.DECIDED:  # the lease ended, and another process reported
                return
            row.attempts += 1
            row.reason = reason[:255]
            session.flush()
            if not reason:
                move_requested(session, row, COMMITMENT_ANSWERED)
            elif row.decided_at is not None and now - row.decided_at >= self._limit:
                move_requested(session, row, COMMITMENT_ANSWER_GIVEN_UP)
            else:
                row.next_at = now + wait_before_retry(row.attempts, self._settings.outbox)


def give_up_others(database: Database, settings: Settings) -> None:
    """Give up the requests of peers that may no longer ask."""
    peers = [peer.name for peer in settings.peers if peer.commit_after]
    with database.read() as session:
        if not requested.of_others(session, peers, 1):
            return
    with database.write() as session:
        for row in requested.of_others(session, peers, _BATCH):
            row.reason = _NOT_ASKED_ANY_MORE
            session.flush()
            move_requested(session, row, COMMITMENT_ANSWER_GIVEN_UP)
