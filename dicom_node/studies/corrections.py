"""What becomes of studies when HL7 says that their patient has another ID, or other data.

The images are corrected by whoever has them, such as the PACS. Until then nothing leaves with the former ID:
the study is held in quarantine, and goes on by itself once all its images say who HL7 says the patient is,
from whichever sender they come.
"""

from collections import Counter
from datetime import timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.dicom.identity import Patient, are_one_patient, issuers_differ, patient_sha256
from dicom_node.base.lifecycle import CorrectionState, ObjectRole, StudyState
from dicom_node.base.store import intake, merges
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.merges import AwaitedCorrection, PatientChange, ReplacedPatient
from dicom_node.base.store.tables import Delivery, Instance, Result, Study
from dicom_node.base.store.transitions import FOR_UPDATE, move_study, record, steady_now, utc_now
from dicom_node.studies.quarantine import quarantine_study

OTHER_ID = (
    "HL7 says that its patient has another Patient ID now: send its images again with that one, or release "
    "it as it is"
)
OTHER_DATA = (
    "HL7 says another name, birth date or sex of its patient: send its images again with that, or release it "
    "as it is"
)
_OF_OTHERS = (ObjectRole.SOURCE, ObjectRole.NON_SOURCE)


def replace_patient(session: Session, change: PatientChange) -> None:
    """Store that one Patient ID replaces another. Commit it before studies are held: one that is completed
    meanwhile then sees it (:func:`hold_if_replaced`).
    """
    chosen = select(ReplacedPatient).where(
        ReplacedPatient.patient_id == change.former_id, ReplacedPatient.authority == change.authority
    )
    row = session.scalar(chosen.with_for_update())
    if row is not None and row.survivor == change.patient_id:
        return
    if row is None:
        row = ReplacedPatient(patient_id=change.former_id, authority=change.authority)
        session.add(row)
    row.survivor, row.message_id, row.changed_at = change.patient_id, change.message, utc_now()
    session.flush()
    record(session, events.PATIENTS_MERGED, message=change.message)
    try:
        merges.survivor(session, change.former_id, change.authority)
    except merges.Circle:
        record(session, events.MERGED_IN_CIRCLE, message=change.message)


def hold_studies(session: Session, change: PatientChange) -> int:
    """Hold the studies that this change concerns; return how many."""
    of_patient = Study.patient_id == change.former_id
    lock_studies(session, of_patient)
    rows = session.scalars(
        select(Study).where(of_patient).order_by(Study.id).execution_options(populate_existing=True)
    ).all()
    ours = [study for study in rows if not issuers_differ(change.authority, study.issuer_of_patient_id)]
    return sum(_hold(session, study, change) for study in ours)


def hold_if_replaced(session: Session, study: Study) -> bool:
    """Hold a study that came with a Patient ID which was replaced before; return whether it is held."""
    row = merges.unreleased_replacement(session, study)
    if row is None:
        return False
    change = PatientChange(row.message_id, row.patient_id, row.survivor, row.authority, Patient())
    _await_correction(session, study, change, OTHER_ID)
    return True


def _hold(session: Session, study: Study, change: PatientChange) -> bool:
    """Hold a study if its images contradict a change that was not applied to it before."""
    waiting = merges.waiting_corrections(session, study.id)
    for row in waiting:  # the newest data count
        if row.patient_id == change.patient_id:
            row.patient = str(change.stated)
    chosen = exists().where(
        AwaitedCorrection.study_id == study.id, AwaitedCorrection.patient_id == change.patient_id
    )
    if change.former_id == change.patient_id:
        of_data = AwaitedCorrection.patient == str(change.stated)
        known = session.scalar(select(chosen.where(of_data)))
        if known or not any(map(change.stated.disagrees, intake.patients(session, study.id, _OF_OTHERS))):
            return False
        _await_correction(session, study, change, OTHER_DATA)
        return True
    if session.scalar(select(chosen.where(AwaitedCorrection.former_id == change.former_id))):
        return False  # a person may have released it since
    _await_correction(session, study, change, OTHER_ID)
    return True


def note_other_id(session: Session, study: Study, patient_id: str, issuer: str) -> None:
    """Write down that corrected images change the Patient ID of a study, without HL7 or before its message,
    and say what was sent with the former one.
    """
    if study.patient_id in ("", patient_id) or merges.waiting_corrections(session, study.id):
        return
    row = _add(session, study, PatientChange(0, study.patient_id, patient_id, issuer, Patient()))
    row.state, row.ended_at = CorrectionState.CORRECTED, row.since
    _report_sent(session, row)


def _await_correction(session: Session, study: Study, change: PatientChange, reason: str) -> None:
    """Write down what a study waits for, stop it, and say what was sent of it. Nothing is stopped where no
    file is left that could leave.
    """
    row = _add(session, study, change)
    has_file = exists().where(Instance.study_id == study.id, ~Instance.purged) | exists().where(
        Result.study_id == study.id, ~Result.purged
    )
    if session.scalar(select(has_file)):
        quarantine_study(session, study, reason)
        record(session, events.CORRECTION_AWAITED, study.id, message=change.message, reason=reason)
    else:
        row.state, row.ended_at = CorrectionState.RELEASED, row.since
    _report_sent(session, row)


def _add(session: Session, study: Study, change: PatientChange) -> AwaitedCorrection:
    """Add the row of a change to a study, with the deliveries that have the former ID or data."""
    of_study = AwaitedCorrection.study_id == study.id
    row = AwaitedCorrection(
        study_id=study.id,
        message_id=change.message,
        former_id=change.former_id,
        patient_id=change.patient_id,
        authority=change.authority,
        patient=str(change.stated),
        after_delivery=session.scalar(select(func.max(AwaitedCorrection.last_delivery)).where(of_study)) or 0,
        last_delivery=session.scalar(select(func.max(Delivery.id))) or 0,
        sent=0,
        since=utc_now(),
    )
    session.add(row)
    session.flush()
    return row


def _report_sent(session: Session, row: AwaitedCorrection) -> None:
    """Record how many objects peers have with the former ID or data, if more than were reported before."""
    destinations = Counter(merges.sent_under_former(session, row))
    if destinations.total() > row.sent:
        row.sent = destinations.total()
        record(
            session,
            events.SENT_UNDER_FORMER,
            row.study_id,
            message=row.message_id,
            objects=row.sent,
            destinations=sorted(destinations),
        )
        session.flush()


def studies_with_news(session: Session) -> list[int]:
    """Return the numbers of the studies that wait for corrected images and of which something changed."""
    waits = AwaitedCorrection.state == CorrectionState.WAITING
    numbers = session.scalars(select(AwaitedCorrection.study_id).where(waits).distinct())
    return [number for number in sorted(numbers) if _has_news(session, number)]


def _has_news(session: Session, study_id: int) -> bool:
    """Return whether a waiting study was released or corrected, or more of it was sent."""
    study, rows = session.get_one(Study, study_id), merges.waiting_corrections(session, study_id)
    return (
        study.state is not StudyState.QUARANTINED
        or any(len(merges.sent_under_former(session, row)) > row.sent for row in rows)
        or bool(_may_go_on(session, study, rows[0]))
    )


def note_news(session: Session, study_id: int, quiet_seconds: float) -> bool:
    """Let a study go on if its images say who HL7 says the patient is and it waits for nothing else; return
    whether it does. Say what more was sent.

    ``quiet_seconds``: time for further images, after which it is complete.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE, populate_existing=True)
    rows = merges.waiting_corrections(session, study_id)
    for row in rows:
        _report_sent(session, row)
    if not rows:
        return False
    if study.state is not StudyState.QUARANTINED:
        _end(rows, CorrectionState.RELEASED)
        return False
    patient_id = _may_go_on(session, study, rows[0])
    if not patient_id:
        return False
    study.patient_id = patient_id  # that of images that are not analysed changes nothing by itself
    study.revision += 1
    study.due_at = steady_now() + timedelta(seconds=quiet_seconds)
    session.flush()
    move_study(session, study, events.STUDY_CORRECTED)
    _end(rows, CorrectionState.CORRECTED)
    return True


def _end(rows: list[AwaitedCorrection], state: CorrectionState) -> None:
    """Await these corrections no longer."""
    for row in rows:
        row.state, row.ended_at = state, utc_now()


def _may_go_on(session: Session, study: Study, row: AwaitedCorrection) -> str:
    """Return the Patient ID with which a study may go on: it is in quarantine for nothing else, and every
    image of it says who HL7 says the patient is. "" if it may not.
    """
    if not {*study.reason.split("; ")} <= {OTHER_ID, OTHER_DATA}:
        return ""
    try:
        patient_id = merges.survivor(session, row.patient_id, row.authority)
    except merges.Circle:
        return ""
    issuers = {study.issuer_of_patient_id, row.authority, ""}
    ids = {patient_sha256(patient_id, issuer) for issuer in issuers}
    images, stated = intake.patients(session, study.id, _OF_OTHERS), Patient.parse(row.patient)
    is_right = all(one.id in ids and not stated.disagrees(one) for one in images)
    return patient_id if images and is_right and are_one_patient(images) else ""
