"""Studies and jobs made directly, to try the queue alone."""

from datetime import timedelta

from dicom_node.base.config.settings import WorkerSettings
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import EventRow, Job, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.jobs.queue import JobQueue, enqueue
from tests.rows import Stored, a_study

WORKERS = WorkerSettings(lease_seconds=60, attempts=3, retry_seconds=0)  # none ends while a test runs


def add_study(database: Database, name: str = "1") -> int:
    Stored(database).add(study := a_study(f"1.2.{name}", StudyState.QUEUED, utc_now()))
    return study.id


def add_job(
    database: Database,
    study_id: int | None = None,
    rule: str = "rule",
    *,
    pipeline: str = "ultrasound",
    priority: int = 0,
    seconds: float = 1.0,
    late: float = 0.0,
    state: JobState = JobState.QUEUED,
    revision: int = 1,
) -> int:
    """Enqueue a job of so many ``seconds``, due in ``late`` seconds; without a study, of a new one."""
    now = utc_now()
    job = Job(
        study_id=study_id or add_study(database),
        study_revision=revision,
        rule=rule,
        pipeline=pipeline,
        destinations=["pacs"],
        source_uids=["1.2.3"],
        priority=priority,
        cost_seconds=seconds,
        state=state,
        run_at=now + timedelta(seconds=late),
        created_at=now,
    )
    with database.write() as session:
        enqueue(session, job)
        return job.id


def claimed(queue: JobQueue, owner: str = "elsewhere/1/1/x") -> Job:
    job = queue.claim(owner)
    assert job is not None
    return job


def lose(database: Database, job_id: int, *, shown_ahead: bool = False) -> None:
    """Whoever holds the job has shown no life for an hour; ``shown_ahead``: by a clock a day ahead."""
    now = utc_now()
    with database.write() as session:
        job = session.get_one(Job, job_id)
        job.lease_until = now + timedelta(days=1) if shown_ahead else now - timedelta(hours=1)


def job_row(database: Database, job_id: int) -> Job:
    return Stored(database).get(Job, job_id)


def state_of_study(database: Database, study_id: int) -> StudyState:
    return Stored(database).get(Study, study_id).state


def event_numbers(database: Database) -> list[int]:
    return [row.number for row in Stored(database).rows(EventRow)]
