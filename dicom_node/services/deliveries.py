"""A person's actions on deliveries: send again, discard, send to a further peer; each is in the audit."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import outbox
from dicom_node.config.settings import Settings
from dicom_node.model.kinds import AuditAction
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.services import PRINTABLE, Row, ServiceRequest, ServiceResult, audit, writing
from dicom_node.store.tables import Delivery
from dicom_node.store.views import find_study


class DeliveryRow(Row):
    """A result on its way to a peer."""

    delivery: int
    destination: str
    state: DeliveryState


class Deliveries(ServiceResult):
    """One page; ``next`` is ``before`` of the next one, null at the end."""

    deliveries: list[DeliveryRow]
    next: int | None


class To(ServiceRequest):
    """The receiver: the name of a configured peer."""

    peer: str = Field(max_length=64, pattern=PRINTABLE)


def retry(
    settings: Settings,
    deliveries: Sequence[int] | None = None,
    *,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Send again these given-up deliveries, or all (to one destination). Returns how many.

    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        if deliveries is None:
            done = outbox.retry_all(session, destination or None)
            noted: dict[str, Any] = {"all_dead": len(done), "destination": destination}
        else:
            for delivery_id in deliveries:
                outbox.retry(session, delivery_id)
            done, noted = list(deliveries), {"deliveries": list(deliveries)}
        by_study = _by_study(session, done).values()
        what = [pair for pairs in by_study for pair in pairs.values()]
        audit.note(session, by, AuditAction.DELIVERY_RETRIED, what={"deliveries": what}, **noted)
    return len(done)


def discard(
    settings: Settings,
    deliveries: Sequence[int] | None = None,
    *,
    because: str,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Discard these deliveries, or all that were given up (to one destination). Returns how many.

    ``because`` is shown with them but never logged: a person may have written a name. Raises NotFound,
    NotAllowedNow, FaultyInput.
    """
    words = audit.checked_reason(because)
    with writing(settings) as session:
        if deliveries is None:
            done = outbox.discard_all(session, words, destination or None)
        else:
            for delivery_id in deliveries:
                outbox.discard(session, delivery_id, words)
            done = list(deliveries)
        for study, pairs in _by_study(session, done).items():
            noted: dict[str, Any] = (
                {"all_dead": len(pairs), "destination": destination}
                if deliveries is None
                else {"deliveries": list(pairs)}
            )
            what = {"deliveries": list(pairs.values())}
            audit.note(session, by, AuditAction.DISCARDED, study_id=study, what=what, words=words, **noted)
    return len(done)


def send_study(
    settings: Settings, study_instance_uid: str, peer: str, by: audit.Person = audit.COMMAND_LINE
) -> int:
    """Send a study's newest results to a further peer; returns how many objects.

    Raises NotFound, UnknownPeer, NotAllowedNow.
    """
    to = settings.peer(peer)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        number = outbox.send_to(session, study, to, settings.peers)
        audit.note(
            session,
            by,
            AuditAction.SENT_TO_PEER,
            study_id=study,
            what={"peer": to.name},
            peer=to.name,
            objects=number,
        )
    return number


def _by_study(session: Session, deliveries: Sequence[int]) -> dict[int, dict[int, list[str]]]:
    """Object (by UID) and destination of each, by its number and its study's."""
    chosen = select(Delivery).where(Delivery.id.in_(deliveries)).order_by(Delivery.id)
    found: dict[int, dict[int, list[str]]] = {}
    for row in session.scalars(chosen):
        found.setdefault(row.item.study_id, {})[row.id] = [row.item.sop_instance_uid, row.destination]
    return found
