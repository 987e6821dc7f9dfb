"""A person's actions on deliveries, each in the audit: send again, discard, send to a further peer."""

from collections.abc import Sequence
from typing import Annotated

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.inputs import Reason, numbers
from dicom_node.base.actions.nouns import OUTBOX
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import (
    AuditAction,
    UserRole,
)
from dicom_node.base.store import deliveries
from dicom_node.base.store.tables import (
    Delivery,
)
from dicom_node.base.store.views import find_study
from dicom_node.people import (
    ServiceRequest,
    ShortText,
    audit,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person

_Deliveries = Annotated[Sequence[int], numbers("outbox", "DELIVERY")]
_AllDead = Annotated[bool, Input("All that were given up.", "--dead")]
_DeadTo = Annotated[str, Input("With --dead: only to this peer.", "--to", "PEER")]


class Receiver(ServiceRequest):
    """A request that names the peer to send to."""

    peer: ShortText


@Action(
    OUTBOX,
    "retry",
    "Send results again that were given up, once the cause is gone.",
    "--dead --config node.toml",
    says="To be sent again: {result}.",
    either=("numbers", "dead"),
    role=UserRole.OPERATOR,
)
def send_again(
    settings: Settings,
    numbers: _Deliveries = (),
    *,
    dead: _AllDead = False,
    destination: _DeadTo = "",
    by: Person = COMMAND_LINE,
) -> int:
    """Send these given-up deliveries again, or all that were given up (``dead``); returns how many.

    ``numbers``: of deliveries. ``destination``: with ``dead`` only those to this peer, "" for all. Raises
    NotFound, NotAllowedNow.
    """
    from dicom_node.deliver import outbox

    with writing(settings) as session:
        done = outbox.retry_all(session, destination or None) if dead else list(numbers)
        deliveries.of_numbers(session, numbers)  # their studies are locked in one order
        for number in numbers:
            outbox.retry(session, number)
        _note_deliveries(session, by, AuditAction.DELIVERY_RETRIED, done, dead=dead, destination=destination)
    return len(done)


@Action(
    OUTBOX,
    "discard",
    "Stop sending results that wait or were given up. `outbox retry` sends them all the same.",
    '17 --because "the PACS was replaced" --config node.toml',
    says="Discarded: {result}.",
    either=("numbers", "dead"),
    role=UserRole.OPERATOR,
)
def discard_deliveries(
    settings: Settings,
    numbers: _Deliveries = (),
    *,
    dead: _AllDead = False,
    destination: _DeadTo = "",
    because: Reason,
    by: Person = COMMAND_LINE,
) -> int:
    """Discard these deliveries, so that they are not sent, or all that were given up (``dead``); returns how
    many.

    ``numbers``: of deliveries. ``because`` is shown with them but never logged: a person may have written a
    name. ``destination``: with ``dead`` only those to this peer, "" for all. Raises NotFound, NotAllowedNow,
    FaultyInput.
    """
    from dicom_node.deliver import outbox

    words = audit.checked_reason(because)
    with writing(settings) as session:
        done = outbox.discard_all(session, words, destination or None) if dead else list(numbers)
        deliveries.of_numbers(session, numbers)  # their studies are locked in one order
        for number in numbers:
            outbox.discard(session, number, words)
        _note_deliveries(session, by, AuditAction.DISCARDED, done, words, dead=dead, destination=destination)
    return len(done)


def _note_deliveries(
    session: Session,
    by: Person,
    action: AuditAction,
    done: Sequence[int],
    words: str = "",
    *,
    dead: bool,
    destination: str,
) -> None:
    """Note a person's action on deliveries in the audit, one row for each study.

    ``done``: numbers of the deliveries. ``words``: the person's reason. The decision names results by UID, so
    that it can be applied again after a restore.
    """
    by_study: dict[int, dict[int, list[str]]] = {}
    for row in session.scalars(select(Delivery).where(Delivery.id.in_(done)).order_by(Delivery.id)):
        by_study.setdefault(row.item.study_id, {})[row.id] = [row.item.sop_instance_uid, row.destination]
    for study, pairs in by_study.items():
        about = {"all_dead": len(pairs), "destination": destination} if dead else {"deliveries": [*pairs]}
        audit.note(
            session,
            by,
            action,
            study_id=study,
            what={"deliveries": list(pairs.values())},
            words=words,
            **about,
        )


def send_study(settings: Settings, study_instance_uid: str, peer: str, by: Person = COMMAND_LINE) -> int:
    """Send a study's newest results to a further peer; returns how many objects.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.deliver import outbox

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
