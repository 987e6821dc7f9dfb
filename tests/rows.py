"""Rows of the index as tests need them: what a test says nothing of has a value that does not matter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store.tables import Association, Job, Result, Study

NOW = datetime(2026, 1, 2, 3, 12, tzinfo=UTC)


def a_study(
    uid: str | None, state: StudyState = StudyState.DELIVERED, at: datetime = NOW, **values: Any
) -> Study:
    """A study that came at this time."""
    known = {"patient_id": "P1", "study_date": "20260102", "first_received_at": at, "last_received_at": at}
    return Study(study_instance_uid=uid, state=state, **known | values)


def a_job(study: Study, state: JobState, rule: str = "ultrasound", **values: Any) -> Job:
    """A job of the first revision."""
    known = {"study_revision": 1, "destinations": ["pacs"], "source_uids": ["1.2.3"], "attempts": 1}
    times = {"run_at": NOW, "created_at": NOW}
    return Job(study_id=study.id, state=state, rule=rule, pipeline=rule, **known | times | values)


def a_result(job: Job, kind: ResultKind = ResultKind.SR, **values: Any) -> Result:
    """A result of the job; its file is not there."""
    names = {
        "sop_instance_uid": f"2.25.{job.id}.{kind}",
        "sop_class_uid": "1.2",
        "series_instance_uid": "1.3",
    }
    file = {"path": "results/x", "sha256": "", "bytes": 1, "created_at": NOW}
    return Result(study_id=job.study_id, job_id=job.id, kind=kind, **names | file | values)


def an_association(
    name: str, opened_at: datetime, closed_at: datetime | None = None, objects: int = 0
) -> Association:
    """One of the modality US1; released where it is closed."""
    titles = {"calling_ae": "US1", "called_ae": "AINODE", "address": "192.0.2.21", "listener": "listener-1"}
    times = {"opened_at": opened_at, "closed_at": closed_at}
    outcome = "released" if closed_at else "open"
    return Association(id=name, outcome=outcome, objects=objects, **titles, **times)
