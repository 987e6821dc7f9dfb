"""The images of earlier studies with which a job's images are compared.

A job's images are compared with finished results of earlier studies in the database. They must be of the same
patient (Patient ID and issuer, and no contradiction by the rule "One patient per study"), pipeline, modality,
body part and view. The newest earlier study with such an image is used. Results that wait for a person, were
rejected or withdrawn, are older than a correction, or have lost their file are not used. If an earlier study
arrives later, nothing is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, StudyState
from dicom_node.base.store import intake
from dicom_node.base.store.tables import Delivery, Instance, Job, Result, Study, Withdrawal
from dicom_node.results.envelope import PreviousImage, stand_in_of
from dicom_node.results.sr import read_report

MOST_REPORTS: Final = 20
"""Earlier reports of a patient that are read at most, the newest first."""
_VIEWED: Final = frozenset({"CR", "DX", "MG"})  # modalities of which a view must be given
_Kind = tuple[str, str, str]


def previous_images(
    session: Session, files: Files, job: Job, uids: Sequence[str]
) -> tuple[dict[str, PreviousImage], date | None]:
    """Return the image of an earlier study to compare with, for each of ``uids`` (SOP Instance UIDs) that has
    one, and the date of the present study.
    """
    study = session.get_one(Study, job.study_id)
    on = date_of(study.study_date)
    found: dict[str, PreviousImage] = {}
    if on is None or not study.patient_id.strip():
        return found, on
    kinds = {row.sop_instance_uid: _kind(row) for row in _instances(session, study.id, uids)}
    wanted = {uid: kind for uid, kind in kinds.items() if kind is not None}
    not_released = exists().where(
        Delivery.result_id == Result.id,
        Delivery.state.in_([DeliveryState.UNASSESSED, DeliveryState.DISCARDED]),
    )
    # Reports on earlier studies with the same Patient ID and issuer, the newest study first.
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
            Job.pipeline == job.pipeline,
            Job.state == JobState.SUCCEEDED,
            Result.kind == ResultKind.SR,
            Result.deidentified.is_(False),
            Result.purged.is_(False),
            Result.outdated.is_(False),
            ~exists().where(Withdrawal.result_id == Result.id),
            ~not_released,
        )
        .order_by(Study.study_date.desc(), Result.id.desc())
        .limit(MOST_REPORTS)
    )
    for report, earlier, by in session.execute(chosen).all() if wanted else ():
        then, refer = date_of(earlier.study_date), earlier.study_instance_uid
        if not wanted or then is None or then >= on or refer is None:
            continue
        path = files.if_here(session, report.path)
        if path is None or not intake.of_one_patient(session, [study.id, earlier.id]):
            continue
        said = read_report(path)
        said_of = {one.image for one in said.findings} | {one.image for one in said.numbers}
        rows = {row.sop_instance_uid: row for row in _instances(session, earlier.id, by.source_uids)}
        there = [rows[uid] for uid in by.source_uids if uid in rows and uid in said_of]
        last = {_kind(row): row for row in there}  # of several of one kind the last one counts
        for uid in [uid for uid, kind in wanted.items() if kind in last]:
            row = last[wanted.pop(uid)]
            its_report, image = (
                stand_in_of(one.sop_class_uid, one.sop_instance_uid, refer, one.series_instance_uid)
                for one in (report, row)
            )
            found[uid] = PreviousImage(
                then,
                its_report,
                image,
                tuple(one for one in said.findings if one.image == row.sop_instance_uid),
                tuple(one for one in said.numbers if one.image == row.sop_instance_uid),
                same_options=dict(by.options) == dict(job.options),
            )
    return found, on


def _instances(session: Session, study: int, uids: Sequence[str]) -> list[Instance]:
    """Return the current versions of these images in the study with this id."""
    return list(
        session.scalars(
            select(Instance).where(Instance.study_id == study, Instance.sop_instance_uid.in_(uids))
        )
    )


def _kind(row: Instance) -> _Kind | None:
    """Return modality, body part and view, which are equal for comparable images; None for a radiograph
    without a view.
    """
    body_part, view = (
        str(row.attributes.get(word) or "").strip().upper() for word in ("BodyPartExamined", "ViewPosition")
    )
    return None if row.modality in _VIEWED and not view else (row.modality, body_part, view)
