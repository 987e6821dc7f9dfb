#!/usr/bin/env python3
"""How much faster are two worker machines than one?

    benchmarks/site/workers.py [--studies 24] [--seconds 5]

Needs Debian's orthanc and postgresql. The site is real, the model is a program that sleeps for ``--seconds``,
so that missing cores are not needed. All studies are queued before a worker starts. Counted is the time in
which every worker has work: from the first job of the worker that came last to the begin of the last job.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.lab import command_line
from dicom_node import services
from dicom_node.config import loading
from dicom_node.store.tables import Job
from tests.modality import ultrasound
from tests.node_lab import PROGRAM, Node, in_background, store
from tests.postgres_lab import start_postgres
from tests.site_lab import Site, running_site
from tests.waiting import wait_until


@dataclass(frozen=True)
class Begun:
    """When a job began, and at which worker."""

    at: datetime
    worker: str


def main() -> int:
    """Measure with one and with two, print."""
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    rules = PROGRAM.replace("sleep 0.2", f"sleep {given.seconds}")
    with (
        tempfile.TemporaryDirectory(prefix="workers-") as folder,
        start_postgres() as postgres,
        running_site(Path(folder), postgres.new_database(), rules, ("sr",), quiet=0.5) as site,
    ):
        one, two = (jobs_a_minute(site, number, given.studies) for number in (1, 2))
    print(f"one worker: {one:.1f} jobs a minute, two: {two:.1f}; {two / one:.2f} times as fast")
    return 0


def jobs_a_minute(site: Site, workers: int, studies: int) -> float:
    """Of so many workers, while all of them have work."""
    for worker in site.workers:
        worker.kill()
    before = len(begun(site.listeners[0]))
    for number in range(studies):
        image = ultrasound(f"workers-{workers}-{number}", size=(48, 40))
        assert store(site.listeners[number % 2].port, [image], "US1") == [0x0000]
    listener = site.listeners[0]
    wait_until(lambda: jobs(listener) == before + studies, 600, "all queued", progress=lambda: jobs(listener))
    started = [in_background(worker.start) for worker in site.workers[:workers]]
    for thread in started:
        thread.join()
    wait_until(
        lambda: len(begun(listener)) == before + studies,
        600,
        "all begun",
        progress=lambda: len(begun(listener)),
    )
    listener.wait_for(["delivered"], count=before + studies)
    return rate(begun(listener)[before:], workers)


def rate(jobs_begun: Sequence[Begun], workers: int) -> float:
    """Jobs a minute from when the last of the workers had its first."""
    firsts = {job.worker: job.at for job in reversed(jobs_begun)}
    assert len(firsts) == workers, "not every worker had a job"
    all_at_work = max(firsts.values())
    later = [job for job in jobs_begun if job.at > all_at_work]
    return len(later) / (jobs_begun[-1].at - all_at_work).total_seconds() * 60


def jobs(node: Node) -> int:
    """How many there are, waiting or not."""
    with services.reading(loading.load([node.config])) as session:
        return session.scalars(select(func.count(Job.id))).one()


def begun(node: Node) -> list[Begun]:
    """Jobs that a worker has, or had, in the order of time."""
    with services.reading(loading.load([node.config])) as session:
        rows = session.execute(
            select(Job.started_at, Job.lease_owner)
            .where(Job.started_at.is_not(None))
            .order_by(Job.started_at)
        )
        return [Begun(at, owner) for at, owner in rows]


if __name__ == "__main__":
    sys.exit(main())
