"""Images whose cleaning waits for a person: seen, accepted, cleaned with boxes, made a device rule."""

import re
import tomllib
from collections.abc import Callable

import pytest
from pydicom import dcmread

from ai_pipeline.burnin.devices.rules import read_rules
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER
from dicom_node.base.lifecycle import JobState, ResultKind, ReviewVerdict, UserRole
from dicom_node.base.store.tables import CleaningReview, Job, Result
from dicom_node.people import studies
from tests.console_lab import Browser, ConsoleLab, console_of
from tests.inbox_lab import Inbox
from tests.unit.dicom_console.decisions_lab import another, objects, results
from tests.unit.dicom_console.illustrated import PLACE, image, scrubbing
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed

BOX = {"left": "0", "top": "0", "right": "130", "bottom": "30"}


@pytest.fixture
def desk(open_with_users: Callable[..., Inbox]) -> Inbox:
    return open_with_users(scrubbing())


@pytest.fixture
def desk_console(desk: Inbox) -> ConsoleLab:
    return console_of(desk)


def waiting(desk: Inbox) -> list[tuple[int, str]]:
    return [(row.id, row.cause.value) for row in desk.rows(CleaningReview) if row.verdict is None]


def scrubbed(desk: Inbox, *series: str) -> None:
    """A study with an image for each name."""
    desk.settle(*(image(name, number) for number, name in enumerate(series, start=1)))
    work(desk)


def test_images_that_are_withheld_widened_or_in_doubt_wait_with_their_places(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "WIDE", "CLEAN", "NAME", "DOUBT")
    assert [cause for _, cause in waiting(desk)] == ["widened", "withheld", "in_doubt"]
    assert desk.column(CleaningReview.places) == [[list(PLACE)]] * 3
    assert len(objects(desk, ResultKind.CLEANED)) == 3, "all but what is withheld are sent"
    browser = desk_console.at("/reviews", UserRole.OPERATOR)
    assert "text is still found" in browser.text
    assert "may hold letters" in browser.text
    assert 'points="8,4 120,4 120,20 8,20 8,4 "' in browser.page("/reviews/2")
    assert "images to look at" in browser.page("/")


def test_a_cleaned_image_that_left_is_told_though_another_rule_made_one_that_stayed(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "WIDE")
    [left] = results(desk, ResultKind.CLEANED)
    desk.add(another(left, sop_instance_uid="2.25.9"))
    assert "A cleaned image of it went to pacs" in desk_console.at("/reviews/1", UserRole.OPERATOR).text


def test_what_was_accepted_is_not_asked_again(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "WIDE", "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
    for number, _ in waiting(desk):
        assert browser.post(f"/reviews/{number}/accept") == 303
        assert browser.post(f"/reviews/{number}/accept") == 409
    assert [row["verdict"] for row in desk_console.audited("cleaning_judged")] == ["accepted", "accepted"]
    studies.rerun_rules(desk.settings, [str(desk.study_of(image("WIDE")).study_instance_uid)])
    work(desk)
    assert waiting(desk) == []
    assert len(desk.rows(CleaningReview)) == 2
    assert len(objects(desk, ResultKind.CLEANED)) == 1, "what was withheld stays here"


def test_all_of_a_device_that_were_filled_wider_are_accepted_at_once(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "WIDE", "NAME", "DOUBT")
    desk.settle(*(changed(image("WIDE", number), StudyInstanceUID=f"2.25.{number}") for number in (7, 8)))
    work(desk)
    browser = desk_console.at("/reviews", UserRole.OPERATOR)
    [shown] = re.findall(r'<table class="rows" id="groups">.*?</table>', browser.text, re.DOTALL)
    assert "Accept all 3" in shown
    wide = [number for number, cause in waiting(desk) if cause == "widened"]
    assert browser.post(f"/reviews/{wide[1]}/accept_alike") == 303
    assert [cause for _, cause in waiting(desk)] == ["withheld", "in_doubt", "widened"], "one came later"
    assert browser.post(f"/reviews/{wide[1]}/accept_alike") == 409
    verdicts = [(row["verdict"], row["cause"]) for row in desk_console.audited("cleaning_judged")]
    assert verdicts == [("accepted", "widened")] * 2
    for number, cause in waiting(desk)[:2]:
        assert browser.post(f"/reviews/{number}/accept_alike") == 409, cause
    assert desk_console.browser(UserRole.READER).post(f"/reviews/{wide[2]}/accept_alike") == 403


def test_an_image_leaves_once_a_box_covers_what_was_left(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "CLEAN", "NAME")
    [(number, _)] = waiting(desk)
    before = objects(desk, ResultKind.CLEANED)
    assert desk_console.browser(UserRole.OPERATOR).post(f"/reviews/{number}/boxes", act="clean", **BOX) == 303
    assert desk.column(Job.state) == [JobState.SUCCEEDED, JobState.QUEUED]
    work(desk)
    first, new = objects(desk, ResultKind.CLEANED)
    assert waiting(desk) == [], "the other image is the same object as before"
    assert [first] == before, "the other image is the same object as before"
    made = dcmread(new)
    assert not made.pixel_array[:30, :130].any()
    assert made.pixel_array[40:].any()
    assert "1 place was marked by a person (operator) on 20" in made.DerivationDescription
    assert "verified that no text is left" in made.DerivationDescription
    [fields] = desk_console.audited("cleaning_judged")
    assert (fields["verdict"], fields["boxes"]) == ("drawn", 1)
    assert "operator" not in str(made.get("OperatorsName", ""))


def test_an_image_that_fails_the_proof_with_its_boxes_stays_here_and_waits_again(
    desk_console: ConsoleLab, desk: Inbox
) -> None:
    scrubbed(desk, "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
    assert browser.post("/reviews/1/boxes", act="clean", **{**BOX, "right": "40"}) == 303
    work(desk)
    assert objects(desk, ResultKind.CLEANED) == []
    assert desk.column(CleaningReview.verdict) == [ReviewVerdict.DRAWN, None]
    assert 'name="right" min="0" max="240" value="40"' in browser.page("/reviews/2"), (
        "what was drawn is still there"
    )
    browser.post("/reviews/2/boxes", act="clean", **BOX)
    work(desk)
    assert len(objects(desk, ResultKind.CLEANED)) == 1
    assert waiting(desk) == []


def test_boxes_that_are_none_are_refused(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
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
    assert len(waiting(desk)) == 1
    assert len(desk.jobs()) == 1


def tried(browser: Browser, **fields: str) -> int:
    return browser.post("/reviews/1/boxes", act="try", name="room3-banner", **{**BOX, **fields})


def test_a_box_becomes_a_device_rule_that_was_tried_before(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "NAME", "CLEAN")
    desk.settle(image("OTHER", 3, ManufacturerModelName="Scan 8"), image("NEW", 4, SoftwareVersions="3"))
    work(desk)
    operator, admin = desk_console.browser(UserRole.OPERATOR), desk_console.browser(UserRole.ADMIN)
    assert tried(operator) == 200
    assert operator.text.count("<figure>") == 2, "of this model and software only"
    assert "Save the rule" not in operator.text
    assert tried(admin) == 200
    assert 'name="act" value="save"' in admin.text
    assert operator.post("/reviews/1/boxes", act="save", name="room3-banner", **BOX) == 403
    assert admin.post("/reviews/1/boxes", act="save", name="room3-banner", **BOX) == 200
    file = desk.settings.node.data_dir / DEVICE_RULES_FOLDER / "room3-banner.toml"
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
    [fields] = desk_console.audited("rule_saved")
    assert fields["name"] == "room3-banner"
    work(desk)
    assert waiting(desk) == [], "and the image was cleaned with the box"


def test_a_device_rule_makes_new_objects_of_its_images_only(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "CLEAN")
    desk.settle(image("NAME", 2, ManufacturerModelName="Scan 8"))
    work(desk)
    before = set(desk.column(Result.sop_instance_uid))
    [(number, _)] = waiting(desk)
    desk_console.browser(UserRole.ADMIN).post(f"/reviews/{number}/boxes", act="save", name="eight", **BOX)
    work(desk)
    after = set(desk.column(Result.sop_instance_uid))
    assert before < after
    assert len(after - before) == 1
