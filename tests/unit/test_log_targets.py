"""The log as JSON, in a file that turns over, on syslog, and at debug level for one peer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.config.settings import Settings
from dicom_node.scp.policy import AEPolicy

Say = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def say() -> Say:
    """Run lines in a process of its own, whose log is configured by these settings."""

    def run(lines: str, level: str = "info", **tables: object) -> subprocess.CompletedProcess[str]:
        program = (
            "import json, logging, sys\n"
            "from dicom_node import logs\n"
            "from dicom_node.events import *\n"
            "from dicom_node.config.settings import Settings\n"
            "settings = Settings.model_validate(json.loads(sys.argv[1]))\n"
            f"logs.configure({level!r}, 'node', settings.log_target)\n" + lines
        )
        command = [sys.executable, "-c", program, json.dumps(tables)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    return run


def test_json_has_an_events_number_and_fields_under_keys_of_their_own(say: Say) -> None:
    done = say("happened(ASSOCIATION_ACCEPTED, calling_ae='US\\n1', objects=3)", log={"format": "json"})
    [line] = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["event"], told["fields"]["objects"], told["level"], told["process"]) == (
        1001,
        3,
        "info",
        "node",
    )
    assert told["time"].endswith("Z")


def test_one_file_of_several_processes_turns_over_and_loses_no_line(say: Say, tmp_path: Path) -> None:
    program = """
import subprocess, sys
from dicom_node.logs import LogTarget, configure
if len(sys.argv) > 2:
    target = LogTarget(file=sys.argv[1], file_bytes=5_000, files=50)
    configure("info", sys.argv[2], target)
    import logging
    for number in range(500):
        logging.getLogger("dicom_node").info("line %s of %s", number, sys.argv[2])
else:
    mine = [sys.executable, __file__, sys.argv[1]]
    both = [subprocess.Popen([*mine, name], stderr=subprocess.DEVNULL) for name in ("first", "second")]
    assert [process.wait(60) for process in both] == [0, 0]
"""
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    log = tmp_path / "log" / "node.log"
    subprocess.run([sys.executable, str(script), str(log)], check=True, timeout=120)
    files = list(log.parent.glob("node.log*"))
    assert len(files) > 3
    assert max(file.stat().st_size for file in files) <= 5_000
    assert sum(len(file.read_text().splitlines()) for file in files) == 1000


def test_syslog_gets_each_line(say: Say) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        say("happened(NODE_READY)", log={"syslog": f"127.0.0.1:{server.getsockname()[1]}"})
        assert b"[6002] ready" in server.recv(2000)


def test_a_log_that_cannot_be_written_is_told_and_stops_nothing(say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = say(
        "happened(NODE_READY)", log={"syslog": "/no/such/socket", "file": str(tmp_path / "file" / "node.log")}
    )
    assert "log.file cannot be written" in done.stderr
    assert "log.syslog cannot be reached" in done.stderr
    assert "[6002] ready" in done.stderr


def test_debug_of_one_peer_shows_nothing_of_others_and_nothing_of_libraries(say: Say) -> None:
    peers = [
        {"name": "pacs", "ae_title": "PACS", "debug": True},
        {"name": "other", "ae_title": "OTHER"},
    ]
    done = say(
        "happened(DELIVERY_STARTED, destination='pacs', delivery=1)\n"
        "happened(DELIVERY_STARTED, destination='other', delivery=2)\n"
        "logging.getLogger('dicom_node.scu').debug('C-STORE', extra={'peer': 'pacs'})\n"
        "logging.getLogger('pynetdicom').error('Doe^Jane', extra={'peer': 'pacs'})\n",
        peers=peers,
    )
    assert "delivery=1" in done.stderr
    assert "C-STORE" in done.stderr
    assert "delivery=2" not in done.stderr
    assert "Doe" not in done.stderr


def test_the_listener_is_told_where_the_log_goes() -> None:
    settings = Settings.model_validate(
        {
            "log": {"format": "json", "syslog": "/dev/log"},
            "peers": [{"name": "a", "ae_title": "A", "debug": True}],
        }
    )
    assert AEPolicy.from_json(AEPolicy.from_settings(settings).to_json()).log == settings.log_target
