"""The steps of a study through the node, from its first association to the confirmation by a peer."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.events import DELIVERY_RETRIED, STEPS_FULFILLED, STEPS_NOT_AWAITED, STUDY_COMPLETE
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import JobState
from dicom_node.outbox import held
from dicom_node.outbox.outages import reasons
from dicom_node.store import steps, workitems
from dicom_node.store.tables import Association, Delivery, EventRow, Job, ReceivedObject, Result, Study
from dicom_node.store.views import View, as_json

_MOST = 60  # steps that are shown: those that come first

_QUIET = "complete: nothing more came in the quiet time"
_FULFILLED = "complete: its procedure steps ended, and all that they name is here"
_NOT_AWAITED = "complete: all that its procedure steps name, or their end, was not awaited any longer"

_Step = tuple[datetime, str, str]
"""When, what, and more of it."""


def timeline(session: Session, study: int) -> list[View]:
    """The steps in order of time, each with the seconds since the previous step."""
    sources = (_received, _reported, _completed, _jobs, _assessed, _deliveries)
    steps = sorted((step for source in sources for step in source(session, study)), key=lambda step: step[0])
    before: datetime | None = None
    found: list[View] = []
    for at, what, more in steps[:_MOST]:
        waited = (at - before).total_seconds() if before else None
        found.append({"at": as_json(at), "what": what, "more": more, "seconds": waited})
        before = at
    return found


def _received(session: Session, study: int) -> Iterator[_Step]:
    """Associations and what they brought; an upload has no association."""
    first, last = func.min(ReceivedObject.received_at), func.max(ReceivedObject.received_at)
    chosen = select(ReceivedObject.association, ReceivedObject.calling_ae, func.count(), first, last)
    chosen = chosen.where(ReceivedObject.study_id == study)
    groups = session.execute(chosen.group_by(ReceivedObject.association, ReceivedObject.calling_ae)).all()
    names = [name for name, *_ in groups if name][:_MOST]
    known = {row.id: row for row in session.scalars(select(Association).where(Association.id.in_(names)))}
    for name, calling, objects, began, ended in groups:
        association = known.get(name)
        if association is not None:
            yield association.opened_at, f"{calling} opened an association", association.address
        number = f"{objects} object{'s' if objects > 1 else ''}"
        more = f"in {(ended - began).total_seconds():.1f} s" if objects > 1 else ""
        yield ended, f"{number} received from {calling}", more
        if association is not None and association.closed_at is not None:
            yield association.closed_at, f"association {association.outcome.value}", association.reason


def _completed(session: Session, study: int) -> Iterator[_Step]:
    numbers = [kind.number for kind in (STUDY_COMPLETE, STEPS_FULFILLED, STEPS_NOT_AWAITED)]
    chosen = select(EventRow).where(EventRow.study_id == study, EventRow.number.in_(numbers))
    why, more = _QUIET, ""
    for row in session.scalars(chosen.order_by(EventRow.id)):  # in one transaction: why, then that it is
        if row.number == STUDY_COMPLETE.number:
            yield row.at, why, more
            why, more = _QUIET, ""
        elif row.number == STEPS_FULFILLED.number:
            why = _FULFILLED
        else:
            missing = row.fields.get("missing", 0)
            why, more = _NOT_AWAITED, f"{missing} missing" if missing else ""


def _reported(session: Session, study: int) -> Iterator[_Step]:
    """Begin and end of procedure steps of modalities, and of work items of worklist managers."""
    uid = session.scalar(select(Study.study_instance_uid).where(Study.id == study))
    for row in steps.of_study(session, uid)[:_MOST]:
        yield row.begun_at, f"{row.calling_ae} began a procedure step", ""
        if row.ended_at is not None:
            named = steps.named(session, row.id)
            more = f"of {named} object{'' if named == 1 else 's'}"
            yield row.ended_at, f"{row.calling_ae} reported its procedure step {row.status.value}", more

    for item in workitems.of_study(session, uid)[:_MOST]:
        yield item.began_at, f"work item of {item.peer} taken", item.doing if item.ended_at is None else ""
        if item.ended_at is not None:
            yield item.ended_at, f"work item of {item.peer} {item.state.value.replace('_', ' ')}", item.reason


def _jobs(session: Session, study: int) -> Iterator[_Step]:
    by_jobs = Result.kind.not_in((ResultKind.REJECTION, ResultKind.ASSESSMENT))
    results = select(Result.job_id, func.count()).where(Result.study_id == study, by_jobs)
    built = {job: number for job, number in session.execute(results.group_by(Result.job_id))}  # noqa: C416
    for row in session.scalars(select(Job).where(Job.study_id == study).order_by(Job.id).limit(_MOST)):
        yield row.created_at, f"job {row.id} queued by rule {row.rule}", row.pipeline
        if row.started_at is not None:
            yield row.started_at, f"job {row.id} started", f"try {row.attempts}" if row.attempts > 1 else ""
        if row.finished_at is not None and row.state not in (JobState.QUEUED, JobState.RUNNING):
            more = f"{built[row.id]} results built" if row.id in built else row.reason
            yield row.finished_at, f"job {row.id} {row.state.value.replace('_', ' ')}", more


def _assessed(session: Session, study: int) -> Iterator[_Step]:
    """What a person decided of results that waited for it."""
    decided = Counter((row.decided_at, row.state, row.decided_by) for row in held.decided(session, study))
    for (at, state, by), number in decided.items():
        if at is not None:
            yield at, f"{number} result{'s' if number > 1 else ''} {state.value} by {by}", ""


def _deliveries(session: Session, study: int) -> Iterator[_Step]:
    """Of each destination when the last result was sent and confirmed, and the last try if it takes none."""
    chosen = select(
        Delivery.destination,
        func.count(),
        func.count(Delivery.sent_at),
        func.max(Delivery.sent_at),
        func.count(Delivery.confirmed_at),
        func.max(Delivery.confirmed_at),
    ).join(Delivery.result)
    rows = session.execute(chosen.where(Result.study_id == study).group_by(Delivery.destination))
    for destination, results, sent, sent_at, confirmed, confirmed_at in rows:
        if sent_at is not None:
            yield sent_at, f"{sent} of {results} results sent to {destination}", ""
        if confirmed_at is not None:
            yield confirmed_at, f"{confirmed} of {results} results confirmed in {destination}", ""
    for reason in reasons(session, Study.id == study).values():
        retried = EventRow.study_id == study, EventRow.number == DELIVERY_RETRIED.number
        at = session.scalar(select(EventRow.at).where(*retried).order_by(EventRow.id.desc()).limit(1))
        if at is not None:
            yield at, "delivery failed, tried again", reason
