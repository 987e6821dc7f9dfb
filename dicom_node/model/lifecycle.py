"""The three life cycles as tables: from a state to the states that may follow it.

Every move is one compare-and-set in the database (``store.transitions``) and one numbered event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class StudyState(StrEnum):
    """Where a study stands; the words that ``dicom-node studies list`` prints."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    QUEUED = "queued"
    RUNNING = "running"
    UNASSESSED = "unassessed"  # results wait until a person has accepted them
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    NOT_APPLICABLE = "not_applicable"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """One pipeline on one revision of one study."""

    HELD = "held"  # stopped by a rule's age limit or daily cap; runs by hand
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """One result object on its way to one destination."""

    UNASSESSED = "unassessed"  # leaves once a person has accepted the result
    PENDING = "pending"
    SENDING = "sending"
    UNCONFIRMED = "unconfirmed"  # the peer said Success (or might have): to be confirmed
    CONFIRMED = "confirmed"
    DEAD = "dead"  # a person must look; `outbox retry` sends it again
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # a person said why it is not to be sent; `outbox retry` sends it all the same


_S, _J, _D = StudyState, JobState, DeliveryState

# A late object may reopen a study from every state but quarantine; a conflict may quarantine it from every
# state; only a person releases it from there.
_LATE: frozenset[StudyState] = frozenset({_S.RECEIVING, _S.QUARANTINED})
_BY_HAND: frozenset[StudyState] = _LATE | {
    _S.QUEUED, _S.RUNNING, _S.UNASSESSED, _S.DELIVERING, _S.DELIVERED, _S.FAILED,
}  # fmt: skip
_ENDS: frozenset[StudyState] = frozenset({_S.DELIVERED, _S.NOT_APPLICABLE, _S.FAILED, _S.CANCELLED})

STUDY: Mapping[StudyState, frozenset[StudyState]] = {
    _S.RECEIVING: frozenset({_S.COMPLETE, _S.QUARANTINED}),
    _S.COMPLETE: _LATE | {_S.QUEUED, _S.NOT_APPLICABLE},
    _S.QUEUED: _LATE | _ENDS | {_S.RUNNING, _S.UNASSESSED, _S.DELIVERING},
    _S.RUNNING: _LATE | _ENDS | {_S.QUEUED, _S.UNASSESSED, _S.DELIVERING},
    _S.UNASSESSED: _LATE | _ENDS | {_S.QUEUED, _S.RUNNING, _S.DELIVERING},
    _S.DELIVERING: _LATE | _ENDS | {_S.QUEUED, _S.RUNNING, _S.UNASSESSED},
    _S.DELIVERED: _BY_HAND - {_S.DELIVERED},
    _S.NOT_APPLICABLE: _BY_HAND | {_S.CANCELLED},
    _S.FAILED: _BY_HAND - {_S.FAILED} | {_S.CANCELLED, _S.NOT_APPLICABLE},
    _S.CANCELLED: _BY_HAND,
    _S.QUARANTINED: frozenset({_S.RECEIVING}),
}

JOB: Mapping[JobState, frozenset[JobState]] = {
    _J.HELD: frozenset({_J.QUEUED, _J.CANCELLED}),
    _J.QUEUED: frozenset({_J.RUNNING, _J.CANCELLED, _J.FAILED}),
    _J.RUNNING: frozenset({_J.SUCCEEDED, _J.NOT_APPLICABLE, _J.FAILED, _J.CANCELLED, _J.QUEUED}),
    _J.SUCCEEDED: frozenset(),
    _J.NOT_APPLICABLE: frozenset({_J.QUEUED}),
    _J.FAILED: frozenset({_J.QUEUED}),
    _J.CANCELLED: frozenset({_J.QUEUED}),
}

DELIVERY: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    _D.UNASSESSED: frozenset({_D.PENDING, _D.CANCELLED, _D.DISCARDED}),
    _D.PENDING: frozenset({_D.SENDING, _D.CANCELLED, _D.DEAD, _D.DISCARDED}),
    _D.SENDING: frozenset({_D.PENDING, _D.UNCONFIRMED, _D.CONFIRMED, _D.DEAD, _D.CANCELLED}),
    _D.UNCONFIRMED: frozenset({_D.CONFIRMED, _D.PENDING, _D.DEAD}),
    _D.CONFIRMED: frozenset(),
    _D.DEAD: frozenset({_D.PENDING, _D.DISCARDED, _D.CONFIRMED}),  # by a report that came too late
    _D.CANCELLED: frozenset({_D.PENDING, _D.UNASSESSED}),
    _D.DISCARDED: frozenset({_D.PENDING}),
}

OPEN_JOBS = frozenset({_J.QUEUED, _J.RUNNING})
OPEN_DELIVERIES = frozenset({_D.PENDING, _D.SENDING, _D.UNCONFIRMED})
END_STATES = frozenset({_S.DELIVERED, _S.NOT_APPLICABLE, _S.QUARANTINED, _S.FAILED, _S.CANCELLED})


def study_state(jobs: Iterable[JobState], deliveries: Iterable[DeliveryState]) -> StudyState:
    """Where a study stands, read from its jobs (of the newest revision) and its deliveries.

    The first that holds: something runs, something waits, something is on its way, something waits for a
    person's assessment, something failed, all was cancelled, or discarded before anything arrived; nothing
    applied; else it is delivered.
    """
    job_states, delivery_states = set(jobs), set(deliveries)
    for state, holds in (
        (_S.RUNNING, _J.RUNNING in job_states),
        (_S.QUEUED, _J.QUEUED in job_states),
        (_S.DELIVERING, bool(delivery_states & OPEN_DELIVERIES)),
        (_S.UNASSESSED, _D.UNASSESSED in delivery_states),
        (_S.FAILED, _J.FAILED in job_states or _D.DEAD in delivery_states),
        (_S.CANCELLED, bool(job_states) and job_states <= {_J.CANCELLED}),
        (_S.CANCELLED, _D.DISCARDED in delivery_states and _D.CONFIRMED not in delivery_states),
        (_S.NOT_APPLICABLE, job_states <= {_J.NOT_APPLICABLE, _J.HELD, _J.CANCELLED}),
    ):
        if holds:
            return state
    return _S.DELIVERED
