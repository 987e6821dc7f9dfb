"""Lists mislead nobody: studies can be told apart, what is not its own or no problem is not shown."""

from __future__ import annotations

import re

import pytest

from dicom_node import events
from dicom_node.model.lifecycle import JobState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.store.tables import Association, Job, Study
from dicom_node.store.transitions import record, utc_now
from dicom_node.store.views import list_events
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_job
from tests.unit.inbox.objects import changed

FIRST, SECOND = "1.2.840.1.6185059.5457", "1.2.840.2.6185059.5457"


@pytest.fixture
def site(console: ConsoleLab, inbox: Inbox) -> ConsoleLab:
    """Two studies of one association, whose UIDs have the same dozen figures at their ends."""
    for name, uid in (("one", FIRST), ("two", SECOND)):
        inbox.receive(changed(ultrasound(name), StudyInstanceUID=uid), association="a")
    inbox.settle()
    return console


def test_studies_are_told_apart_by_the_ends_of_their_uids(site: ConsoleLab) -> None:
    browser = site.browser(UserRole.ADMIN)
    browser.get("/studies/1")
    browser.get("/studies/2")
    for path in ("/jobs", "/rules", "/audit"):
        browser.get(path)
        shown = set(re.findall(r">(…[\d.]+)</a>", browser.text))
        assert shown == {"…1.6185059.5457", "…2.6185059.5457"}, path
        if path != "/audit":
            assert "ID-one" in browser.text
    with site.database.read() as session:
        seen = {row["fields"].get("list") for row in audit.rows(session)}
    assert {"jobs", "rules"} <= seen


def test_the_end_of_a_uid_begins_with_a_figure(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.receive(changed(ultrasound("one"), StudyInstanceUID="1.2.840.1.22004888.33"))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    browser.get("/jobs")
    assert ">…1.22004888.33<" in browser.text


def test_what_happened_to_a_study_has_nothing_of_another_one(site: ConsoleLab) -> None:
    with site.database.write() as session:
        titles = {"calling_ae": "US1", "called_ae": "AINODE", "address": "192.0.2.21"}
        now = utc_now()  # the listener stopped, and the association's own end is told after that
        session.add(Association(id="a", listener="l", opened_at=now, closed_at=now, **titles))
        record(session, events.OBJECT_CONFLICT, 2, association="a", instance="1.2")
        record(session, events.ASSOCIATION_ABORTED, None, association="a")
    with site.database.read() as session:
        shown = list_events(session, study_instance_uid=FIRST)
    assert events.ASSOCIATION_ABORTED.number in {row["number"] for row in shown}
    assert {row["study_instance_uid"] for row in shown} == {FIRST, None}


def test_only_a_job_of_the_newest_revision_can_be_run(site: ConsoleLab) -> None:
    with site.database.write() as session:
        study = session.get_one(Study, 1)
        study.revision = 2
        old, new = session.get_one(Job, 1), a_job(study, JobState.FAILED)
        old.state, old.reason, new.study_revision = JobState.CANCELLED, "superseded by revision 2", 2
        session.add(new)
        session.flush()
        numbers = old.id, new.id
    browser = site.browser(UserRole.OPERATOR)
    for path in ("/jobs", "/studies/1"):
        browser.get(path)
        offered = [f"/jobs/{number}/retry" in browser.text for number in numbers]
        assert offered == [False, True], path


def test_what_a_person_did_is_no_problem(site: ConsoleLab) -> None:
    with site.database.write() as session:
        record(session, events.JOB_FAILED, 1, reason="a defect")
        for mine in (events.STUDY_RERUN, events.JOB_CANCELLED, events.RESULT_WITHDRAWN):
            record(session, mine, 1)
    browser = site.browser(UserRole.VIEWER)
    browser.get("/")
    shown = re.findall(r'<span class="number">(\d+)</span>', browser.text)
    assert shown == [str(events.JOB_FAILED.number)]
    assert re.search(r">\d{4}-\d\d-\d\d \d\d:\d\d:\d\d</time>", browser.text)


def test_who_mistypes_a_password_need_not_type_the_name_again(console: ConsoleLab) -> None:
    browser = console.browser()
    assert browser.sign_in("viewer", "wrong password") == 403
    assert 'name="name" value="viewer"' in browser.text
