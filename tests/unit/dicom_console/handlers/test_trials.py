"""A picture that a person tries: what is stored of it, and that nothing of it is sent."""

import io

import pytest
from PIL import Image
from pydicom import dcmread

from ai_pipeline.models import registry
from dicom_node.base.lifecycle import JobState, StudyState, UserRole
from dicom_node.base.store import intake, views
from dicom_node.base.store.tables import AuditRow, Instance, Job, ReceivedObject, Study
from tests.console_lab import Browser, ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import part_10, ultrasound
from tests.unit.dicom_console.handlers.test_uploads import picture, taking_uploads, zipped

TAKEN = "It is none of the files that are taken: DICOM (Part 10), PNG, JPEG, TIFF, or a ZIP of these"


def try_it(operator: Browser, name: str, data: bytes, **fields: str) -> int:
    return operator.upload((name, data), to="/try", **{"Shows": "US"} | fields)


def test_a_picture_is_a_trial_whose_results_go_nowhere(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    assert try_it(operator, "a.png", picture()) == 303
    assert operator.follow() == 200
    assert 'id="trial" data-live' in operator.text
    inbox.index()
    inbox.assemble()
    [study], [job] = inbox.rows(Study), inbox.jobs()
    assert inbox.read(views.list_studies) == []
    assert [row["tried"] for row in inbox.read(views.list_studies, states=["trial"])] == [True]
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
        ("a.txt", b"no picture", {}, TAKEN),
        ("a.gif", b"GIF89a" + bytes(200), {}, TAKEN),
        ("a.bmp", b"BM" + bytes(200), {}, TAKEN),
        ("a.pdf", b"%PDF-1.7 " + bytes(200), {}, TAKEN),
        ("a.png", b"", {}, "It is empty"),
        ("a.png", picture(), {"Shows": "OT"}, "Choose one file, and what it shows."),
        ("a.png", picture(), {"Shows": "DX AXIAL"}, "Choose one file, and what it shows."),
        ("a.zip", zipped(("one", part_10(ultrasound("one")))), {}, "A DICOM file of a ZIP is not tried"),
    ],
    ids=["half", "text", "GIF", "BMP", "PDF", "empty", "of nothing known", "a faulty view", "DICOM in a ZIP"],
)
def test_what_cannot_be_tried_is_refused_in_words(
    operator: Browser, inbox: Inbox, name: str, data: bytes, fields: dict[str, str], why: str
) -> None:
    assert try_it(operator, name, data, **fields) == 400
    assert why in operator.text
    assert inbox.spool.pending() == []


def test_of_a_zip_what_can_be_tried_is_tried_and_the_rest_counted(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    assert try_it(operator, "a.zip", zipped(("film.png", picture()), ("notes.txt", b"no picture"))) == 303
    address = operator.headers["location"]
    inbox.index()
    inbox.assemble()
    inbox.put(Study, state=StudyState.DELIVERED)
    assert "Of the ZIP: 1 taken, 1 refused." in operator.page(address)


def test_of_a_zip_without_a_picture_each_file_says_why(operator: Browser, inbox: Inbox) -> None:
    assert try_it(operator, "a.zip", zipped(("one.txt", b"no picture"), ("two.gif", b"GIF89a"))) == 400
    for name in ("one.txt", "two.gif"):
        assert f"a.zip: {name}: it is none of the files that are taken" in operator.text
    assert inbox.spool.pending() == []


def test_a_picture_that_no_longer_decodes_has_its_page(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    try_it(operator, "a.png", picture())
    address = operator.headers["location"]
    inbox.index()
    inbox.assemble()
    inbox.put(Study, state=StudyState.FAILED, reason="the pixels do not decode")
    [row] = inbox.rows(Instance)
    path = inbox.folder / row.path
    path.write_bytes(path.read_bytes()[:200])
    shown = operator.page(address)
    assert "the pixels do not decode." in shown
    assert '<image class="received"' not in shown


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
    assert "it is almost one grey. Nothing was assessed" in " ".join(operator.page(address).split())
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
    model = f"chest-efficientnet-lite0@{version}"
    inbox.put(Job, state=JobState.SUCCEEDED, scores={model: scores})
    inbox.put(Study, state=StudyState.DELIVERED)
    shown = operator.page(address)
    assert '<td>Pleural effusion</td><td data-label="score">34.7 %</td>' in shown
    assert shown.index("34.7 %") < shown.index("20.0 %") < shown.index("11.0 %")
    assert "Hernia" not in shown
    assert shown.count("not assessed") == 3, "no report states one"
    assert "One of the three is right in 75 % (67 % to 82 %) of films with a finding." in shown
    inbox.put(Job, scores={model: scores, "unsure": {}})
    shown = operator.page(address)
    assert f"chest-efficientnet-lite0 {version} is unsure of this picture" in shown
    assert "34.7 %" in shown
    assert "One of the three" not in shown


def test_scores_of_one_picture_do_not_stand_beside_another_one_of_its_zip(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    try_it(operator, "two.zip", zipped(("a.png", picture()), ("b.png", picture(mode="L"))))
    address = operator.headers["location"]
    inbox.index()
    inbox.assemble()
    version = next(card.version for card in registry.cards() if card.id == "chest-efficientnet-lite0")
    scores = {f"chest-efficientnet-lite0@{version}": {"Effusion": 0.406}, "unsure": {}}
    inbox.put(Job, state=JobState.SUCCEEDED, scores=scores)
    inbox.put(Study, state=StudyState.DELIVERED)
    shown = operator.page(address)
    assert "Of the ZIP: 2 taken" in shown
    assert "40.6 %" not in shown
    assert "is unsure of this picture" not in shown
    assert "The three highest scores are shown of a picture that is tried alone." in shown
    inbox.put(Job, scores={})
    assert "highest scores" not in operator.page(address), "of an ultrasound picture there are none"


def test_a_trial_is_in_the_list_of_those_who_ask_for_it(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    try_it(operator, "a.png", picture())
    inbox.settle(ultrasound("one"))
    inbox.index()
    inbox.assemble()
    trial = next(row for row in inbox.rows(Study) if not row.patient_id)
    inbox.put(Study, trial.id, state=StudyState.DELIVERED)
    link = f'href="/studies/{trial.id}"'
    assert link not in operator.page("/studies")
    assert link not in operator.page("/studies?state=delivered")
    assert link not in operator.page("/studies?state=failed")
    shown = operator.page("/studies?state=trial")
    assert shown.count('<td class="who">') == 1
    assert link in shown
    assert ">Tried picture</a>" in shown
    assert '<span class="state trial">trial</span>' in shown
    assert ">priority " not in shown
    inbox.put(Study, trial.id, state=StudyState.FAILED)
    assert link in operator.page("/studies?state=failed"), "which the overview counts"
    assert link not in operator.page("/studies")


def test_an_erased_trial_says_by_whom_and_offers_nothing_that_cannot_be_done(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    taking_uploads(console, inbox)
    try_it(operator, "a.png", picture())
    address = operator.headers["location"]
    inbox.index()
    inbox.assemble()
    inbox.put(Job, state=JobState.SUCCEEDED, scores={"a@1": {"Mass": 0.2}})
    inbox.put(Study, state=StudyState.DELIVERED)
    assert "Run the rules again" in operator.page("/studies/1")
    assert console.browser(UserRole.ADMIN).post("/studies/1/erase") == 303
    for page in ("/studies/1", address):
        shown = operator.page(page)
        assert "Erased by admin, " in shown
        assert "No report yet" not in shown
        assert "Run the rules again" not in shown
        assert "keep_days" not in shown
    assert [job.scores for job in inbox.jobs()] == [None]


def test_a_trial_is_noted_as_an_upload(operator: Browser, inbox: Inbox) -> None:
    try_it(operator, "a.png", picture())
    [row] = [row for row in inbox.rows(AuditRow) if row.action == "uploaded"]
    assert row.fields["association"].startswith("trial-")
    assert (row.fields["objects"], row.fields["refused"]) == (1, 0)
