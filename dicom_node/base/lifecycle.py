"""The life cycles as tables: a state and a numbered event give the next state.

Every step is one compare-and-set in the database (``store.transitions``), which also writes the event.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from dicom_node.base import events
from dicom_node.base.events import EventType


class StudyState(StrEnum):
    """The state of a study; the words that ``dicom-node studies list`` prints."""

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
    """The state of a job: one pipeline on one revision of one study."""

    HELD = "held"  # stopped by a rule's age limit or daily cap; runs by hand
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """The state of a delivery: one result object on its way to one destination."""

    UNASSESSED = "unassessed"  # leaves once a person has accepted the result
    PENDING = "pending"
    SENDING = "sending"
    UNCONFIRMED = "unconfirmed"  # the peer answered Success (or may have): to be confirmed
    CONFIRMED = "confirmed"
    DEAD = "dead"  # a person must look; `outbox retry` sends it again
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # a person gave a reason not to send it; `outbox retry` sends it all the same


class CommitmentState(StrEnum):
    """The state of a request for storage commitment (PS3.4 Annex J) to one destination."""

    ASKED = "asked"  # written down; whether it reached the destination is not known
    ACCEPTED = "accepted"  # the destination answered Success to the request
    REPORTED = "reported"  # a report on it was entered, maybe before its answer came


class RequestedState(StrEnum):
    """The state of a sending peer's request for storage commitment of its objects (PS3.4 Annex J)."""

    WAITING = "waiting"  # for archives to confirm its objects
    DECIDED = "decided"  # the report waits to be taken
    REPORTED = "reported"
    GIVEN_UP = "given_up"  # the peer did not take the report, or may ask for none any more


class HeldState(StrEnum):
    """The state of a result that a person must accept before it is sent."""

    WAITING = "waiting"
    OVERDUE = "overdue"  # waits for longer than outbox.assess_hours; event 4041 was recorded
    ACCEPTED = "accepted"
    REJECTED = "rejected"  # it is sent nowhere


class FetchState(StrEnum):
    """The state of a study that is fetched from a peer."""

    WAITING = "waiting"  # for its turn, or for another try
    FETCHING = "fetching"
    FETCHED = "fetched"
    FAILED = "failed"  # given up; asked for again by a person
    OTHER_PATIENT = "other_patient"  # its images name another patient than the answer: in quarantine
    CANCELLED = "cancelled"  # by a person


class WorkitemState(StrEnum):
    """The state of a work item (UPS) of a worklist manager that the node wants or performs."""

    CLAIMING = "claiming"  # written down with its Transaction UID; whether the claim was taken is not known
    CLAIMED = "claimed"
    ENDING = "ending"  # its outcome is decided and waits to be taken
    COMPLETED = "completed"
    CANCELED = "canceled"
    LOST = "lost"  # another performer has it, or its manager ended it
    GIVEN_UP = "given_up"  # the manager does not take the outcome


_S, _J, _D, _C, _H = StudyState, JobState, DeliveryState, CommitmentState, HeldState
_F, _R, _W = FetchState, RequestedState, WorkitemState
_State = TypeVar("_State", bound=StrEnum)


def _table(
    *rows: tuple[Iterable[_State], EventType, _State],
) -> Mapping[tuple[_State, EventType], _State]:
    return {(state, event): to for states, event, to in rows for state in sorted(states)}


READ_FROM_WORK = frozenset(
    {_S.QUEUED, _S.RUNNING, _S.UNASSESSED, _S.DELIVERING, _S.DELIVERED, _S.NOT_APPLICABLE, _S.FAILED,
     _S.CANCELLED}
)  # fmt: skip
"""After assembly a study is where its jobs and deliveries are (:func:`study_state`, event 2015)."""

STUDY = _table(
    ({_S.RECEIVING}, events.STUDY_COMPLETE, _S.COMPLETE),
    ({_S.COMPLETE, *READ_FROM_WORK}, events.STUDY_REOPENED, _S.RECEIVING),
    ({_S.COMPLETE, *READ_FROM_WORK}, events.STUDY_RERUN, _S.RECEIVING),
    ({_S.RECEIVING, _S.COMPLETE, *READ_FROM_WORK}, events.STUDY_QUARANTINED, _S.QUARANTINED),
    ({_S.QUARANTINED}, events.STUDY_RELEASED, _S.RECEIVING),  # by a person only
)

JOB = _table(
    ({_J.QUEUED}, events.JOB_STARTED, _J.RUNNING),
    ({_J.RUNNING}, events.JOB_SUCCEEDED, _J.SUCCEEDED),
    ({_J.RUNNING}, events.JOB_NOT_APPLICABLE, _J.NOT_APPLICABLE),
    ({_J.RUNNING}, events.JOB_FAILED, _J.FAILED),
    ({_J.RUNNING}, events.JOB_RETRIED, _J.QUEUED),
    ({_J.RUNNING}, events.JOB_HANDED_BACK, _J.QUEUED),
    ({_J.RUNNING}, events.JOB_TAKEN_OVER, _J.QUEUED),
    ({_J.HELD, _J.QUEUED, _J.RUNNING}, events.JOB_CANCELLED, _J.CANCELLED),
    ({_J.HELD, _J.NOT_APPLICABLE, _J.FAILED, _J.CANCELLED}, events.JOB_QUEUED, _J.QUEUED),  # by a person
)

DELIVERY = _table(
    ({_D.PENDING}, events.DELIVERY_STARTED, _D.SENDING),
    ({_D.SENDING}, events.DELIVERY_SENT, _D.UNCONFIRMED),
    ({_D.SENDING}, events.DELIVERY_WARNED, _D.UNCONFIRMED),
    ({_D.SENDING}, events.DELIVERY_IN_DOUBT, _D.UNCONFIRMED),
    ({_D.UNCONFIRMED}, events.DELIVERY_CONFIRMED, _D.CONFIRMED),
    ({_D.DEAD}, events.DELIVERY_CONFIRMED, _D.CONFIRMED),  # by a report that came too late
    ({_D.SENDING, _D.UNCONFIRMED}, events.DELIVERY_RETRIED, _D.PENDING),
    ({_D.PENDING, _D.SENDING, _D.UNCONFIRMED}, events.DELIVERY_DEAD, _D.DEAD),
    ({_D.SENDING}, events.DELIVERY_NARROWED, _D.CANCELLED),
    ({_D.UNASSESSED, _D.PENDING}, events.DELIVERY_WITHDRAWN, _D.CANCELLED),
    ({_D.CANCELLED}, events.DELIVERY_HELD, _D.UNASSESSED),
    ({_D.CANCELLED, _D.UNASSESSED}, events.DELIVERY_WANTED, _D.PENDING),
    ({_D.UNASSESSED, _D.DISCARDED}, events.DELIVERY_FREED, _D.PENDING),
    ({_D.UNASSESSED, _D.PENDING, _D.DEAD}, events.DELIVERY_DISCARDED, _D.DISCARDED),
    ({_D.DEAD, _D.CANCELLED, _D.DISCARDED}, events.DELIVERY_BY_HAND, _D.PENDING),
)

COMMITMENT = _table(
    ({_C.ASKED}, events.COMMITMENT_REQUESTED, _C.ACCEPTED),
    ({_C.ASKED, _C.ACCEPTED}, events.COMMITMENT_ENTERED, _C.REPORTED),
)

REQUESTED = _table(
    ({_R.WAITING}, events.COMMITMENT_DECIDED, _R.DECIDED),
    ({_R.DECIDED}, events.COMMITMENT_ANSWERED, _R.REPORTED),
    ({_R.WAITING, _R.DECIDED}, events.COMMITMENT_ANSWER_GIVEN_UP, _R.GIVEN_UP),
)

HELD = _table(
    ({_H.WAITING}, events.ASSESSMENT_OVERDUE, _H.OVERDUE),
    ({_H.WAITING, _H.OVERDUE, _H.REJECTED}, events.RESULTS_ACCEPTED, _H.ACCEPTED),
    ({_H.WAITING, _H.OVERDUE}, events.RESULTS_REJECTED, _H.REJECTED),
)

FETCH = _table(
    ({_F.WAITING}, events.FETCH_STARTED, _F.FETCHING),
    ({_F.FETCHING}, events.FETCH_DONE, _F.FETCHED),
    ({_F.FETCHING}, events.FETCH_RETRIED, _F.WAITING),
    ({_F.FETCHING}, events.FETCH_FAILED, _F.FAILED),
    ({_F.WAITING}, events.FETCH_CANCELLED, _F.CANCELLED),
    ({_F.FETCHED, _F.FAILED, _F.CANCELLED, _F.OTHER_PATIENT}, events.FETCH_ASKED, _F.WAITING),
    (set(_F) - {_F.OTHER_PATIENT}, events.FETCHED_OTHER_PATIENT, _F.OTHER_PATIENT),
)

WORKITEM = _table(
    ({_W.CLAIMING}, events.WORKITEM_CLAIMED, _W.CLAIMED),
    ({_W.CLAIMED}, events.WORKITEM_DECIDED, _W.ENDING),
    ({_W.ENDING}, events.WORKITEM_COMPLETED, _W.COMPLETED),
    ({_W.ENDING}, events.WORKITEM_CANCELED, _W.CANCELED),
    ({_W.CLAIMING, _W.CLAIMED, _W.ENDING}, events.WORKITEM_LOST, _W.LOST),
    ({_W.CLAIMING, _W.CLAIMED, _W.ENDING}, events.WORKITEM_GIVEN_UP, _W.GIVEN_UP),
)

LIFE_CYCLES: Mapping[str, Mapping[tuple[Any, EventType], Any]] = {
    "study": STUDY,
    "job": JOB,
    "delivery": DELIVERY,
    "request for storage commitment": COMMITMENT,
    "storage commitment asked of the node": REQUESTED,
    "held result": HELD,
    "fetched study": FETCH,
    "work item": WORKITEM,
}
"""All of them by what they are of, for whoever draws or tests them."""

UNDECIDED = frozenset({_H.WAITING, _H.OVERDUE})
OPEN_JOBS = frozenset({_J.QUEUED, _J.RUNNING})
OPEN_FETCHES = frozenset({_F.WAITING, _F.FETCHING})
OPEN_WORKITEMS = frozenset({_W.CLAIMING, _W.CLAIMED, _W.ENDING})
OPEN_DELIVERIES = frozenset({_D.PENDING, _D.SENDING, _D.UNCONFIRMED})
END_STATES = frozenset({_S.DELIVERED, _S.NOT_APPLICABLE, _S.QUARANTINED, _S.FAILED, _S.CANCELLED})


def study_state(jobs: Iterable[JobState], deliveries: Iterable[DeliveryState]) -> StudyState:
    """The state of a study, from its jobs (of the newest revision) and its deliveries.

    The first of these that holds: something runs, something waits, something is on its way, something waits
    for a person's assessment, something failed, all was cancelled, or discarded before anything arrived;
    nothing applied; else the study is delivered.
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
