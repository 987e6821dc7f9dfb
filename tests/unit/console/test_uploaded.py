"""How an upload goes on: study by study, to its end, without the names of files."""

from __future__ import annotations

import re

import pytest

from dicom_console.views import uploaded
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.store.tables import Job, Study
from tests.console_lab import Browser, ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.test_uploads import part_10
from tests.unit.inbox.objects import changed


@pytest.fixture
def browser(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.OPERATOR)


def page_of(browser: Browser) -> str:
    found = re.search(r'data-from="(/upload/\d+)"', browser.text)
    assert found, browser.text
    return found[1]


def test_a_study_is_followed_from_the_spool_to_its_end(browser: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    browser.upload(("Mueller.dcm", part_10(sent)))
    address = page_of(browser)
    assert "1 of 1 object is still being read" in browser.text
    inbox.settle()
    assert browser.get(address) == 200
    assert "still being read" not in browser.text
    study = inbox.study(str(sent.StudyInstanceUID))
    assert f'href="/studies/{study.id}"' in browser.text
    assert "0 of 1 jobs" in browser.text
    assert "All of it came to its end" not in browser.text
    with inbox.database.write() as session:
        session.query(Job).update({"state": JobState.NOT_APPLICABLE})
        session.query(Study).update({"state": StudyState.NOT_APPLICABLE, "reason": "it is a leg"})
    browser.get(address)
    assert "it is a leg" in browser.text
    assert "All of it came to its end" in browser.text
    assert "Mueller" not in browser.text
    browser.get("/upload")
    assert f'href="{address}"' in browser.text


def test_a_study_that_is_gone_meanwhile_is_left_out(inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    with inbox.database.read() as session:
        assert [row["id"] for row in uploaded._studies(session, [1, 99])] == [1]


def test_what_was_quarantined_says_why(browser: Browser, inbox: Inbox) -> None:
    one = ultrasound("one")
    other = changed(one, PixelData=bytes(255 - value for value in one.PixelData))
    browser.upload(("a", part_10(one)), ("b", part_10(other)))
    address = page_of(browser)
    inbox.settle()
    browser.get(address)
    assert 'class="state quarantined"' in browser.text
    assert re.search(r"1 conflict: \w+", browser.text), browser.text
    assert "All of it came to its end" in browser.text


def test_another_number_is_no_upload(browser: Browser, console: ConsoleLab) -> None:
    assert browser.get("/upload/999999") == 404
    assert browser.get("/upload/1") == 404, "a row of the audit, of something else"
    assert console.browser(UserRole.VIEWER).get("/upload/1") == 403


def test_a_held_study_is_found_and_called_so(browser: Browser, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"), ultrasound("two"))
    inbox.settle()
    first = inbox.jobs()[0]
    with inbox.database.write() as session:
        session.get_one(Job, first.id).state = JobState.HELD
        session.get_one(Study, first.study_id).state = StudyState.NOT_APPLICABLE
    browser.get("/studies")
    assert browser.text.count('class="state held"') == 1
    assert '<option value="held">' in browser.text
    assert browser.post("/studies/search", state="held") == 303
    assert browser.follow() == 200
    assert browser.text.count("<tr>") == 2, "the heading and one study"
    assert f'href="/studies/{first.study_id}"' in browser.text
    browser.get(f"/studies/{first.study_id}")
    assert 'class="state held"' in browser.text
    assert browser.get("/studies?state=nonsense") == 400
