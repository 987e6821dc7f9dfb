"""HL7 messages that came, and what peers have of patients under their former ID or data."""

from typing import Annotated

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action
from dicom_node.base.actions.columns import STUDY_UID, fields, times, uid
from dicom_node.base.actions.inputs import limit
from dicom_node.base.actions.nouns import MESSAGES, PATIENTS
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.merges import AwaitedCorrection, Hl7Message, was_sent
from dicom_node.base.store.tables import Delivery, Original, Result, Study
from dicom_node.base.store.views import View, columns


@Action(
    MESSAGES,
    "list",
    "List HL7 messages that were acknowledged, the newest first, and what became of them.",
    columns=(
        *times("received: received_at"),
        *fields("from: sender", "application", "control ID: control_id", "kind", "state", "studies"),
        *times("done: done_at"),
        *fields("reason"),
    ),
    none="No HL7 message came.",
    role=UserRole.ADMIN,
)
def list_messages(
    session: Session, *, limit: Annotated[int | None, limit(50)] = None, before: int | None = None
) -> list[View]:
    """Rows for acknowledged messages, the newest first. ``before``: only those with a lower number."""
    chosen = select(Hl7Message).order_by(Hl7Message.id.desc()).limit(limit)
    if before is not None:
        chosen = chosen.where(Hl7Message.id < before)
    names = ("sender", "application", "control_id", "kind", "state", "studies", "reason")
    return [
        {"message": row.id, **columns(row, *names, "received_at", "done_at")}
        for row in session.scalars(chosen)
    ]


@Action(
    PATIENTS,
    "former",
    "List what was sent under a patient's former ID or data, by HL7; the newest first.",
    columns=(
        STUDY_UID,
        *fields("former ID: former_id", "new ID: patient_id"),
        *times("since"),
        *fields("state"),
        uid("object", "sop_instance_uid"),
        *fields("at: destination"),
        *times("sent: sent_at"),
    ),
    none="Nothing was sent under a former ID.",
    role=UserRole.VIEWER,
)
def list_sent_under_former(
    session: Session, *, limit: Annotated[int | None, limit(200)] = None
) -> list[View]:
    """Rows for objects that were sent with an ID or data of the patient that HL7 changed since. ``state``:
    what became of the study: waiting (for corrected images), corrected, or released (by a person).
    """
    item = func.coalesce(Result.sop_instance_uid, Original.sop_instance_uid)
    chosen = (
        select(AwaitedCorrection, Delivery, Study.study_instance_uid, item)
        .select_from(Delivery)
        .outerjoin(Delivery.result)
        .outerjoin(Delivery.original)
        .join(Study, Study.id == func.coalesce(Result.study_id, Original.study_id))
        .join(AwaitedCorrection, AwaitedCorrection.study_id == Study.id)
        .where(
            Delivery.id > AwaitedCorrection.after_delivery,
            Delivery.id <= AwaitedCorrection.last_delivery,
            was_sent(),
        )
        .order_by(AwaitedCorrection.id.desc(), Delivery.id)
        .limit(limit)
    )
    return [
        {
            "delivery": delivery.id,
            "study_instance_uid": study,
            "sop_instance_uid": found,
            "destination": delivery.destination,
            **columns(delivery, "sent_at"),
            **columns(row, "former_id", "patient_id", "since", "state"),
        }
        for row, delivery, study, found in session.execute(chosen)
    ]
