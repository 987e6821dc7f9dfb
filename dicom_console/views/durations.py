"""Histograms for Prometheus: durations of deliveries and jobs that ended since the console started."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import JobState
from dicom_node.store.tables import Delivery, Instance, Job, Result, Study
from dicom_node.store.transitions import utc_now

_EDGES: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
_SETTLED: Final = timedelta(seconds=2)
"""What ended this recently waits for the next question: its transaction may not be seen yet."""


class Durations:
    """Histograms whose counts start at 0 with the process and only rise, as Prometheus expects."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._turnaround = Histogram(
            "dicom_node_turnaround_seconds",
            "From the last object of a study to the confirmed delivery of a result.",
            ["peer", "rule", "modality"],
            buckets=_EDGES,
            registry=self.registry,
        )
        self._jobs = Histogram(
            "dicom_node_job_seconds",
            "Run time of jobs that succeeded, waiting left out.",
            ["rule", "modality"],
            buckets=_EDGES,
            registry=self.registry,
        )
        self._since = utc_now()
        self._one_at_a_time = threading.Lock()

    def add_new(self, session: Session) -> None:
        """Add the deliveries and jobs that ended since the last call."""
        with self._one_at_a_time:
            since, self._since = self._since, max(self._since, utc_now() - _SETTLED)
            modality = (
                select(func.min(Instance.modality))
                .where(Instance.study_id == Study.id, Instance.role == ObjectRole.SOURCE)
                .scalar_subquery()
            )
            delivered = (
                select(
                    Delivery.destination, Job.rule, modality, Delivery.confirmed_at, Study.last_received_at
                )
                .join(Result, Result.id == Delivery.result_id)
                .join(Job, Job.id == Result.job_id)
                .join(Study, Study.id == Result.study_id)
                .where(Delivery.confirmed_at > since, Delivery.confirmed_at <= self._since)
            )
            for peer, rule, kind, ended, began in session.execute(delivered):
                seconds = max((ended - began).total_seconds(), 0.0)
                self._turnaround.labels(peer, rule, kind or "").observe(seconds)
            done = (
                select(Job.rule, modality, Job.started_at, Job.finished_at)
                .join(Study, Study.id == Job.study_id)
                .where(Job.state == JobState.SUCCEEDED, Job.started_at.is_not(None))
                .where(Job.finished_at > since, Job.finished_at <= self._since)
            )
            for rule, kind, began, ended in session.execute(done):
                self._jobs.labels(rule, kind or "").observe((ended - began).total_seconds())
