"""The record of the object that was open when the node died."""

from pathlib import Path

import pytest

from dicom_node.studies import crashes


@pytest.mark.parametrize(("end", "blamed"), [("killed", 2), ("stopped", 0), ("reloaded", 0)])
def test_only_a_death_of_the_node_is_blamed_on_the_object_that_was_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, blamed: int
) -> None:
    stalled = []
    for number in range(2):
        if end != "reloaded":
            monkeypatch.setattr(crashes, "_THIS_PROCESS", f"process {number}")
        record = crashes.CrashRecord(tmp_path / "open")
        stalled.append(record.noted("healthy.dcm"))
        stalled[-1].__enter__()  # reading does not end before the node does
        if end == "stopped":
            record.clear()
    monkeypatch.setattr(crashes, "_THIS_PROCESS", crashes._THIS_PROCESS if end == "reloaded" else "process 2")
    assert crashes.CrashRecord(tmp_path / "open").count("healthy.dcm") == blamed
