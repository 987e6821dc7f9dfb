"""A running node, its listener over real associations, and its STOW-RS, as gateways use it."""

import io
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from sqlalchemy import select

from benchmarks.sender import (
    Aborted,
    Association,
    Rejected,
    Stored,
    associate,
    associate_request,
    command_set,
    load,
    p_data,
    store_command,
)
from dicom_console.handlers import stow
from dicom_console.views import uploaded
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES
from dicom_node.base.errors import SpoolFull
from dicom_node.base.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_ACCEPTED,
    ASSOCIATION_RELEASED,
    ECHOED,
    LISTENER_STOPPED,
    STORE_REFUSED,
    TLS_FAILED,
)
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import Lease, Result
from dicom_node.people import users
from dicom_node.receive.policy import STORAGE_CLASSES
from dicom_node.receive.spool import Arrival, IncomingObject, Spool, read_arrival
from tests.browser_lab import served_app
from tests.certificates_lab import Authority
from tests.collector_lab import running_collector, text
from tests.console_lab import PASSWORD, ConsoleLab, audited
from tests.forked import run_forked
from tests.inbox_lab import Inbox, spooled
from tests.modality import part_10, ultrasound
from tests.mpps_lab import WITH_STEPS, begun, change, create, ended, status
from tests.node_lab import PROGRAM, Node, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.receive.objects import changed
from tests.waiting import wait_until
from tests.wire.receiver import (
    EXPLICIT,
    IMPLICIT,
    PEERS,
    US,
    VERIFICATION,
    Receiver,
    receiving,
)
from tests.wire.receiver import ultrasound as small_object

CT, MR, COMMITMENT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.20.1"
CONFIG = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[[peers]]
name = "us1"
ae_title = "US1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "192.0.2.9"
port = 104
may = ["receive"]
[[peers]]
name = "elsewhere"
ae_title = "ELSEWHERE"
host = "192.0.2.1"
check_address = true
[[peers]]
name = "storescu"
ae_title = "STORESCU"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(Node(tmp_path_factory.mktemp("node"), CONFIG)) as node:
        address = ("127.0.0.1", node.port)
        contexts = [(CT, [EXPLICIT]), (MR, [EXPLICIT]), (US, ["1.2.3"]), (COMMITMENT, [EXPLICIT])]
        for _ in range(2):
            associate(address, contexts, calling="US1").release()
        association = associate(address, [(US, [EXPLICIT])], calling="PACS")
        assert association.store(1, small_object(1)) == 0x0124
        association.release()
        for calling, called in [
            ("us1", "AINODE"),
            ("US1", "OTHER"),
            ("CT9", "AINODE"),
            ("ELSEWHERE", "AINODE"),
        ]:
            with pytest.raises(Rejected):
                associate(address, [(US, [EXPLICIT])], calling=calling, called=called)
        wait_until(lambda: len(node.events(1004)) == 4, 60, "events")
        yield node


def lines(found: dict[str, Any]) -> str:
    return "\n".join(line for advice in found["advice"] for line in advice["lines"])


def test_refused_contexts_leave_a_trace(node: Node) -> None:
    rows = [row for row in node.cli("associations", "list") if row["calling_ae"] == "US1"]
    assert [row["objects"] for row in rows] == [0, 0]
    for row in rows:
        assert row["refused"][:2] == [f"CT Image Storage ({CT})", f"MR Image Storage ({MR})"]
        assert "Ultrasound Image Storage" in row["refused"][2]
        assert "1.2.3" in row["refused"][2]
    assert "refused classes" in node.run("associations", "list").stdout


def test_a_peer_is_told_what_it_was_refused_and_which_lines_let_it_in(node: Node) -> None:
    found = node.cli("peers", "why", "us1")
    assert found["peer"] == "us1"
    assert len(found["associations"]) >= 2
    assert {row["context"].partition(" (")[0]: row["count"] for row in found["refused_contexts"]} == {
        "CT Image Storage": 2,
        "MR Image Storage": 2,
        "Ultrasound Image Storage": 2,
        "Storage Commitment Push Model SOP Class": 2,
    }
    assert {(row["calling_ae"], row["called_ae"]) for row in found["rejections"]} == {
        ("us1", "AINODE"),  # a title in other capitals is most likely its own
        ("US1", "OTHER"),
    }
    assert {"CT9", "PACS", "ELSEWHERE"} <= set(found["others"])
    told = lines(found)
    assert f'further_storage_classes = ["{CT}", "{MR}"]' in told
    assert 'further_ae_titles = ["OTHER"]' in told
    assert any("us1, which is not US1 (case counts)" in advice["says"] for advice in found["advice"])


def test_an_unknown_title_gets_the_lines_that_let_it_in_and_who_never_called_hears_so(node: Node) -> None:
    found = node.cli("peers", "why", "CT9")
    assert (found["peer"], found["associations"], found["refused_contexts"]) == (None, [], [])
    assert tomllib.loads(lines(found))["peers"] == [
        {"name": "ct9", "ae_title": "CT9", "host": "127.0.0.1", "may": ["send"]}
    ]
    never = node.cli("peers", "why", "192.0.2.77")
    assert never["associations"] == []
    assert "nothing of it reached this node" in never["advice"][0]["says"]
    assert 'host = "0.0.0.0"' in lines(never)
    assert "0.0.0.0" in node.run("peers", "why", "192.0.2.77").stdout


PACKAGES = """
[node]
data_dir = "{folder}/var"
[listener]
port = {port}
[spool]
minimum_free_mib = 0
[[peers]]
name = "us1"
ae_title = "US1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 9
may = ["receive"]
confirm = "none"
"""
RULE = """
[[rules]]
name = "{name}"
when = {{ modality = "US" }}
pipeline = "{pipeline}"
send_to = ["pacs"]
"""
WHOLE = """
from ai_pipeline.contract import PipelineCard
class P:
    card = PipelineCard(name="theirs", version="1")
    def warm_up(self): ...
    def models(self): return ()
    def accepts(self, images, options): ...
    def run(self, images, report, options): ...
"""
BROKEN = {
    "the module is missing": ("nowhere:P", "", "ModuleNotFoundError: No module named 'nowhere'"),
    "it needs what is not installed": ("theirs:P", "import not_installed", "No module named 'not_installed'"),
    "it is not Python": ("theirs:P", "class P(:", "SyntaxError"),
    "it ends the process": ("theirs:P", "raise SystemExit(3)", "SystemExit: 3"),
    "the class is missing": ("theirs:P", "Q = 1", "AttributeError"),
    "it is no class": ("theirs:P", "P = 1", "is no pipeline: it is no class"),
    "it has no run": ("theirs:P", WHOLE.replace("def run", "def go"), "is no pipeline: it has no run()"),
    "it has no card": ("theirs:P", WHOLE.replace("card =", "cart ="), "its card is no PipelineCard"),
    "it takes the name of another": (
        "theirs:P", WHOLE.replace('"theirs"', '"chest_xray"'), "the name on its card must be 'theirs'",
    ),
    "it cannot be made": (
        "theirs:P", f"{WHOLE}    def __init__(self): raise RuntimeError('no licence\\nSecret')",
        "cannot be made: RuntimeError: no licence",
    ),
    "its models cannot be named": (
        "theirs:P", WHOLE.replace("return ()", "raise ValueError('no model')"), "ValueError: no model",
    ),
}  # fmt: skip


def installed(
    folder: Path, where: str, code: str, group: str = "ai_pipeline.pipelines", name: str = "theirs"
) -> Path:
    """A package as pip would leave it, its entry point at ``where``; what is "theirs" in it gets its name."""
    facts = folder / f"{name}-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\ntheirs = {where}\n".replace("theirs", name))
    (folder / f"{name}.py").write_text(code.replace("theirs", name))
    return folder


def run(module: str, *words: str | Path, beside: Path) -> subprocess.CompletedProcess[str]:
    return run_forked(module, *words, env={**os.environ, "PYTHONPATH": str(beside)})


def configuration(folder: Path, *pipelines: str) -> Path:
    """A rule for each pipeline."""
    file = folder / "node.toml"
    names = ("theirs", *(f"more{number}" for number in range(1, len(pipelines))))
    rules = [RULE.format(name=name, pipeline=one) for name, one in zip(names, pipelines, strict=True)]
    file.write_text(PACKAGES.format(folder=folder, port=11112) + "".join(rules), encoding="utf-8")
    return file


def test_check_says_of_each_broken_package_what_is_wrong_with_it(tmp_path: Path) -> None:
    for number, (where, code, _) in enumerate(BROKEN.values()):
        beside = installed(tmp_path / "site", where, code, name=f"theirs{number}")
    file = configuration(tmp_path, *(f"theirs{number}" for number in range(len(BROKEN))))
    done = run("dicom_node", "check", "--config", file, beside=beside)
    assert done.returncode == 78
    for number, (case, (_, _, told)) in enumerate(BROKEN.items()):
        lines = [line for line in done.stderr.splitlines() if re.search(rf"pipeline theirs{number}\b", line)]
        assert [told.replace("theirs", f"theirs{number}") in line for line in lines] == [True], case
    assert "Traceback" not in done.stderr
    assert "Secret" not in done.stderr


def test_a_broken_package_hurts_nobody_who_does_not_ask_for_it(tmp_path: Path) -> None:
    beside = installed(tmp_path / "site", "theirs:P", "raise SystemExit(3)")
    done = run("ai_pipeline", "--help", beside=beside)
    assert (done.returncode, done.stderr) == (0, "")
    checked = run("dicom_node", "check", "--config", configuration(tmp_path, "ultrasound"), beside=beside)
    assert "theirs:P" not in checked.stdout + checked.stderr
    asked = run("ai_pipeline", "run", "none.dcm", "--pipeline", "theirs", beside=beside)
    assert "Traceback" not in asked.stderr


def test_a_report_that_was_journalled_and_not_answered_is_taken_again(tmp_path: Path) -> None:
    """A kill after the line in the journal, before the step's file: the modality comes again."""
    sent = [ultrasound("again", number=one, size=(60, 60)) for one in (1, 2)]
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


RELOADED = """
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds_us = 0.2
[[peers]]
name = "us1"
ae_title = "US1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 1
may = ["receive"]
"""
FILMS = PROGRAM.replace('"US"', '"DX"')
SECOND_MODALITY = '[[peers]]\nname = "us2"\nae_title = "US2"\n'


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACS_PASSWORD", "hunter2")
        with running(Node(tmp_path_factory.mktemp("site"), RELOADED + FILMS, alone=True)) as reloaded:
            yield reloaded


def children(pid: int) -> dict[str, int]:
    """Process ids of the listener and the worker."""
    listed = [
        n for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()
    ]
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return {
        name: int(child)
        for child, line in lines.items()
        for name, module in (
            ("listener", b"dicom_node.receive.listener"),
            ("worker", b"dicom_node.jobs.worker"),
        )
        if module in line.split(b"\0")
    }


def count_of(reloaded: Node, number: int) -> int:
    return len(reloaded.events(number))


def test_a_reload_takes_all_or_nothing(reloaded: Node) -> None:
    before = reloaded.config.read_text(encoding="utf-8")
    processes = children(reloaded.pid)
    assert set(processes) == {"listener", "worker"}
    assert store(reloaded.port, [ultrasound("early")], "US2") == [None], "nobody knows this modality yet"

    reloaded.config.write_text(
        f"{before}{SECOND_MODALITY}port = 'x'\n"
        "[[rules]]\nname = 'r2'\nsend_to = ['pacs']\npipeline = 'none_such'\n",
        encoding="utf-8",
    )
    told = reloaded.run_apart("reload")
    assert told.returncode == 78
    assert "rules.r2.pipeline = 'none_such': no such pipeline" in told.stderr
    assert "peers.us2.port = 'x': must be a whole number" in told.stderr
    os.kill(reloaded.pid, signal.SIGHUP)  # as somebody would who does not ask first
    wait_until(lambda: "[6011]" in reloaded.log.read_text(encoding="utf-8"), 60, "refusal", step=0.2)
    assert "peers.us2.port = 'x': must be a whole number" in reloaded.log.read_text(encoding="utf-8")
    assert store(reloaded.port, [ultrasound("early")], "US2") == [None]

    other_port = f"{before}{SECOND_MODALITY}".replace(f"port = {reloaded.port}", "port = 49151")
    reloaded.config.write_text(other_port, encoding="utf-8")
    refused = reloaded.run_apart("reload")
    assert refused.returncode == 1, refused
    line = other_port[: other_port.index("port = 49151")].count("\n") + 1
    assert f"{reloaded.config}:{line}: listener.port: cannot change while the node runs" in refused.stderr
    assert reloaded.events(6011)[-1]["fields"]["keys"] == "listener.port"
    assert "listener.port = 49151: cannot change while the node runs" in reloaded.log.read_text(
        encoding="utf-8"
    )
    assert store(reloaded.port, [ultrasound("early")], "US2") == [None]
    assert children(reloaded.pid) == processes, "nothing was started anew"

    rule = before.replace('modality = "DX"', 'modality = ["DX", "CR"]')
    reloaded.config.write_text(f"{rule}{SECOND_MODALITY}", encoding="utf-8")
    taken = reloaded.run_apart("reload")
    assert taken.returncode == 0, taken.stderr
    assert store(reloaded.port, [ultrasound("welcome")], "US2") == [0]
    assert count_of(reloaded, 6010) == 1
    wait_until(lambda: count_of(reloaded, 3020) == 2, 120, "a worker with the new configuration", step=0.3)
    assert children(reloaded.pid)["listener"] == processes["listener"], "associations went on"
    wait_until(lambda: not Path(f"/proc/{processes['worker']}").exists(), 60, "the end of the one before")
    assert count_of(reloaded, 6004) == 0, "no process counts as dead"
    reloaded.wait_for(["not_applicable"])


def test_the_listener_has_no_password_in_its_environment(reloaded: Node) -> None:
    variables = Path(f"/proc/{children(reloaded.pid)['listener']}/environ").read_bytes()
    assert b"PATH=" in variables
    assert b"hunter2" not in variables


def test_what_the_node_writes_is_its_own(reloaded: Node) -> None:
    written = [
        path for path in (reloaded.folder / "var").rglob("*") if not path.name.endswith(("-wal", "-shm"))
    ]
    assert len(written) > 10
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.mark.debian("postgresql")
def test_a_stopped_node_goes_on_in_postgresql_with_all_that_it_had_and_its_file_stays(
    tmp_path: Path, postgres_url: str
) -> None:
    images = [ultrasound(name, size=(48, 40)) for name in ("early", "late")]
    with run_pacs(Pacs(free_port())) as pacs:
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


@pytest.mark.debian("postgresql")
@pytest.mark.timeout(300)
def test_each_role_does_its_part_and_a_study_is_one_trace_through_all(
    tmp_path: Path, postgres_url: str
) -> None:
    """The collector is away at first: the study is delivered all the same, and its trace comes later."""
    images = [changed(ultrasound("traced", number=n, size=(48, 40)), **IDENTITY) for n in (1, 2)]
    with running_collector() as collector, run_pacs(Pacs(free_port())) as pacs, ExitStack() as site:
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


# Connectors

# Python runs it at its start, in the node and in all its child processes.
_NONE_INSTALLED = """
from importlib import metadata
found = [point for one in metadata.distributions() for point in one.entry_points]
others = metadata.EntryPoints(point for point in found if not point.value.startswith("dicom_connectors."))
metadata.entry_points = lambda **which: others.select(**which)
"""


def test_a_node_serves_without_any_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NONE_INSTALLED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    node = Node(tmp_path / "node", site_config(104), alone=True)
    with running(node):
        assert store(node.port, [ultrasound("one", size=(48, 40))], "US1") == [0x0000]
    node.config.write_text(node.config.read_text() + '[telemetry]\nendpoint = "http://127.0.0.1"\n')
    command = [sys.executable, "-m", "dicom_node", "check", "--config", str(node.config)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "telemetry" in refused.stdout + refused.stderr
    assert refused.returncode == 78


_SEND = """
import sys
from pathlib import Path
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.deliver.scu import open_destination
from dicom_node.deliver.scu import Outgoing
folder, uid = Path(sys.argv[1]), "2.25.1"
peer = PeerSettings(name="x", ae_title="X", transport="folder", may=["receive"], folder=folder)
destination = open_destination(peer, Settings())
item = Outgoing("1.2", uid, "2.25.2", "2.25.3", Path(__file__), "")
print(destination.test(), destination.confirm([item]), destination.send([item]), destination.confirm([item]))
assert (folder / f"{uid}.dcm").read_bytes() == Path(__file__).read_bytes()
"""


def test_the_connector_of_the_examples_copies_to_a_folder(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    example, facts = root / "examples" / "connectors" / "folder", tmp_path / "folder_connector-1.0.dist-info"
    facts.mkdir()
    groups = tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in groups.items()
    ]
    (facts / "entry_points.txt").write_text("".join(lines))
    for file in example.glob("*.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "send.py").write_text(_SEND)
    command = [sys.executable, str(tmp_path / "send.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [word in done.stdout for word in ("ok=True", "NOT_FOUND", "STORED", "FOUND: 'found'")] == [
        True
    ] * 4


STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE = [(US, [EXPLICIT])]
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
RLE, JPEG_LS, J2K_LOSSLESS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
BASELINE, DEFLATED, BIG_ENDIAN = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A listener that knows a few more peers."""
    peers = [
        *PEERS,
        {"name": "elsewhere", "ae_title": "ELSEWHERE", "host": "192.0.2.1", "check_address": True},
        {"name": "here", "ae_title": "HERE", "host": "localhost", "check_address": True},
    ]
    listener = {
        "further_ae_titles": ["AI2"],
        "maximum_associations": 12,
        "acse_timeout_seconds": 2,
    }
    with receiving(tmp_path_factory.mktemp("listener"), peers=peers, **listener) as running:
        yield running
        assert running.process.poll() is None, "the listener died"


@pytest.mark.debian("dcmtk")
@pytest.mark.parametrize("program", ["echoscu", "storescu", "dcmsend"])
def test_dcmtk_echoes_and_stores(receiver: Receiver, program: str) -> None:
    before = set(receiver.spool.pending())
    files = [] if program == "echoscu" else [TEST_FILES / "examples_rgb_color.dcm"]
    command = [program, "-aet", "STORESCU", "-aec", "AINODE", "127.0.0.1", str(receiver.port)]
    done = subprocess.run([*command, *map(str, files)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = set(receiver.spool.pending()) - before
    assert [pydicom.dcmread(one).PixelData for one in kept] == [
        pydicom.dcmread(one).PixelData for one in files
    ]
    assert files or receiver.wait_for_event(ECHOED)


def test_every_class_is_accepted_in_every_syntax(receiver: Receiver) -> None:
    for storage_class in STORAGE_CLASSES:
        contexts = [(storage_class, [syntax.uid]) for syntax in TRANSFER_SYNTAXES]
        association = associate(receiver.address, contexts)
        assert list(association.accepted.values()) == [syntax.uid for syntax in TRANSFER_SYNTAXES]
        association.release()


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([BASELINE, RLE, EXPLICIT], EXPLICIT),
        ([BASELINE, IMPLICIT, JPEG_LS], JPEG_LS),
        ([IMPLICIT, J2K_LOSSLESS], J2K_LOSSLESS),
        ([BIG_ENDIAN, DEFLATED, IMPLICIT], IMPLICIT),
        ([BIG_ENDIAN, DEFLATED], DEFLATED),
        ([BASELINE, BIG_ENDIAN], BIG_ENDIAN),
        ([BASELINE], BASELINE),
        (["1.2.3.4.5", "1.2.840.10008.1.2.4.102"], "1.2.840.10008.1.2.4.102"),
    ],
)
def test_of_several_syntaxes_the_best_is_taken(receiver: Receiver, offered: list[str], taken: str) -> None:
    association = associate(receiver.address, [(US, offered)])
    assert association.accepted == {1: taken}
    association.release()


def test_unknown_classes_and_syntaxes_are_refused_by_context(receiver: Receiver) -> None:
    offered = [
        (US, ["1.2.3.4.5"]),
        ("1.2.3.4", [EXPLICIT]),
        (STORAGE_COMMITMENT, [EXPLICIT]),
        (US, [EXPLICIT]),
    ]
    association = associate(receiver.address, offered)
    assert association.results == {1: 4, 3: 3, 5: 3, 7: 0}  # PS3.8 Table 9-18
    association.release()


def test_the_spooled_file_says_how_the_object_came(receiver: Receiver) -> None:
    before = set(receiver.spool.pending())
    item = small_object(11, syntax=IMPLICIT)
    association = associate(receiver.address, [(US, [IMPLICIT])])
    assert association.store(1, item, priority=1) == 0x0000
    association.release()
    (path,) = set(receiver.spool.pending()) - before
    arrival = read_arrival(path)
    assert (arrival.calling_ae, arrival.called_ae, arrival.address) == ("SENDER", "AINODE", "127.0.0.1")
    assert arrival.priority == 1
    meta = pydicom.dcmread(path).file_meta
    assert meta.TransferSyntaxUID == IMPLICIT
    assert meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
    assert arrival.association in {
        event.fields["association"] for event in receiver.events(ASSOCIATION_ACCEPTED)
    }


@pytest.mark.parametrize("seed", range(3))
def test_messages_sent_ahead_and_cut_anywhere_are_answered_each(receiver: Receiver, seed: int) -> None:
    """Of PDVs in PDUs of any size and segments of any length (PS3.8 E.1); within: tests/unit."""
    chance = random.Random(seed)
    items = [small_object(1000 * (seed + 1) + n, chance.randrange(40000)) for n in range(4)]
    association = associate(receiver.address, STORAGE)
    association.peer_pdu = chance.choice([1000, 16384])
    data = b"".join(association.encode_store(1, one) for one in items)
    for start, end in pairwise([0, *sorted(chance.randrange(len(data)) for _ in range(20)), len(data)]):
        association.sock.sendall(data[start:end])
        time.sleep(0.002)  # so that it comes by itself
    assert [association.read_status() for _ in items] == [0x0000] * 4
    association.release()
    kept = {one.sop_instance_uid: one.data_set for one in map(load, receiver.spool.pending())}
    assert [kept[one.sop_instance_uid] for one in items] == [one.data_set for one in items]


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LIMIT = 16384
DICOM_CONTEXT = b"1.2.840.10008.3.1.1.1"
CUT: set[tuple[int, ...]] = {(), (7,)}
AFTERWARDS = pytest.mark.usefixtures("nothing_is_left_behind")


@pytest.fixture
def nothing_is_left_behind(receiver: Receiver) -> Iterator[None]:
    """After each test the listener still answers, and no temporary file is left."""
    yield
    association = associate(receiver.address, STORAGE)
    assert association.store(1, small_object(99)) == 0x0000
    association.release()
    wait_until(lambda: not [name for name in receiver.files() if name.startswith(".")])


def gone(association: Association) -> bool:
    """Whether the peer aborts or closes, within the time of the socket."""
    association.sock.settimeout(10)
    try:
        association.read_response()
    except (ConnectionError, TimeoutError) as error:
        return not isinstance(error, TimeoutError)
    finally:
        association.sock.close()
    return False


def command_pdus(command: bytes, context_id: int = 1) -> bytes:
    return b"".join(p_data(context_id, command, True, LIMIT))


def with_context_name(name: bytes) -> bytes:
    """An association request with this application context in place of DICOM's; empty: without the item."""
    request = associate_request(STORAGE, "SENDER", "AINODE", LIMIT)
    item = struct.pack(">BBH", 0x10, 0, len(DICOM_CONTEXT)) + DICOM_CONTEXT
    body = request[6:].replace(item, struct.pack(">BBH", 0x10, 0, len(name)) + name if name else b"")
    return struct.pack(">BBI", 1, 0, len(body)) + body


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", CUT),
        (b"\x16\x03\x01\x02\x00\x01\x00", CUT),
        (bytes(64), CUT),
        (b"\xff" * 6, CUT),
        (b"\x01", CUT),
        (with_context_name(b"x" * 200), {(3, 1, 1, 2)}),  # no UID
        (with_context_name(b"\xff\xfe"), {(3, 1, 1, 2)}),
        (with_context_name(b"1.2.840.10008.3.1.1.2"), {(3, 1, 1, 2)}),  # PS3.8 Table 9-21
        (with_context_name(b"1.2.840.10008.3.1.1.11"), {(3, 1, 1, 2)}),
        (with_context_name(b""), {(3, 1, 1, 2)}),
    ],
)
@AFTERWARDS
def test_what_is_no_request_of_dicom_gets_no_association(
    receiver: Receiver, request_: bytes, answers: set[tuple[int, ...]]
) -> None:
    """The PDU type of the answer, and of a rejection its result, source and reason."""
    with socket.create_connection(receiver.address, timeout=60) as connection:
        connection.sendall(request_)
        if answers is CUT:
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
    assert tuple(answer[:1] + answer[7:10] if answer[:1] == b"\3" else answer[:1]) in answers


@AFTERWARDS
def test_a_store_abandoned_half_way_leaves_nothing(receiver: Receiver) -> None:
    before = set(receiver.files())
    aborted = len(receiver.events(ASSOCIATION_ABORTED))
    for ending in ("abort", "close"):
        association = associate(receiver.address, STORAGE)
        encoded = association.encode_store(1, small_object(1, pixels=300_000))
        association.sock.sendall(encoded[: len(encoded) // 2])
        wait_until(lambda: len(receiver.files()) > len(before))
        if ending == "abort":
            association.abort()
        else:
            association.sock.close()
        wait_until(lambda: set(receiver.files()) == before)
    assert [
        event.fields["objects"] for event in receiver.wait_for_event(ASSOCIATION_ABORTED, aborted + 2)[-2:]
    ] == [0, 0]


@pytest.mark.parametrize(
    ("sop_class", "uid", "status"),
    [
        *((US, uid, 0xC000) for uid in ("", "abc", "1.2.3 4", "1" * 65, "1.2\\1.3", "é")),
        *((other, "1.2.3", 0x0122) for other in (SECONDARY_CAPTURE, "1.2.3.4", VERIFICATION)),
    ],
)
@AFTERWARDS
def test_an_impossible_instance_or_another_class_than_the_contexts_is_refused(
    receiver: Receiver, sop_class: str, uid: str, status: int
) -> None:
    before, item = receiver.files(), small_object(1)
    association = associate(receiver.address, STORAGE)
    assert association.store(1, Stored(sop_class, uid, EXPLICIT, item.data_set)) == status
    assert association.store(1, item) == 0x0000
    association.release()
    assert receiver.events(STORE_REFUSED)[-1].fields["status"] == f"{status:04X}"
    assert len(receiver.files()) == len(before) + 1


@pytest.mark.parametrize(
    "pdus",
    [
        b"".join(p_data(1, b"data without command", False, LIMIT)),
        command_pdus(b"no command set"),
        command_pdus(store_command(US, "1.2.3", 1)[:30]),
        command_pdus(command_set({0x0100: b"\x01\x00"})),
        command_pdus(store_command(US, "1.2.3", 1)) * 2,
        command_pdus(store_command(US, "1.2.3", 1), context_id=3),
        command_pdus(store_command(US, "1.2.3", 1)) + b"".join(p_data(3, b"x", False, LIMIT)),
        command_pdus(command_set({0x0100: b"\x77\x77", 0x0110: b"\x01\x00", 0x0800: b"\x01\x01"})),
        struct.pack(">BBIIB", 4, 0, 5, 1, 1),  # a PDV without message control header
        struct.pack(">BBIIBB", 4, 0, 6, 900, 1, 2),  # a PDV longer than its PDU
        struct.pack(">BBIH", 4, 0, 2, 0),
        struct.pack(">BBI", 9, 0, 0),  # no such PDU
        struct.pack(">BBI", 6, 0, 4) + bytes(4),  # A-RELEASE-RP to nothing
        associate_request(STORAGE, "SENDER", "AINODE", LIMIT),  # a second time
    ],
    ids=lambda pdus: pdus[:12].hex(),
)
@AFTERWARDS
def test_what_breaks_the_protocol_ends_the_association(receiver: Receiver, pdus: bytes) -> None:
    association = associate(receiver.address, STORAGE)
    association.sock.sendall(pdus)
    assert gone(association)


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    with receiving(tmp_path, network_timeout_seconds=0.5) as impatient:
        association = associate(impatient.address, STORAGE)
        stalled = associate(impatient.address, STORAGE)
        stalled.sock.sendall(stalled.encode_store(1, small_object(1))[:2000])  # stops within a PDU
        began = time.monotonic()
        with pytest.raises(Aborted):
            association.read_response()
        assert gone(stalled)
        assert time.monotonic() - began < 60
        association.sock.close()
        assert len(impatient.wait_for_event(ASSOCIATION_ABORTED, 2)) == 2
        wait_until(lambda: impatient.files() == [])


ECHO = [(VERIFICATION, [EXPLICIT])]
Contexts = list[tuple[str, list[str]]]
CALLING, CALLED, TOO_MANY = (1, 1, 3), (1, 1, 7), (2, 3, 2)  # PS3.8 Table 9-21


def open_for(
    receiver: Receiver, calling: str, called: str = "AINODE", contexts: Contexts = STORAGE
) -> Association:
    return associate(receiver.address, contexts, calling=calling, called=called)


def answer_to(
    receiver: Receiver, calling: str, called: str = "AINODE", contexts: Contexts = STORAGE
) -> object:
    """(result, source, reason) of the rejection, or "accepted"."""
    try:
        open_for(receiver, calling, called, contexts).release()
    except Rejected as rejected:
        return rejected.answer
    return "accepted"


@pytest.mark.parametrize(
    ("calling", "called", "contexts", "answer"),
    [
        ("SENDER", "AINODE", STORAGE, "accepted"),
        ("SENDER", "AI2", STORAGE, "accepted"),
        ("SENDER", "OTHER", STORAGE, CALLED),
        ("SENDER", "ainode", STORAGE, CALLED),
        ("STRANGER", "AINODE", STORAGE, CALLING),
        ("STRANGER", "AINODE", ECHO, "accepted"),
        ("STRANGER", "OTHER", ECHO, CALLED),
        ("STRANGER", "AINODE", ECHO + STORAGE, CALLING),
        ("HERE", "AINODE", STORAGE, "accepted"),
        ("ELSEWHERE", "AINODE", STORAGE, CALLING),
        ("PACS", "AINODE", STORAGE, "accepted"),  # known, but see below
    ],
)
def test_the_policy_decides(
    receiver: Receiver, calling: str, called: str, contexts: Contexts, answer: object
) -> None:
    assert answer_to(receiver, calling, called, contexts) == answer


def test_all_together_have_a_limit_and_room_is_given_back(receiver: Receiver) -> None:
    time.sleep(0.2)
    associations = [open_for(receiver, "SENDER") for _ in range(12)]
    assert answer_to(receiver, "SENDER") == TOO_MANY
    for number, association in enumerate(associations):
        if number % 2:
            association.abort()
        else:
            association.release()
    wait_until(lambda: answer_to(receiver, "SENDER") == "accepted")


@pytest.mark.parametrize("kind", [1, 2, 3], ids=["name", "name and passcode", "ticket"])
def test_a_user_identity_is_ignored(receiver: Receiver, kind: int) -> None:
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(US, EXPLICIT)
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.positive_response_requested = kind, True
    identity.primary_field = b"technician"
    if kind == 2:
        identity.secondary_field = b"secret"
    association = ae.associate("127.0.0.1", receiver.port, ae_title="AINODE", ext_neg=[identity])
    assert association.is_established
    assert association.acceptor.user_identity is None
    association.release()
    assert "technician" not in "".join(path.read_text() for path in (receiver.data_dir / "journal").iterdir())


@pytest.mark.parametrize("tell", [True, False], ids=["SIGHUP", "file alone"])
def test_a_new_policy_is_taken_without_a_restart(tmp_path: Path, tell: bool) -> None:
    with receiving(tmp_path) as receiver:
        assert answer_to(receiver, "NEW") == CALLING
        receiver.change(
            peers=[{"name": "new", "ae_title": "NEW"}], further_storage_classes=["1.2.840.10008.5.1.4.1.1.2"]
        )
        if tell:
            receiver.signal(signal.SIGHUP)
        wait_until(lambda: answer_to(receiver, "NEW") == "accepted")
        assert answer_to(receiver, "SENDER") == CALLING
        wait_until(lambda: _takes_ct(receiver))


def _takes_ct(receiver: Receiver) -> bool:
    association = open_for(receiver, "NEW", contexts=[("1.2.840.10008.5.1.4.1.1.2", [EXPLICIT])])
    association.release()
    return association.results == {1: 0}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def tls_receiver(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Receiver]:
    certificate, key = authority.certify("listener")
    with receiving(
        tmp_path_factory.mktemp("listener"),
        tls={"certificate": certificate, "private_key": key, "trusted": authority.certificate},
    ) as running:
        yield running


def client(authority: Authority, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if certificate:
        context.load_cert_chain(*certificate)
    return context


def test_a_certified_client_stores_over_tls(tls_receiver: Receiver, authority: Authority) -> None:
    association = associate(tls_receiver.address, STORAGE, tls=client(authority, authority.certify("us1")))
    for number in range(3):
        assert association.store(1, small_object(number, pixels=400_000)) == 0x0000
    association.release()
    assert len(tls_receiver.spool.pending()) >= 3


def test_replaced_certificates_are_served_once_they_fit(tmp_path: Path, authority: Authority) -> None:
    (certificate, key), others = authority.certify("before"), authority.certify("after")
    before, tls = certificate.read_text(), {"certificate": certificate, "private_key": key}
    with receiving(tmp_path, tls=tls) as receiver:
        shutil.copy(others[0], certificate)
        receiver.change(tls=tls)
        time.sleep(1.5)  # it looks once a second
        assert ssl.get_server_certificate(receiver.address) == before
        shutil.copy(others[1], key)
        wait_until(lambda: ssl.get_server_certificate(receiver.address) == others[0].read_text())


@pytest.mark.parametrize("case", ["no certificate", "of another authority", "plain DICOM"])
def test_a_client_without_our_certificate_is_refused(
    tls_receiver: Receiver, authority: Authority, tmp_path: Path, case: str
) -> None:
    certificate = Authority(tmp_path, "theirs").certify("client") if "another" in case else None
    context = None if case == "plain DICOM" else client(authority, certificate)
    count = len(tls_receiver.events(TLS_FAILED))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        associate(tls_receiver.address, STORAGE, tls=context)
    assert tls_receiver.wait_for_event(TLS_FAILED, count + 1)[-1].fields["address"] == "127.0.0.1"


def test_a_second_listener_does_not_touch_the_spool_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tmp_path, alone=True) as first:
        assert first.cpu_seconds() < 1.5, "it starts at once"
        association = associate(first.address, STORAGE)
        encoded = association.encode_store(1, small_object(1))
        association.sock.sendall(encoded[:-500])
        wait_until(lambda: len(first.files()) == 1)
        code = "import dicom_node.receive.listener as m; m._LOCK_SECONDS = 0.2; raise SystemExit(m.main())"
        second = subprocess.run(
            [sys.executable, "-c", code, "--data-dir", str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.PIPE,
        )
        assert second.returncode == 69
        assert "another listener" in second.stdout
        association.sock.sendall(encoded[-500:])
        assert association.read_status() == 0x0000
        association.release()


def test_sigterm_lets_associations_finish_and_aborts_the_rest(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        busy, idle = associate(receiver.address, STORAGE), associate(receiver.address, STORAGE)
        encoded = busy.encode_store(1, small_object(1, pixels=200_000))
        busy.sock.sendall(encoded[:1000])
        receiver.signal(signal.SIGTERM)
        time.sleep(0.7)
        with pytest.raises(ConnectionError):
            associate(receiver.address, STORAGE)
        assert busy.exchange(encoded[1000:]) == 0x0000
        busy.release()
        assert receiver.process.wait(60) == 0
        idle.sock.close()
        assert len(receiver.spool.pending()) == len(receiver.files()) == 1
        kinds = [event.type for event in receiver.events()]
        assert kinds.count(ASSOCIATION_RELEASED) == kinds.count(ASSOCIATION_ABORTED) == 1
        assert kinds[-1] == LISTENER_STOPPED


def test_128_senders_at_once_lose_nothing(tmp_path: Path) -> None:
    with receiving(
        tmp_path,
        maximum_associations=128,
        peers=[{"name": "sender", "ae_title": "SENDER", "maximum_associations": 128}],
    ) as receiver:
        statuses: list[int] = []
        together = threading.Barrier(128)

        def send(first: int) -> None:
            association = associate(receiver.address, STORAGE)
            together.wait(60)
            statuses.extend(association.store(1, small_object(first + k)) for k in range(2))
            association.release()

        threads = [threading.Thread(target=send, args=(10 * k,)) for k in range(128)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [0x0000] * 256
        assert len({load(path).sop_instance_uid for path in receiver.spool.pending()}) == 256


def test_an_object_of_any_size_takes_the_memory_of_one_pdu(tmp_path: Path) -> None:
    fragment = bytes(100_000)
    with receiving(tmp_path) as receiver:
        association = associate(receiver.address, STORAGE)
        assert association.store(1, small_object(1, pixels=200_000)) == 0x0000
        before = most_memory(receiver)
        association.sock.sendall(b"".join(p_data(1, store_command(US, "1.2.3", 2), True, 16384)))
        for header in (*[0] * 1500, 2):
            association.sock.sendall(struct.pack(">BxIIBB", 4, 100_006, 100_002, 1, header) + fragment)
        assert association.read_status() == 0x0000
        association.release()
        assert most_memory(receiver) - before <= 2 * 2**20


def most_memory(receiver: Receiver) -> int:
    """Bytes of resident memory at its highest."""
    return 1024 * int(Path(f"/proc/{receiver.process.pid}/status").read_text().split("VmHWM:")[1].split()[0])


def test_two_listeners_share_a_port_and_one_goes_on_alone(tmp_path: Path) -> None:
    shared = {"port": free_port(), "share_port": True}
    with receiving(tmp_path, **shared) as first, receiving(tmp_path, place="listener-2", **shared) as second:
        store_each(first, range(16))
        listeners = {read_arrival(path).association.rpartition("-")[0] for path in first.spool.pending()}
        assert len(listeners) == 2, "the system deals connections among them"
        second.kill()
        store_each(first, range(16, 24))
        assert len({load(path).sop_instance_uid for path in first.spool.pending()}) == 24


def store_each(receiver: Receiver, numbers: Iterable[int]) -> None:
    """Each on an association of its own."""
    for number in numbers:
        association = associate(receiver.address, STORAGE)
        assert association.store(1, small_object(number, pixels=50)) == 0x0000
        association.release()


TYPE = 'multipart/related; type="application/dicom"; boundary=B0'


def as_file(ds: Dataset) -> Dataset:
    """As it is read from a file: dicomweb-client writes a preamble only then."""
    return dcmread(io.BytesIO(part_10(ds)))


def body(*files: bytes, header: bytes = b"Content-Type: application/dicom\r\n", end: bytes = b"--") -> bytes:
    return b"".join(b"--B0\r\n%b\r\n%b\r\n" % (header, one) for one in files) + b"--B0" + end + b"\r\n"


@dataclass
class Gateway:
    node: Inbox
    console: ConsoleLab
    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.url, headers=self.headers)

    def post(
        self, data: object, path: str = "/studies", kind: str = TYPE, token: str | None = None, **headers: str
    ) -> requests.Response:
        given = {"Authorization": f"Bearer {token}"} if token is not None else self.headers
        given |= {"Content-Type": kind, **headers}
        return requests.post(self.url + path, data=data, headers=given, timeout=60)  # type: ignore[arg-type]

    def waiting(self) -> int:
        return len(self.node.spool.pending())

    def leftovers(self) -> list[str]:
        return [path.name for path in self.node.spool.incoming.glob(".*")]

    def user(self, name: str, role: UserRole, *senders: str) -> str:
        users.add_user(self.console.settings, name, role, PASSWORD, senders=senders)
        return users.add_token(self.console.settings, name, "a test", 1)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    node = Inbox(tmp_path / "var")
    console = node.settings.console.model_copy(update={"dicomweb_store": True, "upload_mib": 300})
    lab = ConsoleLab(node.settings.model_copy(update={"console": console}), node.database)
    lab.change("spool", minimum_free_mib=0)
    with served_app(lab) as address:
        token = users.add_token(lab.settings, UserRole.OPERATOR.value, "a gateway", 1)
        yield Gateway(node, lab, f"{address}/api/dicomweb", token)
    node.close()


def failures(answer: requests.Response) -> list[tuple[str, int]]:
    """SOP Instance UID and Failure Reason of each failed object."""
    module = Dataset.from_json(answer.json())
    found = [*module.get("FailedSOPSequence", ()), *module.get("OtherFailuresSequence", ())]
    return [(str(one.get("ReferencedSOPInstanceUID", "")), one.FailureReason) for one in found]


def test_what_dicomweb_client_stores_is_received_as_from_a_modality(
    gateway: Gateway,
) -> None:
    one, two = ultrasound("one"), ultrasound("two")
    answer = gateway.client().store_instances([as_file(one), as_file(two)])
    named = {str(item.ReferencedSOPInstanceUID): item for item in answer.ReferencedSOPSequence}
    assert named.keys() == {str(one.SOPInstanceUID), str(two.SOPInstanceUID)}
    assert "FailedSOPSequence" not in answer
    assert "OtherFailuresSequence" not in answer
    assert answer.RetrieveURL in ("", None), "nothing is retrieved here"
    gateway.node.settle()
    row = gateway.node.instance(str(one.SOPInstanceUID))
    assert (row.calling_ae, row.called_ae) == ("CONSOLE", "AINODE")
    assert gateway.node.file_of(str(one.SOPInstanceUID)).PixelData == one.PixelData
    assert {job.rule for job in gateway.node.jobs()} == {"ultrasound"}
    assert gateway.node.read(uploaded.newest) == []  # of the page on which a person follows the own uploads
    [noted] = audited(gateway.node.database, "uploaded")
    assert noted["association"].startswith("console-")  # type: ignore[attr-defined]
    assert noted | {"association": ""} == {
        "way": "STOW-RS", "objects": 2, "refused": 0, "association": "",
    }  # fmt: skip


def test_a_study_is_stored_at_its_own_address_only(gateway: Gateway) -> None:
    one, other = ultrasound("one"), ultrasound("other")
    study = str(one.StudyInstanceUID)
    answer = gateway.client().store_instances([as_file(one)], study_instance_uid=study)
    assert len(answer.ReferencedSOPSequence) == 1
    mixed = gateway.post(body(part_10(one), part_10(other)), f"/studies/{study}")
    assert mixed.status_code == 202
    assert failures(mixed) == [(str(other.SOPInstanceUID), 0xC409)]
    none = gateway.post(body(part_10(other)), f"/studies/{study}")
    assert (none.status_code, failures(none)) == (409, [(str(other.SOPInstanceUID), 0xC409)])
    assert gateway.post(body(part_10(one)), "/studies/1..2").status_code == 400
    assert gateway.waiting() == 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_study_is_found_in_each_coding_and_behind_long_sequences(gateway: Gateway, syntax: str) -> None:
    one = ultrasound("one")
    one.ReferencedImageSequence = [Dataset() for _ in range(500)]
    for item in one.ReferencedImageSequence:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, "1.2.3"
        item.is_undefined_length_sequence_item = True
    one["ReferencedImageSequence"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = syntax
    assert gateway.post(body(part_10(one)), f"/studies/{one.StudyInstanceUID}").status_code == 200


def test_each_part_is_answered_for_itself(gateway: Gateway) -> None:
    good = ultrasound("good")
    other_class, other_data = ultrasound("a"), part_10(ultrasound("b"))
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    syntax = other_data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    uid = str(ultrasound("c").SOPInstanceUID).encode()
    mixed_up = part_10(ultrasound("c"))
    mixed_up = mixed_up.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1)
    answer = gateway.post(body(part_10(good), part_10(other_class), syntax, mixed_up, b"no object", b""))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/dicom+json"
    assert [reason for _, reason in failures(answer)] == [0x0122, 0xC122, 0xA900, 0xC000, 0xC000]
    assert gateway.waiting() == 1
    assert gateway.leftovers() == []
    assert audited(gateway.node.database, "uploaded")[0]["refused"] == 5


FAULTY: tuple[tuple[bytes, int], ...] = (
    (b"", 400),
    (b"--B0--\r\n", 400),
    (b"hello", 400),
    (b"--B1\r\n\r\nx\r\n--B1--\r\n", 400),
    (b"--B0\r\nContent-Type application/dicom\r\n\r\nx\r\n--B0--\r\n", 400),
    (b"--B0\r\nX: " + b"y" * 5000 + b"\r\n\r\nx\r\n--B0--\r\n", 400),
    (b"--B0\r\n" + b"X: y\r\n" * 21 + b"\r\nx\r\n--B0--\r\n", 400),
    (b"--B0\r\n" + b"X" * 200_000, 400),
    (b"--B0\r\nContent-Type: application/dicom\r\n\r\nno object\r\n--B0--", 409),
    (b"--B0\r\nContent-Type: text/plain\r\n\r\nx\r\n--B0--", 409),
)


def test_hostile_parts_are_refused(gateway: Gateway) -> None:
    for data, code in FAULTY:
        assert gateway.post(data).status_code == code, data[:80]
        assert gateway.waiting() == 0
        assert gateway.leftovers() == []
    assert gateway.post(b"", kind="application/dicom").status_code == 400
    assert gateway.post(part_10(ultrasound("one")), kind="application/dicom").status_code == 200
    assert gateway.waiting() == 1, "one object may be the whole body"
    assert gateway.leftovers() == [], "one object may be the whole body"


def test_parts_are_cut_right_wherever_the_pieces_end() -> None:
    taken: list[bytearray] = []

    class Taker:
        def begin(self, media_type: str) -> None:
            taken.append(bytearray(media_type.encode()))

        def write(self, data: bytes) -> None:
            taken[-1] += data

        def end(self) -> None:
            taken[-1] += b"|"

    first, second = b"\r\n--B\r\n--B0x\r\n--B0-x\r\n--B0\rx--B0--", b"\r\n"
    data = body(first, second)
    for one in range(1, len(data)):
        for two in (one, (one + 1) % len(data), len(data) - 3):
            taken.clear()
            reader = stow.PartReader("B0", Taker())
            low, high = sorted((one, two))
            for piece in (data[:low], data[low:high], data[high:]):
                reader.feed(piece)
            reader.finish()
            assert taken == [b"application/dicom" + first + b"|", b"application/dicom" + second + b"|"]


def test_success_is_said_after_the_object_is_durable(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    commit = IncomingObject.commit
    monkeypatch.setattr(IncomingObject, "commit", lambda self: done.append(commit(self)) or done[-1])
    assert gateway.post(body(part_10(ultrasound("one")))).status_code == 200
    assert len(done) == 1

    def full(_: IncomingObject) -> str:
        raise SpoolFull("the disk of the spool is full")

    monkeypatch.setattr(IncomingObject, "commit", full)
    answer = gateway.post(body(part_10(ultrasound("two"))))
    assert (answer.status_code, failures(answer)[0][1]) == (503, 0xA700)
    assert (gateway.waiting(), gateway.leftovers()) == (1, [])


@pytest.mark.parametrize("path", ["/studies", "/../v1/upload"])
def test_whose_right_ends_while_objects_come_stores_no_further_one(gateway: Gateway, path: str) -> None:
    sent = [part_10(ultrasound("late", number=number, size=(640, 480))) for number in range(4)]
    data, kind = body(*sent), TYPE
    if path != "/studies":
        about = b'Content-Disposition: form-data; name="files"; filename="a"'
        data, kind = (
            data.replace(b"Content-Type: application/dicom", about),
            "multipart/form-data; boundary=B0",
        )

    def coming() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        settings = gateway.console.settings
        wait_until(lambda: users.list_tokens(settings)[0]["used_at"], 60, "let in")
        users.change_user(settings, "operator", role=UserRole.VIEWER)
        yield data[len(data) // 2 :]

    assert gateway.post(coming(), path, kind).status_code == 403
    assert gateway.waiting() < 3
    assert gateway.leftovers() == []


def test_who_sees_some_senders_only_reaches_no_other_study(gateway: Gateway) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    gateway.node.receive(secret, calling="ROOM9")
    gateway.node.settle()
    added = part_10(
        changed(
            secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77", PixelData=bytes(len(secret.PixelData))
        )
    )
    elsewhere = gateway.user("elsewhere", UserRole.OPERATOR, "ROOM1")
    assert gateway.post(body(part_10(new)), token=elsewhere).status_code == 403
    limited = gateway.user("limited", UserRole.OPERATOR, "CONSOLE")
    assert gateway.post(body(part_10(new)), token=limited).status_code == 200
    answer = gateway.post(body(added), token=limited)
    assert (answer.status_code, failures(answer)[0][1]) == (409, 0x0124)
    taken_over = changed(secret, StudyInstanceUID="1.2.826.0.1.3680043.10.543.78")
    assert failures(gateway.post(body(part_10(taken_over)), token=limited))[0][1] == 0x0124
    no_study = changed(new, StudyInstanceUID="")
    assert failures(gateway.post(body(part_10(no_study)), token=limited))[0][1] == 0xC000
    assert gateway.post(body(part_10(new)), token=limited).status_code == 200  # its own comes again
    gateway.node.settle()
    seen = requests.get(
        f"{gateway.url.removesuffix('dicomweb')}v1/studies",
        headers={"Authorization": f"Bearer {limited}"},
        timeout=60,
    ).json()
    assert [one["study"] for one in seen["studies"]] == [str(new.StudyInstanceUID)]


def test_nobody_stores_without_a_token_and_nothing_is_there_without_the_setting(gateway: Gateway) -> None:
    assert gateway.post(body(part_10(ultrasound("one"))), token="").status_code == 401
    client = ConsoleLab(gateway.node.settings, gateway.node.database).browser().client
    for path in ("/studies", "/studies/1.2"):
        assert client.post(f"/api/dicomweb{path}", headers=gateway.headers).status_code == 404
