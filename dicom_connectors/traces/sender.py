"""The steps of ended studies as spans, read from the rows that all processes of the site wrote, and sent to a
collector: OTLP over HTTP, one POST of protobuf with a deadline.

No span identifies the patient or the study: attributes are names of peers, rules, pipelines, models and
machines, states and numbers. Only one process per database sends, in a separate thread, and nothing waits for
it: spans that a collector does not accept within five minutes are dropped, and counted.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from dicom_connectors.traces.settings import TelemetrySettings, TracesPart
from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.lifecycle import END_STATES, DeliveryState, JobState, StudyState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Association,
    Delivery,
    EventRow,
    Job,
    ReceivedObject,
    Result,
    Study,
    StudyTrace,
)
from dicom_node.base.store.transitions import RenewableLease, record, utc_now
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Connections
from dicom_node.deliver.scu.http import BoundedSession

MAXIMUM_SPANS: Final = 1000
"""Most spans of one study at one time; ``dicom_node.left_out`` of its first span counts the others."""
_ROOT = "study"

Attributes = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class StudySpan:
    """One step of a study, to be sent as an OpenTelemetry span.

    ``key``: its name within the study, unique; ``parent``: the key of the step that contains it, "" for none.
    """

    key: str
    parent: str
    name: str
    start: datetime
    end: datetime
    attributes: Attributes = field(default_factory=dict)
    failed: bool = False

    def id_in(self, trace_id: str) -> bytes:
        """Return the span id, 8 bytes derived from trace and key, so that a step that is sent twice is one
        span.
        """
        return _span_id(trace_id, self.key)

    def parent_id_in(self, trace_id: str) -> bytes:
        """Return the span id of the step that contains this one; empty if there is none."""
        return _span_id(trace_id, self.parent) if self.parent else b""


def spans_of(session: Session, study: Study, since: datetime | None, until: datetime) -> list[StudySpan]:
    """Return the steps of a study that ended after ``since`` (None: all), the one for the whole study first.

    ``until``: when the study ended.
    """
    round_key = f"{_ROOT}/{until.isoformat()}"
    steps = [
        *_receive_spans(session, study, since, until, round_key),
        *_job_spans(session, study, since, round_key),
        *_delivery_spans(session, study, since, until, round_key),
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


def _receive_spans(
    session: Session, study: Study, since: datetime | None, until: datetime, parent: str
) -> Iterator[StudySpan]:
    """Yield steps of receiving: one for each association or upload, one until the last object was indexed,
    and one until the study was complete.

    ``parent``: key of the step that contains them.
    """
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


def _job_spans(session: Session, study: Study, since: datetime | None, parent: str) -> Iterator[StudySpan]:
    """Yield steps of each job that ended after ``since`` (None: all): its wait, its last attempt, and within
    that the building of its results.

    ``parent``: key of the step that contains them.
    """
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


def _delivery_spans(
    session: Session, study: Study, since: datetime | None, until: datetime, parent: str
) -> Iterator[StudySpan]:
    """Yield steps of each delivery that ended after ``since`` (None: all): until it was sent or given up, and
    from then until it was confirmed.

    ``until``: the end of a delivery that was given up; ``parent``: key of the step that contains them.
    """
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
    """Return the time of the study's last event with one of these numbers between ``since`` and ``until``;
    None if there is none.
    """
    between = EventRow.at.between(since, until)
    chosen = select(func.max(EventRow.at)).where(EventRow.study_id == study.id, between)
    return session.scalar(chosen.where(EventRow.number.in_(numbers)))


def _span_id(trace_id: str, key: str) -> bytes:
    """Return the span id of the step ``key`` in a trace, 8 bytes."""
    return hashlib.sha256(f"{trace_id}/{key}".encode()).digest()[:8]


_LATER = frozenset({408, 429})  # and 5xx: opentelemetry.io/docs/specs/otlp, "Failures"


@dataclass(frozen=True, slots=True)
class CollectorAnswer:
    """The collector's answer: whether it accepted the spans (``ok``) and, if not, why and whether a later try
    may succeed (``later``).
    """

    ok: bool
    reason: str = ""
    later: bool = False


def encode(traces: Mapping[str, Sequence[StudySpan]], resource: Mapping[str, str]) -> bytes:
    """Return traces as protobuf, the body of an OTLP request.

    ``traces``: the spans by trace id (32 hexadecimal digits); ``resource``: attributes of the node.
    """
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend(_attributes(resource))
    scope = of_resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "dicom_node", __version__
    for trace_id, spans in traces.items():
        scope.spans.extend(_span(trace_id, span) for span in spans)
    return bytes(request.SerializeToString())


def send(settings: TelemetrySettings, body: bytes) -> CollectorAnswer:
    """POST the protobuf ``body`` to the collector; return its answer.

    It follows no redirect, and uses no login of ~/.netrc.
    """
    connections = Connections(settings.seconds)
    headers = {"Content-Type": "application/x-protobuf"}
    headers |= {name: value.get_secret_value() for name, value in settings.headers.items()}
    try:
        with (
            connections.within(settings.seconds),
            BoundedSession(connections, settings.authorities) as session,
        ):
            answer = session.post(
                settings.endpoint,
                data=body,
                headers=headers,
                timeout=settings.seconds,
                auth=lambda request: request,  # instead of a login that ~/.netrc may have for this host
            )
    except requests.HTTPError:
        return CollectorAnswer(False, "redirected")
    except (requests.RequestException, OSError, ValueError) as error:  # no such file, no such header or port
        return CollectorAnswer(False, tls_refusal(error) or type(error).__name__, later=True)
    if answer.ok:
        return CollectorAnswer(True)
    later = answer.status_code in _LATER or answer.status_code >= 500
    return CollectorAnswer(False, f"the collector answers {answer.status_code}", later=later)


def _span(trace_id: str, span: StudySpan) -> Span:
    """Return a step as OpenTelemetry's protobuf span."""
    status = Status.STATUS_CODE_ERROR if span.failed else Status.STATUS_CODE_UNSET
    return Span(
        trace_id=bytes.fromhex(trace_id),
        span_id=span.id_in(trace_id),
        parent_span_id=span.parent_id_in(trace_id),
        name=span.name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nanoseconds(span.start),
        end_time_unix_nano=_nanoseconds(span.end),
        attributes=_attributes(span.attributes),
        status=Status(code=status),
    )


def _attributes(values: Mapping[str, str | int]) -> list[KeyValue]:
    """Return attributes as OpenTelemetry's protobuf messages; empty texts are left out."""
    return [
        KeyValue(
            key=key, value=AnyValue(string_value=one) if isinstance(one, str) else AnyValue(int_value=one)
        )
        for key, one in values.items()
        if one != ""
    ]


def _nanoseconds(at: datetime) -> int:
    """Return a time as nanoseconds since 1970, exact to the microsecond."""
    return round(at.timestamp() * 1_000_000) * 1000


_LOOK_SECONDS: Final = 2.0
_LONGEST_WAIT: Final = 60.0  # seconds after a failure
_LOOKED_BACK: Final = timedelta(minutes=15)  # a study that ended before has no trace any more
_TRIED: Final = timedelta(minutes=5)
_AT_ONCE: Final = 50  # studies in one request
_ENDS = (events.STUDY_MOVED.number, events.STUDY_QUARANTINED.number)


@dataclass(frozen=True, slots=True)
class _EndedStudy:
    """A study that ended and whose trace is to be sent.

    ``since``: steps until then were sent before (None: none were); ``until``: when it ended.
    """

    study_id: int
    trace_id: str
    since: datetime | None
    until: datetime


class TraceSender:
    """Service that sends traces of studies; the database stores until when each study's steps were sent."""

    def __init__(self, database: Database, settings: Settings, owner: str) -> None:
        self._database, self._settings = database, typed_section(settings, TracesPart).telemetry
        self._lease = RenewableLease(database, "telemetry", owner, 2 * self._settings.seconds + 30.0)
        self._resource = {
            "service.name": "dicom-node",
            "service.version": __version__,
            "dicom_node.ae_title": settings.node.ae_title,
        }
        self._failures = 0
        self._next_at = 0.0

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Send the traces of studies that ended; return for how many the collector accepted them.

        After a failure, calls do nothing for a while, which grows with each failure.
        """
        if time.monotonic() < self._next_at or not self._lease.keep():
            return 0
        self._next_at = time.monotonic() + _LOOK_SECONDS
        sent = 0
        while (
            not (stop is not None and stop.is_set())
            and self._lease.keep()
            and (ended := self._studies_to_send())
        ):
            taken = self._send(ended)
            if taken.ok:
                sent += len(ended)
            else:
                self._note_failure(taken, ended)
                break
        return sent

    def _studies_to_send(self) -> list[_EndedStudy]:
        """Return up to 50 studies that ended after their trace was last sent; a new one gets a trace id,
        which is stored.
        """
        moved = func.max(EventRow.at).label("until")
        chosen = (
            select(Study.id, moved, StudyTrace.trace_id, StudyTrace.until)
            .join(EventRow, EventRow.study_id == Study.id)
            .join(StudyTrace, StudyTrace.study_id == Study.id, isouter=True)
            .where(EventRow.at > utc_now() - _LOOKED_BACK, EventRow.number.in_(_ENDS))
            .where(Study.state.in_(END_STATES))
            .group_by(Study.id, StudyTrace.study_id)
            .having(or_(StudyTrace.until.is_(None), moved > StudyTrace.until))
            .order_by(moved)
            .limit(_AT_ONCE)
        )
        with self._database.read() as session:
            rows = session.execute(chosen).all()
        if not rows:
            return []
        trace_ids = {row.id: row.trace_id or secrets.token_hex(16) for row in rows}
        new = [row.id for row in rows if row.trace_id is None]
        with self._database.write() as session:  # before anything is sent: what is sent twice is one trace
            session.add_all(StudyTrace(study_id=number, trace_id=trace_ids[number]) for number in new)
        return [_EndedStudy(number, trace_ids[number], since, until) for number, until, _, since in rows]

    def _send(self, ended: Sequence[_EndedStudy]) -> CollectorAnswer:
        """Send the traces of these studies in one request; return the collector's answer."""
        with self._database.read() as session:
            traces = {
                one.trace_id: spans_of(session, session.get_one(Study, one.study_id), one.since, one.until)
                for one in ended
            }
        taken = send(self._settings, encode(traces, self._resource))
        if taken.ok:
            with self._database.write() as session:
                self._note(session, ended, dropped=0)
                if self._failures:
                    record(session, events.TRACES_SENT_AGAIN)
            self._failures = 0
        return taken

    def _note_failure(self, taken: CollectorAnswer, ended: Sequence[_EndedStudy]) -> None:
        """Set the pause before the next try, and drop the traces that are too old, or that the collector
        refused for good.

        The first failure of a series is stored as an event.
        """
        late = [one for one in ended if not taken.later or one.until < utc_now() - _TRIED]
        with self._database.write() as session:
            self._note(session, late, dropped=1)
            if not self._failures:
                record(session, events.TRACES_NOT_SENT, reason=taken.reason)
        self._failures += 1
        wait = min(_LOOK_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_WAIT)
        self._next_at = time.monotonic() + wait

    def _note(self, session: Session, ended: Sequence[_EndedStudy], *, dropped: int) -> None:
        """Store for these studies that their steps until now were sent (``dropped`` 0) or dropped (1)."""
        for one in ended:
            values = {"until": one.until, "dropped": StudyTrace.dropped + dropped}
            session.execute(update(StudyTrace).where(StudyTrace.study_id == one.study_id).values(values))
