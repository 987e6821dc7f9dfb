"""A job whose pipeline is a program: a failure is told to the PACS, in words of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.model.lifecycle import JobState
from dicom_node.store.tables import Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import configuration, work


@pytest.mark.parametrize(
    ("program", "seconds", "told"),
    [
        ("raise SystemExit('Test^one')", 60, "the program ended with 1"),
        ("import time; time.sleep(60)", 1, "the program took longer than its 1 s"),
        ("pass", 60, "the program left no findings.json that can be read"),
    ],
)
def test_the_pacs_is_told_that_a_program_failed(
    tmp_path: Path, program: str, seconds: int, told: str
) -> None:
    config = configuration(attempts=1)
    options = {"command": [sys.executable, "-c", program], "model": "m", "version": "1", "seconds": seconds}
    config["rules"][0].update(pipeline="command", options=options)
    node = Inbox(tmp_path / "var", config)
    try:
        node.receive(ultrasound("one"))
        node.settle()
        work(node)
        [job] = node.jobs()
        assert (job.state, job.reason) == (JobState.FAILED, told)
        with node.database.read() as session:
            paths = session.scalars(select(Result.path).where(Result.kind == "sr")).all()
        [report] = [dcmread(node.settings.node.data_dir / path) for path in paths]
        assert f"AI did not run: {told}" in [item.get("TextValue") for item in report.ContentSequence]
    finally:
        node.close()
