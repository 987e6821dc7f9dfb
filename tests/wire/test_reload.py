"""A running node takes over a changed configuration whole or not at all; what it writes is its own."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.modality import ultrasound
from tests.node_lab import Node, running, store, wait_until

pytestmark = pytest.mark.timeout(300)

CONFIG = """
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
[[rules]]
name = "chest"
when = { modality = "DX" }
pipeline = "chest_xray"
send_to = ["pacs"]
"""
SECOND_MODALITY = '[[peers]]\nname = "us2"\nae_title = "US2"\n'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACS_PASSWORD", "hunter2")
        with running(Node(tmp_path_factory.mktemp("site"), CONFIG)) as node:
            yield node


def children(pid: int) -> dict[str, int]:
    """Process ids of the listener and the worker."""
    listed = [
        n for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()
    ]
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return {
        name: int(child)
        for child, line in lines.items()
        for name, module in (("listener", b"dicom_node.scp"), ("worker", b"dicom_node.jobs.worker"))
        if module in line.split(b"\0")
    }


def events(node: Node, number: int) -> int:
    return len(node.cli("events", "list", "--number", str(number)))


def test_a_reload_takes_all_or_nothing(node: Node) -> None:
    before = node.config.read_text(encoding="utf-8")
    processes = children(node.pid)
    assert set(processes) == {"listener", "worker"}
    assert store(node.port, [ultrasound("early")], "US2") == [None], "nobody knows this modality yet"

    node.config.write_text(f"{before}{SECOND_MODALITY}port = 'x'\n", encoding="utf-8")
    told = node.run_apart("reload")
    assert told.returncode == 78
    assert "peers.us2.port = 'x': must be a whole number" in told.stderr
    os.kill(node.pid, signal.SIGHUP)  # as somebody would who does not ask first
    wait_until(lambda: "[6011]" in node.log.read_text(encoding="utf-8"), 60, "refusal", step=0.2)
    assert "peers.us2.port = 'x': must be a whole number" in node.log.read_text(encoding="utf-8")
    assert store(node.port, [ultrasound("early")], "US2") == [None]

    other_port = f"{before}{SECOND_MODALITY}".replace(f"port = {node.port}", "port = 49151")
    node.config.write_text(other_port, encoding="utf-8")
    refused = node.run_apart("reload")
    assert refused.returncode == 1, refused
    line = other_port[: other_port.index("port = 49151")].count("\n") + 1
    expected = f"{node.config}:{line}: listener.port: cannot change while the node runs: restart it"
    assert expected in refused.stderr
    assert node.cli("events", "list", "--number", "6011")[-1]["fields"]["keys"] == "listener.port"
    assert "listener.port = 49151: cannot change while the node runs" in node.log.read_text(encoding="utf-8")
    assert store(node.port, [ultrasound("early")], "US2") == [None]
    assert children(node.pid) == processes, "nothing was started anew"

    rule = before.replace('modality = "DX"', 'modality = ["DX", "CR"]')
    node.config.write_text(f"{rule}{SECOND_MODALITY}", encoding="utf-8")
    taken = node.run_apart("reload")
    assert taken.returncode == 0, taken.stderr
    assert store(node.port, [ultrasound("welcome")], "US2") == [0]
    assert events(node, 6010) == 1
    wait_until(lambda: events(node, 3020) == 2, 120, "a worker with the new configuration", step=0.3)
    renewed = children(node.pid)
    assert renewed["listener"] == processes["listener"], "associations went on"
    assert renewed["worker"] == processes["worker"], "it goes on with what it has loaded"
    assert events(node, 6004) == 0, "no process counts as dead"
    node.wait_for(["not_applicable"])


def test_a_worker_that_cannot_go_on_ends_when_another_is_ready(node: Node) -> None:
    before, ready = children(node.pid)["worker"], events(node, 3020)
    text = node.config.read_text(encoding="utf-8")
    node.config.write_text(f"{text}[workers]\nthreads = 1\n", encoding="utf-8")
    assert node.run_apart("reload").returncode == 0
    wait_until(lambda: events(node, 3020) == ready + 1, 120, "a new worker", step=0.1)
    wait_until(lambda: not Path(f"/proc/{before}").exists(), 60, "the end of the one before")
    assert children(node.pid)["worker"] != before
    assert events(node, 6004) == 0, "no process counts as dead"


def test_the_listener_has_no_password_in_its_environment(node: Node) -> None:
    variables = Path(f"/proc/{children(node.pid)['listener']}/environ").read_bytes()
    assert b"PATH=" in variables and b"hunter2" not in variables


def test_what_the_node_writes_is_its_own(node: Node) -> None:
    written = [path for path in (node.folder / "var").rglob("*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(written) > 10
    open_to_others = [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []


def test_the_first_line_of_the_log_says_what_the_node_is_doing(node: Node) -> None:
    first = node.log.read_text(encoding="utf-8").splitlines()[0]
    assert "starts (role all), reads and checks" in first and str(node.config) in first


def test_without_a_node_nothing_is_reloaded(tmp_path: Path) -> None:
    silent = Node(tmp_path, CONFIG).run_apart("reload")
    assert (silent.returncode, "no node runs on" in silent.stderr) == (69, True)
