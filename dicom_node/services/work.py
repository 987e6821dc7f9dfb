"""What a person may do to jobs and deliveries; each change is in the audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from dicom_node import jobs, outbox
from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import AuditAction
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.store.tables import Job
from dicom_node.store.views import find_study

SHORTEST, LONGEST = 3, 200
"""Characters of a reason."""


def change_job(
    settings: Settings,
    job_id: int,
    change: Literal["retry", "put_first", "cancel"],
    by: Person = COMMAND_LINE,
) -> None:
    """What a person may do to a job (``jobs.by_hand``). Raises NotFound, NotAllowedNow."""
    with writing(settings) as session:
        {"retry": jobs.retry, "put_first": jobs.put_first, "cancel": jobs.cancel}[change](session, job_id)
        study_id = session.get_one(Job, job_id).study_id
        audit.note(session, by, AuditAction.JOB_CHANGED, study_id=study_id, job=job_id, change=change)


def retry_deliveries(
    settings: Settings,
    deliveries: Sequence[int] | None = None,
    *,
    destination: str = "",
    by: Person = COMMAND_LINE,
) -> int:
    """Send again what was given up: these, or all dead ones (to one destination). Returns how many.

    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        if deliveries is None:
            number = outbox.retry_all(session, destination or None)
            noted: dict[str, Any] = {"all_dead": number, "destination": destination}
        else:
            for delivery_id in deliveries:
                outbox.retry(session, delivery_id)
            number, noted = len(deliveries), {"deliveries": list(deliveries)}
        audit.note(session, by, AuditAction.DELIVERY_RETRIED, **noted)
    return number


def discard_deliveries(
    settings: Settings,
    deliveries: Sequence[int] | None = None,
    *,
    because: str,
    destination: str = "",
    by: Person = COMMAND_LINE,
) -> int:
    """Send these no more, or none that was given up (to one destination). Returns how many.

    ``because`` is shown with them and stands in no log: a person may have written a name. Raises NotFound,
    NotAllowedNow, FaultyInput.
    """
    words = said(because)
    with writing(settings) as session:
        if deliveries is None:
            number = outbox.discard_all(session, words, destination or None)
            noted: dict[str, Any] = {"all_dead": number, "destination": destination}
        else:
            for delivery_id in deliveries:
                outbox.discard(session, delivery_id, words)
            number, noted = len(deliveries), {"deliveries": list(deliveries)}
        audit.note(session, by, AuditAction.DISCARDED, **noted)
    return number


def send_study(settings: Settings, study_instance_uid: str, peer: str, by: Person = COMMAND_LINE) -> int:
    """Send a study's newest results to a further peer; returns how many objects.

    Raises NotFound, UnknownPeer, NotAllowedNow.
    """
    to = settings.peer(peer)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        number = outbox.send_to(session, study, to, settings.peers)
        audit.note(session, by, AuditAction.SENT_TO_PEER, study_id=study, peer=to.name, objects=number)
    return number


def said(text: str) -> str:
    """A reason that a person gives, in one line. Raises FaultyInput."""
    words = " ".join(text.split())
    if not SHORTEST <= len(words) <= LONGEST or not words.isprintable():
        raise FaultyInput(f"say why in {SHORTEST} to {LONGEST} characters")
    return words
