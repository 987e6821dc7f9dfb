"""The flow through each rule: what is counted of the last day, and what waits since when."""

from datetime import datetime, timedelta

import pytest

from dicom_node.base.actions.action import declared
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import DeliveryState, HeldState, JobState, ObjectRole, ResultKind
from dicom_node.base.store.database import Database
from dicom_node.base.store.sight import seen_by
from dicom_node.base.store.tables import HeldResult, Instance, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, as_json
from dicom_node.people import rule_flow
from tests.peers import a_receiver
from tests.rows import Stored, a_job, a_study

YESTERDAY = timedelta(days=1, minutes=1)
RULES = [
    {"name": "ultrasound", "pipeline": "ultrasound", "send_to": ["pacs"]},
    {"name": "chest", "pipeline": "chest_xray", "send_to": ["pacs"], "forward": ["archive"]},
]


@pytest.fixture
def now() -> datetime:
    """The present time."""
    return utc_now()


@pytest.fixture
def stored(database: Database) -> Stored:
    """The rows of an empty node."""
    return Stored(database)


def settings() -> Settings:
    """Two rules, of which the second forwards images too."""
    peers = [a_receiver(name="pacs"), a_receiver(name="archive", ae_title="ARCHIVE")]
    peers.append({"name": "us1", "ae_title": "US1", "host": "192.0.2.21", "may": ["send"]})
    return Settings.model_validate({"node": {"ae_title": "AINODE"}, "peers": peers, "rules": RULES})


def came(stored: Stored, uid: str, at: datetime, sender: str = "US1") -> Study:
    """A study of one image that came from this AE title."""
    study = a_study(uid, at=at)
    stored.add(study)
    stored.add(
        Instance(
            study_id=study.id,
            sop_instance_uid=f"{uid}.1",
            sop_class_uid="1.2",
            series_instance_uid=f"{uid}.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            role=ObjectRole.SOURCE,
            identity_sha256="",
            attributes={},
            calling_ae=sender,
            called_ae="AINODE",
            received_at=at,
            path="x",
            bytes=1,
        )
    )
    return study


def flow(stored: Stored, rule: str = "ultrasound") -> View:
    """The flow through one rule."""
    rows = stored.read(rule_flow.flow_of_rules, settings())
    return next(row for row in rows if row["rule"] == rule)


def test_every_rule_has_a_row_in_the_order_of_the_rules(stored: Stored) -> None:
    rows = stored.read(rule_flow.flow_of_rules, settings())
    assert [row["rule"] for row in rows] == ["ultrasound", "chest"]
    assert rows[0]["senders"] == []
    assert rows[0]["jobs_waiting"] == {"number": 0, "since": None}


def test_senders_are_counted_by_studies_and_have_their_names(stored: Stored, now: datetime) -> None:
    for number, sender in enumerate(("US1", "US1", "UNKNOWN"), 1):
        stored.add(a_job(came(stored, f"1.2.{number}", now, sender), JobState.SUCCEEDED))
    assert flow(stored)["senders"] == [{"sender": "UNKNOWN", "studies": 1}, {"sender": "us1", "studies": 2}]
    assert flow(stored, "chest")["senders"] == []


def test_ended_jobs_of_the_last_day_are_counted_by_state(stored: Stored, now: datetime) -> None:
    for number, state in enumerate((JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED), 1):
        stored.add(a_job(came(stored, f"1.2.{number}", now), state))
    stored.add(a_job(came(stored, "1.2.9", now - YESTERDAY), JobState.SUCCEEDED))
    assert flow(stored)["jobs"] == {"failed": 1, "succeeded": 2}


def test_what_waits_is_counted_of_any_day_since_the_oldest(stored: Stored, now: datetime) -> None:
    old = now - 3 * YESTERDAY
    stored.add(a_job(came(stored, "1.2.1", old), JobState.QUEUED, created_at=old))
    stored.add(a_job(came(stored, "1.2.2", now), JobState.RUNNING, created_at=now))
    stored.add(a_job(came(stored, "1.2.3", now), JobState.HELD, created_at=now))
    assert flow(stored)["jobs_waiting"] == {"number": 2, "since": as_json(old)}
    assert flow(stored)["jobs_held"] == {"number": 1, "since": as_json(now)}
    assert flow(stored)["jobs"] == {}


def test_jobs_of_an_earlier_revision_of_a_study_do_not_count(stored: Stored, now: datetime) -> None:
    study = came(stored, "1.2.1", now)
    stored.put(Study, study.id, revision=2)
    stored.add(a_job(study, JobState.FAILED), a_job(study, JobState.SUCCEEDED, study_revision=2))
    assert flow(stored)["jobs"] == {"succeeded": 1}


def test_deliveries_are_counted_by_destination_and_state(stored: Stored, now: datetime) -> None:
    job = a_job(came(stored, "1.2.1", now), JobState.SUCCEEDED)
    stored.add(job)
    stored.delivery(job, DeliveryState.CONFIRMED)
    stored.delivery(job, DeliveryState.PENDING, ResultKind.GSPS, created_at=now)
    stored.delivery(job, DeliveryState.SENDING, ResultKind.SC, created_at=now - timedelta(minutes=2))
    row = flow(stored)
    assert row["results"] == 3
    [pacs] = row["destinations"]
    assert pacs["deliveries"] == {"confirmed": 1}
    assert pacs["waiting"] == {"number": 2, "since": as_json(now - timedelta(minutes=2))}


def test_a_rule_that_forwards_names_the_destination_of_images(stored: Stored) -> None:
    of_results, of_images = flow(stored, "chest")["destinations"]
    assert (of_results["destination"], of_results["images"]) == ("pacs", False)
    assert (of_images["destination"], of_images["images"]) == ("archive", True)


def test_results_that_a_person_must_accept_wait_since_they_were_built(stored: Stored, now: datetime) -> None:
    study = came(stored, "1.2.1", now)
    job = a_job(study, JobState.SUCCEEDED)
    stored.add(job)
    for kind, state in ((ResultKind.SR, HeldState.WAITING), (ResultKind.SC, HeldState.ACCEPTED)):
        result = stored.delivery(job, DeliveryState.UNASSESSED, kind)
        stored.add(HeldResult(result_id=result.id, study_id=study.id, since=now, state=state))
    assert flow(stored)["to_accept"] == {"number": 1, "since": as_json(now)}


def test_a_user_who_sees_one_sender_sees_the_counts_of_that_sender(stored: Stored, now: datetime) -> None:
    for number, sender in enumerate(("US1", "US2"), 1):
        stored.add(a_job(came(stored, f"1.2.{number}", now, sender), JobState.SUCCEEDED))
    with seen_by(["US2"]):
        row = flow(stored)
    assert row["senders"] == [{"sender": "US2", "studies": 1}]
    assert row["jobs"] == {"succeeded": 1}


def test_the_command_says_each_step_in_words(stored: Stored, now: datetime) -> None:
    old = now - timedelta(minutes=5)
    stored.add(a_job(came(stored, "1.2.1", old), JobState.QUEUED, created_at=old))
    cells = {column.title: column.value(flow(stored)) for column in declared(rule_flow.flow_of_rules).columns}
    assert cells["from"] == "us1 (1)"
    assert cells["jobs"].startswith("1 wait since ")
    assert cells["results"] == "0 built"
    assert cells["to"] == "pacs: –"
