"""The review desk for cleaning: what waits there, what a person decides, and what becomes of the image."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from sqlalchemy import select

from ai_pipeline.burnin.devices.rules import read_rules
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.model.kinds import AuditAction, ResultKind, ReviewVerdict
from dicom_node.model.lifecycle import JobState
from dicom_node.model.roles import UserRole
from dicom_node.services import cleaning_reviews, device_rules, users
from dicom_node.services.studies import rerun_rules
from dicom_node.store.tables import CleaningReview, Result
from dicom_node.studies.purge import purge
from tests.console_lab import Browser, ConsoleLab, audited, quick_hasher
from tests.inbox_lab import Inbox
from tests.unit.console.scrubbed import PLACE, image, scrubbing
from tests.unit.jobs.worker_lab import confirm, work

BOX = {"left": "0", "top": "0", "right": "130", "bottom": "30"}


@pytest.fixture
def node(tmp_path: Path, with_users: Path) -> Iterator[Inbox]:
    folder = tmp_path / "var"
    folder.mkdir()
    shutil.copy(with_users, folder / "node.db")
    node = Inbox(folder, scrubbing())
    yield node
    node.close()


@pytest.fixture
def console(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> ConsoleLab:
    monkeypatch.setattr(users, "hasher", quick_hasher)
    return ConsoleLab(node.settings, node.database)


def analysed(node: Inbox, *series: str) -> None:
    """A study with an image for each name."""
    node.receive(*(image(name, number) for number, name in enumerate(series, start=1)))
    node.settle()
    work(node)


def rows(node: Inbox) -> list[CleaningReview]:
    with node.database.read() as session:
        found = list(session.scalars(select(CleaningReview).order_by(CleaningReview.id)))
        session.expunge_all()
        return found


def waiting(node: Inbox) -> list[tuple[int, str]]:
    return [(row.id, row.cause.value) for row in rows(node) if row.verdict is None]


def cleaned(node: Inbox) -> list[Path]:
    """The files of cleaned images, the oldest first."""
    with node.database.read() as session:
        chosen = select(Result.path).where(Result.kind == ResultKind.CLEANED).order_by(Result.id)
        return [node.settings.node.data_dir / path for path in session.scalars(chosen)]


def test_withheld_and_widened_images_wait_with_their_places(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "WIDE", "CLEAN", "NAME")
    assert [cause for _, cause in waiting(node)] == ["widened", "withheld"]
    assert [row.places for row in rows(node)] == [[list(PLACE)]] * 2
    assert len(cleaned(node)) == 2
    browser = console.browser(UserRole.OPERATOR)
    assert browser.get("/reviews") == 200 and "text is still found" in browser.text
    assert browser.get("/reviews/2") == 200
    assert 'points="8,4 120,4 120,20 8,20 8,4 "' in browser.text
    browser.get("/")
    assert "images to look at" in browser.text


def test_an_image_with_places_in_doubt_is_sent_and_waits_for_a_person(
    console: ConsoleLab, node: Inbox
) -> None:
    analysed(node, "DOUBT")
    assert [cause for _, cause in waiting(node)] == ["in_doubt"]
    assert rows(node)[0].places == [list(PLACE)] and len(cleaned(node)) == 1
    browser = console.browser(UserRole.OPERATOR)
    assert browser.get("/reviews") == 200 and "may hold letters" in browser.text
    assert browser.get("/reviews/1") == 200


def test_a_cleaned_image_that_left_is_told_though_another_rule_made_one_that_stayed(
    console: ConsoleLab, node: Inbox
) -> None:
    analysed(node, "WIDE")
    with node.database.write() as session:
        left = session.scalars(select(Result).where(Result.kind == ResultKind.CLEANED)).one()
        same = {key: getattr(left, key) for key in Result.__table__.columns.keys()}  # noqa: SIM118
        session.add(Result(**same | {"id": None, "sop_instance_uid": "2.25.9"}))
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/reviews/1")
    assert "A cleaned image of it went to pacs" in browser.text


def test_a_study_of_which_nothing_could_be_cleaned_waits_too(node: Inbox) -> None:
    analysed(node, "NAME", "NAME")
    assert [cause for _, cause in waiting(node)] == ["withheld", "withheld"]
    assert [row.places for row in rows(node)] == [[list(PLACE)]] * 2
    assert cleaned(node) == []


def test_what_was_accepted_is_not_asked_again(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "WIDE", "NAME")
    browser = console.browser(UserRole.OPERATOR)
    for number, _ in waiting(node):
        assert browser.post(f"/reviews/{number}/accept") == 303
        assert browser.post(f"/reviews/{number}/accept") == 409
    fields = audited(node.database, AuditAction.CLEANING_JUDGED)
    assert [row["verdict"] for row in fields] == ["accepted", "accepted"]
    study = node.study(image("WIDE").StudyInstanceUID)
    rerun_rules(node.settings, [str(study.study_instance_uid)])
    work(node)
    assert waiting(node) == [] and len(rows(node)) == 2
    assert len(cleaned(node)) == 1, "what was withheld stays here"


def test_an_image_leaves_once_a_box_covers_what_was_left(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "CLEAN", "NAME")
    [(number, _)] = waiting(node)
    before = cleaned(node)
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post(f"/reviews/{number}/boxes", act="clean", **BOX) == 303
    assert [row.state for row in node.jobs()] == [JobState.SUCCEEDED, JobState.QUEUED]
    work(node)
    assert waiting(node) == []
    assert cleaned(node)[:1] == before, "the other image of the study is the same object as before"
    [new] = cleaned(node)[1:]
    made = dcmread(new)
    assert not made.pixel_array[:30, :130].any() and made.pixel_array[40:].any()
    assert "1 place was marked by a person (operator) on 20" in made.DerivationDescription
    assert "verified that no text is left" in made.DerivationDescription
    [fields] = audited(node.database, AuditAction.CLEANING_JUDGED)
    assert fields["verdict"] == "drawn" and fields["boxes"] == 1
    assert "operator" not in str(made.get("OperatorsName", ""))


def test_an_image_that_fails_the_proof_with_its_boxes_stays_here_and_waits_again(
    console: ConsoleLab, node: Inbox
) -> None:
    analysed(node, "NAME")
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/reviews/1/boxes", act="clean", **{**BOX, "right": "40"}) == 303
    work(node)
    assert cleaned(node) == []
    assert [row.verdict for row in rows(node)] == [ReviewVerdict.DRAWN, None]
    browser.get("/reviews/2")
    assert 'name="right" min="0" max="240" value="40"' in browser.text, "what was drawn is still there"
    browser.post("/reviews/2/boxes", act="clean", **BOX)
    work(node)
    assert len(cleaned(node)) == 1 and waiting(node) == []


def test_boxes_that_are_none_are_refused(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "NAME")
    browser = console.browser(UserRole.OPERATOR)
    for edges, says in (
        (dict.fromkeys(BOX, ""), "draw a box first"),
        ({"right": "241"}, "outside the picture"),
        ({"left": "130"}, "outside the picture"),
        ({"left": "-1"}, "whole numbers"),
        ({"left": "1e3"}, "whole numbers"),
        ({"right": "999999"}, "whole numbers"),
        ({"right": "240", "bottom": "180"}, "more than 50%"),
    ):
        assert browser.post("/reviews/1/boxes", act="clean", **{**BOX, **edges}) == 400, edges
        assert says in browser.text, edges
    assert len(waiting(node)) == 1 and len(node.jobs()) == 1


def test_forms_with_other_fields_are_refused(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "NAME")
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/reviews/1/boxes", act="clean", left="1") == 400
    assert browser.post("/reviews/1/boxes", act="delete", **BOX) == 400
    assert browser.post("/reviews/9/boxes", act="clean", **BOX) == 404
    assert browser.get("/reviews/9") == 404
    assert console.browser(UserRole.READER).get("/reviews") == 403


def test_a_study_that_is_received_again_is_left_alone(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "NAME")
    node.receive(image("CLEAN", 2))
    node.index()
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/reviews/1/boxes", act="clean", **BOX) == 409
    assert "still being received" in browser.text and len(waiting(node)) == 1


def test_purged_images_wait_no_more(node: Inbox) -> None:
    analysed(node, "WIDE")
    confirm(node)
    [job] = node.jobs()
    assert job.finished_at is not None
    node.settings = node.settings.model_copy(
        update={"spool": node.settings.spool.model_copy(update={"keep_days": 0})}
    )
    assert purge(node.database, node.settings) == 1
    assert [row.verdict for row in rows(node)] == [ReviewVerdict.REPLACED]


def tried(browser: Browser, **fields: str) -> int:
    return browser.post("/reviews/1/boxes", act="try", name="room3-banner", **{**BOX, **fields})


def test_a_box_becomes_a_device_rule_that_was_tried_before(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "NAME", "CLEAN")
    node.receive(image("OTHER", 3, ManufacturerModelName="Scan 8"), image("NEW", 4, SoftwareVersions="3"))
    node.settle()
    work(node)
    operator, admin = console.browser(UserRole.OPERATOR), console.browser(UserRole.ADMIN)
    assert tried(operator) == 200
    assert operator.text.count("<figure>") == 2, "of this model and software only"
    assert "Save the rule" not in operator.text
    assert operator.post("/reviews/1/boxes", act="save", name="room3-banner", **BOX) == 403
    assert admin.post("/reviews/1/boxes", act="save", name="room3-banner", **BOX) == 200
    file = node.settings.node.data_dir / DEVICE_RULES_FOLDER / "room3-banner.toml"
    [rule] = tomllib.loads(file.read_text(encoding="utf-8"))["rule"]
    assert rule["match"] == {
        "manufacturer": "Maker [[]X]",
        "model": "Scan 7",
        "software": "2.1",
        "modality": "US",
        "rows": 180,
        "columns": 240,
    }
    assert rule["rectangles"] == [{"left": 0, "top": 0, "right": 130, "bottom": 30}]
    assert [one.name for one in read_rules(file.parent) if one.name == rule["name"]] == ["room3-banner"]
    [fields] = audited(node.database, AuditAction.RULE_SAVED)
    assert fields["name"] == "room3-banner"
    work(node)
    assert waiting(node) == [], "and the image was cleaned with the box"


def test_a_device_rule_makes_new_objects_of_its_images_only(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "CLEAN")
    node.receive(image("NAME", 2, ManufacturerModelName="Scan 8"))
    node.settle()
    work(node)
    with node.database.read() as session:
        before = set(session.scalars(select(Result.sop_instance_uid)))
    [(number, _)] = waiting(node)
    console.browser(UserRole.ADMIN).post(f"/reviews/{number}/boxes", act="save", name="eight", **BOX)
    work(node)
    with node.database.read() as session:
        after = set(session.scalars(select(Result.sop_instance_uid)))
    assert before < after and len(after - before) == 1


def test_names_that_are_taken_or_none_are_refused(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "NAME")
    browser = console.browser(UserRole.ADMIN)
    for name in ("", "../etc/passwd", "Room 3"):
        assert browser.post("/reviews/1/boxes", act="try", name=name, **BOX) == 400, name
    browser.post("/reviews/1/boxes", act="save", name="room3", **{**BOX, "right": "40"})
    work(node)
    [(number, _)] = waiting(node)
    assert browser.post(f"/reviews/{number}/boxes", act="save", name="room3", **BOX) == 400
    assert "already" in browser.text


def test_a_rule_is_removed_where_it_was_drawn(console: ConsoleLab, node: Inbox) -> None:
    analysed(node, "NAME")
    admin = console.browser(UserRole.ADMIN)
    admin.post("/reviews/1/boxes", act="save", name="room3", **BOX)
    folder = node.settings.node.data_dir / DEVICE_RULES_FOLDER
    (folder / "own.toml").write_text(
        'source = "measured"\n[[rule]]\nname = "own"\nmatch = { model = "X" }\nrectangles = []\n', "utf-8"
    )
    assert [row["name"] for row in device_rules.made_here(node.settings)] == ["room3"]
    assert console.browser(UserRole.OPERATOR).post("/reviews/rules/remove", name="room3") == 403
    assert admin.post("/reviews/rules/remove", name="own") == 404
    assert admin.post("/reviews/rules/remove", name="room3") == 200
    assert not (folder / "room3.toml").exists()
    assert len(audited(node.database, AuditAction.RULE_REMOVED)) == 1


def test_a_folder_that_is_closed_is_told_with_the_lines(
    console: ConsoleLab, node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysed(node, "NAME")

    def refuse(_path: Path, _text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(device_rules, "_write", refuse)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/reviews/1/boxes", act="save", name="room3", **BOX) == 409
    assert "Permission denied" in browser.text and "rectangles = [" in browser.text
    assert len(waiting(node)) == 1 and audited(node.database, AuditAction.RULE_SAVED) == []


def test_the_list_goes_on_page_by_page(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning_reviews, "PAGE", 1)
    analysed(node, "NAME", "WIDE")
    with node.database.read() as session:
        first, more = cleaning_reviews.waiting(session)
        second, end = cleaning_reviews.waiting(session, more)
    assert [row["id"] for row in (*first, *second)] == [1, 2] and end is None


def test_no_pixel_of_a_box_is_left_in_a_cleaned_image(node: Inbox) -> None:
    analysed(node, "WIDE")
    [path] = cleaned(node)
    left, top, right, bottom = PLACE
    assert not np.any(dcmread(path).pixel_array[top:bottom, left:right])
