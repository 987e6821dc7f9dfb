"""A real node sends one trace for each study to a real collector, and works without one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.proto", reason="needs the extra telemetry")

from tests.collector_lab import running_collector, text
from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.unit.inbox.objects import changed
from tests.waiting import wait_until

IDENTITY = {"PatientName": "Secret^Name", "PatientID": "SECRET-ID", "AccessionNumber": "SECRET-ACC"}
STEPS = {
    "study": 1,
    "receive": 1,
    "index": 1,
    "wait for completion": 1,
    "wait for a worker": 1,
    "job command": 1,
    "build results": 1,
    "deliver pacs": 1,
    "confirm pacs": 1,
}


def test_a_study_is_one_trace_from_its_association_to_confirmation(tmp_path: Path) -> None:
    """The collector is away at first: the study is delivered all the same, and its trace comes later."""
    images = [changed(ultrasound("traced", number=n, size=(48, 40)), **IDENTITY) for n in (1, 2)]
    with running_collector() as collector, run_pacs(Pacs(free_port())) as pacs:
        collector.answer = 503
        config = site_config(pacs.port)
        config += f'[telemetry]\nendpoint = "{collector.endpoint}"\nheaders = {{ x-key = "abc" }}\n'
        with running(Node(tmp_path, config)) as node:
            assert store(node.port, images, "US1") == [0x0000] * 2
            [study] = node.wait_for(["delivered"])
            wait_until(lambda: collector.refused, 60, "the first try")
            collector.answer = 200
            wait_until(lambda: collector.bodies, 60, "the trace")
            shown = node.cli("studies", "show", str(study))

    spans = collector.spans()
    assert Counter(span.name for span in spans) == STEPS
    assert {span.trace_id.hex() for span in spans} == {shown["trace"]}
    [whole] = [span for span in spans if span.name == "study"]
    ids = {span.span_id: span for span in spans}
    assert len(ids) == len(spans)
    assert whole.parent_span_id == b""
    for span in spans:
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
        assert span is whole or span.parent_span_id in ids
    by_name = {span.name: span for span in spans}
    job = by_name["job command"]
    assert ids[by_name["build results"].parent_span_id] is job
    assert (text(job, "rule"), text(job, "pipeline"), text(job, "models")) == ("command", "command", "none@1")
    assert text(by_name["deliver pacs"], "result") == "sr"
    assert collector.headers[-1]["x-key"] == "abc"
    sent = b"".join(collector.bodies)
    secrets = [*IDENTITY.values(), *(image.SOPInstanceUID for image in images), str(study), *pacs.stored]
    assert [word for word in secrets if word.encode() in sent] == []
