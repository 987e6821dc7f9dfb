"""HL7 messages that were acknowledged, Patient IDs that they replaced, and studies that wait for images with
the patient's new ID or data.

An authority is who issues Patient IDs, as of ``issuer_of``: ``NAME`` or ``NAME&ID&TYPE``.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, LargeBinary, UniqueConstraint, exists, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from dicom_node.base.dicom.identity import Patient, issuers_differ
from dicom_node.base.events import STUDY_RELEASED
from dicom_node.base.lifecycle import CorrectionState, DeliveryState, MessageState
from dicom_node.base.store.mapping import Count, LongText, Numbered, Sha256, ShortText, StudyMixin, Tried
from dicom_node.base.store.tables import Delivery, EventRow, Original, Result, Study

_LONGEST_CHAIN = 100  # merges of one patient that are followed


class Hl7Message(Tried):
    """Table: an HL7 message that was acknowledged, with what is to be done. Once that is done, only what
    names no patient is left.
    """

    __table_args__ = (UniqueConstraint("sender", "application", "control_id", name="uq_hl7_message_once"),)

    sender: Mapped[ShortText]  # by the settings
    application: Mapped[ShortText]  # MSH-3 and MSH-4
    control_id: Mapped[ShortText]  # MSH-10
    kind: Mapped[ShortText]  # as "ADT^A40"
    sha256: Mapped[Sha256]  # of its bytes
    content: Mapped[dict[str, Any]]  # IDs, and hashes of name, birth date and sex
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # name, birth date and sex (``sitekey``)
    state: Mapped[MessageState] = mapped_column(index=True)
    studies: Mapped[Count]  # that it held or changed
    received_at: Mapped[datetime] = mapped_column(index=True)
    done_at: Mapped[datetime | None]


class ReplacedPatient(Numbered):
    """Table: a Patient ID that another one replaced (ADT^A40, A47); the newest message counts."""

    __table_args__ = (UniqueConstraint("patient_id", "authority", name="uq_replaced_patient_once"),)

    patient_id: Mapped[ShortText]
    authority: Mapped[str]
    survivor: Mapped[ShortText]
    message_id: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[datetime]


class AwaitedCorrection(StudyMixin, Numbered):
    """Table: a study of which HL7 changed the patient, while its images have the former ID or data."""

    message_id: Mapped[int] = mapped_column(BigInteger)  # 0: images came with another ID before any message
    former_id: Mapped[ShortText]
    patient_id: Mapped[ShortText]
    authority: Mapped[str]
    patient: Mapped[LongText]  # identity.Patient: hashes of what the message says
    state: Mapped[CorrectionState] = mapped_column(default=CorrectionState.WAITING, index=True)
    # Deliveries with higher numbers than the first, up to the second, have the former ID or data.
    after_delivery: Mapped[int] = mapped_column(BigInteger)
    last_delivery: Mapped[int] = mapped_column(BigInteger)
    sent: Mapped[Count]  # of them, as last reported
    since: Mapped[datetime]
    ended_at: Mapped[datetime | None]


@dataclass(frozen=True, slots=True)
class PatientChange:
    """What one message says of a patient: ``former_id`` is ``patient_id`` if only the data changed.

    ``stated``: hashes of name, birth date and sex, as far as the message has them. ``message``: its number.
    """

    message: int
    former_id: str
    patient_id: str
    authority: str
    stated: Patient


class Circle(Exception):
    """Patient IDs replace each other in a circle, or in a chain without end: nobody knows who survives."""


def survivor(session: Session, patient_id: str, authority: str) -> str:
    """Return the Patient ID that stands for this one after all merges. Raises Circle."""
    seen = {patient_id}
    while row := replacement(session, patient_id, authority):
        patient_id = row.survivor
        if patient_id in seen or len(seen) > _LONGEST_CHAIN:
            raise Circle
        seen.add(patient_id)
    return patient_id


def replacement(session: Session, patient_id: str, issuer: str) -> ReplacedPatient | None:
    """Return what replaced a Patient ID of this issuer; an issuer that is not said is that of the message."""
    if not patient_id:
        return None
    rows = session.scalars(select(ReplacedPatient).where(ReplacedPatient.patient_id == patient_id))
    return next((row for row in rows if not issuers_differ(row.authority, issuer)), None)


def unreleased_replacement(session: Session, study: Study) -> ReplacedPatient | None:
    """Return what replaced the Patient ID of a study; None also if a person released the study since then."""
    row = replacement(session, study.patient_id, study.issuer_of_patient_id)
    if row is None:
        return None
    released = exists().where(
        EventRow.study_id == study.id,
        EventRow.number == STUDY_RELEASED.number,
        EventRow.at > row.changed_at,
    )
    return None if session.scalar(select(released)) else row


def waiting_corrections(session: Session, study_id: int) -> list[AwaitedCorrection]:
    """Return what a study waits for, the newest first."""
    chosen = select(AwaitedCorrection).where(
        AwaitedCorrection.study_id == study_id, AwaitedCorrection.state == CorrectionState.WAITING
    )
    return list(session.scalars(chosen.order_by(AwaitedCorrection.id.desc())))


def is_awaited(session: Session, study: Study, patient_id: str, issuer: str, patient: Patient) -> bool:
    """Return whether a study waits for images of exactly this patient, whoever sends them."""
    rows = waiting_corrections(session, study.id)
    return bool(rows) and agrees(session, rows[0], patient_id, issuer, patient)


def agrees(session: Session, row: AwaitedCorrection, patient_id: str, issuer: str, patient: Patient) -> bool:
    """Return whether this is the patient for whose images a study waits."""
    if issuers_differ(row.authority, issuer) or Patient.parse(row.patient).disagrees(patient):
        return False
    try:
        return patient_id == survivor(session, row.patient_id, row.authority)
    except Circle:
        return False


def sent_under_former(session: Session, row: AwaitedCorrection) -> list[str]:
    """Return the destination of each object that was sent with the former ID or data, or may have been."""
    of_study = func.coalesce(Result.study_id, Original.study_id) == row.study_id
    chosen = select(Delivery.destination).outerjoin(Delivery.result).outerjoin(Delivery.original)
    is_former = Delivery.id > row.after_delivery, Delivery.id <= row.last_delivery
    return list(session.scalars(chosen.where(of_study, *is_former, was_sent())))


def was_sent() -> ColumnElement[bool]:
    """SQL: whether the object of a delivery is at its destination, or may be."""
    return or_(
        Delivery.sent_at.is_not(None),
        Delivery.state.in_((DeliveryState.UNCONFIRMED, DeliveryState.CONFIRMED)),
    )
