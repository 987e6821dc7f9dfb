"""A person's actions on deliveries: send again, discard, send to a further peer; each is in the audit."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.kinds import AuditAction
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store.tables import Delivery
from dicom_node.base.store.views import find_study
from dicom_node.deliver import outbox
from dicom_node.people import PRINTABLE, Row, ServiceRequest, audit, writing


class DeliveryRow(Row):
    """A result on its way to a peer."""

    delivery: int
    destination: str
    state: DeliveryState


class To(ServiceRequest):
    """The receiver: the name of a configured peer."""

    peer: str = Field(max_length=64, pattern=PRINTABLE)


def retry(
    settings: Settings,
    numbers: Sequence[int] = (),
    *,
    dead: bool = False,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Send again these given-up deliveries, or all that are ``dead`` (to one destination). Returns how many.

    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        done = outbox.retry_all(session, destination or None) if dead else list(numbers)
        for number in numbers:
            outbox.retry(session, number)
        by_study = _by_study(session, done).values()
        what = [pair for pairs in by_study for pair in pairs.values()]
        about = _noted(done, destination, dead=dead)
        audit.note(session, by, AuditAction.DELIVERY_RETRIED, what={"deliveries": what}, **about)
    return len(done)


def discard(
    settings: Settings,
    numbers: Sequence[int] = (),
    *,
    because: str,
    dead: bool = False,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Discard these deliveries, or all that are ``dead`` (to one destination). Returns how many.

    ``because`` is shown with them but never logged: a person may have written a name. Raises NotFound,
    NotAllowedNow, FaultyInput.
    """
    words = audit.checked_reason(because)
    with writing(settings) as session:
        done = outbox.discard_all(session, words, destination or None) if dead else list(numbers)
        for number in numbers:
            outbox.discard(session, number, words)
        for study, pairs in _by_study(session, done).items():
            what = {"deliveries": list(pairs.values())}
            about = _noted([*pairs], destination, dead=dead)
            audit.note(session, by, AuditAction.DISCARDED, study_id=study, what=what, words=words, **about)
    return len(done)


def _noted(done: list[int], destination: str, *, dead: bool) -> dict[str, Any]:
    return {"all_dead": len(done), "destination": destination} if dead else {"deliveries": done}


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
