"""Traces that are sent to an OpenTelemetry collector."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from dicom_connectors.traces import sender as traces_sender
from dicom_console.views import metrics
from dicom_node.base.lifecycle import DeliveryState, StudyState
from dicom_node.base.store.tables import Delivery, Study, StudyTrace
from dicom_node.base.store.transitions import settle_study, utc_now
from tests.collector_lab import Collector, running_collector
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import configuration, confirm, work

pytest.importorskip("opentelemetry.proto", reason="needs the extra telemetry")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as found:
        yield found


@pytest.fixture
def node(open_inbox: Callable[..., Inbox], collector: Collector) -> Inbox:
    return open_inbox({**configuration(), "telemetry": {"endpoint": collector.endpoint, "seconds": 0.5}})


def deliver(node: Inbox, name: str) -> None:
    node.settle(ultrasound(name, size=(48, 40)))
    work(node)
    confirm(node)


def traces(node: Inbox) -> traces_sender.TraceSender:
    """A sender that has just started: it waits for nothing."""
    return traces_sender.TraceSender(node.database, node.settings, "me")


def dropped(node: Inbox) -> float:
    [found] = [one for one in node.read(metrics.gauges, node.settings) if one.name == "traces_dropped"]
    return found.value


def told(node: Inbox) -> list[int]:
    return [row.number for row in node.events() if row.number in (6040, 6041)]


def test_what_a_collector_does_not_take_for_five_minutes_is_dropped_and_counted(
    node: Inbox, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.answer = 503
    deliver(node, "one")
    one = traces(node)
    assert (one.run_once(), one.run_once()) == (0, 0)
    assert collector.refused == 1, "after a failure it waits"
    assert (dropped(node), told(node)) == (0, [6040])
    monkeypatch.setattr(traces_sender, "utc_now", lambda: utc_now() + timedelta(minutes=6))
    assert traces(node).run_once() == 0
    assert dropped(node) == 1
    monkeypatch.undo()
    collector.answer = 200
    assert traces(node).run_once() == 0, "what was dropped does not come back"
    deliver(node, "two")
    assert one._failures
    one._next_at = 0
    assert one.run_once() == 1
    assert told(node)[-1] == 6041
    assert (dropped(node), len({span.trace_id for span in collector.spans()})) == (1, 1)


@pytest.mark.parametrize("answer", [400, 401, 302, 308])
def test_what_a_collector_refuses_is_dropped_at_once_and_follows_no_redirect(
    node: Inbox, collector: Collector, answer: int
) -> None:
    collector.answer = answer
    deliver(node, "one")
    assert traces(node).run_once() == 0
    assert (dropped(node), collector.refused, collector.bodies) == (1, 1, [])


def test_a_collector_that_hangs_is_cut_off(node: Inbox, collector: Collector) -> None:
    collector.goes_on.clear()
    deliver(node, "one")
    begun = time.monotonic()
    assert traces(node).run_once() == 0
    assert time.monotonic() - begun < 20
    collector.goes_on.set()
    assert traces(node).run_once() == 1


def test_what_is_sent_twice_is_one_trace_with_the_same_spans(node: Inbox, collector: Collector) -> None:
    deliver(node, "one")
    assert traces(node).run_once() == 1
    node.put(StudyTrace, until=None)  # killed before it could note it
    assert traces(node).run_once() == 1
    assert {*Counter(span.span_id for span in collector.spans()).values()} == {2}
    assert traces(node).run_once() == 0


def test_a_dead_letter_is_a_failed_span_of_a_failed_study(node: Inbox, collector: Collector) -> None:
    node.settle(ultrasound("one", size=(48, 40)))
    work(node)
    node.put(Delivery, state=DeliveryState.DEAD, reason="refused")
    node.write(settle_study, 1)
    assert node.column(Study.state) == [StudyState.FAILED]
    assert traces(node).run_once() == 1
    failed = {span.name for span in collector.spans() if span.status.code == Status.STATUS_CODE_ERROR}
    assert failed == {"study", "deliver pacs"}
