"""Checks that a fetched object belongs to the requested study and to the patient named in the answer."""

from __future__ import annotations

from sqlalchemy.orm import Session

from dicom_node.dicom.identity import Patient
from dicom_node.events import FETCHED_OTHER_PATIENT
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import FetchState
from dicom_node.store import fetches, intake
from dicom_node.store.tables import Study
from dicom_node.store.transitions import move_fetch

OTHER_PATIENT = "the fetched images name another patient than the peer's answer"
OTHER_STUDY = "it came in answer to the retrieval of another study"
_ASSOCIATION = "fetch-"  # fetch.incoming.ASSOCIATION


def is_of_another_study(session: Session, association: str, study_instance_uid: str) -> bool:
    """Whether an object arrived on our own association, during the retrieval of another study."""
    number = association.removeprefix(_ASSOCIATION)
    if number == association or not number.isdecimal():
        return False
    row = fetches.number(session, int(number))
    return row is None or row.study_instance_uid != study_instance_uid


def is_of_another_patient(session: Session, study: Study) -> bool:
    """Whether a study's images name another patient than the query answer that led to the fetch.

    False once :func:`note_other_patient` was called: a person who releases the study from quarantine has
    looked.
    """
    row = fetches.of_study(session, study.study_instance_uid)
    if row is None or row.state is FetchState.OTHER_PATIENT:
        return False
    named = Patient.parse(row.patient)
    others = intake.patients(session, study.id, [ObjectRole.SOURCE, ObjectRole.NON_SOURCE])
    other_id = row.patient_id and study.patient_id and row.patient_id != study.patient_id
    issuers = {row.issuer_of_patient_id, study.issuer_of_patient_id} - {""}
    return bool(other_id) or len(issuers) > 1 or any(named.disagrees(one) for one in others)


def note_other_patient(session: Session, study: Study) -> None:
    """Record that the images of a fetched study name another patient, whatever its fetch is doing now."""
    row = fetches.of_study(session, study.study_instance_uid, lock=True)
    if row is not None and row.state is not FetchState.OTHER_PATIENT:
        move_fetch(session, row, FETCHED_OTHER_PATIENT)
