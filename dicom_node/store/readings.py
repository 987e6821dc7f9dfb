"""Readings of burned-in annotation by image. Texts are stored and returned sealed: no key is used here."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.store.tables import Instance, MarkReading


def images(session: Session, uids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Row numbers of these images and of their studies, by SOP Instance UID."""
    chosen = select(Instance.sop_instance_uid, Instance.id, Instance.study_id)
    rows = session.execute(chosen.where(Instance.sop_instance_uid.in_(uids)))
    return {uid: (number, study) for uid, number, study in rows}


def replace(
    session: Session, instances: Collection[int], asked: str, readings: Sequence[MarkReading]
) -> None:
    """Store these in place of readings of the same images with the same pipeline and options (``asked``)."""
    earlier = delete(MarkReading).where(MarkReading.instance_id.in_(instances), MarkReading.asked == asked)
    session.execute(earlier)
    session.add_all(readings)


def of_study(session: Session, study_id: int) -> list[tuple[MarkReading, str]]:
    """The readings of a study with the SOP Instance UID of their image, as a page is read."""
    chosen = (
        select(MarkReading, Instance.sop_instance_uid)
        .join(Instance, Instance.id == MarkReading.instance_id)
        .where(MarkReading.study_id == study_id)
        .order_by(Instance.id, MarkReading.asked, MarkReading.frame, MarkReading.top, MarkReading.left)
    )
    return [(row, uid) for row, uid in session.execute(chosen)]


def forget(session: Session, study_id: int) -> None:
    """Delete a study's readings, when its objects are purged from the spool."""
    session.execute(delete(MarkReading).where(MarkReading.study_id == study_id))
