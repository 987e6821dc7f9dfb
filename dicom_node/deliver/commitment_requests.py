"""Storage commitment that this node requests (PS3.4 Annex J): the reports of the peers.

A request is stored before it is sent (``route``), and a report before it is answered: a kill in between loses
nothing, and a report may come first, hours late or twice.
"""

from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.events import COMMITMENT_ENTERED, COMMITMENT_SET_ASIDE, COMMITMENT_UNKNOWN
from dicom_node.base.lifecycle import CommitmentState
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Commitment, WaitingReport
from dicom_node.base.store.transitions import move, record, settle_studies, utc_now
from dicom_node.deliver.moves import Moves

_REPORTS: Final = 20


def enter_reports(database: Database, settings: Settings) -> int:
    """Process the storage commitment reports that peers sent and that wait in the database; returns how many.

    Each report is processed once, in a transaction of its own, so that a faulty or waiting report does not
    hold up others. Several processes may do this at once.
    """
    with database.read() as session:
        waiting = session.scalars(select(WaitingReport.id).order_by(WaitingReport.id).limit(_REPORTS)).all()
    entered = 0
    for number in waiting:
        chosen = select(WaitingReport).where(WaitingReport.id == number)
        with database.write() as session:
            report = session.scalar(chosen.with_for_update(skip_locked=True))
            if report is None:
                continue
            calling, transaction = report.calling_ae, report.transaction_uid
            try:
                with session.begin_nested():
                    _apply_report(session, settings, report)
            except (OperationalError, InterfaceError):  # the database is away, or two waited for each other
                raise
            except Exception as error:  # noqa: BLE001  (no report may keep others, and deliveries, from their turn)
                reason = type(error).__name__  # without its text, which quotes what was to be written
                record(session, COMMITMENT_SET_ASIDE, transaction=transaction, calling=calling, reason=reason)
            session.delete(report)
        entered += 1
    return entered


def _apply_report(session: Session, settings: Settings, report: WaitingReport) -> None:
    """Apply one storage commitment report to the deliveries that it names; a report of an unknown request is
    recorded.
    """
    named = select(Commitment.deliveries).where(Commitment.transaction_uid == report.transaction_uid)
    rows = deliveries.of_numbers(session, session.scalar(named) or ())  # before the request, as who asks does
    commitment = locked_request(session, report.transaction_uid)
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
    for row in rows:
        uid, sop_class = row.item.sop_instance_uid, row.item.sop_class_uid
        if uid in failed:
            moves.not_committed(row, report.transaction_uid, int(failed[uid], 16))
        elif committed.get(uid) == sop_class:
            moves.committed(row)
    deliveries.discard_withdrawn(session, rows)
    settle_studies(session, [row.item.study_id for row in rows])


def locked_request(session: Session, transaction_uid: str) -> Commitment | None:
    """The commitment request with this Transaction UID, locked; None if there is none."""
    return session.scalar(
        select(Commitment).where(Commitment.transaction_uid == transaction_uid).with_for_update()
    )
