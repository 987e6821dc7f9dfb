"""What persons decide by page: assessments, reviews of cleaning, withdrawals, uploads; the worklist."""

import html
import io
import json
import logging
import re
import struct
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from pydicom import dcmread
from sqlalchemy import inspect, select

from ai_pipeline.burnin.devices.rules import read_rules
from ai_pipeline.models import registry
from dicom_console.app import create_app
from dicom_console.views import activity, contents, listing, patients, search
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, PeerSettings
from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_SENT,
    FETCH_ASKED,
    STORE_REFUSED,
    STUDIES_MISSING,
)
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    JobState,
    ObjectRole,
    ReaderVerdict,
    RejectionReason,
    ResultKind,
    ReviewVerdict,
    StudyState,
    UserRole,
)
from dicom_node.base.store import sight
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    AuditRow,
    Base,
    CleaningReview,
    Delivery,
    Feedback,
    Instance,
    Job,
    Result,
    Study,
    StudyName,
    Withdrawal,
)
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.scu import Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.people import audit, fetches, outbox, pictures, reviews, stow, studies, users, withdrawal
from dicom_node.results import sr
from dicom_node.results.envelope import StatedNumber
from tests.console_lab import PASSWORD, Browser, ConsoleLab, Program, audited, routes
from tests.inbox_lab import Inbox, encoded
from tests.modality import chest, data_set, part_10, ultrasound
from tests.pacs_lab import FakeArchive, answer_for, film, free_port, peer, run_pacs
from tests.result_reading import content, groups_of, named, of_type
from tests.rows import NOW, Stored, a_study
from tests.unit.dicom_console.illustrated import PLACE, illustrated, image, scrubbing
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed
from tests.validators import dciodvfy_errors


@pytest.fixture
def assessing(open_with_users: Callable[..., Inbox]) -> ConsoleLab:
    node = open_with_users(assess_first())
    node.settle(ultrasound("one"))
    work(node)
    return ConsoleLab(node.settings, node.database)


def assess_first() -> dict[str, object]:
    made = illustrated()
    made["rules"][0]["assess_first"] = True
    return made


def test_a_reader_accepts_what_he_saw(assessing: ConsoleLab) -> None:
    viewer, reader = assessing.browser(UserRole.VIEWER), assessing.browser(UserRole.READER)
    assert "wait for an assessment" in viewer.page("/studies/1")
    assert "Accept and send" not in viewer.text
    assert viewer.post("/studies/1/accept", as_of="x") == 403
    reader.get("/studies/1")
    for seen, status, state in (("0" * 16, 409, "unassessed"), (reader.field("as_of"), 303, "pending")):
        assert reader.post("/studies/1/accept", as_of=seen) == status
        assert {row.state.value for row in assessing.rows(Delivery)} == {state}
    assert "wait for an assessment" not in reader.page("/studies/1")
    assert "a person accepted results: they are delivered" in reader.text
    assert re.search(r'class="state confirmed">accepted</span> <small>reader', reader.text)


def test_programs_assess_accept_and_reject(assessing: ConsoleLab) -> None:
    viewer, reader = Program(assessing, UserRole.VIEWER), Program(assessing, UserRole.READER)
    status, found = viewer.ask("GET", "/studies/1/assessment")
    assert status == 200
    assert found["waiting"] == len(assessing.rows(Delivery))
    assert found["decisions"] == []
    row = viewer.ask("GET", "/studies/1")[1]["findings"][0]
    rejected = {**{key: row[key] for key in ("finding", "model", "tracking_uid")}, "verdict": "rejected"}
    assert viewer.ask("POST", "/studies/1/assessment/findings", json=rejected)[0] == 403
    why = {"because": "see the finding"}
    for path, said, answer in (
        ("findings", rejected, 400),
        ("findings", {**rejected, "because": "a rib"}, 204),
        ("accept", {"as_of": found["as_of"]}, 409),
        ("reject", {**why, "as_of": "0" * 16}, 409),
        ("reject", {**why, "as_of": found["as_of"]}, 200),
    ):
        assert reader.ask("POST", f"/studies/1/assessment/{path}", json=said)[0] == answer, (path, said)
    assert {row.state for row in assessing.rows(Delivery)} == {DeliveryState.DISCARDED}
    _, [one] = reader.ask("GET", "/assessments")
    assert (one["verdict"], one["because"], one["actor"]) == ("rejected", "a rib", "reader")
    assert viewer.ask("GET", "/assessments")[0] == 403
    assert viewer.ask("GET", "/studies/9/assessment")[0] == 404


READER, EVA = audit.Person("anna"), audit.Person("eva")


@pytest.fixture
def site(node: Inbox) -> Inbox:
    """A study whose results are on their way to two peers; one of them takes assessments."""
    instead_of_pacs(node, {"assessments": True}, {"name": "archive"})
    return node


def instead_of_pacs(node: Inbox, *peers: dict[str, object]) -> None:
    """The node has peers like its PACS with these values, and not the PACS itself."""
    *others, pacs = node.settings.peers
    made = (pacs.model_copy(update=peer) for peer in peers)
    node.settings = node.settings.model_copy(update={"peers": (*others, *made)})


def say(
    node: Inbox, verdict: ReaderVerdict, by: audit.Person = READER, place: int = 0, why: str = ""
) -> None:
    about = node.read(reviews.findings_of_study, node.settings, UID)[place]
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
    reviews.assess(node.settings, 1, reviews.FindingAssessed(**which, verdict=verdict, because=why), by)


def send(node: Inbox, by: audit.Person = READER) -> list[str]:
    return reviews.send_assessments(node.settings, UID, by)


UID = str(ultrasound("one").StudyInstanceUID)


def another(row: Result, **values: str) -> Result:
    """A result like it."""
    same = {one.key: getattr(row, one.key) for one in Result.__table__.columns}
    return Result(**same | {"id": None} | values)


def objects(node: Inbox, kind: ResultKind) -> list[Path]:
    return [node.folder / row.path for row in node.rows(Result) if row.kind is kind]


def sent_to(node: Inbox) -> list[tuple[str, str]]:
    chosen = select(Delivery).join(Result).where(Result.kind == ResultKind.ASSESSMENT)
    return [(row.destination, row.state.value) for row in node.scalars(chosen.order_by(Delivery.id))]


@pytest.mark.debian("dicom3tools")
def test_it_refers_to_the_report_and_to_the_tracking_uids_of_its_findings(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    say(site, ReaderVerdict.REJECTED, place=1, why="a rib")
    assert send(site) == ["pacs"]
    [report], [made] = objects(site, ResultKind.SR), objects(site, ResultKind.ASSESSMENT)
    about, document = dcmread(report), dcmread(made)
    assert dciodvfy_errors(made) == []
    [related] = document.ReferencedInstanceSequence
    assert related.ReferencedSOPClassUID == about.SOPClassUID
    assert related.ReferencedSOPInstanceUID == about.SOPInstanceUID
    assert related.PurposeOfReferenceCodeSequence[0].CodeValue == "ASSESSEDREPORT"
    assert [item.UID for item in document.ContentSequence if "UID" in item][-1] == about.SOPInstanceUID
    in_tree = [
        one.ReferencedSOPInstanceUID
        for item in content(document)
        for one in item.get("ReferencedSOPSequence", ())
    ]
    assert about.SOPInstanceUID not in in_tree, "what the tree refers to are images of the examination"
    evidence = {
        item.ReferencedSOPInstanceUID
        for series in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert about.SOPInstanceUID in evidence, "and the images"
    assert len(evidence) == 3, "and the images"
    groups = groups_of(document)
    tracked = [str(named(group, "112040")[0].UID) for group in groups]
    assert tracked == [row["tracking_uid"] for row in sr.findings(report)]
    said = [item.ConceptCodeSequence[0].CodeValue for one in groups for item in named(one, "ASSESSMENT")]
    assert said == ["ACCEPTED", "REJECTED"]
    texts = [item.TextValue for group in groups for item in of_type(group, "TEXT")]
    assert "a rib" in texts
    assert "obedient" in texts
    assert [str(item.PersonName) for item in document.ContentSequence if "PersonName" in item] == ["anna^"]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
        assert document[keyword].value == about[keyword].value
    assert is_own_result(document)
    assert document.VerificationFlag == "UNVERIFIED"
    assert sent_to(site) == [("pacs", "pending")]


def test_a_later_word_replaces_the_former_object_and_the_same_is_not_sent_twice(site: Inbox) -> None:
    with pytest.raises(NotAllowedNow, match="nothing new"):
        send(site)
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    with pytest.raises(NotAllowedNow, match="nothing new"):
        send(site)
    say(site, ReaderVerdict.MODIFIED, why="further to the left")
    send(site)
    first, second = (dcmread(path) for path in objects(site, ResultKind.ASSESSMENT))
    [former] = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert former.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID == former.SeriesInstanceUID
    say(site, ReaderVerdict.ACCEPTED, EVA)
    send(site, EVA)
    third = dcmread(objects(site, ResultKind.ASSESSMENT)[-1])
    assert "PredecessorDocumentsSequence" not in third, "of another person"


def test_peers_without_the_report_get_none_and_a_rerun_takes_none_back(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    studies.rerun_rules(site.settings, [UID])
    assert sent_to(site) == [("pacs", "pending")]
    work(site)
    site.put(Delivery, state=DeliveryState.DISCARDED)
    say(site, ReaderVerdict.REJECTED, why="a rib")
    with pytest.raises(NotAllowedNow, match="nothing new"):
        send(site)


def test_what_was_said_of_a_report_is_withdrawn_with_it(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    [report] = [row.id for row in site.rows(Result) if row.kind is ResultKind.SR]
    withdrawal.withdraw_results(
        site.settings, UID, [report], reason=RejectionReason.QUALITY, because="other patient"
    )
    assert sent_to(site) == [("pacs", "discarded")]


def test_what_was_said_of_the_other_report_of_an_analysis_stays(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    [report] = [row for row in site.rows(Result) if row.kind is ResultKind.SR]
    site.add(another(report, sop_instance_uid="2.25.7"))  # for another character set
    site.put(Feedback, report_uid="2.25.7")
    withdrawal.withdraw_results(
        site.settings, UID, [report.id], reason=RejectionReason.QUALITY, because="other patient"
    )
    assert sent_to(site) == [("pacs", "pending")]
    assert [row.result_id for row in site.rows(Withdrawal)] == [report.id]


@pytest.fixture
def console_feedback(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> ConsoleLab:
    """Of a node with a study of two findings, whose model also knows another."""
    chest, known = registry.find("chest-efficientnet-lite0"), registry.find
    monkeypatch.setattr(
        registry, "find", lambda name, *of: chest if name == "obedient@1" else known(name, *of)
    )
    return ConsoleLab(node.settings, node.database)


def forms(browser: Browser) -> list[dict[str, str]]:
    """The fields of the forms about findings on the page of the study."""
    browser.get("/studies/1")
    found = re.findall(r'action="/studies/1/feedback">(.*?)</form>', browser.text, re.DOTALL)
    names = r'name="(finding|tracking_uid|model)" value="([^"]*)"'
    return [
        {
            **dict(re.findall(names, form)),
            "verdict": verdict,
            **({"because": "a rib"} if "because" in form else {}),
        }
        for form in found
        for verdict in re.findall(r'name="verdict" value="(\w+)"', form)
    ]


def test_a_reader_judges_each_finding_and_may_think_again(console_feedback: ConsoleLab) -> None:
    browser = console_feedback.browser(UserRole.READER)
    right, modified, wrong, other, *_ = forms(browser)
    verdicts = [one["verdict"] for one in (right, modified, wrong)]
    assert (right["finding"], verdicts) == ("Mark", ["accepted", "modified", "rejected"])
    assert right["tracking_uid"] == wrong["tracking_uid"] != other["tracking_uid"]
    for given in (right, other, wrong):
        assert browser.post("/studies/1/feedback", **given) == 303
    shown = r'class="state \w+">(\w+)</span> <small>(reader[^<]*)<'
    said = [("rejected", "reader: a rib"), ("accepted", "reader")]
    assert re.findall(shown, browser.page("/studies/1")) == said
    assert console_feedback.browser(UserRole.ADMIN).post("/studies/1/feedback", **right) == 303
    [row] = console_feedback.read(reviews.counts_by_finding, "obedient", "1")
    assert (row["present_accepted"], row["present_rejected"]) == (2, 1)
    noted = console_feedback.audited("feedback_given")
    assert (len(noted), noted[0]) == (4, {"verdict": "accepted", "model": "obedient 1"})


@pytest.mark.parametrize("stuffed", ['=HYPERLINK("http://x")', "Nowak Anna", "1.2.3", "x" * 200])
def test_a_reader_says_once_that_a_finding_is_missing(console_feedback: ConsoleLab, stuffed: str) -> None:
    browser = console_feedback.browser(UserRole.READER)
    said = {"verdict": "missing", "finding": "Cardiomegaly | obedient 1"}
    for given in ({"tracking_uid": stuffed}, {}):
        assert browser.post("/studies/1/feedback", **said, **given) == 303
    [row] = console_feedback.read(reviews.all_assessments)
    assert row["tracking_uid"] == ""


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"verdict": "perhaps"}, 400),
        ({"verdict": "rejected", "finding": "Mark", "model": "obedient 1"}, 409),
        ({"verdict": "accepted", "finding": "Mark", "model": "obedient 2"}, 404),
        ({"verdict": "accepted", "finding": "<script>", "model": "obedient 1"}, 404),
        ({"verdict": "missing", "finding": "Nowak^Anna | obedient 1"}, 404),
        ({"verdict": "missing", "finding": "Mark | obedient 1"}, 404),
    ],
)
def test_only_what_the_report_or_the_model_knows_is_kept(
    console_feedback: ConsoleLab, fields: dict[str, str], status: int
) -> None:
    assert console_feedback.browser(UserRole.READER).post("/studies/1/feedback", **fields) == status
    assert console_feedback.read(reviews.all_assessments) == []


SCORES = (
    ("Mass", "absent", ["0.31"]), ("Nodule", "present", ["0.9", "0.5"]), ("Hernia", "absent", ["0.05"]),
    ("<b>", "indeterminate", ["0.45", "0.5"]), ("Mass", "present", ["0.62", "0.5"]),
    ("<b>", "absent", ["0.3"]),
)  # fmt: skip


def test_the_page_shows_the_three_highest_scores_with_their_cut_offs(
    node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [mark, *_] = sr.findings(objects(node, ResultKind.SR)[0])
    rows = [
        mark
        | {"finding": name, "decision": word, "numbers": dict(zip(mark["numbers"], values, strict=False))}
        for name, word, values in SCORES
    ]
    monkeypatch.setattr(sr, "findings", lambda _: rows)
    text = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER).page("/studies/1")
    [shown] = re.findall(r"<p>Highest scores of (.*?)</p>", text, re.DOTALL)
    assert re.sub(r"</?(?:b|small)>", "", shown) == (
        "obedient 1: Nodule 0.9 suspected, cut-off 0.5 · Mass 0.62 suspected, cut-off 0.5 · "
        "&lt;b&gt; 0.45 not excluded, cut-off 0.5"
    )


# The review desk, the viewer of an image, and the release of a study

BOX = {"left": "0", "top": "0", "right": "130", "bottom": "30"}


@pytest.fixture
def desk(open_with_users: Callable[..., Inbox]) -> Inbox:
    return open_with_users(scrubbing())


@pytest.fixture
def desk_console(desk: Inbox) -> ConsoleLab:
    return ConsoleLab(desk.settings, desk.database)


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
    assert [row.places for row in desk.rows(CleaningReview)] == [[list(PLACE)]] * 3
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
    [left] = [row for row in desk.rows(Result) if row.kind is ResultKind.CLEANED]
    desk.add(another(left, sop_instance_uid="2.25.9"))
    assert "A cleaned image of it went to pacs" in desk_console.at("/reviews/1", UserRole.OPERATOR).text


def test_what_was_accepted_is_not_asked_again(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "WIDE", "NAME")
    browser = desk_console.browser(UserRole.OPERATOR)
    for number, _ in waiting(desk):
        assert browser.post(f"/reviews/{number}/accept") == 303
        assert browser.post(f"/reviews/{number}/accept") == 409
    assert [row["verdict"] for row in desk_console.audited("cleaning_judged")] == ["accepted", "accepted"]
    studies.rerun_rules(desk.settings, [str(desk.study(image("WIDE").StudyInstanceUID).study_instance_uid)])
    work(desk)
    assert waiting(desk) == []
    assert len(desk.rows(CleaningReview)) == 2
    assert len(objects(desk, ResultKind.CLEANED)) == 1, "what was withheld stays here"


def test_an_image_leaves_once_a_box_covers_what_was_left(desk_console: ConsoleLab, desk: Inbox) -> None:
    scrubbed(desk, "CLEAN", "NAME")
    [(number, _)] = waiting(desk)
    before = objects(desk, ResultKind.CLEANED)
    assert desk_console.browser(UserRole.OPERATOR).post(f"/reviews/{number}/boxes", act="clean", **BOX) == 303
    assert [row.state for row in desk.jobs()] == [JobState.SUCCEEDED, JobState.QUEUED]
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
    assert [row.verdict for row in desk.rows(CleaningReview)] == [ReviewVerdict.DRAWN, None]
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
    before = {row.sop_instance_uid for row in desk.rows(Result)}
    [(number, _)] = waiting(desk)
    desk_console.browser(UserRole.ADMIN).post(f"/reviews/{number}/boxes", act="save", name="eight", **BOX)
    work(desk)
    after = {row.sop_instance_uid for row in desk.rows(Result)}
    assert before < after
    assert len(after - before) == 1


def test_each_organ_is_a_picture_of_its_own_and_may_be_switched_on(
    open_with_users: Callable[..., Inbox],
) -> None:
    made = illustrated()
    made["peers"][1]["results"] = ["sr", "seg"]
    node = open_with_users(made)
    node.settle(ultrasound("one"))
    work(node)
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    assert 'data-shows="AI Heart"' in browser.page("/studies/images/1")
    assert 'data-shows="AI Left lung"' in browser.text
    number = result(node, ResultKind.SEG).id
    assert browser.get(f"/studies/results/{number}/masks/2") == 200
    picture = np.asarray(Image.open(io.BytesIO(browser.content)))
    assert picture.shape == (180, 240, 4)
    assert picture[50, 150, 3] > 0
    assert picture[70, 80, 3] == 0  # the lung, and where the heart is
    for place in (f"/studies/results/{number}/masks/3", "/studies/results/1/masks/1"):
        assert browser.get(place) == 404
    assert browser.get(f"/studies/results/{number}/masks/x") == 400


PIXELS = np.arange(64 * 64, dtype="<u2").reshape(64, 64)


@pytest.fixture
def browser(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.VIEWER)


def test_values_come_after_the_modality_lut(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(changed(chest("one", PIXELS), RescaleIntercept=-1024))
    assert browser.get("/studies/images/1/1/samples") == 200
    window = {"centre": 2048.0, "width": 4096.0, "function": "LINEAR"}
    assert json.loads(browser.headers["X-Samples"]) == {"type": "i2", "window": window, "inverted": False}
    assert np.array_equal(np.frombuffer(browser.content, "<i2").reshape(64, 64), PIXELS.astype(int) - 1024)


def test_colours_come_as_rgb(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(image := ultrasound("one"))
    browser.get("/studies/images/1/1/samples")
    assert (browser.headers["X-Samples"], browser.content) == ('{"type": "rgb"}', image.PixelData)


def test_a_purged_or_broken_file_is_not_found(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(chest("one", PIXELS))
    file = inbox.folder / inbox.rows(Instance)[0].path
    file.write_bytes(file.read_bytes()[:600])
    assert browser.get("/studies/images/1/1/samples") == 404
    inbox.put(Instance, 1, purged=True)
    assert browser.get("/studies/images/1/1/samples") == 404


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({"CineRate": "24"}, 24.0),
        ({"RecommendedDisplayFrameRate": "30"}, 30.0),
        ({"FrameTime": "40"}, 25.0),
        ({"FrameTime": "0"}, 15.0),
        ({"CineRate": "-5"}, 15.0),
        ({"CineRate": "9999"}, 60.0),
        ({}, 15.0),
    ],
)
def test_cines_play_as_the_file_says_within_bounds(
    browser: Browser, inbox: Inbox, given: dict[str, str], rate: float
) -> None:
    inbox.settle(changed(chest("one", PIXELS), **given))
    found = re.search(r'data-about="([^"]*)"', browser.page("/studies/images/1"))
    assert found
    assert json.loads(html.unescape(found[1]))["rate"] == rate


def result(node: Inbox, kind: ResultKind) -> Result:
    return next(row for row in node.rows(Result) if row.kind is kind)


def test_an_image_has_its_layers_and_marks(node: Inbox) -> None:
    still, moving = (node.read(pictures.image_view, node.settings, number) for number in (1, 2))
    assert (still["before"], still["after"], moving["before"], moving["after"]) == (None, 2, 1, None)
    for shown, frames in ((still, []), (moving, [2])):
        names = ["Cleaned", "Heat map: Mark", "Drawn into the picture"]
        assert [layer["name"] for layer in shown["layers"]] == names
        assert [layer["same_size"] for layer in shown["layers"]] == [True, False, False]
        [mark] = shown["marks"]
        assert (mark["text"], mark["decision"], mark["frames"]) == ("Mark", "present", frames)
        assert set(mark["points"]) == {(10.0, 10.0), (30.0, 10.0), (30.0, 25.0), (10.0, 25.0)}
    assert (still["columns"], still["rows"]) == (240, 180)
    assert {layer["id"] for layer in still["layers"]}.isdisjoint(layer["id"] for layer in moving["layers"])


def test_every_page_of_a_study_says_whose_it_is_and_a_heat_map_what_it_is_of(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.OPERATOR)
    heatmap = result(node, ResultKind.HEATMAP).id
    for page in [
        "images/1",
        "images/1?layer=1",
        f"results/{heatmap}",
        f"results/{heatmap}/content",
        "1/withdraw",
    ]:
        assert re.search(r'class="whose"><b>\w+.*ID-one', browser.page(f"/studies/{page}")), page
    assert browser.page("/studies/1").count("heat map: Mark") == 4, "a tile and a row for each of two"
    assert "AI score of Mark" not in browser.text
    assert " score</small>" in browser.text


def test_a_report_is_a_tree_of_its_items(node: Inbox) -> None:
    tree, whole = contents.contents(node.folder / result(node, ResultKind.SR).path)
    found = {(n.name, n.value, n.note) for n in flat(tree)}
    assert whole
    assert found >= {
        ("Imaging Measurement Report", "", "CONTAINER"),
        ("Presence", "Suspected", "CODE"),
        ("AI score of Mark", "0.75", "NUM"),
    }
    assert any(name == "Image Region" and value.startswith("POLYLINE (10, 10)") for name, value, _ in found)


def test_a_tree_without_end_is_cut_off(tmp_path: Path) -> None:
    large = changed(ultrasound("large"), ProcedureCodeSequence=[data_set(CodeMeaning="x" * 64)] * 5000)
    large.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    tree, whole = contents.contents(tmp_path / "large.dcm")
    assert not whole
    assert len(list(flat(tree))) <= 3000


def flat(nodes: list[contents.Node]) -> Iterator[contents.Node]:
    for node in nodes:
        yield node
        yield from flat(node.children)


def test_the_timeline_goes_from_the_association_to_the_confirmation(node: Inbox) -> None:
    for place, delivery in enumerate(node.rows(Delivery)):
        for kind in (DELIVERY_SENT, DELIVERY_CONFIRMED):
            node.write(record, kind, 1, destination=delivery.destination, delivery=place)
    steps = node.read(listing.show, node.settings, 1)["timeline"]
    results = len(node.rows(Result))
    assert [(step["text"].partition(":")[0], step["times"]) for step in steps] == [
        ("association accepted", 1),
        ("association released", 1),
        ("study is being received", 1),
        ("object indexed", 2),
        ("study is complete", 1),
        ("job queued", 1),
        ("job started", 1),
        ("job succeeded", 1),
        ("result object built", results),
        ("burned-in annotation cleaned", 1),
        ("object sent", len(node.rows(Delivery))),
        ("object confirmed in the destination", len(node.rows(Delivery))),
    ]
    assert steps[0]["seconds"] is None
    assert all(step["seconds"] >= 0 for step in steps[1:])


def test_a_person_chooses_between_two_versions_of_an_image(console: ConsoleLab, inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle(changed(image, PixelData=bytes(255 - value for value in image.PixelData)), calling="QUICK")
    browser = console.at("/studies/1", UserRole.OPERATOR)
    assert 'href="/studies/1/versions"' in browser.text
    assert re.findall(r"<dd>(MODALITY|QUICK)</dd>", browser.page("/studies/1/versions")) == [
        "MODALITY",
        "QUICK",
    ]
    seen = browser.field("as_of")
    pictures = re.findall(r'src="(/studies/received/[^"]+)"', browser.text)
    shown = [(browser.get(address), browser.content)[1] for address in pictures]
    assert len(set(shown)) == len(shown) == 2
    assert browser.post("/studies/1/release") == 409
    assert "choose first" in browser.text
    assert browser.post("/studies/1/release", take1="2") == 409  # nobody says what was looked at
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 303
    assert inbox.study(image.StudyInstanceUID).state is StudyState.RECEIVING
    assert inbox.file_of(image.SOPInstanceUID).PixelData != image.PixelData
    assert console.audited("study_released") == [{"taken": [2]}]
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 409


# Withdrawing results, and what an operator may do to deliveries

S = DeliveryState


WHY = "that of Nowak"


@pytest.fixture
def retracted(node: Inbox) -> ConsoleLab:
    """A study whose results are in the PACS, which knows IOCM; two are in an archive, which does not."""
    instead_of_pacs(node, {"iocm": True}, {"name": "archive"})
    node.put(Delivery, state=S.CONFIRMED, confirmed_at=utc_now())
    for result in node.rows(Result)[:2]:
        node.add(Delivery(result_id=result.id, destination="archive", state=S.CONFIRMED, next_at=utc_now()))
    return ConsoleLab(node.settings, node.database)


def note(retracted: ConsoleLab) -> Path:
    [row] = [row for row in retracted.rows(Result) if row.kind is ResultKind.REJECTION]
    return retracted.settings.node.data_dir / row.path


def withdraw(retracted: ConsoleLab, *numbers: int) -> dict[str, list[str]]:
    return withdrawal.withdraw_results(
        retracted.settings, UID, numbers or None, reason=RejectionReason.SAFETY, because=WHY
    )


def test_the_note_names_what_is_withdrawn_and_why(
    retracted: ConsoleLab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = retracted.rows(Result)
    assert withdraw(retracted) == {"archive": [row.sop_instance_uid for row in before[:2]]}
    document = dcmread(note(retracted))
    title = document.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113037", "DCM")
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in document.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == evidence == {row.sop_instance_uid for row in before}
    assert [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"][-1] == WHY
    first = dcmread(retracted.settings.node.data_dir / before[0].path)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert document[keyword].value == first[keyword].value, keyword
    assert is_own_result(document)
    assert "Nowak" not in caplog.text
    sent = retracted.scalars(select(Delivery).join(Result).where(Result.kind == ResultKind.REJECTION))
    assert [(row.destination, row.state) for row in sent] == [("pacs", S.PENDING)]


def test_what_has_no_file_any_more_is_named_for_removal_by_hand(retracted: ConsoleLab) -> None:
    before = retracted.rows(Result)
    for row in before:
        (retracted.settings.node.data_dir / row.path).unlink()
    retracted.put(Result, purged=True)
    assert set(withdraw(retracted)["pacs"]) == {row.sop_instance_uid for row in before}
    assert ResultKind.REJECTION not in {row.kind for row in retracted.rows(Result)}


def test_nothing_that_was_withdrawn_leaves_again(retracted: ConsoleLab, node: Inbox) -> None:
    for number, state in ((1, S.PENDING), (2, S.DEAD)):
        retracted.put(Delivery, number, state=state)
    withdraw(retracted)
    assert [retracted.get(Delivery, number).state for number in (1, 2)] == [S.DISCARDED] * 2
    for way, says in (
        (lambda: outbox.send_again(retracted.settings, [2]), "withdrawn"),
        (lambda: outbox.send_study(retracted.settings, UID, "archive"), "."),
    ):
        with pytest.raises(NotAllowedNow, match=says):
            way()
    studies.rerun_rules(retracted.settings, [UID])
    work(node)
    chosen = select(Delivery.state).join(Result).where(Result.kind != ResultKind.REJECTION)
    assert set(retracted.scalars(chosen)) == {S.CONFIRMED, S.DISCARDED}
    with pytest.raises(NotAllowedNow, match="before"):
        withdraw(retracted)


def test_what_is_being_sent_is_waited_for(retracted: ConsoleLab) -> None:
    retracted.put(Delivery, 1, state=S.SENDING)
    with pytest.raises(NotAllowedNow, match="being sent"):
        withdraw(retracted)
    assert not [row for row in retracted.rows(Result) if row.kind is ResultKind.REJECTION]


def delivered(retracted: ConsoleLab) -> list[str]:
    """What leaves from now on, until nothing is due, to a destination that shows only what it got by that."""
    sent: list[str] = []

    def send(objects: Sequence[Outgoing]) -> list[SendReport]:
        sent.extend(one.sop_instance_uid for one in objects)
        return [SendReport(SendStatus.STORED, "0000")] * len(objects)

    def confirm(objects: Sequence[Outgoing]) -> list[Confirmation]:
        return [
            Confirmation(Presence.FOUND if one.sop_instance_uid in sent else Presence.NOT_FOUND)
            for one in objects
        ]

    opened = Mock(return_value=Mock(send=send, confirm=confirm))
    worker = DeliveryWorker(retracted.database, retracted.settings, open_destination=opened)
    for _ in range(6):
        worker.run_once()
    return sent


def test_a_withdrawn_result_that_the_peer_does_not_show_is_not_sent_again(retracted: ConsoleLab) -> None:
    [doubtful, *_] = retracted.rows(Delivery)
    retracted.put(
        Delivery, doubtful.id, state=S.UNCONFIRMED, sent_at=None, confirmed_at=None, next_at=utc_now()
    )
    withdraw(retracted)
    assert delivered(retracted) == [dcmread(note(retracted)).SOPInstanceUID]
    states = {row.state for row in retracted.rows(Delivery) if row.result_id == doubtful.result_id}
    assert S.DISCARDED in states
    assert not {S.PENDING, S.DEAD, S.UNCONFIRMED} & states


def test_the_note_goes_though_the_rules_are_run_again_or_the_study_is_in_quarantine(
    retracted: ConsoleLab,
) -> None:
    withdraw(retracted)
    studies.rerun_rules(retracted.settings, [UID])
    retracted.put(Study, 1, state=StudyState.QUARANTINED)
    assert delivered(retracted) == [dcmread(note(retracted)).SOPInstanceUID]


@pytest.mark.parametrize("state", [S.CANCELLED, S.DEAD, S.DISCARDED])
def test_who_did_not_take_the_note_is_listed_by_hand(retracted: ConsoleLab, state: DeliveryState) -> None:
    withdraw(retracted)
    retracted.put(Delivery, retracted.rows(Delivery)[-1].id, state=state)
    shown = retracted.read(withdrawal.results_to_withdraw, retracted.settings, 1)["by_hand"]
    assert len(shown["pacs"]) == len(shown["archive"]) + len(retracted.rows(Result)) - 1 - 2


def test_a_withdrawal_that_was_killed_half_way_is_made_again(
    retracted: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As kill -9 does, after the file has its name and before the commit.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(withdrawal, "_by_hand", Mock(side_effect=KeyboardInterrupt))
        withdraw(retracted)
    files = list((retracted.settings.node.data_dir / "results").rglob("*.dcm"))
    withdraw(retracted)
    assert note(retracted) in files


def test_a_replaced_report_does_not_come_back_when_the_newest_is_withdrawn(retracted: ConsoleLab) -> None:
    [old, *_] = [row for row in retracted.rows(Result) if row.kind is ResultKind.SR]
    retracted.add(newest := another(old, sop_instance_uid="2.25.99", supersedes=old.sop_instance_uid))
    withdraw(retracted, newest.id)
    assert "No report yet" in retracted.at("/studies/1", UserRole.VIEWER).text


def test_an_operator_withdraws_by_page_and_the_audit_says_who(retracted: ConsoleLab) -> None:
    browser = retracted.at("/studies/1", UserRole.OPERATOR)
    assert "75" in browser.text
    assert (
        "A rejection note (IHE IOCM), after which the results are hidden or deleted, goes to pacs"
        in browser.page("/studies/1/withdraw")
    )
    numbers = re.findall(r'name="result" value="(\d+)"', browser.text)
    assert len(numbers) == len(retracted.rows(Result))
    for fields, status in (
        ({"reason": "quality", "because": "x", "result": numbers[0]}, 409),
        ({"reason": "boredom", "because": WHY, "result": numbers[0]}, 400),
        ({"reason": "quality", "because": WHY}, 409),
        ({"reason": "quality", "because": WHY, "result": "9999"}, 404),
        ({"reason": "quality", "because": WHY, "result": numbers[0]}, 303),
    ):
        assert browser.post("/studies/1/withdraw", **fields) == status, fields
    browser.follow()
    assert "To be removed by hand" in browser.text
    assert WHY in browser.text
    browser.get("/studies/1")
    assert browser.text.count(">withdrawn</span>") == 2  # in a line for each of its two destinations
    assert "No report yet" in browser.text
    noted = [row for row in retracted.read(audit.rows) if row["action"] == "result_withdrawn"]
    kept = retracted.scalars(select(AuditRow.fields).where(AuditRow.action == "result_withdrawn"))
    # The words may name a patient: an admin reads them here, but no other system gets them with the audit.
    assert kept == [{"reason": "quality", "results": [int(numbers[0])]}]
    assert [(row["actor"], row["fields"]) for row in noted] == [("operator", kept[0])]


@pytest.mark.debian("postgresql")
def test_a_sender_that_comes_in_between_gets_nothing(
    open_inbox: Callable[..., Inbox], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = open_inbox(illustrated(), url=postgres_url)
    node.settle(ultrasound("one"))
    work(node)
    worker = DeliveryWorker(
        node.database,
        node.settings,
        open_destination=lambda _peer, _settings: Mock(spec=["close"]),
    )
    original = withdrawal._chosen

    def chosen(*arguments: Any) -> Any:
        found = original(*arguments)
        worker.run_once()
        return found

    monkeypatch.setattr(withdrawal, "_chosen", chosen)
    assert {row.state for row in node.rows(Delivery)} == {S.PENDING}
    withdrawal.withdraw_results(node.settings, UID, None, reason=RejectionReason.SAFETY, because="of another")
    assert {row.state for row in node.rows(Delivery)} == {S.DISCARDED}


@pytest.mark.debian("postgresql")
def test_a_finding_is_not_rejected_while_its_results_are_accepted(
    open_inbox: Callable[..., Inbox], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = open_inbox(assess_first(), url=postgres_url)
    node.settle(ultrasound("one"))
    work(node)
    other = threading.Thread(target=say, args=(node, ReaderVerdict.REJECTED, EVA, 0, "a rib"))
    original, waited = reviews.with_verdicts, []

    def contested(*arguments: Any) -> Any:
        found = original(*arguments)
        if threading.current_thread() is not other:
            other.start()
            other.join(0.5)
            waited.append(other.is_alive())
        return found

    monkeypatch.setattr(reviews, "with_verdicts", contested)
    reviews.accept_results(node.settings, UID, READER)
    other.join(20)
    assert waited == [True]
    assert not other.is_alive()


@pytest.fixture
def study(console: ConsoleLab, inbox: Inbox) -> int:
    """A study with a picture and a report; their deliveries to the PACS were given up."""
    inbox.settle(ultrasound("one"))
    for kind in (ResultKind.SC, ResultKind.SR):
        console.delivery(inbox.jobs()[0], S.DEAD, kind)
    console.put(Job, 1, state=JobState.SUCCEEDED)
    console.put(Study, 1, state=StudyState.FAILED)
    return 1


def test_what_is_discarded_says_why_on_the_page_and_nowhere_else(
    console: ConsoleLab, study: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = console.browser(UserRole.OPERATOR)
    words = "Nowak was sent by mail"
    assert browser.post("/outbox/1/discard", because=words, state="dead") == 303
    assert browser.headers["location"] == "/outbox?state=dead"
    assert ([row.state for row in console.rows(Delivery)], console.get(Study, 1).state) == (
        [S.DISCARDED, S.DEAD],
        StudyState.FAILED,
    )
    assert browser.post("/outbox/2/discard", because="x") == 409
    assert "say why" in browser.text
    assert browser.post("/outbox/discard-dead", because=words, destination="pacs") == 303
    browser.follow()
    assert browser.text.count(words) == 2
    assert console.get(Study, 1).state is StudyState.CANCELLED
    assert console.audited("discarded") == [{"all_dead": 1, "destination": "pacs"}, {"deliveries": [1]}]
    assert "Nowak" not in caplog.text
    assert "Nowak" not in console.get(Study, 1).reason


@pytest.mark.parametrize("state", [S.SENDING, S.UNCONFIRMED, S.CONFIRMED])
def test_what_may_have_arrived_cannot_be_discarded(
    console: ConsoleLab, study: int, state: DeliveryState
) -> None:
    console.put(Delivery, 1, state=state)
    with pytest.raises(NotAllowedNow, match="discard only waiting or given-up ones"):
        outbox.discard_deliveries(console.settings, [1], because="for no reason")
    assert console.get(Delivery, 1).state is state


def with_peers(console: ConsoleLab, *peers: dict[str, object]) -> None:
    """The console of a node that knows these peers, too."""
    more = [console.settings.peers[-1].model_copy(update=peer) for peer in peers]
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, *more)}))


def test_results_go_to_a_further_peer_as_far_as_it_takes_them(console: ConsoleLab, study: int) -> None:
    with_peers(console, {"name": "teaching", "results": (ResultKind.SC,)})
    browser = console.at("/studies/1", UserRole.OPERATOR)
    assert "<option>teaching</option>" in browser.text
    assert "<option>pacs</option>" not in browser.text
    assert browser.post("/studies/1/send", peer="teaching") == 303
    sent = select(Result.kind).join(Delivery).where(Delivery.destination == "teaching")
    assert console.scalars(sent.where(Delivery.state == S.PENDING)) == [ResultKind.SC]
    assert console.get(Study, 1).state is StudyState.DELIVERING
    assert console.audited("sent_to_peer") == [{"peer": "teaching", "objects": 1}]
    assert browser.post("/studies/1/send", peer="teaching") == 409
    assert "already" in browser.text


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        ({"name": "other", "results": (ResultKind.GSPS,)}, "no results that other takes"),
        ({"name": "other", "deidentify": True, "results": (ResultKind.SC,)}, "no results that other takes"),
        ({"name": "other", "charset": "source"}, "no results that other takes"),
        ({"name": "other", "may": ("send",)}, "gets no results"),
    ],
)
def test_a_peer_gets_nothing_that_is_not_meant_for_it(
    console: ConsoleLab, study: int, peer: dict[str, object], why: str
) -> None:
    with_peers(console, peer)
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/studies/1/send", peer="other") == 409
    assert why in browser.text
    assert browser.post("/studies/1/send", peer="nobody") == 404


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


# What a uploader sends comes in as what a modality sends; fetched studies


def outcomes(uploader: Browser) -> list[str]:
    """Why files were refused, in order, then "taken" for each object that was not."""
    assert uploader.status == 200, uploader.text
    why = re.findall(r'<td class="reason">[^<]*</td><td class="reason problem">([^<]*)</td>', uploader.text)
    taken = re.search(r"(\d+) objects? taken", uploader.text)
    assert taken
    return why + ["taken"] * int(taken[1])


@pytest.fixture
def uploader(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.OPERATOR)


def test_an_object_is_received_as_from_a_modality(uploader: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    uploader.upload(("IMG0001", part_10(sent)))
    assert outcomes(uploader) == ["taken"]
    inbox.settle()
    row = inbox.instance(str(sent.SOPInstanceUID))
    assert (row.calling_ae, row.called_ae, row.role) == ("CONSOLE", "AINODE", ObjectRole.SOURCE)
    assert inbox.file_of(str(sent.SOPInstanceUID)).PixelData == sent.PixelData
    assert [job.rule for job in inbox.jobs()] == ["ultrasound"]
    [noted] = audited(inbox.database, "uploaded")
    assert noted | {"association": ""} == {"objects": 1, "refused": 0, "association": ""}


def test_who_sees_some_senders_only_adds_to_no_other_study(console: ConsoleLab, inbox: Inbox) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    inbox.settle(secret, calling="ROOM9")
    added = part_10(changed(secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77"))
    taken_over = part_10(changed(secret, StudyInstanceUID="1.2.826.0.1.3680043.10.543.78"))
    # the Study Instance UID again, where only some parsers look
    second = data_set(StudyInstanceUID=secret.StudyInstanceUID, file_meta=new.file_meta)
    twice = part_10(changed(new, SOPInstanceUID="1.2.826.0.1.3680043.10.543.79")) + encoded(second)
    waiting = ultrasound("waiting")  # received, and not in the database yet
    inbox.receive(waiting, calling="ROOM9")
    into_waiting = part_10(changed(waiting, SOPInstanceUID="1.2.826.0.1.3680043.10.543.80"))
    files = [
        added, part_10(new), part_10(changed(new, StudyInstanceUID="")), taken_over, twice, into_waiting,
    ]  # fmt: skip
    for name, senders in (("elsewhere", ["ROOM1"]), ("limited", ["CONSOLE"])):
        users.add_user(console.settings, name, UserRole.OPERATOR, PASSWORD, senders=senders)
    assert console.browser("elsewhere").upload(("new", files[1])) == 403
    uploader = console.browser("limited")
    uploader.upload(*((f"{n}", file) for n, file in enumerate(files)))
    hidden, no_study = stow.NOT_ITS_STUDY.when, stow.NO_OBJECT.when
    assert outcomes(uploader) == [hidden, no_study, hidden, "taken", "taken", "taken"]
    before = inbox.study(secret.StudyInstanceUID)
    while inbox.spool.pending():
        inbox.settle()
    assert inbox.outcomes() == ["new", "new", "new", "quarantined", "quarantined"]
    assert inbox.study(waiting.StudyInstanceUID).state is not StudyState.QUARANTINED
    assert inbox.study(secret.StudyInstanceUID).state is before.state is not StudyState.QUARANTINED
    assert inbox.study(new.StudyInstanceUID).state is StudyState.QUARANTINED


def test_what_the_listener_refuses_is_refused_here(
    uploader: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    other_class = ultrasound("one")
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data = part_10(ultrasound("two"))
    unknown_syntax = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    uploader.upload(("a", part_10(other_class)), ("b", unknown_syntax))
    assert ["SOP class" in outcomes(uploader)[0], "transfer syntax" in outcomes(uploader)[1]] == [True, True]
    console.change("listener", maximum_object_mib=0)
    uploader.upload(("c", data))
    assert "maximum_object_mib" in outcomes(uploader)[0]
    assert inbox.spool.pending() == []


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "no file of DICOM"),
    "HTML": (lambda: b"<html><script>alert(1)</script>", "no file of DICOM"),
    "no elements": (lambda: bytes(128) + b"DICM" + bytes(200), "no valid UIDs"),
    "no end": (lambda: bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2**31), "does not end"),
}


def test_what_is_no_object_is_refused_in_words(uploader: Browser, inbox: Inbox) -> None:
    for data, why in REFUSED.values():
        uploader.upload(("file.dcm", data()))
        assert why in outcomes(uploader)[0], why
        assert inbox.spool.pending() == [], why


def test_a_body_that_is_too_large_is_cut_off(inbox: Inbox, console: ConsoleLab) -> None:
    console.change("console", upload_mib=1)
    console.app = create_app(console.settings, inbox.database)
    assert console.browser(UserRole.OPERATOR).upload(("a", bytes(2**20 + 1))) == 413


def test_uploads_need_the_token_of_their_form(uploader: Browser, inbox: Inbox) -> None:
    files = [("files", ("a", part_10(ultrasound("one"))))]
    for sent in ({"data": {"csrf": "0"}}, {"headers": {"Sec-Fetch-Site": "cross-site"}}):
        assert uploader.client.post("/upload", files=files, **sent).status_code == 403
    assert inbox.spool.pending() == []


def test_a_study_is_followed_from_the_spool_to_its_end(uploader: Browser, inbox: Inbox) -> None:
    sent = ultrasound("one")
    uploader.upload(("Mueller.dcm", part_10(sent)))
    [address] = re.findall(r'data-from="(/upload/\d+)"', uploader.text)
    assert "Objects still being read: 1 of 1" in uploader.text
    inbox.settle()
    assert "still being read" not in uploader.page(address)
    assert f'href="/studies/{inbox.study(sent.StudyInstanceUID).id}"' in uploader.text
    assert "0 of 1 jobs" in uploader.text
    assert "All of it came to its end" not in uploader.text
    inbox.put(Job, state=JobState.NOT_APPLICABLE)
    inbox.put(Study, state=StudyState.NOT_APPLICABLE, reason="it is a leg")
    assert "it is a leg" in uploader.page(address)
    assert "All of it came to its end" in uploader.text
    assert "Mueller" not in uploader.text
    assert f'href="{address}"' in uploader.page("/upload")
    assert all(
        "Nothing was assessed, so nothing is excluded." in uploader.page(page)
        for page in ("/studies", f"/studies/{inbox.study(sent.StudyInstanceUID).id}", "/patients/1")
    )


def test_a_held_study_is_found_and_called_so(uploader: Browser, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"), ultrasound("two"))
    first = inbox.jobs()[0]
    inbox.put(Job, first.id, state=JobState.HELD)
    inbox.put(Study, first.study_id, state=StudyState.NOT_APPLICABLE)
    assert uploader.page("/studies").count('class="state held"') == 1
    assert uploader.page("/studies?state=held").count("<tr>") == 2, "the heading and one study"
    assert f'href="/studies/{first.study_id}"' in uploader.text
    assert "Nothing was" not in uploader.text
    assert 'class="state held"' in uploader.page(f"/studies/{first.study_id}")
    assert uploader.get("/studies?state=nonsense") == 400


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
    with run_pacs(FakeArchive(free_port(), "ARCHIVE", answers=answers), classes=()) as pacs:
        with_archive(console, pacs.port)
        uploader, viewer = console.browser(UserRole.OPERATOR), console.browser(UserRole.VIEWER)
        assert "/fetches/archive/missing" in uploader.page("/fetches")
        assert uploader.post("/fetches/archive/missing") == 200
        assert "it never came" in uploader.text
        assert not fetched(console)
        for path, given in (("/fetches", FORM), ("/fetches/archive/missing", {"fetch": "true"})):
            assert uploader.post(path, **given) == 303
            assert viewer.post(path, **given) == 403
        uploader.get("/fetches")
        assert "archive" in uploader.text
        assert "waiting" in uploader.text
    assert uploader.post("/fetches/archive/cancel") == uploader.post("/fetches/archive/again") == 303
    assert [row["state"] for row in fetched(console)] == ["waiting"] * 2
    assert console.audited("studies_fetched")[-1]["studies"] == 1
    assert "/fetches" in uploader.page("/peers")


def test_too_many_days_are_for_the_command_and_what_is_no_date_is_refused(
    uploader: Browser, console: ConsoleLab
) -> None:
    with_archive(console, free_port())
    for given, status in (
        ({"first": "2020-01-01"}, 409), ({"first": "yesterday"}, 400), ({"modalities": "../.."}, 400),
        ({"peer": "pacs"}, 409), ({}, 503),  # it does not answer
    ):  # fmt: skip
        assert uploader.post("/fetches", **FORM | given) == status, given
    assert not fetched(console)


def test_what_is_of_all_senders_is_refused(console: ConsoleLab) -> None:
    with_archive(console, 1)
    users.add_user(console.settings, "limited", UserRole.OPERATOR, PASSWORD, senders=["CONSOLE"])
    uploader = console.browser("limited")
    for path, fields, said in (
        ("/fetches", FORM, "sees some only"),
        ("/fetches/archive/missing", {"fetch": "true"}, "sees some only"),
    ):
        assert uploader.post(path, **fields) in (400, 409), path
        assert said in uploader.text, path


# Lists of studies and patients: what a row shows, orders and searches, and who sees which


@pytest.fixture
def console_of_node(node: Inbox) -> ConsoleLab:
    return ConsoleLab(node.settings, node.database)


def test_a_row_shows_picture_description_result_and_time_to_result(node: Inbox) -> None:
    node.put(Study, 1, state=StudyState.DELIVERED)
    later = node.get(Study, 1).last_received_at + timedelta(seconds=7)
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=later)
    [row] = node.read(search.search, search.Search())[0]
    first = node.rows(Instance)[0]
    assert (row["cover"], row["seconds"]) == (first.id, 7.0)
    assert row["description"] == first.attributes.get("StudyDescription", "")
    assert row["short_result"]
    assert all(line.strip() for line in row["short_result"])
    withdrawal.withdraw_results(
        node.settings, UID, None, reason=RejectionReason.QUALITY, because="the other side"
    )
    assert node.read(search.search, search.Search())[0][0]["short_result"] == []


def test_the_thumbnail_is_small_and_of_images_that_are_here(console_of_node: ConsoleLab, node: Inbox) -> None:
    browser = console_of_node.at("/studies", UserRole.VIEWER)
    found = re.search(r"/studies/(\d+)/thumbnail", browser.text)
    assert found
    assert browser.get(found[0]) == 200
    assert max(Image.open(io.BytesIO(browser.content)).size) == 96
    node.put(Instance, purged=True)
    assert browser.get(found[0]) == 404
    assert "/thumbnail" not in browser.page("/studies")
    assert Browser(console_of_node.app).get(found[0]) == 303  # to the sign-in


def test_studies_of_today_and_of_the_last_days(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    for number, days in enumerate((0, 1, 6, 40, 40, 40), start=1):
        inbox.put(Study, number, last_received_at=utc_now() - timedelta(days=days))
    program = Program(console, UserRole.VIEWER)
    for days, found in ((1, {1}), (2, {1, 2}), (7, {1, 2, 3}), (366, {1, 2, 3, 4, 5, 6})):
        _, answer = program.ask("GET", f"/studies?days={days}")
        assert {row["id"] for row in answer["studies"]} == found
    for wrong in ("0", "367", "-1", "x", "9" * 40):
        assert program.ask("GET", f"/studies?days={wrong}")[0] == 400


PATIENTS = ("AB-1", "AB-2", "AB_3", "ab-4", "ÄB-5", "B%6")


IMAGES = (
    ("US", "ROOM1"),
    ("US", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
)


def fill(database: Database) -> None:
    """Studies 1 to 6, each with an image."""
    kept: dict[str, Any] = {
        **dict.fromkeys(("sop_class_uid", "series_instance_uid", "transfer_syntax_uid"), "1"),
        "path": "x",
        "bytes": 1,
        "identity_sha256": "",
        "attributes": {},
        "called_ae": "B",
        "received_at": NOW,
        "role": ObjectRole.SOURCE,
    }
    for n, (patient, (modality, sender)) in enumerate(zip(PATIENTS, IMAGES, strict=True)):
        at, number = NOW + timedelta(minutes=n), f"A{n}"
        study = a_study(f"1.2.{n}", at=at, patient_id=patient, accession_number=number)
        Stored(database).add(study)
        kept |= {"study_id": study.id, "modality": modality, "calling_ae": sender}
        names = [StudyName(study_id=study.id, word=word) for word in ("all", f"word{n}")]
        Stored(database).add(Instance(sop_instance_uid=f"1.3.{n}", **kept), *names)


SEARCHES: list[tuple[search.Search, set[int]]] = [
    (search.Search(patient="AB*"), {1, 2, 3}),
    (search.Search(patient="AB-*"), {1, 2}),
    (search.Search(patient="AB_*"), {3}),
    (search.Search(patient="ab*"), {4}),
    (search.Search(patient="Ä*"), {5}),
    (search.Search(patient="B%*"), {6}),
    (search.Search(patient="%*"), set()),
    (search.Search(patient="*"), {1, 2, 3, 4, 5, 6}),
    (search.Search(accession="A*"), {1, 2, 3, 4, 5, 6}),
    (search.Search(modality="US"), {1, 2}),
    (search.Search(modality="MG"), set()),
    (search.Search(sender="ROOM1"), {1}),
    (search.Search(sender="ROOM2", modality="US"), {2}),
    (search.Search(patient="AB*", sender="ROOM2"), {2, 3}),
    (search.Search(words=("all",)), {1, 2, 3, 4, 5, 6}),
    (search.Search(words=("all", "word1")), {2}),
    (search.Search(words=("word1", "word2")), set()),
]


def test_few_and_many_studies_are_found_alike_in_both_databases(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    for few in (0, 500):
        monkeypatch.setattr(search, "_FEW", few)
        for wanted, found in SEARCHES:
            rows, _ = Stored(database).read(search.search, wanted)
            assert {row["id"] for row in rows} == found, (wanted, few)


def test_studies_are_found_by_what_their_newest_report_calls_present(node: Inbox) -> None:
    def found(name: str) -> list[list[str]]:
        return [list(row["findings"]) for row in node.read(search.search, search.Search(finding=name))[0]]

    assert (found("Mark"), found("mark"), found("Cardiomegaly")) == ([["Mark"]], [], [])
    withdrawal.withdraw_results(
        node.settings, UID, None, reason=RejectionReason.QUALITY, because="the other side"
    )
    assert (found("Mark"), found("")) == ([], [[]])


def test_an_id_of_two_issuers_is_two_patients(database: Database, inbox: Inbox) -> None:
    stored = Stored(database)
    for number, issuer in ((1, "NORTH"), (2, "SOUTH"), (3, "NORTH"), (4, "")):
        at, patient = NOW + timedelta(minutes=number), "P1" if issuer else "P%"
        stored.add(a_study(f"1.2.{number}", at=at, patient_id=patient, issuer_of_patient_id=issuer))
    rows, _ = stored.read(patients.patients, "P1")
    assert [(row["issuer"], row["studies"]) for row in rows] == [("NORTH", 2), ("SOUTH", 1)]
    assert [row["patient_id"] for row in stored.read(patients.patients, "P%*")[0]] == ["P%"]
    shown = stored.read(patients.show, inbox.settings, rows[0]["study"])
    assert [row["study"] for row in shown["studies"]] == ["1.2.3", "1.2.1"]
    assert [row["issuer"] for row in shown["others"]] == ["SOUTH"]
    assert shown["person"] is None


def test_images_of_a_patient_are_deleted_when_their_results_arrived(
    console_of_node: ConsoleLab, node: Inbox
) -> None:
    admin = console_of_node.browser(UserRole.ADMIN)
    assert console_of_node.browser(UserRole.OPERATOR).post("/patients/1/delete") == 403
    files = set(node.folder.glob("spool/**/*.dcm"))
    assert files
    assert admin.post("/patients/1/delete") == 200
    assert "keeps its images: " in admin.text
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=NOW)
    node.put(Study, 1, state=StudyState.DELIVERED)
    assert admin.post("/patients/1/delete") == 200
    assert "1 of 1 studies: received images deleted" in admin.text
    assert not any(file.exists() for file in files)
    assert list(node.folder.glob("results/**/*.dcm"))
    assert "purged" in admin.page("/studies/1")
    assert "It has taken results, the newest at" in admin.page("/peers/pacs")
    assert "Delete them" not in admin.page("/patients/1"), "nothing is here"
    assert admin.post("/patients/1/delete") == 200
    assert "were deleted before" in admin.text
    rows = console_of_node.audit_rows()
    deleted = [(row["actor"], row["study_id"]) for row in rows if row["action"] == "objects_deleted"]
    assert deleted == [("admin", 1)]


def measured(
    study: int, day: str, value: float, name: str = "Ratio", model: str = "ratio 2"
) -> activity.DatedNumber:
    number = StatedNumber(f"1.2.{study}", ("1", "L"), name, value, ("1", "UCUM"), model, "")
    return activity.DatedNumber(study, date.fromisoformat(day), number)


def test_a_quantity_of_two_days_by_one_model_is_a_plot_and_a_higher_value_is_higher() -> None:
    [plot] = activity.trends([measured(2, "2024-03-01", 0.56), measured(1, "2022-03-01", 0.51)])
    first, second = plot["points"]
    assert (first["study"], first["value"], first["day"], plot["unit"]) == (1, "0.51", "2022-03-01", "")
    assert first["x"] < second["x"]
    assert first["y"] > second["y"]
    for other in (measured(2, "2023-03-01", 0.5, model="ratio 3"), measured(2, "2022-03-01", 0.6)):
        assert activity.trends([measured(1, "2022-03-01", 0.5), other]) == []


@pytest.fixture
def limited(node: Inbox) -> ConsoleLab:
    """With the address of STOW-RS, and an operator each for the sender of the study and for another room."""
    served = node.settings.console.model_copy(update={"dicomweb_store": True})
    limited = ConsoleLab(node.settings.model_copy(update={"console": served}), node.database)
    for name, title in (("here", node.rows(Instance)[0].calling_ae), ("elsewhere", "ROOM9")):
        users.add_user(limited.settings, name, UserRole.OPERATOR, PASSWORD, senders=[title])
    return limited


def addresses(app: FastAPI, node: Inbox, *, each: bool = True) -> Iterator[tuple[str, str]]:
    """Method and path of each endpoint, with the UIDs of the study that is here, its number and those of its
    images, where it asks for results of one of each kind, too; else with the first number alone.
    """
    study, images = node.rows(Study)[0], node.rows(Instance)
    numbers, of_a_kind = {study.id}, {row.kind: row.id for row in node.rows(Result)}
    numbers |= {image.id for image in images} if each else set()
    known = {
        "uid": study.study_instance_uid,
        "study": study.study_instance_uid,
        "series": images[0].series_instance_uid,
        "instance": images[0].sop_instance_uid,
        "change": "retry",
    }
    for route in routes(app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            for number in numbers | {*of_a_kind.values()} if each and "result" in route.path else numbers:
                values = {**known, "number": number, "n": number, "frame": 1, "frames": 1, "layer": 1}
                yield (
                    method,
                    re.sub(r"\{(\w+)[^}]*\}", lambda m, v=values: str(v.get(m[1], "images")), route.path),
                )


def test_each_table_belongs_to_studies_or_to_the_node() -> None:
    tables = (mapper.class_ for mapper in Base.registry.mappers)
    assert {one.__tablename__ for one in tables if sight.condition_of(one, ["ROOM9"]) is None} == {
        "user_account", "user_session", "api_token", "cursor", "disk_sample", "installation",
        "lease", "site_process", "decision", "commitment", "waiting_report",
    }  # fmt: skip


def test_no_address_shows_a_study_of_another_sender(limited: ConsoleLab, node: Inbox) -> None:
    study = node.rows(Study)[0]
    secrets = [study.study_instance_uid, study.patient_id, study.accession_number, "an uploader"]
    secrets += [row.sop_instance_uid for row in (*node.rows(Instance), *node.rows(Result))]
    sender = node.rows(Instance)[0].calling_ae
    # Of no study here: a fetch, a list, a refused object.
    node.write(record, FETCH_ASKED, study=secrets[0], peer="pacs")
    node.write(record, STUDIES_MISSING, peer="pacs", studies=secrets[:1])
    node.write(record, STORE_REFUSED, calling=sender, instance=secrets[-1], reason="")
    node.write(audit.note, audit.Person("an uploader"), AuditAction.UPLOADED, association="", objects=1)
    tokens = {name: users.add_token(limited.settings, name, "a test", 1) for name in ("here", "elsewhere")}
    shown: dict[str, set[str]] = {}
    for name, token in tokens.items():
        browser = limited.browser(name)
        shown[name] = set()
        for method, path in dict.fromkeys(addresses(limited.app, node, each=name == "elsewhere")):
            if method != "GET" or path in ("/live", "/sign-in/oidc/leave"):
                continue
            headers = {"Authorization": f"Bearer {token}"} if path.startswith("/api/") else {}
            answer = browser.client.get(path, headers=headers)
            assert answer.status_code != 500, path
            if any(secret and secret.encode() in answer.content for secret in secrets):
                shown[name].add(path)
            if answer.headers["content-type"].startswith("image/") and "/static/" not in path:
                shown[name].add(path)
    assert shown["elsewhere"] == set()
    assert len(shown["here"]) > 15  # the same addresses show it to whom it may be shown


def _keys(schema: dict[str, Any], method: str, path: str) -> Iterable[str]:
    """Keys of the body that an address takes, as the schema of the REST API says."""
    [action] = [
        actions[method.lower()]
        for template, actions in schema["paths"].items()
        if method.lower() in actions and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ] or [{}]
    body = action.get("requestBody", {}).get("content", {}).get("application/json", {"schema": {}})["schema"]
    name = body.get("$ref", "").rpartition("/")[2]
    return schema["components"]["schemas"].get(name, {}).get("properties", ())


def test_no_address_changes_a_study_of_another_sender(limited: ConsoleLab, node: Inbox) -> None:
    def rows() -> dict[str, list[object]]:
        return {
            table.__name__: [
                [getattr(row, column.key) for column in inspect(table).column_attrs]
                for row in node.rows(table)
            ]
            for table in (Study, Job, Result, Delivery, Withdrawal, Feedback)
        }

    before = rows()
    browser = limited.browser("elsewhere")
    headers = {"Authorization": f"Bearer {users.add_token(limited.settings, 'elsewhere', 'a test', 1)}"}
    csrf = browser.token()
    [study] = node.rows(Study)
    fields = {"because": "none of ours", "reason": "quality", "peer": "pacs"}
    drawn = {"boxes": [[0, 0, 9, 9]], "name": "room9"}
    assessed = {
        "finding": "1.2",
        "model": "a 1",
        "verdict": "accepted",
        "studies": [study.id],
        "results": [1],
    }
    days = {"first": "2024-03-02", "last": "2024-03-02"}
    values = {**fields, **drawn, **assessed, **days, "state": "failed", "change": "withdraw"}
    schema = browser.client.get("/api/v1/openapi.json", headers=headers).json()
    for method, path in dict.fromkeys(addresses(limited.app, node)):
        if method == "GET" or path.startswith(("/sign-", "/sessions", "/language")):
            continue
        if path.startswith("/api/"):
            body = {key: value for key, value in values.items() if key in _keys(schema, method, path)}
            answer = browser.client.request(method, path, json=body, headers=headers)
            form = "cannot be read" in answer.text and not path.endswith(("/rules/images/try", "/registered"))
            assert not form, (path, answer.text)
        else:
            answer = browser.client.request(
                method, path, data={"csrf": csrf, "change": "withdraw", "study": "1", "result": "1", **fields}
            )
        assert answer.status_code != 500, path
    assert rows() == before


def test_an_admin_sees_all_and_senders_are_ae_titles(limited: ConsoleLab) -> None:
    with pytest.raises(FaultyInput, match="admin"):
        users.add_user(limited.settings, "boss", UserRole.ADMIN, PASSWORD, senders=["US1"])
    for title in ("A" * 17, "US\\1", "US\n1"):
        with pytest.raises(FaultyInput, match="AE titles"):
            users.change_user(limited.settings, "here", senders=[title])
    users.change_user(limited.settings, "here", senders=[])
    assert users.list_users(limited.settings)[2]["senders"] == []


def noted(console_of_node: ConsoleLab, action: str) -> list[tuple[Any, ...]]:
    return [(row["actor"], row["fields"]) for row in console_of_node.audit_rows() if row["action"] == action]


@pytest.mark.parametrize(("path", "name"), [("/studies", "studies"), ("/patients", "patients")])
def test_a_list_is_noted_once_for_each_person_until_some_minutes_are_over(
    console_of_node: ConsoleLab, path: str, name: str
) -> None:
    reader, admin = (console_of_node.browser(role) for role in (UserRole.READER, UserRole.ADMIN))
    for browser in (reader, reader, admin):
        assert "ID-one" in browser.page(path)
    assert noted(console_of_node, "list_seen") == [("admin", {"list": name}), ("reader", {"list": name})]
    console_of_node.put(AuditRow, at=utc_now() - timedelta(minutes=6))
    reader.get(path)
    assert len(noted(console_of_node, "list_seen")) == 3
