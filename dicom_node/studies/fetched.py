"""Whether a fetched study is what was asked for: the same study, of the patient whom the peer named."""

from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.dicom.identity import Patient, differ, issuers_differ
from dicom_node.base.lifecycle import (
    FetchState,
    ObjectRole,
)
from dicom_node.base.store import (
    fetches,
    intake,
)
from dicom_node.base.store.tables import (
    Fetch,
    Study,
)
from dicom_node.base.store.transitions import (
    move,
)

OTHER_PATIENT = "the fetched images name another patient than the peer's answer"
OTHER_STUDY = "it came in answer to the retrieval of another study"


def is_of_another_study(session: Session, association: str, study_instance_uid: str) -> bool:
    """Return whether an object arrived in the node's retrieval of a study (``association``) but belongs to
    another one.
    """
    number = association.removeprefix("fetch-")  # fetch.ASSOCIATION
    if number == association or not number.isdecimal():
        return False
    row = session.get(Fetch, int(number))
    return row is None or row.study_instance_uid != study_instance_uid


def is_of_another_patient(session: Session, study: Study) -> bool:
    """Return whether the images of a fetched study name another patient than the query answer that led to the
    fetch.

    False once :func:`note_other_patient` was called: a person who releases the study from quarantine has
    checked it.
    """
    row = fetches.of_study(session, study.study_instance_uid)
    if row is None or row.state is FetchState.OTHER_PATIENT:
        return False
    named = Patient.parse(row.patient)
    others = intake.patients(session, study.id, [ObjectRole.SOURCE, ObjectRole.NON_SOURCE])
    return (
        differ(row.patient_id, study.patient_id)
        or issuers_differ(row.issuer_of_patient_id, study.issuer_of_patient_id)
        or any(named.disagrees(other) for other in others)
    )


def note_other_patient(session: Session, study: Study) -> None:
    """Record that the images of a fetched study name another patient, whatever the state of its fetch."""
    row = fetches.of_study(session, study.study_instance_uid, lock=True)
    if row is not None and row.state is not FetchState.OTHER_PATIENT:
        move(session, row, events.FETCHED_OTHER_PATIENT)
