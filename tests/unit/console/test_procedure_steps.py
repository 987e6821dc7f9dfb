"""The procedure steps that a modality reported, on the page of their study, and the switch of a peer."""

from __future__ import annotations

from typer.testing import CliRunner

from dicom_console.views import timeline
from dicom_node import preflight
from dicom_node.cli import app
from dicom_node.config import loading
from dicom_node.events import STEPS_FULFILLED, STEPS_NOT_AWAITED, STUDY_COMPLETE
from dicom_node.model.kinds import StepStatus
from dicom_node.model.roles import UserRole
from dicom_node.store import sight, steps, views
from dicom_node.store.transitions import record, utc_now
from tests.console_lab import ConsoleLab, config_file
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

IMAGES = [ultrasound("stepped", number=number) for number in (1, 2, 3)]
STUDY = str(IMAGES[0].StudyInstanceUID)


def report(inbox: Inbox) -> None:
    """Two of three images arrive; one step has ended, one goes on."""
    inbox.receive(*IMAGES[:2])
    inbox.settle()
    uids = [str(image.SOPInstanceUID) for image in IMAGES]
    with inbox.database.write() as session:
        for uid, status, named in (
            ("1.2.1", StepStatus.COMPLETED, uids),
            ("1.2.2", StepStatus.IN_PROGRESS, []),
        ):
            one = steps.StepReport(uid, "modality", "MODALITY", status, 1, [STUDY], named, utc_now())
            steps.keep(session, one)


def test_the_page_of_a_study_has_its_steps(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.VIEWER)
    inbox.receive(ultrasound("without"))
    inbox.settle()
    report(inbox)
    assert browser.get("/studies/1") == 200
    assert "Performed procedure steps" not in browser.text
    assert browser.get("/studies/2") == 200
    table = browser.text.partition("Performed procedure steps")[2].partition("</section>")[0]
    rows = [row for row in table.split("<tr>") if "MODALITY" in row]
    assert ["COMPLETED" in row for row in rows] == [True, False]
    assert '<td data-label="objects">3</td><td data-label="missing">1</td>' in rows[0]
    assert "MODALITY reported its procedure step COMPLETED" in browser.text
    assert "MODALITY began a procedure step" in browser.text


def test_the_timeline_says_by_what_a_study_was_complete(inbox: Inbox) -> None:
    report(inbox)
    with inbox.database.write() as session:
        record(session, STEPS_NOT_AWAITED, 1, steps=2, going_on=1, missing=1)
        record(session, STUDY_COMPLETE, 1)
        record(session, STEPS_FULFILLED, 1, steps=2)
        record(session, STUDY_COMPLETE, 1)
    with inbox.database.read() as session:
        found = [row for row in timeline.timeline(session, 1) if row["what"].startswith("complete")]
    assert [row["what"].partition(":")[2].split()[:3] for row in found] == [
        ["nothing", "more", "came"],
        ["all", "that", "its"],
        ["its", "procedure", "steps"],
    ]
    assert [row["more"] for row in found] == ["", "1 missing", ""]


def test_who_sees_other_senders_only_sees_no_step(inbox: Inbox) -> None:
    report(inbox)
    for senders, seen in ((("MODALITY",), 2), (("ROOM9",), 0)):
        token = sight.SENDERS.set(senders)
        try:
            with inbox.database.read() as session:
                assert len(views.list_steps(session, STUDY)) == seen
        finally:
            sight.SENDERS.reset(token)


def test_studies_show_lists_them(inbox: Inbox) -> None:
    report(inbox)
    words = ["studies", "show", STUDY, "--config", str(config_file(inbox.settings))]
    printed = CliRunner().invoke(app, words).output
    assert "COMPLETED" in printed
    assert "IN PROGRESS" in printed
    with inbox.database.read() as session:
        first, second = views.show_study(session, STUDY)["steps"]
    assert (first["objects"], first["missing"], second["ended_at"]) == (3, 1, None)


def test_the_form_of_a_peer_has_the_switch(console: ConsoleLab, inbox: Inbox) -> None:
    config = config_file(inbox.settings, "[console]\nlocal_peers = true\n")
    browser = console.browser(UserRole.ADMIN)
    peer = {"name": "us2", "ae_title": "US2", "may": "send", "mpps": "on"}
    assert browser.post("/peers/new", **peer, version="0", rest="") == 200, browser.text
    assert loading.load([config]).peer("us2").mpps
    assert browser.get("/peers/us2/change") == 200
    assert 'name="mpps"' in browser.text
    refused = {"name": "pacs2", "ae_title": "P", "host": "h", "port": "104", "may": "receive", "mpps": "on"}
    assert browser.post("/peers/new", **refused, results="sr", version="0", rest="") == 400
    assert "mpps is for peers with may" in browser.text


def test_check_says_what_steps_change_and_that_a_bucket_has_none_of_them(inbox: Inbox) -> None:
    steps = '[assembly]\nmpps_minutes = 7.5\n[[peers]]\nname = "us2"\nae_title = "US2"\nmpps = true\n'
    bucket = '[object_store]\nurl = "s3://bucket"\n'
    said = []
    for text in (steps, bucket + steps):
        file = config_file(inbox.settings, text)
        said.append([line.ok for line in preflight.check([file]).tried if line.text.startswith("MPPS")])
    assert said == [[True], [True, False]]
    texts = [line.text for line in preflight.check([file]).tried if line.subject == "peer us2"]
    assert "7.5 minutes at most" in texts[0] and "one listener only" in texts[1]
