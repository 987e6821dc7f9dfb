"""Into quarantine by a conflict, out of it by a person."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.events import STUDY_QUARANTINED, STUDY_RELEASED
from dicom_node.model.lifecycle import StudyState
from dicom_node.store.tables import Study
from dicom_node.store.transitions import FOR_UPDATE, move_study, utc_now
from dicom_node.studies.stop import stop_study


def quarantine_study(session: Session, study: Study, reason: str) -> None:
    """Quarantine the study: none of its results is sent until a person chooses."""
    if study.state is StudyState.QUARANTINED:
        if reason not in study.reason:
            study.reason = f"{study.reason}; {reason}"[:2000]
            session.flush()
        return
    study.due_at = None
    session.flush()
    stop_study(session, study, "the study is in quarantine")
    move_study(session, study, STUDY_QUARANTINED, reason=reason)


def release_study(session: Session, study_id: int, now: datetime | None = None) -> None:
    """Release a study from quarantine: it is assembled again from the versions in force.

    They were chosen before (:mod:`dicom_node.studies.choose`). Raises NotFound, NotAllowedNow.
    """
    study = session.get(Study, study_id, with_for_update=FOR_UPDATE)
    if study is None:
        raise NotFound(f"no study has the number {study_id}")
    if study.state is not StudyState.QUARANTINED:
        raise NotAllowedNow(f"the study is {study.state}: only one in quarantine can be released")
    study.revision += 1  # its jobs may have been made before the conflict came
    study.due_at = now or utc_now()
    session.flush()
    move_study(session, study, STUDY_RELEASED, reason="released by a person")
