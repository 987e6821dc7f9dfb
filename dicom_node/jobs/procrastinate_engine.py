"""The distributed engine of the queue: procrastinate, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy.orm import Session

from dicom_node.config.sections import WorkerSettings
from dicom_node.store import tickets
from dicom_node.store.database import Database
from dicom_node.store.tables import Job
from dicom_node.store.tables.base import has_ended


class ProcrastinateEngine:
    """Turns are procrastinate's priorities, signs of life the heartbeats of its workers."""

    def __init__(self, workers: WorkerSettings) -> None:
        self._workers = workers

    def next_free(self, session: Session, now: datetime, passing: tuple[int, float] | None) -> Job | None:  # noqa: ARG002
        return tickets.take(session, self._workers, passing)

    def beat(self, session: Session, job_id: int) -> None:
        tickets.beat(session, job_id)

    def lost(self, session: Session, now: datetime, running: Collection[Job]) -> list[Job]:
        """The lost jobs, by the clock of the database. A job without a ticket is lost when its lease ends."""
        alive = tickets.alive(session, self._workers.lease_seconds)
        return [
            job
            for job in running
            if (has_ended(job.lease_until, now) if job.ticket is None else job.ticket not in alive)
        ]

    def repair(self, database: Database) -> int:
        with database.write() as session:
            tickets.bring_forward(session)
            return tickets.offer_missing(session)
