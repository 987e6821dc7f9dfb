"""Storage commitment that peers request of this node (PS3.4 Annex J).

The node stores no object for good, so it commits to none itself: an instance is reported as committed when an
archive that rules forward to has confirmed the very bytes that the peer sent last. A report is decided once,
stored, and sent until the peer accepts it: a kill or a lost answer costs only a second, identical report.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom import dimse_n
from dicom_node.base.events import COMMITMENT_ANSWER_GIVEN_UP, COMMITMENT_ANSWERED, COMMITMENT_DECIDED
from dicom_node.base.lifecycle import RequestedState
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import Lane
from dicom_node.base.store import requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Commitment, RequestedCommitment
from dicom_node.base.store.transitions import try_move, utc_now
from dicom_node.deliver import scu

_KEEP: Final = timedelta(days=90)  # longer than any report is waited for: late ones are still understood
_ANSWERS_AT_ONCE: Final = 20
_CALL_SECONDS: Final = 150.0  # an association made and released, at its slowest
INDEXED_AFTER: Final = timedelta(minutes=5)
"""An object that a peer sent before it asked is in the index by then; until then it may be unknown."""


class CommitmentAnswers(Lane[RequestedCommitment]):
    """Decides on the storage commitment requests that one peer sent to this node, and reports to that peer.

    All state is in the database.
    """

    table, is_one_peer = RequestedCommitment, True

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        open_reporter: Callable[[PeerSettings, Settings], scu.CommitmentPeer] = scu.open_commitment,
    ) -> None:
        """Prepare for one peer. ``owner``: the process, under which its lease is taken."""
        super().__init__(
            database,
            settings,
            f"commitment to {peer.name}",
            owner,
            settings.outbox.answer_seconds + _CALL_SECONDS,
        )
        self._peer, self._open = peer, open_reporter
        self._limit = timedelta(hours=peer.commit_hours)
        forwarded_to = {name for rule in settings.rules for name in rule.forward}
        self._archives = forwarded_to & {one.name for one in settings.peers if one.confirm != "none"}

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """SQL conditions for requests that are undecided, or whose report the peer has not accepted yet."""
        return RequestedCommitment.peer == self._peer.name, requested.UNFINISHED

    def _uncommitted_objects(
        self, session: Session, row: RequestedCommitment, now: datetime
    ) -> list[str] | None:
        """The objects of the request that are not committed, each as "UID reason" (the reason a DIMSE code in
        hexadecimal).

        None while one of them may still be committed. No object is committed while a newer version of it may
        wait to be indexed.
        """
        title = self._peer.ae_title
        asked = dict(line.split(" ", 1) for line in row.objects)
        uids = list(asked)
        sent = requested.sent_by(session, title, uids)
        classes = requested.classes(session, uids)
        is_behind = requested.awaits_index(session, title, row.asked_at, now - INDEXED_AFTER)
        archived = set() if is_behind else requested.archived(session, title, uids, self._archives)
        left_out = requested.left_out(session, uids)
        age, failed = now - row.asked_at, []
        for uid, sop_class in asked.items():
            reason = None
            if uid not in sent:
                reason = dimse_n.NO_SUCH_OBJECT if age >= min(INDEXED_AFTER, self._limit) else None
            elif classes.get(uid, sop_class) != sop_class:
                reason = dimse_n.CLASS_CONFLICT
            elif uid in archived:
                continue
            elif age >= self._limit or uid in left_out:
                reason = dimse_n.PROCESSING_FAILURE
            if reason is None:
                return None
            failed.append(f"{uid} {reason:04X}")
        return failed

    def work(self, row: RequestedCommitment, _: threading.Event) -> Outcome:
        """Decide on the request if that is possible, or report a decision made before to the peer once."""
        if row.state is RequestedState.WAITING:
            now = utc_now()
            with self._database.write() as session:
                found = self._uncommitted_objects(session, row, now)
                session.add(row)
                if found is None:
                    wait = max((now - row.asked_at) / 10, timedelta(seconds=1))
                    row.next_at = now + min(wait, timedelta(seconds=60))
                else:
                    try_move(session, row, COMMITMENT_DECIDED, failed=found, decided_at=now)
            return NotYet()
        objects = dict(line.split(" ", 1) for line in row.objects)
        failed = {uid: int(code, 16) for uid, code in (line.split(" ") for line in row.failed)}
        event_type = dimse_n.SOME_FAILED if failed else dimse_n.ALL_COMMITTED
        with closing(self._open(self._peer, self._settings)) as reporter:
            reason = reporter.report(
                dimse_n.commitment_report(row.transaction_uid, objects, failed), event_type
            )
        if not reason:
            return Done()
        is_over = row.decided_at is not None and utc_now() - row.decided_at >= self._limit
        return Failed(reason) if is_over else Retry(reason)

    def move(self, session: Session, row: RequestedCommitment, outcome: Outcome) -> None:
        """Mark the request as answered or given up; any other outcome does not change its state."""
        if isinstance(outcome, Done):
            try_move(session, row, COMMITMENT_ANSWERED)
        elif isinstance(outcome, Failed):
            try_move(session, row, COMMITMENT_ANSWER_GIVEN_UP)


def give_up_requests(database: Database, settings: Settings) -> None:
    """Give up commitment requests of peers that may no longer make any, and delete old requests of both
    sides.

    No report is expected any more for a request that is so old.
    """
    peers = [peer.name for peer in settings.peers if peer.commit_after]
    with database.write() as session:
        for row in session.scalars(
            select(RequestedCommitment)
            .where(requested.UNFINISHED, RequestedCommitment.peer.not_in(peers))
            .limit(_ANSWERS_AT_ONCE)
        ).all():
            try_move(
                session,
                row,
                COMMITMENT_ANSWER_GIVEN_UP,
                reason="the peer is not configured with commit_after any more",
            )
        session.execute(delete(Commitment).where(Commitment.asked_at < utc_now() - _KEEP))
        session.execute(delete(RequestedCommitment).where(RequestedCommitment.asked_at < utc_now() - _KEEP))
