"""Readings of burned-in annotation by image. Texts are stored and returned encrypted: no key is used here."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.store.tables import AnnotationReading, Instance


def images(session: Session, uids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Row numbers of these images and of their studies, by SOP Instance UID."""
    chosen = select(Instance.sop_instance_uid, Instance.id, Instance.study_id)
    rows = session.execute(chosen.where(Instance.sop_instance_uid.in_(uids)))
    return {uid: (number, study) for uid, number, study in rows}


def replace(
    session: Session, instances: Collection[int], analysis_sha256: str, readings: Sequence[AnnotationReading]
) -> None:
    """Store readings; they replace readings of the same images with the same pipeline and options."""
    earlier = delete(AnnotationReading).where(
        AnnotationReading.instance_id.in_(instances), AnnotationReading.analysis_sha256 == analysis_sha256
    )
    session.execute(earlier)
    session.add_all(readings)


def of_study(session: Session, study_id: int) -> list[tuple[AnnotationReading, str]]:
    """The readings of a study with the SOP Instance UID of their image, in reading order."""
    row = AnnotationReading
    chosen = (
        select(row, Instance.sop_instance_uid)
        .join(Instance, Instance.id == row.instance_id)
        .where(row.study_id == study_id)
        .order_by(Instance.id, row.analysis_sha256, row.frame, row.top, row.left)
    )
    return [(reading, uid) for reading, uid in session.execute(chosen)]


def forget(session: Session, study_id: int) -> None:
    """Delete a study's readings, when its objects are purged from the spool."""
    session.execute(delete(AnnotationReading).where(AnnotationReading.study_id == study_id))
