"""The log: its two forms, and that neither libraries nor strangers write into it."""

import json
import subprocess
import sys

from tests.forked import run_python


def say(lines: str, level: str = "info", **tables: object) -> subprocess.CompletedProcess[str]:
    """Run lines in a process of its own, whose log is configured by these settings."""
    program = (
        "import json, logging, sys\n"
        "from dicom_node.base import logs\n"
        "from dicom_node.base.events import ASSOCIATION_ACCEPTED, NODE_READY, happened\n"
        "from dicom_node.base.config.settings import Settings\n"
        "settings = Settings.model_validate(json.loads(sys.argv[1]))\n"
        f"logs.configure({level!r}, 'node', as_json=settings.log.format == 'json')\n" + lines
    )
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(tables)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_json_has_an_events_number_and_fields_under_keys_of_their_own() -> None:
    done = say("happened(ASSOCIATION_ACCEPTED, calling_ae='US\\n1', objects=3)", log={"format": "json"})
    told = json.loads(done.stderr)  # one line
    assert (told["event"], told["fields"]["objects"], told["level"], told["process"]) == (
        1001,
        3,
        "info",
        "node",
    )
    assert told["time"].endswith("Z")


def test_no_library_speaks_of_patients_even_when_it_is_imported_late() -> None:
    program = """
import logging
from dicom_node.base import logs
logs.configure("debug", "test")
import pydicom, pynetdicom  # sets the level of its loggers while it is imported
logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Doe^Jane'")
logging.getLogger("pynetdicom.events").error("(0010,0010) Doe^Jane")
logging.getLogger("dicom_node.base.events").info("[6002] ready")
"""
    done = run_python(program)
    assert "Doe" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if "ready" in line]
    assert line.split()[0].endswith("Z"), "UTC"


def test_nobody_outside_writes_a_line_of_its_own() -> None:
    program = """
import logging
from dicom_node.base import logs
from dicom_node.base.events import ASSOCIATION_REJECTED, happened
logs.configure("info", "test")
forged = ("EVIL\\n2026-01-01T00:00:00.000Z INFO node: [6002] ready\\x9b31m\\u202e")
happened(ASSOCIATION_REJECTED, calling_ae=forged)
try:
    raise ValueError("Invalid value: Doe^Jane")
except ValueError as error:
    logging.getLogger("dicom_node").error("association failed", exc_info=error)
"""
    done = run_python(program)
    first, second, *trace = done.stderr.splitlines()
    assert r"EVIL\n2026-01-01T00:00:00.000Z INFO node: [6002] ready\x9b31m\u202e" in first
    assert second.endswith("association failed")
    assert trace[-1] == "ValueError", "of what kind, and where; not what it says"
    assert "Doe" not in done.stderr
