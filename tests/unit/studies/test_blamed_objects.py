"""Which ends of a node are blamed on the object that it was reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.studies import scan
from dicom_node.studies.scan import CrashRecord


@pytest.mark.parametrize(("end", "blamed"), [("killed", 2), ("stopped", 0), ("reloaded", 0)])
def test_only_a_death_of_the_node_is_blamed_on_the_object_that_was_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, blamed: int
) -> None:
    stalled = []
    for number in range(2):
        if end != "reloaded":
            monkeypatch.setattr(scan, "_THIS_PROCESS", f"process {number}")
        record = CrashRecord(tmp_path / "open")
        stalled.append(record.noted("healthy.dcm"))
        stalled[-1].__enter__()  # reading does not end before the node does
        if end == "stopped":
            record.clear()
    monkeypatch.setattr(scan, "_THIS_PROCESS", scan._THIS_PROCESS if end == "reloaded" else "process 2")
    assert CrashRecord(tmp_path / "open").count("healthy.dcm") == blamed
