"""Results that are wanted again and whose files were deleted after ``spool.result_days``."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from dicom_node.config.settings import PeerSettings
from dicom_node.events import RESULT_LOST
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.store import deliveries
from dicom_node.store.tables import Result
from dicom_node.store.transitions import record

_NOT_AGAIN = "its file was deleted after spool.result_days, and it cannot be built again with the same bytes"


def give_up(session: Session, row: Result, peers: Iterable[PeerSettings]) -> None:
    """Write down who misses a result that would be another object if it were made now.

    Its delivery is withdrawn until a job makes the object as it was.
    """
    for peer in peers:
        delivery = deliveries.add(session, row, peer.name)
        if delivery.state is DeliveryState.PENDING:
            deliveries.withdraw(session, delivery, _NOT_AGAIN)
            record(
                session,
                RESULT_LOST,
                row.study_id,
                instance=row.sop_instance_uid,
                destination=peer.name,
            )
