"""The steps of a study as spans, read from the rows that all processes of the site wrote.

No span identifies the patient or the study: attributes are names of peers, rules, pipelines, models and
machines, states and numbers.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.base.store.tables import Association, Delivery, EventRow, Job, ReceivedObject, Result, Study

MAXIMUM_SPANS: Final = 1000
"""Most spans of one study at one time; ``dicom_node.left_out`` of its first span counts the others."""
_ROOT = "study"

Attributes = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class StudySpan:
    """One step. ``key``: its name within the study; ``parent``: the key of the step that contains it, or
    "".
    """

    key: str
    parent: str
    name: str
    start: datetime
    end: datetime
    attributes: Attributes = field(default_factory=dict)
    failed: bool = False

    def id_in(self, trace_id: str) -> bytes:
        """A span id of 8 bytes, derived from trace and key only: a step that is sent twice is one span."""
        return _span_id(trace_id, self.key)

    def parent_id_in(self, trace_id: str) -> bytes:
        """The span id of the parent; empty without a parent."""
        return _span_id(trace_id, self.parent) if self.parent else b""


def spans_of(session: Session, study: Study, since: datetime | None, until: datetime) -> list[StudySpan]:
    """The steps that ended after ``since`` (None: all), the whole study first. ``until``: the study's end."""
    round_key = f"{_ROOT}/{until.isoformat()}"
    steps = [
        *_received(session, study, since, until, round_key),
        *_jobs(session, study, since, round_key),
        *_deliveries(session, study, since, until, round_key),
    ]
    shown = [step for step in steps if step.start <= step.end]
    whole = StudySpan(
        round_key,
        "",
        "study",
        min((step.start for step in shown), default=until),
        max((step.end for step in shown), default=until),
        {
            "dicom_node.state": study.state.value,
            "dicom_node.revision": study.revision,
            "dicom_node.left_out": max(len(shown) - MAXIMUM_SPANS, 0),
        },
        failed=study.state in (StudyState.FAILED, StudyState.QUARANTINED),
    )
    return [whole, *shown[:MAXIMUM_SPANS]]


def _received(
    session: Session, study: Study, since: datetime | None, until: datetime, parent: str
) -> Iterator[StudySpan]:
    """An association or upload each; then until the last object was indexed; then until it was complete."""
    chosen = (
        select(
            ReceivedObject.association,
            ReceivedObject.calling_ae,
            func.min(ReceivedObject.received_at),
            func.max(ReceivedObject.received_at),
            func.count(),
            func.sum(ReceivedObject.bytes),
        )
        .where(ReceivedObject.study_id == study.id, ReceivedObject.received_at <= until)
        .group_by(ReceivedObject.association, ReceivedObject.calling_ae)
        .order_by(func.min(ReceivedObject.received_at))
    )
    if since is not None:
        chosen = chosen.where(ReceivedObject.received_at > since)
    first: datetime | None = None
    last = until
    for name, calling, begun, ended, objects, size in session.execute(chosen):
        row = session.get(Association, name)
        opened, closed = (row.opened_at, row.closed_at) if row else (begun, ended)
        attributes: dict[str, str | int] = {
            "dicom_node.calling_ae": calling,
            "dicom_node.objects": objects,
            "dicom_node.bytes": int(size),
        }
        yield StudySpan(f"receive/{name}/{begun}", parent, "receive", opened, closed or ended, attributes)
        first = begun if first is None else min(first, begun)
        last = ended if last == until else max(last, ended)
    if first is None:
        return
    indexed = _last_event(session, study, events.INDEXED, first, until)
    if indexed is not None:
        yield StudySpan(f"index/{first}", parent, "index", first, indexed)
    complete = _last_event(session, study, [events.STUDY_COMPLETE.number], first, until)
    if complete is not None:
        yield StudySpan(f"complete/{first}", parent, "wait for completion", max(last, first), complete)


def _jobs(session: Session, study: Study, since: datetime | None, parent: str) -> Iterator[StudySpan]:
    """Each job that ended: its wait, its last attempt, and within that the building of its results."""
    chosen = select(Job).where(Job.study_id == study.id, Job.finished_at.is_not(None)).order_by(Job.id)
    if since is not None:
        chosen = chosen.where(Job.finished_at > since)
    for job in session.scalars(chosen):
        key, failed = f"job/{job.id}", job.state is JobState.FAILED
        if job.started_at is None or job.finished_at is None:
            continue
        attributes: dict[str, str | int] = {
            "dicom_node.rule": job.rule,
            "dicom_node.pipeline": job.pipeline,
            "dicom_node.models": ", ".join(job.models),
            "dicom_node.images": len(job.source_uids),
            "dicom_node.attempts": job.attempts,
            "dicom_node.state": job.state.value,
            "dicom_node.worker": job.lease_owner,
        }
        yield StudySpan(f"{key}/wait", parent, "wait for a worker", job.created_at, job.started_at)
        yield StudySpan(
            key, parent, f"job {job.pipeline}", job.started_at, job.finished_at, attributes, failed
        )
        if job.analysed_at is not None and job.started_at <= job.analysed_at:
            yield StudySpan(f"{key}/build", key, "build results", job.analysed_at, job.finished_at)


def _deliveries(
    session: Session, study: Study, since: datetime | None, until: datetime, parent: str
) -> Iterator[StudySpan]:
    """Each delivery that was sent or given up: until it was, and until it was confirmed."""
    chosen = (
        select(Delivery, Result.kind, Result.created_at)
        .join(Delivery.result)
        .where(Result.study_id == study.id)
        .order_by(Delivery.id)
    )
    for delivery, kind, built in session.execute(chosen):
        ended = delivery.confirmed_at or (until if delivery.state is DeliveryState.DEAD else delivery.sent_at)
        if ended is None or (since is not None and ended <= since):
            continue
        attributes: dict[str, str | int] = {
            "dicom_node.destination": delivery.destination,
            "dicom_node.result": kind.value,
            "dicom_node.attempts": delivery.attempts,
            "dicom_node.state": delivery.state.value,
        }
        key, failed = f"delivery/{delivery.id}", delivery.state is DeliveryState.DEAD
        sent = delivery.sent_at or ended
        yield StudySpan(key, parent, f"deliver {delivery.destination}", built, sent, attributes, failed)
        if delivery.confirmed_at is not None:
            name = f"confirm {delivery.destination}"
            yield StudySpan(f"{key}/confirm", parent, name, sent, delivery.confirmed_at, attributes)


def _last_event(
    session: Session, study: Study, numbers: Sequence[int], since: datetime, until: datetime
) -> datetime | None:
    between = EventRow.at.between(since, until)
    chosen = select(func.max(EventRow.at)).where(EventRow.study_id == study.id, between)
    return session.scalar(chosen.where(EventRow.number.in_(numbers)))


def _span_id(trace_id: str, key: str) -> bytes:
    return hashlib.sha256(f"{trace_id}/{key}".encode()).digest()[:8]
