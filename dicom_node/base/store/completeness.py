"""What of studies may be missing or does not count: associations that broke off, objects that are set aside
as faulty, images of nobody.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ScalarSelect, exists, func, select
from sqlalchemy.orm import Session

from dicom_node.base.lifecycle import AssociationOutcome, Outcome, StudyWarning
from dicom_node.base.store.tables import Association, Instance, ReceivedObject, Study

_Studies = ScalarSelect[int]
"""A query for the numbers of studies."""


def only(study_id: int) -> _Studies:
    """Return the query for one study."""
    return select(Study.id).where(Study.id == study_id).scalar_subquery()


def warnings(session: Session, studies: _Studies) -> dict[int, list[StudyWarning]]:
    """Return, by study, what a person has to know before relying on it; studies without are left out."""
    found: dict[int, list[StudyWarning]] = {}
    for study in broken_off(session, studies):
        found.setdefault(study, []).append(StudyWarning.BROKEN_OFF)
    has_images = exists().where(Instance.study_id == Study.id)
    nobody = select(Study.id).where(Study.id.in_(studies), Study.patient_id == "", has_images)
    for study in session.scalars(nobody.where(Study.study_instance_uid.is_not(None))):
        found.setdefault(study, []).append(StudyWarning.NO_PATIENT_ID)
    return found


def broken_off(session: Session, studies: _Studies) -> set[int]:
    """Return those of the studies of which an association that brought objects was aborted or lost, until one
    of the same sender that began after the last of these objects has brought some and was released.
    """
    ended = (ReceivedObject.study_id.in_(studies), Association.id == ReceivedObject.association)
    broken = session.execute(
        select(ReceivedObject.study_id, Association.calling_ae, func.max(ReceivedObject.received_at))
        .where(*ended, Association.outcome.in_((AssociationOutcome.ABORTED, AssociationOutcome.LOST)))
        .group_by(ReceivedObject.study_id, Association.calling_ae)
    ).all()
    if not broken:
        return set()
    released: Mapping[tuple[int | None, str], datetime] = {
        (study, sender): at
        for study, sender, at in session.execute(
            select(ReceivedObject.study_id, Association.calling_ae, func.max(Association.opened_at))
            .where(*ended, Association.outcome == AssociationOutcome.RELEASED)
            .group_by(ReceivedObject.study_id, Association.calling_ae)
        )
    }
    return {
        study
        for study, sender, last in broken
        if study is not None and ((study, sender) not in released or released[study, sender] < last)
    }


def set_aside(session: Session, studies: _Studies) -> dict[int, int]:
    """Return, by study, how many objects were received that are faulty or contradict others, and of which no
    version counts; studies without are left out.
    """
    counted = exists().where(
        Instance.study_id == ReceivedObject.study_id,
        Instance.sop_instance_uid == ReceivedObject.sop_instance_uid,
    )
    # One without a UID that can be read is known by its file only.
    name = func.coalesce(func.nullif(ReceivedObject.sop_instance_uid, ""), ReceivedObject.spool_name)
    rows = session.execute(
        select(ReceivedObject.study_id, func.count(name.distinct()))
        .where(ReceivedObject.study_id.in_(studies), ~counted)
        .where(ReceivedObject.outcome.in_((Outcome.QUARANTINED, Outcome.CONFLICT)))
        .group_by(ReceivedObject.study_id)
    )
    return {study: number for study, number in rows if study is not None}
