"""A reload of a running node takes the whole new configuration, or nothing of it."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.modality import ultrasound
from tests.node_lab import PROGRAM, Node, running, store
from tests.waiting import wait_until

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
