"""A running node: it starts, reloads, says who got through, plays its part, tells its steps, and serves
without any connector; the example of a connector copies results.
"""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from sqlalchemy import select

from benchmarks.sender import Rejected, associate
from dicom_node.base.store.tables import Lease, Result
from dicom_node.receive.spool import Arrival, Spool
from tests.collector_lab import running_collector, text
from tests.forked import run_forked
from tests.inbox_lab import Inbox, spooled
from tests.modality import ultrasound
from tests.mpps_lab import WITH_STEPS, begun, change, create, ended, status
from tests.node_lab import PROGRAM, Node, running, site_config, store, wait_until
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.inbox.objects import changed
from tests.wire.receiver import EXPLICIT, US, receiving
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
        wrong = [("us1", "AINODE"), ("US1", "OTHER"), ("CT9", "AINODE"), ("ELSEWHERE", "AINODE")]
        for calling, called in wrong:
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
    calls = {(row["calling_ae"], row["called_ae"]) for row in found["rejections"]}
    assert calls == {("us1", "AINODE"), ("US1", "OTHER")}  # a title in other capitals is most likely its own
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
    assert "Traceback" not in done.stderr and "Secret" not in done.stderr


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

    reloaded.config.write_text(f"{before}{SECOND_MODALITY}port = 'x'\n", encoding="utf-8")
    told = reloaded.run_apart("reload")
    assert told.returncode == 78
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
    expected = f"{reloaded.config}:{line}: listener.port: cannot change while the node runs: restart it"
    assert expected in refused.stderr
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
    renewed = children(reloaded.pid)
    assert renewed["listener"] == processes["listener"], "associations went on"
    wait_until(lambda: not Path(f"/proc/{processes['worker']}").exists(), 60, "the end of the one before")
    assert count_of(reloaded, 6004) == 0, "no process counts as dead"
    reloaded.wait_for(["not_applicable"])


def test_the_listener_has_no_password_in_its_environment(reloaded: Node) -> None:
    variables = Path(f"/proc/{children(reloaded.pid)['listener']}/environ").read_bytes()
    assert b"PATH=" in variables and b"hunter2" not in variables


def test_what_the_node_writes_is_its_own(reloaded: Node) -> None:
    written = [
        path for path in (reloaded.folder / "var").rglob("*") if not path.name.endswith(("-wal", "-shm"))
    ]
    assert len(written) > 10
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


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
            "scheduler": config,
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
        for role in ("scheduler", "console", "worker", "listener"):
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
        assert holders["scheduler"] == "scheduler-1"
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
    assert "telemetry" in refused.stdout + refused.stderr and refused.returncode == 78


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
