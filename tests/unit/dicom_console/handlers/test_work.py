"""Requested steps, notifications, fetches and decisions of before a restore."""

from datetime import datetime

import pytest

from dicom_connectors.notifications.sender import Notifier
from dicom_node.base import events
from dicom_node.base.config.loading import TomlFiles
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.lifecycle import JobState, StepStatus, StudyState, UserRole
from dicom_node.base.store import requested
from dicom_node.base.store.tables import DecisionRow, Delivery, Job, Study
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.people import fetches, preflight, users
from tests.console_lab import PASSWORD, Browser, ConsoleLab, config_file, happened
from tests.forked import run_forked
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound, ultrasounds
from tests.pacs_lab import FakeArchive, answer_for, film, free_port, peer, run_pacs
from tests.rows import NOW, a_job, a_result, a_study
from tests.smtp_lab import WebServer

IMAGES = ultrasounds("stepped", 3)


STUDY = str(IMAGES[0].StudyInstanceUID)


def report(inbox: Inbox) -> None:
    """Two of three images arrive; one step has ended, one goes on."""
    inbox.settle(*IMAGES[:2])
    for uid, status, named in (
        ("1.2.1", StepStatus.COMPLETED, [str(image.SOPInstanceUID) for image in IMAGES]),
        ("1.2.2", StepStatus.IN_PROGRESS, []),
    ):
        report = {"step": uid, "peer": "modality", "calling": "MODALITY", "status": status, "number": 1}
        inbox.write(requested.keep_step, report | {"studies": [STUDY], "objects": named}, utc_now())


def test_the_page_of_a_study_has_its_steps(viewer: Browser, inbox: Inbox) -> None:
    inbox.settle(ultrasound("without"))
    report(inbox)
    assert "Performed procedure steps" not in viewer.page("/studies/1")
    table = viewer.page("/studies/2").partition("Performed procedure steps")[2].partition("</section>")[0]
    rows = [row for row in table.split("<tr>") if "MODALITY" in row]
    assert ["COMPLETED" in row for row in rows] == [True, False]
    assert '<td data-label="objects">3</td><td data-label="missing">1</td>' in rows[0]


@pytest.fixture
def told(console: ConsoleLab, inbox: Inbox, web: WebServer) -> ConsoleLab:
    """A console of a node whose web server refused what it was told."""
    rule = {"name": "hook", "on": ["failure"], "url": web.url, "token": "T0KEN"}
    node = Inbox(inbox.folder, {**CONFIG, "outbox": {"refusals": 1}, "notifications": [rule]})
    notifier = Notifier(node.database, node.settings, "a test")
    notifier.run_once()
    node.write(record, events.JOB_FAILED)
    web.status = 404
    notifier.run_once()
    node.close()
    return ConsoleLab(node.settings, inbox.database)


def test_an_operator_sees_tests_and_repeats(told: ConsoleLab, web: WebServer) -> None:
    browser = told.browser(UserRole.OPERATOR)
    assert browser.get("/notifications") == 200
    for word in ("hook", "failure", "job failed for good × 1", "the server answers 404", "Send again"):
        assert word in browser.text
    assert browser.post("/notifications/hook/test") == 200
    assert "the server answers 404" in browser.text
    web.status = 200
    browser.post("/notifications/hook/test")
    assert "taken by the server" in browser.text
    assert web.calls[-1][1]["test"] is True
    hook = f'[[notifications]]\nname = "hook"\non = ["failure"]\nurl = "{web.url}"\n'
    hook += '[[peers]]\nname = "p"\nae_title = "P"\nmay = ["receive"]\nhost = "127.0.0.1"\nport = 4242\n'
    hook += '[[rules]]\nname = "us"\nwhen = { modality = "US" }\npipeline = "ultrasound"\nsend_to = ["p"]\n'
    config = "--config", config_file(told.settings, hook)
    words = ("notifications", "test", "hook", *config, "--finding")
    assert not run_forked("dicom_node", *words, "Burned-in*").returncode
    assert "Suspected: Burned-in*" in web.calls[-1][1]["text"]
    never = run_forked("dicom_node", *words, "Pneumothorax")
    assert never.returncode
    assert "no rule finds 'Pneumothorax'" in never.stderr
    assert web.calls[-1][1]["test"] is True
    assert [browser.post("/notifications/1/retry") for _ in range(2)] == [303, 409]
    assert browser.post("/notifications/none/test") == 404
    assert "T0KEN" not in browser.text
    assert [row["action"] for row in told.audit_rows()[:3]] == [
        "notified_again",
        "notifier_tested",
        "notifier_tested",
    ]


def test_what_waits_for_a_lost_decision_says_so_until_an_admin_settles_it(
    console: ConsoleLab, inbox: Inbox
) -> None:
    happened(inbox, events.DECISIONS_UNKNOWN, 1)
    console.add(study := a_study("1.2.3", StudyState.DELIVERING))
    console.add(job := a_job(study, JobState.SUCCEEDED))
    console.add(result := a_result(job))
    lost = {
        "machine": "m", "copied": True, "action": "result_withdrawn", "record": {"actor": "anna"},
        "study_uid": "1.2.3", "holds": True, "waits_for": "1 result is not built", "applied_at": None,
    }  # fmt: skip
    console.add(Delivery(result_id=result.id, destination="pacs", next_at=NOW))
    console.add(DecisionRow(id="d1", at=NOW, **lost))
    browser = console.browser(UserRole.ADMIN)
    assert "1 result is not built" in browser.page("/decisions")
    for place in ("/outbox", "/studies", f"/studies/{study.id}"):
        assert "waits for a decision of a person" in browser.page(place), place
    assert "decisions from before a restore wait" in browser.page("/")
    assert 'class="error"' in browser.text
    assert ("decisions", False) in [
        (one.subject, one.ok)  # type: ignore[union-attr]
        for one in preflight._probe_database(console.settings, TomlFiles())
    ]
    assert browser.post("/decisions/d1/settle", because="sent by hand") == 303
    assert "No decision waits" in browser.page("/decisions")
    assert "the database lost decisions" in browser.page("/")
    assert 'class="error"' not in browser.text


def test_all_held_jobs_of_a_rule_are_run_at_once(console: ConsoleLab, inbox: Inbox) -> None:
    """A limit holds jobs of two rules; one is of a study that still receives images."""
    inbox.settle(*map(ultrasound, ("one", "two", "three")))
    for job, rule in zip(inbox.jobs(), ("chest", "chest", "us"), strict=True):
        console.put(Job, job.id, state=JobState.HELD, rule=rule)
    console.put(Study, inbox.jobs()[1].study_id, state=StudyState.RECEIVING)
    browser = console.at("/jobs?state=held", UserRole.OPERATOR)
    assert browser.text.count("Run all 1") == 2  # of each rule; the study that receives is not counted
    for rule, states in (("chest", "queued held held"), ("", "queued held queued")):
        assert browser.post("/jobs/run-all", state="held", rule=rule) == 303
        assert " ".join(job.state.value for job in inbox.jobs()) == states
    assert browser.post("/jobs/run-all", state="running", rule="") in (400, 409, 422)


FORM = {"peer": "archive", "modalities": "dx", "first": "2024-03-02", "last": "2024-03-02", "rule": ""}


def fetched(console: ConsoleLab) -> list[dict[str, object]]:
    with console.database.read() as session:
        return fetches.list_fetches(session)


def with_archive(console: ConsoleLab, port: int) -> None:
    asked = PeerSettings.model_validate(peer(port, ae_title="ARCHIVE"))
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, asked)}))


def test_an_operator_has_studies_fetched(console: ConsoleLab) -> None:
    today = f"{datetime.now().astimezone():%Y%m%d}"
    answers = [
        answer_for(film("wanted")), answer_for(film("lost"), StudyDate=today, ModalitiesInStudy="US"),
    ]  # fmt: skip
    with run_pacs(FakeArchive(ae_title="ARCHIVE", answers=answers), classes=()) as pacs:
        with_archive(console, pacs.port)
        operator, viewer = console.browser(UserRole.OPERATOR), console.browser(UserRole.VIEWER)
        assert "/fetches/archive/missing" in operator.page("/fetches")
        assert operator.post("/fetches/archive/missing") == 200
        assert "it never came" in operator.text
        assert not fetched(console)
        for path, given in (("/fetches", FORM), ("/fetches/archive/missing", {"fetch": "true"})):
            assert operator.post(path, **given) == 303
            assert viewer.post(path, **given) == 403
        operator.get("/fetches")
        assert "archive" in operator.text
        assert "waiting" in operator.text
    assert operator.post("/fetches/archive/cancel") == operator.post("/fetches/archive/again") == 303
    assert [row["state"] for row in fetched(console)] == ["waiting"] * 2
    assert console.audited("studies_fetched")[-1]["studies"] == 1
    assert "/fetches" in operator.page("/peers")


def test_too_many_days_are_for_the_command_and_what_is_no_date_is_refused(
    operator: Browser, console: ConsoleLab
) -> None:
    with_archive(console, free_port())
    for given, status in (
        ({"first": "2020-01-01"}, 409), ({"first": "yesterday"}, 400), ({"modalities": "../.."}, 400),
        ({"peer": "pacs"}, 409), ({}, 503),  # it does not answer
    ):  # fmt: skip
        assert operator.post("/fetches", **FORM | given) == status, given
    assert not fetched(console)


def test_what_is_of_all_senders_is_refused(console: ConsoleLab) -> None:
    with_archive(console, 1)
    users.add_user(console.settings, "limited", UserRole.OPERATOR, PASSWORD, senders=["CONSOLE"])
    operator = console.browser("limited")
    for path, fields, said in (
        ("/fetches", FORM, "sees some only"),
        ("/fetches/archive/missing", {"fetch": "true"}, "sees some only"),
    ):
        assert operator.post(path, **fields) in (400, 409), path
        assert said in operator.text, path
