"""The images of earlier studies with which a job's images are compared.

A job's images are compared with finished results of earlier studies in the database. They must be of the same
patient beyond doubt (``Patient.is_surely``), pipeline, modality, body part and view. The newest earlier study
with such an image is used. Results that wait for a person, were rejected or withdrawn, are older than a
correction, or have lost their file are not used. If an earlier study arrives later, nothing is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from pydicom.dataset import Dataset
from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, StudyState
from dicom_node.base.store import intake
from dicom_node.base.store.tables import Delivery, Instance, Job, Result, Study, Withdrawal
from dicom_node.results.context import PreviousImage
from dicom_node.results.source import stand_in_of
from dicom_node.results.stated_report import StatedReport, read_report

MOST_REPORTS: Final = 20
"""Earlier reports of a patient that are read at most, the newest first."""
_VIEWED: Final = frozenset({"CR", "DX", "MG"})  # modalities of which a view must be given
_Kind = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _EarlierReport:
    """A report on an earlier study: its row, its study and that study's date, its job, and what it states."""

    row: Result
    study: Study
    on: date
    job: Job
    stated: StatedReport

    def images_by_kind(self, session: Session) -> dict[_Kind | None, Instance]:
        """Return the images of which the report states anything; of several of one kind the last one."""
        stated_of = {finding.image for finding in self.stated.findings}
        stated_of |= {number.image for number in self.stated.numbers}
        uids = self.job.source_uids
        rows = {row.sop_instance_uid: row for row in _instances(session, self.study.id, uids)}
        return {_kind(rows[uid]): rows[uid] for uid in uids if uid in rows and uid in stated_of}

    def previous_image(self, image: Instance, *, same_options: bool) -> PreviousImage:
        """Return one of its images with what the report states of it."""
        uid = image.sop_instance_uid
        return PreviousImage(
            self.on,
            self._stand_in_of(self.row),
            self._stand_in_of(image),
            tuple(finding for finding in self.stated.findings if finding.image == uid),
            tuple(number for number in self.stated.numbers if number.image == uid),
            same_options=same_options,
        )

    def _stand_in_of(self, row: Result | Instance) -> Dataset:
        """Return a data set with only the UIDs of an object of the earlier study."""
        study_uid = self.study.study_instance_uid or ""
        return stand_in_of(row.sop_class_uid, row.sop_instance_uid, study_uid, row.series_instance_uid)


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
    rows = _instances(session, study.id, uids)
    wanted = {row.sop_instance_uid: kind for row in rows if (kind := _kind(row))}
    if not wanted:
        return found, on
    for report in _earlier_reports(session, files, study, on, job.pipeline):
        images = report.images_by_kind(session)
        same_options = dict(report.job.options) == dict(job.options)
        for uid in [uid for uid, kind in wanted.items() if kind in images]:
            found[uid] = report.previous_image(images[wanted.pop(uid)], same_options=same_options)
        if not wanted:
            break
    return found, on


def _earlier_reports(
    session: Session, files: Files, study: Study, on: date, pipeline: str
) -> Iterator[_EarlierReport]:
    """Yield the reports of a pipeline on studies of the same patient before the day ``on``, of the newest
    study first.
    """
    for row, earlier, by in session.execute(_report_rows(study, pipeline)).all():
        then = date_of(earlier.study_date)
        if then is None or then >= on or earlier.study_instance_uid is None:
            continue
        path = files.if_here(session, row.path)
        if path is not None and intake.of_one_patient(session, [study.id, earlier.id]):
            yield _EarlierReport(row, earlier, then, by, read_report(path))


def _report_rows(study: Study, pipeline: str) -> Select[Result, Study, Job]:
    """Return the query for released reports on earlier studies with the same Patient ID and issuer, the
    newest study first.
    """
    not_released = exists().where(
        Delivery.result_id == Result.id,
        Delivery.state.in_([DeliveryState.UNASSESSED, DeliveryState.DISCARDED]),
    )
    return (
        select(Result, Study, Job)
        .join(Result.study)
        .join(Result.job)
        .where(
            Study.patient_id == study.patient_id,
            Study.issuer_of_patient_id == study.issuer_of_patient_id,
            Study.id != study.id,
            Study.study_date < study.study_date,
            Study.state != StudyState.QUARANTINED,
            Job.pipeline == pipeline,
            Job.state == JobState.SUCCEEDED,
            Result.kind == ResultKind.SR,
            ~Result.deidentified,
            ~Result.purged,
            ~Result.outdated,
            ~exists().where(Withdrawal.result_id == Result.id),
            ~not_released,
        )
        .order_by(Study.study_date.desc(), Result.id.desc())
        .limit(MOST_REPORTS)
    )


def _instances(session: Session, study: int, uids: Sequence[str]) -> Sequence[Instance]:
    """Return the current versions of these images in the study with this id."""
    chosen = select(Instance).where(Instance.study_id == study, Instance.sop_instance_uid.in_(uids))
    return session.scalars(chosen).all()


def _kind(row: Instance) -> _Kind | None:
    """Return modality, body part and view, which are equal for comparable images; None for a radiograph
    without a view.
    """
    body_part, view = (
        str(row.attributes.get(word) or "").strip().upper() for word in ("BodyPartExamined", "ViewPosition")
    )
    return None if row.modality in _VIEWED and not view else (row.modality, body_part, view)
