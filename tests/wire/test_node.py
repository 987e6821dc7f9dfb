"""A running node: its roles and their trace, its start, its move to PostgreSQL, a folder that is gone."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import select

from benchmarks.sender import associate
from dicom_node.base.store.tables import Lease, Result
from dicom_node.receive.spool import Arrival, Spool
from tests.collector_lab import running_collector, text
from tests.inbox_lab import Inbox, spooled
from tests.modality import ultrasound, ultrasounds
from tests.mpps_lab import WITH_STEPS, begun, change, create, ended, status
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import POSTGRESQL
from tests.unit.receive.objects import changed
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, US, receiving
from tests.wire.receiver import ultrasound as small_object


def test_a_report_that_was_journalled_and_not_answered_is_taken_again(tmp_path: Path) -> None:
    """A kill after the line in the journal, before the step's file: the modality comes again."""
    sent = ultrasounds("again", 2, size=(60, 60))
    study = sent[0].StudyInstanceUID
    with receiving(tmp_path, peers=[{"name": "modality", "ae_title": "US1", "mpps": True}]) as listener:
        assert status(create(listener.port, "1.2.3", begun(study))) == 0x0000
        (first,) = (tmp_path / "steps").glob("*.json")
        before = first.read_bytes()
        assert status(change(listener.port, "1.2.3", ended(sent))) == 0x0000
        first.write_bytes(before)  # as it was before the N-SET
        assert status(change(listener.port, "1.2.3", ended(sent, "DISCONTINUED"))) == 0x0000
        first.unlink()  # as it was before the N-CREATE
        assert status(create(listener.port, "1.2.3", begun(study))) == 0x0000
        assert status(change(listener.port, "1.2.3", ended(sent))) == 0x0000
        store(listener.port, sent, "US1")
        (known,) = (tmp_path / "steps").glob("*.json")
        assert json.loads(known.read_text())["number"] == 1
    inbox = Inbox(tmp_path, WITH_STEPS)
    inbox.index()
    inbox.assemble()
    assert [len(job.source_uids) for job in inbox.jobs()] == [2]
    inbox.close()


@POSTGRESQL
def test_a_stopped_node_goes_on_in_postgresql_with_all_that_it_had_and_its_file_stays(
    tmp_path: Path, postgres_url: str
) -> None:
    images = [ultrasound(name, size=(48, 40)) for name in ("early", "late")]
    with run_pacs(Pacs()) as pacs:
        config = site_config(pacs.port)
        with running(Node(tmp_path, config)) as node:
            store(node.port, images[:1], "US1")
            before = node.wait_for(["delivered"])
            moved = Node(tmp_path, config, name="moved", database_url=postgres_url)
            assert "stop it first" in moved.run("db", "move").stderr
            node.stop()
        file = (tmp_path / "var" / "node.db").read_bytes()
        assert moved.run("db", "upgrade").returncode == 0
        assert "counted in both" in moved.run("db", "move").stdout
        assert "not empty: it has rows of" in moved.run("db", "move").stderr
        assert (tmp_path / "var" / "node.db").read_bytes() == file
        assert moved.studies() == before
        with running(moved):
            store(moved.port, images[1:], "US1")  # under a number of its own
            moved.wait_for(["delivered"], count=2)


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


def check_trace(spans: Sequence[Span], trace: str) -> None:
    """The spans are the steps of one study: each within the whole, and below the step that it belongs to."""
    assert Counter(span.name for span in spans) == STEPS
    assert {span.trace_id.hex() for span in spans} == {trace}
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


@POSTGRESQL
@pytest.mark.timeout(300)
def test_each_role_does_its_part_and_a_study_is_one_trace_through_all(
    tmp_path: Path, postgres_url: str
) -> None:
    """The collector is away at first: the study is delivered all the same, and its trace comes later."""
    images = [changed(ultrasound("traced", number=n, size=(48, 40)), **IDENTITY) for n in (1, 2)]
    with running_collector() as collector, run_pacs(Pacs()) as pacs, ExitStack() as site:
        collector.answer = 503
        config = site_config(pacs.port)
        config += f'[telemetry]\nendpoint = "{collector.endpoint}"\nheaders = {{ x-key = "abc" }}\n'
        port = free_port()
        parts = {
            "console": f"{config}[console]\nenabled = true\nport = {port}\n",
            "worker": config.replace("[outbox]\n", "[outbox]\ndeliver = false\n"),
            "listener": config,
            "delivery": config,
        }
        nodes = {
            role: Node(tmp_path, text, role=role, name=role, database_url=postgres_url)
            for role, text in parts.items()
        }
        upgraded = nodes["listener"].run("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        for role in ("console", "worker", "listener"):
            site.enter_context(running(nodes[role]))
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
            assert answer.status == 200

        assert store(nodes["listener"].port, images, "US1") == [0x0000] * 2

        def results() -> int:
            with nodes["listener"].reading() as session:
                return len(session.scalars(select(Result.id)).all())

        wait_until(results, 60, "the result")
        assert pacs.received == []
        with running(nodes["delivery"]):
            [study] = nodes["listener"].wait_for(["delivered"])
        assert len(pacs.received) == 1
        with nodes["listener"].reading() as session:
            holders = {row.name: row.owner.rpartition("/")[2] for row in session.scalars(select(Lease))}
        assert holders["scheduler"] == "listener-1"
        assert holders["job scheduler"] == "worker-1"
        wait_until(lambda: collector.refused, 60, "the first try")
        collector.answer = 200
        wait_until(lambda: collector.bodies, 60, "the trace")
        shown = nodes["listener"].cli("studies", "show", str(study))

    check_trace(collector.spans(), shown["trace"])
    assert collector.headers[-1]["x-key"] == "abc"
    sent = b"".join(collector.bodies)
    secrets = [*IDENTITY.values(), *(image.SOPInstanceUID for image in images), str(study), *pacs.stored]
    assert [word for word in secrets if word.encode() in sent] == []


STARTED = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[[peers]]
name = "sender"
ae_title = "SENDER"
"""


def test_the_port_opens_before_the_backlog_is_read(tmp_path: Path) -> None:
    node = Node(tmp_path, STARTED)
    spool = Spool(tmp_path / "var" / "spool", 0)
    for number in range(100):
        item = small_object(number, pixels=10)
        arrival = Arrival("former", "SENDER", "AINODE", "127.0.0.1", 0, datetime.now(UTC))
        spooled(spool, arrival, US, item.sop_instance_uid, EXPLICIT, [item.data_set])
    with running(node):
        assert len(spool.pending()) > 30  # the port is open, and most of them still wait
        association = associate(("127.0.0.1", node.port), [(US, [EXPLICIT])])
        assert association.store(1, small_object(1000)) == 0x0000
        association.release()
        wait_until(lambda: not spool.pending(), 120, "the backlog indexed")
        assert len(node.studies()) == 101
        (scanned,) = node.events(2020)
        assert scanned["fields"]["objects"] >= 100


@pytest.mark.parametrize(
    ("place", "status", "named"), [("var", 78, "node.data_dir"), ("var/spool", 70, "spool")]
)
def test_a_folder_that_cannot_be_made_ends_the_node_with_a_sentence(
    tmp_path: Path, place: str, status: int, named: str
) -> None:
    node = Node(tmp_path, STARTED)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("a file")
    done = node.run_apart("serve")
    assert done.returncode == status
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("gone", ["spool/incoming", "."])
def test_a_folder_that_is_deleted_under_the_listener_refuses_for_the_moment(
    tmp_path: Path, gone: str
) -> None:
    with receiving(tmp_path / "var") as receiver:
        association = associate(receiver.address, [(US, [EXPLICIT])])
        assert association.store(1, small_object(1)) == 0x0000
        shutil.rmtree(tmp_path / "var" / gone)
        time.sleep(1.1)  # the free space is asked for again
        assert association.store(1, small_object(2, pixels=200_000)) == 0xA700
        (tmp_path / "var" / "spool" / "incoming").mkdir(parents=True)
        assert association.store(1, small_object(3)) == 0x0000
        association.release()
        assert len(receiver.spool.pending()) == 1
