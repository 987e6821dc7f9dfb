"""Results that wait for an assessment, and what readers say of findings."""

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import Code, Decision, Finding, PipelineResult, Progress, SourceImage
from ai_pipeline.models import registry
from dicom_node.config.settings import PeerSettings
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import ReaderVerdict, RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.results.sr import reading
from dicom_node.services import assessments, results, users, writing
from dicom_node.services.assessments import FindingAssessed
from dicom_node.services.audit import Person
from dicom_node.services.studies import rerun_rules
from dicom_node.store.tables import Delivery, Feedback, Result, Withdrawal
from tests.console_lab import Browser, ConsoleLab, Program, quick_hasher
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.result_reading import content, groups_of, named, of_type
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import Obedient, configuration, work
from tests.validators import dciodvfy_errors


@pytest.fixture(scope="module")
def held_once(tmp_path_factory: pytest.TempPathFactory, with_users: Path) -> Path:
    folder = tmp_path_factory.mktemp("held") / "var"
    folder.mkdir()
    shutil.copy(with_users, folder / "node.db")
    with closing(Inbox(folder, assess_first())) as node:
        node.settle(ultrasound("one"))
        work(node)
    return folder


@pytest.fixture
def to_assess(
    open_inbox: Callable[..., Inbox], tmp_path: Path, held_once: Path, monkeypatch: pytest.MonkeyPatch
) -> Inbox:
    monkeypatch.setattr(users, "hasher", quick_hasher)
    shutil.copytree(held_once, tmp_path / "var")
    return open_inbox(assess_first())


@pytest.fixture
def assessing(to_assess: Inbox) -> ConsoleLab:
    return ConsoleLab(to_assess.settings, to_assess.database)


def assess_first() -> dict[str, object]:
    made = illustrated()
    made["rules"][0]["assess_first"] = True
    return made


def test_a_reader_accepts_what_he_saw(assessing: ConsoleLab, to_assess: Inbox) -> None:
    viewer, reader = assessing.browser(UserRole.VIEWER), assessing.browser(UserRole.READER)
    assert "wait for an assessment" in viewer.page("/studies/1") and "Accept and send" not in viewer.text
    assert viewer.post("/studies/1/accept", as_of="x") == 403
    reader.get("/studies/1")
    for seen, status, state in (("0" * 16, 409, "unassessed"), (reader.field("as_of"), 303, "pending")):
        assert reader.post("/studies/1/accept", as_of=seen) == status
        assert {row.state.value for row in to_assess.rows(Delivery)} == {state}
    assert "wait for an assessment" not in reader.page("/studies/1")
    assert "results accepted by reader" in reader.text
    assert re.search(r'class="state confirmed">accepted</span> <small>reader', reader.text)


def test_programs_assess_accept_and_reject(assessing: ConsoleLab, to_assess: Inbox) -> None:
    viewer, reader = Program(assessing, UserRole.VIEWER), Program(assessing, UserRole.READER)
    status, found = viewer.ask("GET", "/studies/1/assessment")
    assert status == 200 and found["waiting"] == len(to_assess.rows(Delivery)) and found["decisions"] == []
    row = viewer.ask("GET", "/studies/1")[1]["findings"][0]
    about = {key: row[key] for key in ("finding", "model", "tracking_uid")}
    rejected = {**about, "verdict": "rejected"}
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
    assert {row.state for row in to_assess.rows(Delivery)} == {DeliveryState.DISCARDED}
    _, [one] = reader.ask("GET", "/assessments")
    assert (one["verdict"], one["because"], one["actor"]) == ("rejected", "a rib", "reader")
    assert viewer.ask("GET", "/assessments")[0] == 403
    assert viewer.ask("GET", "/studies/9/assessment")[0] == 404


ANNA, EVA = Person("anna"), Person("eva")


@pytest.fixture
def site(node: Inbox) -> Inbox:
    """A study whose results are on their way to two peers; one of them takes assessments."""
    pacs = node.settings.peers[-1]
    taking = pacs.model_copy(update={"assessments": True})
    other = pacs.model_copy(update={"name": "archive"})
    node.settings = node.settings.model_copy(update={"peers": (*node.settings.peers[:-1], taking, other)})
    return node


def say(node: Inbox, verdict: ReaderVerdict, by: Person = ANNA, place: int = 0, why: str = "") -> None:
    about = node.read(assessments.findings_of_study, node.settings, UID)[place]
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
    given = FindingAssessed(**which, verdict=verdict, because=why)
    assessments.assess(node.settings, 1, given, by)


def send(node: Inbox, by: Person = ANNA) -> list[str]:
    return assessments.send_assessments(node.settings, UID, by)


UID = str(ultrasound("one").StudyInstanceUID)


def objects(node: Inbox, kind: ResultKind) -> list[Path]:
    return [node.folder / row.path for row in node.rows(Result) if row.kind is kind]


def deliveries(node: Inbox) -> list[tuple[str, str]]:
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
    uids = (related.ReferencedSOPClassUID, related.ReferencedSOPInstanceUID)
    assert uids == (about.SOPClassUID, about.SOPInstanceUID)
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
    assert about.SOPInstanceUID in evidence and len(evidence) == 3, "and the images"
    groups = groups_of(document)
    tracked = [str(named(group, "112040")[0].UID) for group in groups]
    assert tracked == [row["tracking_uid"] for row in reading.findings(report)]
    said = [item.ConceptCodeSequence[0].CodeValue for one in groups for item in named(one, "ASSESSMENT")]
    assert said == ["ACCEPTED", "REJECTED"]
    texts = [item.TextValue for group in groups for item in of_type(group, "TEXT")]
    assert "a rib" in texts and "obedient" in texts
    assert [str(item.PersonName) for item in document.ContentSequence if "PersonName" in item] == ["anna^"]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
        assert document[keyword].value == about[keyword].value
    assert is_own_result(document) and document.VerificationFlag == "UNVERIFIED"
    assert deliveries(site) == [("pacs", "pending")]


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
    rerun_rules(site.settings, [UID])
    assert deliveries(site) == [("pacs", "pending")]
    work(site)
    site.put(Delivery, state=DeliveryState.DISCARDED)
    say(site, ReaderVerdict.REJECTED, why="a rib")
    with pytest.raises(NotAllowedNow, match="nothing new"):
        send(site)


def test_what_was_said_of_a_report_is_withdrawn_with_it(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    [report] = site.scalars(select(Result.id).where(Result.kind == ResultKind.SR))
    reason = RejectionReason.QUALITY
    results.withdraw(site.settings, UID, [report], reason=reason, because="other patient")
    assert deliveries(site) == [("pacs", "discarded")]


def test_what_was_said_of_the_other_report_of_an_analysis_stays(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    with writing(site.settings) as session:  # a report for another character set, and what was said of it
        [report] = session.scalars(select(Result).where(Result.kind == ResultKind.SR))
        [said] = session.scalars(select(Feedback))
        same = {one.key: getattr(report, one.key) for one in Result.__table__.columns if one.key != "id"}
        session.add(Result(**same | {"sop_instance_uid": "2.25.7"}))
        said.report_uid = "2.25.7"
        number = report.id
    results.withdraw(site.settings, UID, [number], reason=RejectionReason.QUALITY, because="other patient")
    assert deliveries(site) == [("pacs", "pending")]
    [withdrawn] = site.scalars(select(Withdrawal.result_id))
    assert withdrawn == number


def test_an_assessment_is_of_no_peers_results_and_of_no_deidentified_peer() -> None:
    about = {"name": "p", "ae_title": "P", "host": "h", "port": 1, "may": ["receive"]}
    with pytest.raises(ValueError, match="assessments = true"):
        PeerSettings.model_validate({**about, "results": ["sr", "assessment"]})
    with pytest.raises(ValueError, match="names the patient"):
        PeerSettings.model_validate(
            {**about, "results": ["cleaned"], "assessments": True, "deidentify": True}
        )


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
    [row] = console_feedback.read(assessments.counts_by_finding, "obedient", "1")
    assert (row["present_accepted"], row["present_rejected"]) == (2, 1)
    noted = console_feedback.audited("feedback_given")
    assert (len(noted), noted[0]) == (4, {"verdict": "accepted", "model": "obedient 1"})


@pytest.mark.parametrize("stuffed", ['=HYPERLINK("http://x")', "Nowak Anna", "1.2.3", "x" * 200])
def test_a_reader_says_once_that_a_finding_is_missing(console_feedback: ConsoleLab, stuffed: str) -> None:
    browser = console_feedback.browser(UserRole.READER)
    said = {"verdict": "missing", "finding": "Cardiomegaly | obedient 1"}
    for given in ({"tracking_uid": stuffed}, {}):
        assert browser.post("/studies/1/feedback", **said, **given) == 303
    [row] = console_feedback.read(assessments.all_assessments)
    assert row["tracking_uid"] == ""


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(begin: str) -> None:
    text = assessments.as_csv([dict.fromkeys(assessments.COLUMNS, "x") | {"finding": f"{begin}1+1"}])
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["finding"], row["model"]) == (f"'{begin}1+1", "x")


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
    browser = console_feedback.browser(UserRole.READER)
    assert browser.post("/studies/1/feedback", **fields) == status
    assert console_feedback.read(assessments.all_assessments) == []


def test_the_model_counts_it_and_gives_it_as_csv(console_feedback: ConsoleLab) -> None:
    browser = console_feedback.browser(UserRole.READER)
    browser.post("/studies/1/feedback", **forms(browser)[0])
    [row] = csv.DictReader(io.StringIO(browser.page("/models/obedient/1/feedback.csv")))
    assert browser.headers["content-type"].startswith("text/csv") and set(row) == set(assessments.COLUMNS)
    expected = {"finding": "Mark", "decision": "present", "verdict": "accepted", "version": "1"}
    assert row | expected == row
    assert console_feedback.browser(UserRole.VIEWER).get("/models/obedient/1/feedback.csv") == 403


PRESENT, UNSURE, ABSENT = Decision.PRESENT, Decision.INDETERMINATE, Decision.ABSENT


SCORES = {  # by the image's columns
    240: {"Mass": (0.31, ABSENT), "Nodule": (0.9, PRESENT), "Hernia": (0.05, ABSENT), "<b>": (0.45, UNSURE)},
    200: {"Mass": (0.62, PRESENT), "Nodule": (0.2, ABSENT), "Hernia": (0.04, ABSENT), "<b>": (0.3, ABSENT)},
}


class Ranked(Obedient):
    """Scores four findings in each image."""

    card = replace(Obedient.card, name="ranked")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        found = super().run(images, report, options)
        pairs = zip(images, found.findings, strict=True)
        return replace(found, findings=tuple(row for pair in pairs for row in _scored(*pair)))


def _scored(image: SourceImage, mark: Finding) -> Iterator[Finding]:
    for name, (score, decision) in SCORES[image.header.columns].items():
        code = Code(name[:3].upper().strip("<>"), "99TEST", name)
        regions = mark.regions if decision is PRESENT else ()
        yield replace(mark, label=name, code=code, probability=score, decision=decision, regions=regions)


def test_the_page_shows_the_three_highest_scores_with_their_cut_offs(
    open_with_users: Callable[..., Inbox],
) -> None:
    pipelines.PIPELINES["ranked"] = EntryPoint("ranked", f"{__name__}:Ranked", pipelines.GROUP)
    made = configuration()
    made["rules"][0] |= {"pipeline": "ranked", "options": {}}
    node = open_with_users(made)
    node.settle(ultrasound("one"), ultrasound("one", number=2, size=(200, 180)))
    work(node)
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    browser.get("/studies/1")
    [shown] = re.findall(r"<p>Highest scores of (.*?)</p>", browser.text, re.DOTALL)
    assert re.sub(r"</?(?:b|small)>", "", shown) == (
        "obedient 1: Nodule 0.9 suspected, cut-off 0.5 · Mass 0.62 suspected, cut-off 0.5 · "
        "&lt;b&gt; 0.45 not excluded, cut-off 0.5"
    )
