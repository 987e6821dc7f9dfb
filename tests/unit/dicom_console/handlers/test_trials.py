"""A picture that a person tries: what is stored of it, and that nothing of it is sent."""

import io

import pytest
from PIL import Image
from pydicom import dcmread

from ai_pipeline.models import registry
from dicom_node.base.lifecycle import JobState, StudyState, UserRole
from dicom_node.base.store import intake
from dicom_node.base.store.tables import AuditRow, Instance, Job, ReceivedObject, Study
from tests.console_lab import Browser, ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import part_10, ultrasound
from tests.unit.dicom_console.handlers.test_uploads import picture, taking_uploads, zipped


def try_it(operator: Browser, name: str, data: bytes, **fields: str) -> int:
    return operator.upload((name, data), to="/try", **{"Modality": "US"} | fields)


def test_a_picture_is_a_trial_whose_results_go_nowhere(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    assert try_it(operator, "a.png", picture(), View="") == 303
    assert operator.follow() == 200
    assert 'id="trial" data-live' in operator.text
    inbox.index()
    inbox.assemble()
    [study], [job] = inbox.rows(Study), inbox.jobs()
    assert (study.state, study.patient_id, study.priority) == (StudyState.QUEUED, "", 1)
    assert (job.rule, job.destinations) == ("ultrasound", [])
    assert inbox.read(intake.is_trial, study.id)
    assert inbox.read(intake.stays_here, study.id)
    made = dcmread(inbox.folder / inbox.rows(Instance)[0].path)
    assert (made.Modality, made.StudyDescription) == ("US", "Trial")


def test_a_study_that_a_modality_sends_too_is_no_trial(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    try_it(operator, "a.png", picture())
    inbox.index()
    [study] = inbox.rows(Study)
    [row] = inbox.rows(ReceivedObject)
    inbox.add(
        ReceivedObject(
            spool_name="x", study_id=study.id, outcome=row.outcome, association="a1", path="x", bytes=1,
            calling_ae="MODALITY", called_ae="AINODE", received_at=row.received_at,
        )
    )  # fmt: skip
    assert not inbox.read(intake.is_trial, study.id)


def test_a_dicom_file_is_an_upload_like_any_other(operator: Browser, inbox: Inbox) -> None:
    assert try_it(operator, "a.dcm", part_10(ultrasound("one"))) == 303
    inbox.index()
    inbox.assemble()
    [job] = inbox.jobs()
    assert job.destinations == ["pacs"]
    assert not inbox.read(intake.is_trial, job.study_id)


@pytest.mark.parametrize(
    ("name", "data", "fields", "why"),
    [
        ("a.png", picture()[:70], {}, "truncated"),
        ("a.txt", b"no picture", {}, "no file of DICOM"),
        ("a.png", picture(), {"Modality": "OT"}, "Choose one file, and what it shows."),
        ("a.png", picture(), {"View": "AXIAL"}, "View is one of PA"),
        ("a.zip", zipped(("one", part_10(ultrasound("one")))), {}, "a DICOM file of a ZIP is not tried"),
    ],
    ids=["half a picture", "no picture", "of nothing known", "a faulty field", "DICOM in a ZIP"],
)
def test_what_cannot_be_tried_is_refused_in_words(
    operator: Browser, inbox: Inbox, name: str, data: bytes, fields: dict[str, str], why: str
) -> None:
    assert try_it(operator, name, data, **fields) == 400
    assert why in operator.text
    assert inbox.spool.pending() == []


@pytest.mark.parametrize("role", [UserRole.VIEWER, UserRole.READER])
def test_who_may_not_upload_tries_nothing(console: ConsoleLab, inbox: Inbox, role: UserRole) -> None:
    browser = console.browser(role)
    assert browser.get("/try") == 403
    assert try_it(browser, "a.png", picture()) == 403
    assert inbox.spool.pending() == []
    assert "/try" not in browser.page("/studies")


def test_why_not_is_said_beside_the_picture(operator: Browser, console: ConsoleLab, inbox: Inbox) -> None:
    taking_uploads(console, inbox)
    flat = io.BytesIO()
    Image.new("L", (64, 48), 9).save(flat, "PNG")
    try_it(operator, "a.png", flat.getvalue())
    address = operator.headers["location"]
    inbox.index()
    inbox.assemble()
    inbox.put(Job, state=JobState.NOT_APPLICABLE)
    inbox.put(Study, state=StudyState.NOT_APPLICABLE, reason="it is almost one grey")
    assert "it is almost one grey" in operator.page(address)
    assert "Nothing was assessed, so nothing is excluded." in operator.text
    assert f'data-then="{address}"' in operator.text
    assert "sent nowhere" in operator.text
    assert '<image class="received"' in operator.text


def test_the_three_highest_scores_are_of_all_labels(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    try_it(operator, "a.png", picture())
    address = operator.headers["location"]
    inbox.index()
    inbox.assemble()
    scores = {"Effusion": 0.347, "Mass": 0.2, "Hernia": 0.01, "Nodule": 0.11}
    version = next(card.version for card in registry.cards() if card.id == "chest-efficientnet-lite0")
    inbox.put(Job, state=JobState.SUCCEEDED, scores={f"chest-efficientnet-lite0@{version}": scores})
    inbox.put(Study, state=StudyState.DELIVERED)
    shown = operator.page(address)
    assert "<dt>Pleural effusion</dt><dd>34.7 %</dd>" in shown
    assert shown.index("34.7 %") < shown.index("20.0 %") < shown.index("11.0 %")
    assert "Hernia" not in shown
    assert "One of the three is right in 75 % (67 % to 82 %) of films with a finding." in shown


def test_a_trial_is_noted_as_an_upload(operator: Browser, inbox: Inbox) -> None:
    try_it(operator, "a.png", picture())
    [row] = [row for row in inbox.rows(AuditRow) if row.action == "uploaded"]
    assert row.fields["association"].startswith("trial-")
    assert (row.fields["objects"], row.fields["refused"]) == (1, 0)
