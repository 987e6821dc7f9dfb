"""Queries on registered patients, and on what studies say of the patients with their IDs."""

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.dicom.identity import SAYS_WHO, Patient
from dicom_node.base.lifecycle import ObjectRole
from dicom_node.base.store import intake
from dicom_node.base.store.tables import EventRow, Instance, RegisteredPatient, Study

_OF_OTHERS = (ObjectRole.SOURCE, ObjectRole.NON_SOURCE)


def registration(session: Session, patient_id: str, issuer: str) -> RegisteredPatient | None:
    """Return the registration of a Patient ID with its issuer; None without one."""
    row = RegisteredPatient
    return session.scalar(select(row).where(row.patient_id == patient_id, row.issuer_of_patient_id == issuer))


def in_studies(session: Session, patient_id: str, issuer: str) -> Sequence[Patient]:
    """Return the distinct patients in the objects of all studies with this Patient ID and issuer."""
    chosen = select(Instance.patient).join(Study, Study.id == Instance.study_id)
    chosen = chosen.where(Study.patient_id == patient_id, Study.issuer_of_patient_id == issuer)
    return [
        Patient.parse(text)
        for text in session.scalars(chosen.where(Instance.role.in_(_OF_OTHERS)).distinct())
    ]


def differences_from_registration(session: Session, study: Study) -> list[str]:
    """Return the keywords of name, birth date and sex that the objects of a study say otherwise than the
    registration of their Patient ID.

    None once a person released the study from quarantine since the registration was written or changed: that
    person has compared them.
    """
    row = registration(session, study.patient_id, study.issuer_of_patient_id) if study.patient_id else None
    if row is None:
        return []
    released = exists().where(
        EventRow.study_id == study.id,
        EventRow.number == events.STUDY_RELEASED.number,
        EventRow.at > row.changed_at,
    )
    registered = Patient.parse(row.patient)
    others = intake.patients(session, study.id, _OF_OTHERS)
    found = {word for other in others for word in registered.differences(other)}
    return [] if session.scalar(select(released)) else [word for word in SAYS_WHO if word in found]
