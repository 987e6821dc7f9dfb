"""A reader judges each finding, accepts or rejects what waits, and sends the assessment."""

import re
from collections.abc import Callable

import pytest
from pydicom import dcmread
from sqlalchemy import select

from ai_pipeline.models import registry
from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import DeliveryState, ReaderVerdict, ResultKind, UserRole
from dicom_node.base.store.tables import Delivery, Feedback, Instance, Result, Withdrawal
from dicom_node.people import studies, verdicts
from dicom_node.results import stated_report
from tests.console_lab import Browser, ConsoleLab, Program, console_of
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.result_reading import content, groups_of, named, of_type
from tests.unit.dicom_console.decisions_lab import (
    EVA,
    UID,
    another,
    assess_first,
    instead_of_pacs,
    objects,
    results,
    say,
    send,
    withdraw,
)
from tests.unit.jobs.worker_lab import work
from tests.validators import dciodvfy_errors


@pytest.fixture
def assessing(open_with_users: Callable[..., Inbox]) -> ConsoleLab:
    node = open_with_users(assess_first())
    node.settle(ultrasound("one"))
    work(node)
    return console_of(node)


def test_a_reader_accepts_what_he_saw(assessing: ConsoleLab) -> None:
    viewer, reader = assessing.browser(UserRole.VIEWER), assessing.browser(UserRole.READER)
    assert "wait for an assessment" in viewer.page("/studies/1")
    assert "Accept and send" not in viewer.text
    assert viewer.post("/studies/1/accept", as_of="x") == 403
    reader.get("/studies/1")
    for seen, status, state in (("0" * 16, 409, "unassessed"), (reader.field("as_of"), 303, "pending")):
        assert reader.post("/studies/1/accept", as_of=seen) == status
        assert set(assessing.column(Delivery.state)) == {state}
    assert "wait for an assessment" not in reader.page("/studies/1")
    assert "a person accepted results: they are delivered" in reader.text
    assert re.search(r'class="state confirmed">accepted</span> <small>reader', reader.text)


@pytest.mark.parametrize("images", [1, 2])
def test_findings_of_several_images_say_of_which_image_they_are(
    open_with_users: Callable[..., Inbox], images: int
) -> None:
    """Nobody shall accept a finding beside the picture of another image."""
    node = open_with_users(assess_first())
    node.settle(*ultrasounds("two", images))
    work(node)
    page = console_of(node).at("/studies/1", UserRole.READER).text
    named = re.findall(r'<a class="of" href="/studies/images/(\d+)"><small>image (\d+)<', page)
    number_of = {str(row.id): str(row.attributes["InstanceNumber"]) for row in node.rows(Instance)}
    assert set(named) == (set(number_of.items()) if images > 1 else set())


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
    assert set(assessing.column(Delivery.state)) == {DeliveryState.DISCARDED}
    _, [one] = reader.ask("GET", "/assessments")
    assert (one["verdict"], one["because"], one["actor"]) == ("rejected", "a rib", "reader")
    assert viewer.ask("GET", "/assessments")[0] == 403
    assert viewer.ask("GET", "/studies/9/assessment")[0] == 404


@pytest.fixture
def site(node: Inbox) -> Inbox:
    """A study whose results are on their way to two peers; one of them takes assessments."""
    instead_of_pacs(node, {"assessments": True}, {"name": "archive"})
    return node


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
    assert tracked == [row["tracking_uid"] for row in stated_report.findings(report)]
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
    [report] = results(site, ResultKind.SR)
    withdraw(site, report.id)
    assert sent_to(site) == [("pacs", "discarded")]


def test_what_was_said_of_the_other_report_of_an_analysis_stays(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    [report] = results(site, ResultKind.SR)
    site.add(another(report, sop_instance_uid="2.25.7"))  # for another character set
    site.put(Feedback, report_uid="2.25.7")
    withdraw(site, report.id)
    assert sent_to(site) == [("pacs", "pending")]
    assert site.column(Withdrawal.result_id) == [report.id]


@pytest.fixture
def judging(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> ConsoleLab:
    """Of a node with a study of two findings, whose model also knows another."""
    chest, known = registry.find("chest-efficientnet-lite0"), registry.find
    monkeypatch.setattr(
        registry, "find", lambda name, *of: chest if name == "obedient@1" else known(name, *of)
    )
    return console_of(node)


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


def test_a_reader_judges_each_finding_and_may_think_again(judging: ConsoleLab) -> None:
    browser = judging.browser(UserRole.READER)
    right, modified, wrong, other, *_ = forms(browser)
    offered = [form["verdict"] for form in (right, modified, wrong)]
    assert (right["finding"], offered) == ("Mark", ["accepted", "modified", "rejected"])
    assert right["tracking_uid"] == wrong["tracking_uid"] != other["tracking_uid"]
    for given in (right, other, wrong):
        assert browser.post("/studies/1/feedback", **given) == 303
    shown = r'class="state \w+">(\w+)</span> <small>(reader[^<]*)<'
    said = [("rejected", "reader: a rib"), ("accepted", "reader")]
    assert re.findall(shown, browser.page("/studies/1")) == said
    assert judging.browser(UserRole.ADMIN).post("/studies/1/feedback", **right) == 303
    [row] = judging.read(verdicts.counts_by_finding, "obedient", "1")
    assert (row["present_accepted"], row["present_rejected"]) == (2, 1)
    noted = judging.audited("feedback_given")
    assert (len(noted), noted[0]) == (4, {"verdict": "accepted", "model": "obedient 1"})


@pytest.mark.parametrize("stuffed", ['=HYPERLINK("http://x")', "Nowak Anna", "1.2.3", "x" * 200])
def test_a_reader_says_once_that_a_finding_is_missing(judging: ConsoleLab, stuffed: str) -> None:
    browser = judging.browser(UserRole.READER)
    said = {"verdict": "missing", "finding": "Cardiomegaly | obedient 1"}
    for given in ({"tracking_uid": stuffed}, {}):
        assert browser.post("/studies/1/feedback", **said, **given) == 303
    [row] = judging.read(verdicts.all_assessments)
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
    judging: ConsoleLab, fields: dict[str, str], status: int
) -> None:
    assert judging.browser(UserRole.READER).post("/studies/1/feedback", **fields) == status
    assert judging.read(verdicts.all_assessments) == []


@pytest.mark.parametrize("decision", ["absent", "indeterminate"])
def test_only_a_finding_that_is_called_present_can_be_accepted(
    judging: ConsoleLab, monkeypatch: pytest.MonkeyPatch, decision: str
) -> None:
    reports = stated_report.findings
    changed = lambda path: [row | {"decision": decision} for row in reports(path)]
    monkeypatch.setattr(stated_report, "findings", changed)
    reader = judging.browser(UserRole.READER)
    there, *others = [form for form in forms(reader) if form.get("finding") == "Mark"]
    assert {form["verdict"] for form in (there, *others)} == {"modified"}
    assert reader.post("/studies/1/feedback", **there | {"verdict": "accepted"}) == 409
    assert reader.post("/studies/1/feedback", **there) == 303


SCORES = (
    ("Mass", "absent", ["0.31"]), ("Nodule", "present", ["0.9", "0.5"]), ("Hernia", "absent", ["0.05"]),
    ("<b>", "indeterminate", ["0.45", "0.5"]), ("Mass", "present", ["0.62", "0.5"]),
    ("<b>", "absent", ["0.3"]),
)  # fmt: skip


def test_the_page_shows_the_three_highest_scores_with_their_cut_offs(
    node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [mark, *_] = stated_report.findings(objects(node, ResultKind.SR)[0])
    rows = [
        mark
        | {"finding": name, "decision": word, "numbers": dict(zip(mark["numbers"], values, strict=False))}
        for name, word, values in SCORES
    ]
    monkeypatch.setattr(stated_report, "findings", lambda _: rows)
    text = console_of(node).browser(UserRole.VIEWER).page("/studies/1")
    [shown] = re.findall(r"<p>Highest scores of (.*?)</p>", text, re.DOTALL)
    assert re.sub(r"</?(?:b|small)>", "", shown) == (
        "obedient 1: Nodule 0.9 suspected, cut-off 0.5 · Mass 0.62 suspected, cut-off 0.5 · "
        "&lt;b&gt; 0.45 not excluded, cut-off 0.5"
    )
