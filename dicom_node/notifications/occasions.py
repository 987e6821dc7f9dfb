"""The events that an occasion includes, and the events that a notification of the settings wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dicom_node import events
from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import ResultSettings
from dicom_node.events import EventType
from dicom_node.model.kinds import Occasion

EVENTS: Mapping[Occasion, Sequence[EventType]] = {
    Occasion.FAILURE: (
        events.JOB_FAILED,
        events.FETCH_FAILED,
        events.RESULT_REFUSED,
        events.RESULT_LOST,
        events.RESULT_NOT_REMOVED,
        events.DELIVERY_OVERDUE,
        events.SPOOL_DIFFERS,
        events.DATABASE_REPLACED,
        events.DECISIONS_UNKNOWN,
        events.DECISIONS_CHANGED,
        events.DECISIONS_NOT_COPIED,
        events.CHILD_DIED,
        events.PROCESS_LOST,
        events.INDEXING_FAILED,
        events.THREAD_FAILED,
        events.COMMITMENT_SET_ASIDE,
        events.COMMITMENT_ANSWER_GIVEN_UP,
        events.WORKITEM_GIVEN_UP,
        events.CONFIGURATION_REFUSED,
        events.CONSOLE_CANNOT_START,
        events.AUDIT_NOT_SENT,
        events.AUDIT_NOT_MADE,
        events.STORE_AWAY,
    ),
    Occasion.DEAD_LETTER: (events.DELIVERY_DEAD, events.NOTIFICATION_GIVEN_UP),
    Occasion.QUARANTINE: (
        events.OBJECT_CONFLICT,
        events.OBJECT_QUARANTINED,
        events.STUDY_QUARANTINED,
        events.STUDY_MAY_BE_INCOMPLETE,
        events.FETCHED_OTHER_PATIENT,
    ),
    Occasion.WITHHELD: (events.CLEANING_WITHHELD, events.RESULT_WITHHELD),
    Occasion.DISK: (events.DISK_LOW,),
    Occasion.SILENCE: (events.PEER_SILENT,),
    Occasion.OUTAGE: (events.DESTINATION_AWAY, events.DESTINATION_BACK),
    Occasion.DRIFT: (events.SCORES_DRIFTED,),
    Occasion.ASSESSMENT: (events.ASSESSMENT_OVERDUE,),
}

WITH_FINDINGS = frozenset({events.JOB_SUCCEEDED.number, events.RESULTS_ACCEPTED.number})


WHEN: Mapping[str, Sequence[EventType]] = {
    "withheld": (
        events.CLEANING_WITHHELD,
        events.RESULT_WITHHELD,
        events.RESULT_REFUSED,
        events.RESULTS_REJECTED,
    ),
    "not assessed": (events.JOB_FAILED, events.JOB_NOT_APPLICABLE),
}
"""The events of conditions on quality that the rules for studies have."""


def numbers_for(conditions: Iterable[ResultSettings]) -> set[int]:
    """The numbers of the events that can match these conditions on studies."""
    found: set[int] = set()
    for one in conditions:
        found |= {event.number for event in WHEN[one.when]} if one.when in WHEN else WITH_FINDINGS
    return found


def numbers_of(rule: NotificationSettings) -> set[int]:
    """The numbers of the events that can match ``rule``.

    With a condition on findings these include finished jobs and accepted results.
    """
    wanted = {event.number for occasion in rule.on for event in EVENTS[occasion]} | set(rule.events)
    return wanted | (WITH_FINDINGS if rule.findings else frozenset())


def wants_all(rule: NotificationSettings, number: int) -> bool:
    """Whether ``rule`` wants every event with this number; if not, only events with a wanted finding."""
    asked = {event.number for occasion in rule.on for event in EVENTS[occasion]} | set(rule.events)
    return number in asked
