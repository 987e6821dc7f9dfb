"""A collector of traces on a real socket: takes OTLP over HTTP, answers as a test wants."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.ports import Quiet, serving


@dataclass
class Collector:
    """``answer``: the status of the next answers; ``hangs`` keeps them back as long as it is not set."""

    answer: int = 200
    port: int = 0
    bodies: list[bytes] = field(default_factory=list)
    refused: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

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

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.headers.append(dict(self.headers))
            collector.goes_on.wait(30)
            if collector.answer == 200 and self.path == "/v1/traces":
                collector.bodies.append(body)
            else:
                collector.refused += 1
            self.send_response(collector.answer)
            if 300 <= collector.answer < 400:
                self.send_header("Location", "/v1/traces")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Handler) as collector.port:
        try:
            yield collector
        finally:
            collector.goes_on.set()
