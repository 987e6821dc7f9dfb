"""The list of studies as a worklist: what a row shows, orders, saved filters, several studies at once."""

from __future__ import annotations

import html
import io
import re
from datetime import timedelta

import pytest
from PIL import Image
from sqlalchemy import insert, select, update

from dicom_console.handlers import studies as handlers
from dicom_console.views import search
from dicom_console.views.search import Order, Search
from dicom_node.model.kinds import RejectionReason
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services.results import withdraw_by_uid
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Instance, Job, Result, Study
from dicom_node.store.transitions import utc_now
from tests.console_lab import Browser, ConsoleLab, Program
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.test_search import fill


@pytest.fixture
def console_of_node(node: Inbox) -> ConsoleLab:
    return ConsoleLab(node.settings, node.database)


def test_a_row_shows_picture_description_result_and_time_to_result(node: Inbox) -> None:
    with node.database.write() as session:
        received = session.get_one(Study, 1).last_received_at
        session.get_one(Study, 1).state = StudyState.DELIVERED
        later = received + timedelta(seconds=7)
        session.execute(update(Delivery).values(state=DeliveryState.CONFIRMED, confirmed_at=later))
    with node.database.read() as session:
        [row] = search.search(session, Search())[0]
        first = session.scalars(select(Instance).order_by(Instance.id)).first()
        assert first is not None
        delivered = session.scalars(select(Delivery)).all()
        assert row["cover"] == first.id
        assert row["description"] == first.attributes.get("StudyDescription", "")
    assert row["short_result"] and all(line.strip() for line in row["short_result"])
    assert row["seconds"] == (7.0 if delivered else None)
    uid = str(ultrasound("one").StudyInstanceUID)
    withdraw_by_uid(node.settings, uid, None, reason=RejectionReason.QUALITY, because="the other side")
    with node.database.read() as session:
        assert search.search(session, Search())[0][0]["short_result"] == []


def test_the_thumbnail_is_small_and_of_images_that_are_here(console_of_node: ConsoleLab, node: Inbox) -> None:
    browser = console_of_node.browser(UserRole.VIEWER)
    browser.get("/studies")
    found = re.search(r"/studies/(\d+)/thumbnail", browser.text)
    assert found
    assert browser.get(found[0]) == 200
    assert max(Image.open(io.BytesIO(browser.content)).size) == 96
    with node.database.write() as session:
        session.execute(update(Instance).values(purged=True))
    assert browser.get(found[0]) == 404
    browser.get("/studies")
    assert "/thumbnail" not in browser.text
    assert Browser(console_of_node.app).get(found[0]) == 303  # to the sign-in


def test_a_heading_turns_the_order_round(database: Database) -> None:
    fill(database)
    with database.write() as session:
        for number in range(1, 7):
            session.get_one(Study, number).study_date = f"2026010{number % 4 + 1}"

    def order(wanted: Order) -> list[int]:
        with database.read() as session:
            return [row["id"] for row in search.search(session, Search(order=wanted))[0]]

    assert order(Order.RECEIVED) == [6, 5, 4, 3, 2, 1] == order(Order.WAITING)[::-1]
    assert order(Order.DATE) == [3, 6, 2, 5, 1, 4] == order(Order.OLDEST_DATE)[::-1]


def test_headings_link_to_the_other_order_and_keep_the_filters(console_of_node: ConsoleLab) -> None:
    browser = console_of_node.browser(UserRole.VIEWER)
    browser.get("/studies?modality=US&order=date")
    assert 'aria-sort="descending"' in browser.text
    links = {html.unescape(link) for link in re.findall(r'href="(/studies\?[^"]*order=[^"]*)"', browser.text)}
    assert {"/studies?order=oldest_date&modality=US", "/studies?order=received&modality=US"} <= links


def test_studies_of_today_and_of_the_last_days(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    with inbox.database.write() as session:
        for number, days in ((1, 0), (2, 1), (3, 6)):
            session.get_one(Study, number).last_received_at = utc_now() - timedelta(days=days)
        session.execute(
            update(Study).where(Study.id > 3).values(last_received_at=utc_now() - timedelta(days=40))
        )
    program = Program(console, UserRole.VIEWER)
    found = {days: program.ask("GET", f"/studies?days={days}")[1]["studies"] for days in (1, 2, 7, 366)}
    assert {days: {row["id"] for row in rows} for days, rows in found.items()} == {
        1: {1},
        2: {1, 2},
        7: {1, 2, 3},
        366: {1, 2, 3, 4, 5, 6},
    }
    for days in ("0", "367", "-1", "x", "9" * 40):
        assert program.ask("GET", f"/studies?days={days}")[0] == 400
    first = handlers._first_of_days(1).astimezone()
    assert (first.hour, first.minute) == (0, 0) and first.utcoffset() is not None


def test_filters_are_saved_for_their_user_alone(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    filters = "modality=US&state=failed&order=date"
    assert browser.post("/studies/filters", name=" Failed  US ", filters=f"{filters}&person=1&x=1") == 303
    browser.follow()
    assert ">Failed US</a>" in browser.text and "Remove the saved filters Failed US" in browser.text
    other = console.browser(UserRole.OPERATOR)
    other.get("/studies")
    assert "Failed US" not in other.text
    assert browser.post("/studies/filters", name="Failed US", forget="1") == 303
    browser.get("/studies")
    assert "Failed US" not in browser.text


@pytest.mark.parametrize("name", ["", " ", "x" * 41, "a\u202eb"])
def test_a_name_of_filters_that_is_no_name_is_refused(console: ConsoleLab, name: str) -> None:
    assert console.browser(UserRole.VIEWER).post("/studies/filters", name=name, filters="state=failed") == 409


def test_no_more_than_twenty_filters_are_saved(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    answers = [browser.post("/studies/filters", name=f"f{n}", filters="state=failed") for n in range(21)]
    assert answers == [303] * 20 + [409]
    assert browser.post("/studies/filters", name="f3", filters="state=delivered") == 303


def stopped_job(inbox: Inbox, study: int, state: JobState) -> None:
    with inbox.database.write() as session:
        values = {"study_id": study, "study_revision": 1, "rule": "r", "pipeline": "p", "destinations": []}
        now = {"created_at": utc_now(), "run_at": utc_now(), "turn_at": utc_now()}
        session.execute(insert(Job), [{**values, **now, "source_uids": [], "state": state}])


def test_several_studies_are_retried_and_the_others_say_why_not(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    for study, state in ((1, JobState.HELD), (2, JobState.FAILED), (3, JobState.RUNNING)):
        stopped_job(inbox, study, state)
    browser = console.browser(UserRole.OPERATOR)
    form = {"csrf": browser.token(), "change": "retry", "study": ["1", "2"], "filters": "modality=US"}
    answer = browser.client.post("/studies/change", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies?modality=US")
    with inbox.database.read() as session:
        states = [job.state for job in session.scalars(select(Job).order_by(Job.id))]
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.RUNNING]
    assert [noted["change"] for noted in console.audited("job_changed")] == ["retry", "retry"]
    answer = browser.client.post("/studies/change", data=form | {"study": ["1", "3"]})
    assert "0 done, 2 refused" in answer.text and "no job was stopped" in answer.text


def test_a_program_changes_several_studies(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    stopped_job(inbox, 1, JobState.HELD)
    program = Program(console, UserRole.OPERATOR)

    def change(**wanted: object) -> tuple[int, object]:
        return program.ask("POST", "/studies/change", json=wanted)

    status, answer = change(studies=[1, 2, 1], change="retry")
    assert status == 200 and isinstance(answer, dict)
    assert [(row["id"], row["done"]) for row in answer["studies"]] == [(1, True), (2, False)]
    assert change(studies=[1], change="send", peer="nowhere")[0] == 404
    assert change(studies=[99], change="retry")[0] == 404
    for wrong in ({"studies": []}, {"studies": [0]}, {"studies": [1] * 501}, {"studies": [2**63]}):
        assert change(change="retry", **wrong)[0] == 400
    assert change(studies=[1], change="delete")[0] == 400
    assert Program(console, UserRole.VIEWER).ask("POST", "/studies/change", json={})[0] == 403


def test_several_studies_are_withdrawn_with_one_reason(node: Inbox, console_of_node: ConsoleLab) -> None:
    browser = console_of_node.browser(UserRole.OPERATOR)
    form = {"csrf": browser.token(), "change": "withdraw", "study": ["1"], "reason": "safety"}
    assert "1 refused" in browser.client.post("/studies/change", data=form).text  # without a reason
    answer = browser.client.post("/studies/change", data=form | {"because": "of another patient"})
    assert answer.status_code == 303
    with node.database.read() as session:
        assert search.search(session, Search())[0][0]["withdrawn"] == "all"
        assert session.scalars(select(Result)).first() is not None
