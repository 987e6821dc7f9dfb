"""Several things by one command, and several commands at once."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config.loading import load
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.services import deliveries
from dicom_node.store import database as store
from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow, Job, Study
from dicom_node.store.transitions import settle_study_as
from tests.rows import a_job
from tests.unit.cli.conftest import DELIVERED, Run, in_database


def held_jobs(config: Path, number: int) -> list[int]:
    """The numbers of jobs that a limit holds."""
    database = Database(f"sqlite:///{config.parent / 'var' / 'node.db'}")
    with database.write() as session:
        study = session.query(Study).filter_by(study_instance_uid=DELIVERED).one()
        jobs = [a_job(study, JobState.HELD) for _ in range(number)]
        for place, job in enumerate(jobs):
            job.rule = f"rule {place}"  # one job of each rule
        session.add_all(jobs)
        session.flush()
        numbers = [job.id for job in jobs]
    database.dispose()
    return numbers


def states(config: Path, numbers: list[int]) -> set[JobState]:
    with in_database(config) as session:
        return set(session.scalars(select(Job.state).where(Job.id.in_(numbers))))


def test_all_jobs_in_a_state_are_retried_by_one_command(run: Run, filled: Path) -> None:
    numbers = held_jobs(filled, 3)
    done = run("jobs", "retry", "--state", "held", "--rule", "rule 1", "--config", filled)
    assert (done.status, done.out.strip()) == (0, "1 job is queued.")
    assert states(filled, [numbers[1]]) == {JobState.QUEUED}
    assert states(filled, [numbers[0], numbers[2]]) == {JobState.HELD}
    done = run("jobs", "retry", "--state", "held", "--since", "2999-01-01", "--config", filled)
    assert done.out.strip() == "0 jobs are queued."
    done = run("jobs", "retry", "--state", "held", "--since", "2000-01-01", "--config", filled)
    assert done.out.strip() == "2 jobs are queued."
    assert states(filled, numbers) == {JobState.QUEUED}


@pytest.mark.parametrize(
    "asked",
    [(), (17, "--state", "held"), (17, "--rule", "chest"), ("--rule", "chest"), ("--state", "running")],
)
def test_which_jobs_to_retry_is_said_one_way(run: Run, filled: Path, asked: tuple[object, ...]) -> None:
    assert run("jobs", "retry", *asked, "--config", filled).status == 64


def test_several_jobs_are_retried_put_first_and_cancelled_by_one_command(run: Run, filled: Path) -> None:
    numbers = held_jobs(filled, 3)
    done = run("jobs", "retry", *numbers, "--config", filled)
    assert (done.status, done.err) == (0, "")
    assert f"Jobs {', '.join(map(str, numbers))} are queued." in done.out
    assert states(filled, numbers) == {JobState.QUEUED}
    assert run("jobs", "first", *numbers, "--config", filled).status == 0
    assert run("jobs", "cancel", *numbers, "--config", filled).status == 0
    assert states(filled, numbers) == {JobState.CANCELLED}


def test_where_one_of_several_cannot_be_changed_none_is(run: Run, filled: Path) -> None:
    numbers = held_jobs(filled, 2)
    assert run("jobs", "retry", *numbers, 9999, "--config", filled).status != 0
    assert states(filled, numbers) == {JobState.HELD}


def test_commands_at_once_wait_for_each_other(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of eight ended with "the database is locked": they had waited as long as the node's threads do."""
    monkeypatch.setattr(store.Database.__init__, "__kwdefaults__", {"busy_seconds": 0.05})
    settings = load([filled])
    with closing(sqlite3.connect(settings.node.data_dir / "node.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as commands:
            sent = [commands.submit(deliveries.send_study, settings, DELIVERED, "pacs") for _ in range(8)]
            time.sleep(1.5)
            assert not any(one.done() for one in sent)
            other.execute("ROLLBACK")
            ended = {type(one.exception(30)).__name__ for one in sent}
    assert ended == {"NotAllowedNow"}, "the pacs has all of it; no word of a lock"


def test_the_event_says_held_where_lists_say_it(filled: Path) -> None:
    held_jobs(filled, 1)
    database = Database(f"sqlite:///{filled.parent / 'var' / 'node.db'}")
    with database.write() as session:
        study = session.query(Study).filter_by(study_instance_uid=DELIVERED).one()
        study.state = StudyState.COMPLETE
        session.flush()
        assert settle_study_as(session, study, StudyState.NOT_APPLICABLE, "held: too old")
        event = session.scalars(select(EventRow).order_by(EventRow.id.desc())).first()
        assert event is not None and (event.number, event.fields["after"]) == (2015, "held")
    database.dispose()
