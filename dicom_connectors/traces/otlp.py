"""Sending of spans to a collector: OTLP over HTTP, one POST of protobuf with a deadline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from dicom_connectors.traces.settings import TelemetrySettings
from dicom_connectors.traces.spans import StudySpan
from dicom_node import __version__
from dicom_node.deliver.scu import Connections
from dicom_node.deliver.scu.http import BoundedSession

_LATER = frozenset({408, 429})  # and 5xx: opentelemetry.io/docs/specs/otlp, "Failures"


@dataclass(frozen=True, slots=True)
class CollectorAnswer:
    """Whether the collector accepted the spans; if not, why, and whether a later try may succeed."""

    ok: bool
    reason: str = ""
    later: bool = False


def encode(traces: Mapping[str, Sequence[StudySpan]], resource: Mapping[str, str]) -> bytes:
    """The body of the POST. ``traces``: spans by trace id, 32 hexadecimal figures."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend(_attributes(resource))
    scope = of_resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "dicom_node", __version__
    for trace_id, spans in traces.items():
        scope.spans.extend(_span(trace_id, span) for span in spans)
    return bytes(request.SerializeToString())


def send(settings: TelemetrySettings, body: bytes) -> CollectorAnswer:
    """POST the body; redirects are not followed, and no login is read from ~/.netrc."""
    connections = Connections(settings.seconds)
    headers = {"Content-Type": "application/x-protobuf"}
    headers |= {name: value.get_secret_value() for name, value in settings.headers.items()}
    trusted = str(settings.authorities) if settings.authorities else True
    try:
        with connections.within(settings.seconds), BoundedSession(connections) as session:
            answer = session.post(
                settings.endpoint,
                data=body,
                headers=headers,
                timeout=settings.seconds,
                auth=lambda request: request,  # instead of a login that ~/.netrc may have for this host
                verify=trusted,
            )
    except requests.HTTPError:
        return CollectorAnswer(False, "redirected")
    except (requests.RequestException, OSError, ValueError) as error:  # no such file, no such header or port
        return CollectorAnswer(False, type(error).__name__, later=True)
    if answer.ok:
        return CollectorAnswer(True)
    later = answer.status_code in _LATER or answer.status_code >= 500
    return CollectorAnswer(False, f"the collector answers {answer.status_code}", later=later)


def _span(trace_id: str, span: StudySpan) -> Span:
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
    return [
        KeyValue(
            key=key, value=AnyValue(string_value=one) if isinstance(one, str) else AnyValue(int_value=one)
        )
        for key, one in values.items()
        if one != ""
    ]


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000) * 1000
