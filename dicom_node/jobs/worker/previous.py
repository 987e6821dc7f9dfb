"""Finds earlier results to compare a job's images with: finished results of earlier studies in the database.

They must be of the same patient (Patient ID and issuer, and no contradiction by the rule "One patient per
study"), pipeline, modality, body part and view. The newest earlier study with such an image is used. Results
that wait for a person, were rejected or withdrawn, or whose file was deleted are not used. If an earlier
study arrives later, nothing is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.object_store.files import Files
from dicom_node.results import EarlierObject, PreviousImage, stated
from dicom_node.store import intake
from dicom_node.store.accounts import Withdrawal
from dicom_node.store.tables import Delivery, Instance, Job, Result, Study

MOST_REPORTS: Final = 20
"""Earlier reports of a patient that are read at most, the newest first."""
_VIEWED: Final = frozenset({"CR", "DX", "MG"})  # modalities of which a view must be given
_Kind = tuple[str, str, str]


def previous_images(
    session: Session, files: Files, job: ClaimedJob, uids: Sequence[str]
) -> tuple[dict[str, PreviousImage], date | None]:
    """The earlier image, if any, for each of these images (SOP Instance UIDs); and the earlier study's
    date.
    """
    study = session.get_one(Study, job.study_id)
    on = date_of(study.study_date)
    found: dict[str, PreviousImage] = {}
    if on is None or not study.patient_id.strip():
        return found, on
    kinds = {row.sop_instance_uid: _kind(row) for row in _instances(session, study.id, uids)}
    wanted = {uid: kind for uid, kind in kinds.items() if kind is not None}
    for report, earlier, by in _earlier(session, study, job.pipeline):
        if not wanted:
            break
        then = date_of(earlier.study_date)
        if then is None or then >= on or not intake.of_one_patient(session, [study.id, earlier.id]):
            continue
        for uid, one in _of_report(session, files, report, earlier, by, wanted, then, job).items():
            found[uid] = one
            del wanted[uid]
    return found, on


def _earlier(session: Session, study: Study, pipeline: str) -> list[tuple[Result, Study, Job]]:
    """Reports on earlier studies with the same Patient ID and issuer, the newest study first."""
    held = exists().where(
        Delivery.result_id == Result.id,
        Delivery.state.in_([DeliveryState.UNASSESSED, DeliveryState.DISCARDED]),
    )
    chosen = (
        select(Result, Study, Job)
        .join(Study, Study.id == Result.study_id)
        .join(Job, Job.id == Result.job_id)
        .where(
            Study.patient_id == study.patient_id,
            Study.issuer_of_patient_id == study.issuer_of_patient_id,
            Study.id != study.id,
            Study.study_date < study.study_date,
            Study.state != StudyState.QUARANTINED,
            Job.pipeline == pipeline,
            Job.state == JobState.SUCCEEDED,
            Result.kind == ResultKind.SR,
            Result.deidentified.is_(False),
            Result.purged.is_(False),
            ~exists().where(Withdrawal.result_id == Result.id),
            ~held,
        )
        .order_by(Study.study_date.desc(), Result.id.desc())
        .limit(MOST_REPORTS)
    )
    return [(report, earlier, by) for report, earlier, by in session.execute(chosen)]


def _of_report(
    session: Session,
    files: Files,
    report: Result,
    study: Study,
    by: Job,
    wanted: dict[str, _Kind],
    then: date,
    job: ClaimedJob,
) -> dict[str, PreviousImage]:
    """What one report says of images of the wanted kinds; of several of one kind the last one counts."""
    path = files.if_here(session, report.path)
    if path is None or study.study_instance_uid is None:
        return {}
    findings, numbers = stated(path)
    said_of = {one.image for one in findings} | {one.image for one in numbers}
    rows = {row.sop_instance_uid: row for row in _instances(session, study.id, by.source_uids)}
    there = [rows[uid] for uid in by.source_uids if uid in rows and uid in said_of]
    last = {kind: row for row in there if (kind := _kind(row)) is not None}
    refer = study.study_instance_uid
    return {
        uid: PreviousImage(
            then,
            EarlierObject(refer, report.series_instance_uid, report.sop_class_uid, report.sop_instance_uid),
            EarlierObject(refer, row.series_instance_uid, row.sop_class_uid, row.sop_instance_uid),
            tuple(one for one in findings if one.image == row.sop_instance_uid),
            tuple(one for one in numbers if one.image == row.sop_instance_uid),
            same_options=dict(by.options) == dict(job.options),
        )
        for uid, kind in wanted.items()
        if (row := last.get(kind)) is not None
    }


def _instances(session: Session, study: int, uids: Sequence[str]) -> list[Instance]:
    chosen = select(Instance).where(Instance.study_id == study, Instance.sop_instance_uid.in_(uids))
    return list(session.scalars(chosen))


def _kind(row: Instance) -> _Kind | None:
    """Modality, body part and view; None where a radiograph does not say its view."""
    body_part, view = (
        str(row.attributes.get(word) or "").strip().upper() for word in ("BodyPartExamined", "ViewPosition")
    )
    return None if row.modality in _VIEWED and not view else (row.modality, body_part, view)
