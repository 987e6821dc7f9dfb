"""Laws of the three life cycles together: whatever a job or delivery does next, its study can follow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement as combinations

import pytest

from dicom_node.model.lifecycle import DELIVERY, JOB, STUDY, DeliveryState, JobState, study_state

Jobs = tuple[JobState, ...]
Deliveries = tuple[DeliveryState, ...]


def next_steps(jobs: Jobs, deliveries: Deliveries) -> Iterator[tuple[Jobs, Deliveries]]:
    """Every legal step of one job (with a first delivery of what it made) or of one delivery."""
    for place, job in enumerate(jobs):
        for after in JOB[job]:
            moved = (*jobs[:place], after, *jobs[place + 1 :])
            yield moved, deliveries
            if job is JobState.RUNNING and after not in (JobState.QUEUED, JobState.CANCELLED):
                yield moved, (*deliveries, DeliveryState.PENDING)
    for place, delivery in enumerate(deliveries):
        for step in DELIVERY[delivery]:
            yield jobs, (*deliveries[:place], step, *deliveries[place + 1 :])


@pytest.mark.parametrize("number_of_jobs", [0, 1, 2])
@pytest.mark.parametrize("number_of_deliveries", [0, 1, 2])
def test_a_study_can_follow_each_step_of_its_jobs_and_deliveries(
    number_of_jobs: int, number_of_deliveries: int
) -> None:
    for jobs in combinations(JobState, number_of_jobs):
        for deliveries in combinations(DeliveryState, number_of_deliveries):
            before = study_state(jobs, deliveries)
            for moved_jobs, moved_deliveries in next_steps(jobs, deliveries):
                after = study_state(moved_jobs, moved_deliveries)
                assert after == before or after in STUDY[before], (jobs, deliveries, moved_jobs)
