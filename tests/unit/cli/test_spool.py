"""``dicom-node spool`` and ``jobs first`` say what they found and what they did."""

from __future__ import annotations

from pathlib import Path

from dicom_node.errors import ExitCode
from dicom_node.model.lifecycle import JobState
from dicom_node.store.tables import Job
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.cli.conftest import Run, audited, in_database


def test_objects_of_a_lost_database_are_told_put_back_and_told_no_more(run: Run, site: Path) -> None:
    node = Inbox(site.parent / "var")
    node.receive(*(ultrasound("one", number=number) for number in (1, 2)))
    node.settle()
    node.close()
    assert run("spool", "compare", "--config", site).out == "Spool and database agree.\n"
    assert run("spool", "reindex", "--config", site).out == "Nothing to put back.\n"
    for path in (site.parent / "var").glob("node.db*"):
        path.unlink()
    Inbox(site.parent / "var").close()  # as a start makes a new one

    compared = run("spool", "compare", "--config", site)
    assert compared.status == ExitCode.FAILED
    assert "2 " in compared.out and "spool reindex" in compared.out
    put_back = run("spool", "reindex", "--config", site)
    assert put_back.out == "2 of 2 objects put back\nThe node takes them in like any other.\n"
    assert audited(site) == [("spool_reindexed", {"objects": 2})]
    assert run("spool", "compare", "--config", site).status == ExitCode.OK


def test_a_job_that_waits_is_put_first_and_another_is_not(run: Run, filled: Path) -> None:
    with in_database(filled) as session:
        session.get_one(Job, 1).state = JobState.QUEUED
    assert run("jobs", "first", 1, "--config", filled).out == "Job 1 is the next.\n"
    refused = run("jobs", "first", 3, "--config", filled)  # it has failed
    assert refused.status not in (ExitCode.OK, ExitCode.USAGE) and refused.err
    assert run("jobs", "first", 4711, "--config", filled).status == ExitCode.NOT_FOUND
