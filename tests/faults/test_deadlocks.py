"""No two transactions wait for each other on PostgreSQL: whoever changes a study locks it first."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.errors import DatabaseUnusable, NotAllowedNow, TryEnded
from dicom_node.base.lifecycle import (
    DeliveryState,
    JobState,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
    UserRole,
)
from dicom_node.base.store import deliveries, intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.results import end_reviews_of_image
from dicom_node.base.store.tables import CleaningReview, DecisionRow, Delivery, Instance, Job, Study
from dicom_node.base.store.transitions import record, settle_studies, utc_now
from dicom_node.deliver import outbox as by_hand
from dicom_node.deliver.delivery_worker import give_up_unknown
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import cleaning_reviews, lost_decisions, studies, writing
from dicom_node.people import jobs as people_jobs
from dicom_node.people import outbox as people_outbox
from dicom_node.people.audit import COMMAND_LINE
from dicom_node.studies import indexing
from dicom_node.studies.quarantine import stop_study
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.outbox_lab import PEER, Outbox
from tests.rows import Stored
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, claimed, lose
from tests.waiting import wait_until

pytestmark = pytest.mark.debian("postgresql")
_LOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    database.upgrade()
    yield database
    database.dispose()


def deadlock_between(
    database: Database,
    first: Callable[[Session], object],
    work: Callable[[], object],
    then: Callable[[Session], object],
) -> Exception | None:
    """Do ``work`` beside a transaction, between its steps ``first`` and ``then``, until it ends or waits;
    returns the error of the one that the database ended, None where neither waited for the other.
    """

    def waits() -> bool:
        with database.read() as session:
            return bool(session.scalar(_LOCKED))

    with ThreadPoolExecutor(1) as pool:
        try:
            with database.write() as session:
                first(session)
                done = pool.submit(work)
                wait_until(lambda: done.done() or waits(), what="the work beside waits")
                then(session)
            with suppress(NotAllowedNow, TryEnded):  # what it wanted is no longer possible: an answer
                done.result(60)
        except (DBAPIError, DatabaseUnusable) as error:
            return error
    return None


def deadlock_with_a_correction(database: Database, uid: str, work: Callable[[], object]) -> Exception | None:
    """As ``deadlock_between``, while an image of the study ``uid`` is indexed that came again with another
    header.
    """
    return deadlock_between(
        database,
        lambda session: intake.study(session, uid),
        work,
        lambda session: stop_study(session, _study(session, uid), "an image came again"),
    )


def _study(session: Session, uid: str) -> Study:
    study = intake.study(session, uid)
    assert study is not None
    return study


@pytest.mark.parametrize("doing", ["claim", "end", "hand_back", "reap", "cancel", "retry", "put_first"])
def test_a_late_image_and_what_happens_to_a_job_of_its_study_do_not_wait_for_each_other(
    database: Database, doing: str
) -> None:
    queue = JobQueue(database, WORKERS)
    number = add_job(database, add_study(database))
    job = claimed(queue) if doing in ("end", "hand_back", "reap") else Stored(database).get(Job, number)
    if doing == "reap":
        lose(database, number)
    if doing == "retry":
        Stored(database).write(jobs.cancel, number)
    by_name: dict[str, Callable[[], object]] = {
        "claim": lambda: queue.claim("elsewhere/1/1/y"),
        "end": lambda: queue.end(job, JobState.FAILED, "why"),
        "hand_back": lambda: queue.hand_back(job),
        "reap": queue.reap,
    }
    work = by_name.get(doing, lambda: Stored(database).write(getattr(jobs, doing), number))
    assert deadlock_with_a_correction(database, "1.2.1", work) is None


@pytest.mark.parametrize("doing", ["claim", "send", "give_up", "retry", "discard"])
def test_a_correction_and_a_delivery_of_its_study_do_not_wait_for_each_other(
    tmp_path: Path, postgres_url: str, doing: str
) -> None:
    outbox = Outbox(tmp_path, [PEER], database_url=postgres_url)
    outbox.add_study(["pacs"], [ResultKind.SR, ResultKind.GSPS])
    database, errors = outbox.database, list[object]()
    database.outage.note_error = errors.append  # type: ignore[method-assign]
    [study], [first, _] = outbox.rows(Study), outbox.rows()
    number = int(first["id"])
    if doing == "retry":
        outbox.put(Delivery, number, state=DeliveryState.DEAD)
    by_name: dict[str, Callable[[], object]] = {
        "claim": lambda: outbox.write(_claim),
        "send": outbox.worker().run_once,  # nobody listens there
        "give_up": lambda: give_up_unknown(database, ["pacs"]),
        "retry": lambda: outbox.write(by_hand.retry, number),
        "discard": lambda: outbox.write(by_hand.discard, number, "sent by hand"),
    }
    assert deadlock_with_a_correction(database, str(study.study_instance_uid), by_name[doing]) is None
    assert errors == []
    database.dispose()


def a_review(instance: Instance, job: Job) -> CleaningReview:
    """A waiting review of the image."""
    return CleaningReview(
        study_id=instance.study_id,
        instance_id=instance.id,
        job_id=job.id,
        rule=job.rule,
        analysis_sha256="",
        cause=ReviewCause.WITHHELD,
        note="",
        places=[],
        created_at=utc_now(),
    )


def _claim(session: Session) -> None:
    """As a route does: deliveries locked, then an event of their study."""
    [first, _] = deliveries.due_batch(session, "pacs", 1, by_hand.utc_now(), 32)
    deliveries.withdraw(session, first, "a newer version replaces it")


@pytest.fixture
def two_studies(tmp_path: Path, postgres_url: str) -> Iterator[Inbox]:
    """Studies 1 and 2 with jobs 2 and 1 and deliveries 2 and 1: numbers of these are no order of studies."""
    inbox = Inbox(tmp_path / "var", CONFIG, url=postgres_url)
    inbox.settle(ultrasound("a"))
    inbox.settle(ultrasound("b"))
    for job, study in ((1, 2), (2, 1)):
        inbox.put(Job, job, study_id=study, rule=f"rule {job}")
        inbox.delivery(inbox.get(Job, job), DeliveryState.PENDING)
    yield inbox
    inbox.close()


@pytest.mark.parametrize("doing", ["rerun", "cancel", "retry", "retry a state", "send", "discard"])
def test_a_person_who_changes_several_studies_locks_them_in_the_order_of_who_settles_them(
    two_studies: Inbox, doing: str
) -> None:
    settings, uids = two_studies.settings, [str(ultrasound(name).StudyInstanceUID) for name in "ba"]
    if doing.startswith("retry"):
        two_studies.put(Job, state=JobState.CANCELLED)
    by_name: dict[str, Callable[[], object]] = {
        "rerun": lambda: studies.rerun_rules(settings, uids),
        "cancel": lambda: people_jobs.cancel_jobs(settings, [1, 2]),
        "retry": lambda: people_jobs.run_jobs_again(settings, [1, 2]),
        "retry a state": lambda: people_jobs.run_jobs_again(settings, states=[JobState.CANCELLED]),
        "send": lambda: people_outbox.send_again(settings, [1, 2]),
        "discard": lambda: people_outbox.discard_deliveries(settings, [1, 2], because="sent by hand"),
    }
    deadlock = deadlock_between(
        two_studies.database,
        lambda session: settle_studies(session, [1]),
        by_name[doing],
        lambda session: settle_studies(session, [2]),
    )
    assert deadlock is None


@pytest.mark.parametrize("again", [False, True], ids=["by a person", "after a restore"])
def test_boxes_that_a_person_draws_and_the_end_of_a_review_do_not_wait_for_each_other(
    two_studies: Inbox, again: bool
) -> None:
    two_studies.put(Instance, attributes={"Rows": "100", "Columns": "100"})
    [instance, _] = two_studies.rows(Instance)
    two_studies.add(a_review(instance, two_studies.get(Job, 2)))
    judged = {"image": instance.sop_instance_uid, "pixels_sha256": instance.pixels_sha256}
    record = {"what": {**judged, "verdict": "drawn", "boxes": [], "role": "operator"}, "actor": "Ann"}
    decision = DecisionRow(id="1", record=record, at=utc_now())

    def draw() -> None:
        if again:
            with writing(two_studies.settings) as session:
                lost_decisions._judge_cleaning(session, two_studies.settings, decision)
        else:
            boxes = [(1, 1, 9, 9)]
            cleaning_reviews.draw_boxes(two_studies.settings, 1, boxes, COMMAND_LINE, role=UserRole.OPERATOR)

    deadlock = deadlock_between(
        two_studies.database,
        lambda session: settle_studies(session, [1]),
        draw,
        lambda session: end_reviews_of_image(session, instance.id, ReviewVerdict.REPLACED, ""),
    )
    assert deadlock is None


def test_a_batch_of_late_images_locks_studies_in_the_order_of_who_settles_them(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_BATCH_SECONDS", 60.0)  # both in one transaction, on any machine
    inbox = Inbox(tmp_path / "var", CONFIG, url=postgres_url)
    inbox.settle(ultrasound("a"))
    inbox.settle(ultrasound("b"))
    inbox.receive(ultrasound("b", number=2))
    inbox.receive(ultrasound("a", number=2))
    a, b = (study.id for study in inbox.rows(Study))
    deadlock = deadlock_between(
        inbox.database,
        lambda session: settle_studies(session, [a]),
        inbox.indexer.run_once,
        lambda session: settle_studies(session, [b]),
    )
    assert deadlock is None
    assert len(inbox.outcomes()) == 4
    inbox.close()


def test_an_event_of_a_study_does_not_wait_for_who_indexes_it(database: Database) -> None:
    study = add_study(database)
    with database.write() as session:
        intake.study(session, "1.2.1")
        with database.write() as beside:
            beside.execute(text("SET LOCAL lock_timeout = 1000"))  # milliseconds
            record(beside, events.OBJECT_INDEXED, study)
    assert [row.number for row in Stored(database).events(events.OBJECT_INDEXED.number)]
