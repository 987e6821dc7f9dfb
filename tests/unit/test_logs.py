"""The log: events are there, and nothing that a library says of a patient."""

from __future__ import annotations

import subprocess
import sys


def test_no_library_speaks_of_patients_even_when_it_is_imported_late() -> None:
    program = """
import logging
from dicom_node import logs
logs.configure("debug", "test")
import pydicom, pynetdicom  # sets the level of its loggers while it is imported
logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Doe^Jane'")
logging.getLogger("pynetdicom.events").error("(0010,0010) Doe^Jane")
logging.getLogger("dicom_node.events").info("[6002] ready")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Doe" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if "ready" in line]
    assert line.split()[0].endswith("Z"), "UTC"


def test_nobody_outside_writes_a_line_of_its_own() -> None:
    program = """
import logging
from dicom_node import logs
from dicom_node.events import ASSOCIATION_REJECTED, happened
logs.configure("info", "test")
forged = ("EVIL\\n2026-01-01T00:00:00.000Z INFO node: [6002] ready\\x9b31m\\u202e")
happened(ASSOCIATION_REJECTED, calling_ae=forged)
try:
    raise ValueError("Invalid value: Doe^Jane")
except ValueError as error:
    logging.getLogger("dicom_node").error("association failed", exc_info=error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second, *trace = done.stderr.splitlines()
    assert r"EVIL\n2026-01-01T00:00:00.000Z INFO node: [6002] ready\x9b31m\u202e" in first
    assert second.endswith("association failed")
    assert trace[-1] == "ValueError", "of what kind, and where; not what it says"
    assert "Doe" not in done.stderr
