"""Laws of the life cycles together: whatever a job or delivery does next, its study can follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations_with_replacement as combinations
from typing import Any

import pytest

from dicom_node.events import EventType
from dicom_node.model.lifecycle import (
    COMMITMENT,
    DELIVERY,
    HELD,
    JOB,
    READ_FROM_WORK,
    STUDY,
    CommitmentState,
    DeliveryState,
    HeldState,
    JobState,
    StudyState,
    study_state,
)

Jobs = tuple[JobState, ...]
Deliveries = tuple[DeliveryState, ...]


def steps(table: Mapping[tuple[Any, EventType], Any], state: Any) -> set[Any]:
    return {after for (before, _), after in table.items() if before == state}


def next_steps(jobs: Jobs, deliveries: Deliveries) -> Iterator[tuple[Jobs, Deliveries]]:
    """Every legal step of one job (with a first delivery of what it made) or of one delivery."""
    for place, job in enumerate(jobs):
        for after in steps(JOB, job):
            moved = (*jobs[:place], after, *jobs[place + 1 :])
            yield moved, deliveries
            if job is JobState.RUNNING and after not in (JobState.QUEUED, JobState.CANCELLED):
                yield moved, (*deliveries, DeliveryState.PENDING)
    for place, delivery in enumerate(deliveries):
        for step in steps(DELIVERY, delivery):
            yield jobs, (*deliveries[:place], step, *deliveries[place + 1 :])


@pytest.mark.parametrize(
    ("table", "states"),
    [
        (STUDY, StudyState),
        (JOB, JobState),
        (DELIVERY, DeliveryState),
        (COMMITMENT, CommitmentState),
        (HELD, HeldState),
    ],
)
def test_every_state_is_reached_by_an_event_or_read_from_work(table: Any, states: Any) -> None:
    first = {StudyState.RECEIVING, JobState.HELD, JobState.QUEUED, DeliveryState.PENDING}
    first |= {CommitmentState.ASKED, HeldState.WAITING}
    assert set(states) - {*table.values()} - first - READ_FROM_WORK == set()
    assert {before for before, _ in table} | {*table.values()} <= set(states)


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
                assert {before, after} <= READ_FROM_WORK, (jobs, deliveries, moved_jobs)
