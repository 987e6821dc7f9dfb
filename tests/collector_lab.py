"""A collector of traces on a real socket: takes OTLP over HTTP, answers as a test wants."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from werkzeug.datastructures import EnvironHeaders
from werkzeug.wrappers import Request, Response

from tests.hostile.web import answering


@dataclass
class Collector:
    """``answer``: the status of the next answers; ``hangs`` keeps them back as long as it is not set."""

    answer: int = 200
    endpoint: str = ""
    bodies: list[bytes] = field(default_factory=list)
    refused: int = 0
    headers: list[EnvironHeaders] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def spans(self) -> list[Span]:
        """All that it took."""
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


def text(span: Span, key: str) -> str:
    """An attribute of a span."""
    [found] = [one.value.string_value for one in span.attributes if one.key == f"dicom_node.{key}"]
    return str(found)


@contextmanager
def running_collector() -> Iterator[Collector]:
    """It listens until the end of this scope."""
    collector = Collector()
    collector.goes_on.set()

    def answer(request: Request) -> Response:
        collector.headers.append(request.headers)
        collector.goes_on.wait(30)
        if collector.answer == 200 and request.path == "/v1/traces":
            collector.bodies.append(request.get_data())
        else:
            collector.refused += 1
        leads_on = {"Location": "/v1/traces"} if 300 <= collector.answer < 400 else {}
        return Response(status=collector.answer, headers=leads_on)

    with answering(answer) as (url, _):
        collector.endpoint = f"{url}/v1/traces"
        try:
            yield collector
        finally:
            collector.goes_on.set()
