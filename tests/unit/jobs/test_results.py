"""What a job's results hold: for a person first, de-identified, compared, after a purge."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from sqlalchemy import delete
from sqlalchemy.orm import Session

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    Code,
    Decision,
    Finding,
    Measurement,
    ModelRef,
    PipelineCard,
    PipelineResult,
    Progress,
    QualityNote,
    SourceImage,
)
from ai_pipeline.images.dates import date_of
from dicom_connectors.notifications.gather import Gatherer
from dicom_connectors.notifications.settings import NotificationSettings
from dicom_console.views import patients
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.events import RESULTS_ACCEPTED, RESULTS_HELD
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    HeldState,
    JobState,
    ReaderVerdict,
    RejectionReason,
    ResultKind,
    StudyState,
    is_deidentified,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Delivery,
    EventRow,
    HeldResult,
    Instance,
    Job,
    Notification,
    Result,
    Study,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import holding
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.people import audit, held_results, preflight, spool, studies, verdicts, withdrawal
from dicom_node.people.outbox import discard_deliveries, send_again, send_study
from dicom_node.results import stated_report
from dicom_node.studies.purging import purge_results
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.pacs_lab import Pacs, run_pacs
from tests.peers import a_peer
from tests.result_images import CR, EFFUSION, grey_image, without_text, write_image
from tests.unit.dicom_console.illustrated import illustrated
from tests.unit.jobs.worker_lab import (
    MODEL,
    Obedient,
    analysed_deidentified,
    configuration,
    confirm,
    states,
    work,
)
from tests.unit.receive.objects import changed
from tests.validators import dciodvfy_errors
from tests.waiting import wait_until

Make = Callable[..., Inbox]
ANNA = audit.Person("anna", "10.0.0.1")


D = DeliveryState


def settings(node: Inbox, *, assess_first: bool = True, do: str = "find", **peer: Any) -> Settings:
    made = configuration(do)
    made["rules"][0]["assess_first"] = assess_first
    made["peers"][1] |= peer
    made["outbox"] = {"retry_seconds": 0.1, "assess_hours": 4}
    return Settings.model_validate({**made, "node": {"data_dir": node.folder}})


def analysed_in(folder: Path, config: Mapping[str, Any]) -> Path:
    """The data folder of a node that analysed an image, whose results are held if the rule's may be."""
    with closing(Inbox(folder / "var", config)) as node:
        analysed(node)
    return folder / "var"


@pytest.fixture(scope="module")
def analysed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests get copies."""
    config = configuration()
    config["rules"][0]["assess_first"] = True
    return analysed_in(tmp_path_factory.mktemp("analysed"), config)


@pytest.fixture
def fresh(open_inbox: Make) -> Inbox:
    fresh = open_inbox(configuration())
    go_on(fresh, settings(fresh))
    return fresh


@pytest.fixture
def node(analysed_once: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Inbox:
    """A node that analysed the first image already: when it comes again, that is a duplicate."""
    shutil.copytree(analysed_once, tmp_path / "var")
    return request.getfixturevalue("fresh")


def go_on(node: Inbox, /, settings: Settings | None = None, **values: Any) -> None:
    """With these settings, or these values of them."""
    node.settings = (settings or node.settings).model_copy(update=values)
    node.reopen()


def second_peer(node: Inbox, **values: Any) -> tuple[PeerSettings, ...]:
    """The peers, and another that takes what the PACS takes."""
    return (*node.settings.peers, node.settings.peers[1].model_copy(update={"name": "second", **values}))


def analysed(node: Inbox, number: int = 1) -> str:
    """One more image of the study, and its jobs; returns the study's UID."""
    image = ultrasound("one", number=number)
    node.settle(image)
    work(node)
    return str(image.StudyInstanceUID)


def mark(node: Inbox, uid: str) -> str:
    return str(node.read(held_results.held_results, node.settings, node.study(uid).id)["as_of"])


def accept(node: Inbox, uid: str, **how: Any) -> int:
    return held_results.accept_results(node.settings, uid, ANNA, **how)


def reject(node: Inbox, uid: str, because: str = "wrong side") -> int:
    return held_results.reject_results(node.settings, uid, ANNA, because=because)


def withdraw(node: Inbox, uid: str) -> dict[str, list[str]]:
    return withdrawal.withdraw_results(
        node.settings, uid, None, reason=RejectionReason.QUALITY, because="wrong film"
    )


def rerun(node: Inbox, uid: str) -> None:
    """Apply the rules to the study again, and run what comes of it."""
    studies.rerun_rules(node.settings, [uid])
    work(node)


def test_nothing_leaves_before_a_person_has_accepted_it(node: Inbox) -> None:
    with run_pacs(Pacs()) as pacs:
        peer = pacs.peer()
        node.settings = settings(node, host=peer.host, port=peer.port, ae_title=peer.ae_title)
        uid = analysed(node)
        assert states(node) == [D.UNASSESSED] * 2
        assert node.study(uid).state is StudyState.UNASSESSED
        # As after a kill of everything: another database object, another sender.
        other = Database(node.settings.database_url)
        sender = DeliveryWorker(other, node.settings)
        assert [sender.run_once() for _ in range(3)] == [0, 0, 0]
        assert pacs.received == []
        assert accept(node, uid, as_of=mark(node, uid)) == 2
        assert node.study(uid).state is StudyState.DELIVERING
        wait_until(lambda: sender.run_once() == 0 and set(states(node)) == {D.CONFIRMED})
        other.dispose()
        assert len(pacs.received) == 2
        assert node.study(uid).state is StudyState.DELIVERED
    [row] = [row for row in node.read(audit.rows) if row["action"] == AuditAction.RESULTS_ASSESSED]
    [said] = node.read(verdicts.all_assessments)
    assert (row["actor"], row["fields"]) == ("anna", {"verdict": "accepted", "results": 2})
    assert (said["verdict"], said["actor"], said["version"]) == ("accepted", "anna", "1")
    assert {RESULTS_HELD.number, RESULTS_ACCEPTED.number} <= set(node.column(EventRow.number))


def test_what_was_rejected_leaves_by_no_way_until_a_person_thinks_again(node: Inbox) -> None:
    uid = analysed(node)
    with pytest.raises(FaultyInput):
        reject(node, uid, " ")
    assert reject(node, uid) == 2
    assert node.study(uid).state is StudyState.CANCELLED
    rerun(node, uid)
    assert states(node) == [D.DISCARDED] * 2, "the same results stay rejected"
    for way, says in (
        (lambda: send_again(node.settings, [1]), "rejected"),
        (lambda: send_study(node.settings, uid, "pacs"), ""),
        (lambda: reject(node, uid, "again"), "rejected already"),
        (lambda: accept(node, uid), "--rejected"),
    ):
        with pytest.raises(NotAllowedNow, match=says or None):
            way()
    assert accept(node, uid, as_of=mark(node, uid)) == 2
    assert states(node) == [D.PENDING] * 2
    with pytest.raises(NotAllowedNow, match="waits for"):
        accept(node, uid)


def test_what_was_discarded_or_withdrawn_is_not_accepted_with_the_others(node: Inbox) -> None:
    uid = analysed(node)
    discard_deliveries(node.settings, [1], because="wrong destination")
    reject(node, uid)
    accept(node, uid, rejected=True)
    assert states(node) == [D.DISCARDED, D.PENDING]
    reject(node, analysed(node, 2))
    withdraw(node, uid)
    with pytest.raises(NotAllowedNow, match="waits for"):
        accept(node, uid, rejected=True)


def test_a_rule_without_assessment_frees_nothing_of_another_rule(fresh: Inbox) -> None:
    node, [held_rule] = fresh, fresh.settings.rules
    free = held_rule.model_copy(update={"name": "other", "send_to": ("second",), "assess_first": False})
    go_on(node, peers=second_peer(node), rules=(held_rule, free))
    uid = analysed(node)
    assert sorted(states(node)) == [D.PENDING] * 2 + [D.UNASSESSED] * 2
    assert len(node.rows(HeldResult)) == 2
    node.write(Session.execute, delete(HeldResult))  # as an earlier version left it
    with pytest.raises(NotAllowedNow, match="studies accept"):
        send_again(node.settings, [1])
    rerun(node, uid)
    assert accept(node, uid) == 2
    assert states(node) == [D.PENDING] * 4


@pytest.mark.parametrize(("peer", "warnings"), [("pacs", 1), ("second", 0), ("alias", 1)])
def test_a_rule_that_sends_at_once_what_another_holds_is_warned_of(
    tmp_path: Path, peer: str, warnings: int
) -> None:
    made = configuration() | {"node": {"data_dir": str(tmp_path)}}
    pacs, [rule] = made["peers"][1], made["rules"]
    made["peers"] += [{**pacs, "name": "second", "port": 2}, {**pacs, "name": "alias"}]
    rule["assess_first"] = True
    made["rules"].append({**rule, "name": "other", "send_to": [peer], "assess_first": False})
    tried = preflight.check_data(made).tried
    assert [one.ok for one in tried if one.subject == "rule other" and "holds" in one.text] == [
        False
    ] * warnings


def test_no_way_leads_around_the_assessment(node: Inbox) -> None:
    uid = analysed(node)
    go_on(node, peers=second_peer(node))
    with pytest.raises(NotAllowedNow, match="studies accept"):
        send_again(node.settings, [1])
    with pytest.raises(NotAllowedNow, match="studies accept"):
        send_study(node.settings, uid, "second")
    assert send_again(node.settings, dead=True) == 0
    assert states(node) == [D.UNASSESSED] * 2


def test_a_late_image_makes_results_that_wait_anew(node: Inbox) -> None:
    uid = analysed(node)
    seen = mark(node, uid)
    node.index(changed(ultrasound("one", number=2), StudyInstanceUID=uid))
    with pytest.raises(NotAllowedNow, match="receiving"):
        accept(node, uid, as_of=seen)
    node.settle()
    work(node)
    assert states(node).count(D.UNASSESSED) == 3, "the new report, and both pictures"
    with pytest.raises(NotAllowedNow, match="changed since you saw them"):
        accept(node, uid, as_of=seen)
    assert accept(node, uid, as_of=mark(node, uid)) == 3
    assert sorted(states(node)) == [D.CANCELLED, D.PENDING, D.PENDING, D.PENDING]
    assert set(node.column(Result.supersedes)) == {""}, "the first never left"


def test_a_rule_that_wants_no_assessment_any_more_lets_its_results_go(node: Inbox) -> None:
    uid = analysed(node)
    node.settings = settings(node, assess_first=False)
    assert states(node) == [D.UNASSESSED] * 2, "not by the change alone"
    rerun(node, uid)
    assert states(node) == [D.PENDING] * 2
    assert node.rows(HeldResult) == []


def test_a_failure_is_told_at_once_to_whom_a_person_sent_the_results(node: Inbox) -> None:
    uid, peers = analysed(node), second_peer(node)
    accept(node, uid)
    go_on(node, peers=peers)
    assert send_study(node.settings, uid, "second") == 2
    go_on(node, settings(node, do="stumble"), peers=peers)
    rerun(node, uid)
    assert sorted(states(node)) == [D.CANCELLED] * 4 + [D.PENDING] * 4


def test_results_with_a_finding_that_was_not_accepted_stay_here(node: Inbox) -> None:
    uid = analysed(node)
    [about, *_] = node.read(verdicts.findings_of_study, node.settings, uid)
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}

    def assess(verdict: ReaderVerdict, by: audit.Person, because: str = "") -> None:
        given = verdicts.FindingAssessed(**which, verdict=verdict, because=because)
        verdicts.assess(node.settings, node.study(uid).id, given, by)

    for verdict in (ReaderVerdict.REJECTED, ReaderVerdict.MODIFIED):
        with pytest.raises(FaultyInput):
            assess(verdict, ANNA)
        assess(verdict, ANNA, "a rib")
        with pytest.raises(NotAllowedNow, match="Mark: not accepted"):
            accept(node, uid)
        assert states(node) == [D.UNASSESSED] * 2
        assert node.study(uid).state is StudyState.UNASSESSED
    assess(ReaderVerdict.ACCEPTED, audit.Person("eva"))
    assert accept(node, uid) == 2
    rows = node.read(verdicts.all_assessments)
    assert [(row["verdict"], row["because"]) for row in rows] == [("modified", "a rib"), ("accepted", "")]
    assert {row["report_uid"] for row in rows} == {about["report_uid"]} != {""}


def test_an_acceptance_that_is_cut_off_has_done_nothing(node: Inbox) -> None:
    uid = analysed(node)
    with (
        patch.object(holding, "settle_study", side_effect=RuntimeError("killed")),
        pytest.raises(RuntimeError, match="killed"),
    ):
        accept(node, uid)
    assert states(node) == [D.UNASSESSED] * 2
    assert node.column(HeldResult.state) == [HeldState.WAITING] * 2


@pytest.mark.parametrize(("assess", "told"), [(accept, 1), (reject, 0)])
def test_findings_are_told_once_they_were_accepted(
    fresh: Inbox, assess: Callable[..., int], told: int
) -> None:
    rule = {"name": "ward", "findings": ["*"], "url": "http://localhost/", "every_minutes": 0}
    go_on(fresh, notifications=(NotificationSettings.model_validate(rule),))
    gatherer = Gatherer(fresh.database, fresh.settings)
    gatherer.run_once()
    uid = analysed(fresh)
    assert gatherer.run_once() == 0
    assess(fresh, uid)
    assert gatherer.run_once() == told
    rows = [row.content["groups"][0]["events"][0] for row in fresh.rows(Notification)]
    assert [row["findings"] for row in rows] == [["Mark"]] * told


@pytest.fixture(scope="module")
def illustrated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analysed_in(tmp_path_factory.mktemp("illustrated"), illustrated())


@pytest.fixture
def purging(illustrated_once: Path, open_inbox: Make, tmp_path: Path) -> Inbox:
    shutil.copytree(illustrated_once, tmp_path / "var")
    return open_inbox(illustrated())


def purged(purging: Inbox) -> dict[Path, bytes]:
    """Confirm and delete images and results; what the files of the results were."""
    confirm(purging)
    files = {file: file.read_bytes() for file in (purging.folder / "results").rglob("*.dcm")}
    spool.delete_received(purging.settings, [1])
    settings = purging.settings.model_copy(
        update={"spool": purging.settings.spool.model_copy(update={"result_days": 1})}
    )
    assert purge_results(purging.database, settings, utc_now() + timedelta(days=2)) == len(files) > 3
    assert not any(file.exists() for file in files)
    return files


def wanted_by_another(purging: Inbox) -> None:
    go_on(
        purging,
        peers=second_peer(purging, ae_title="SECOND"),
        rules=(purging.settings.rules[0].model_copy(update={"send_to": ("pacs", "second")}),),
    )


def states_at(purging: Inbox, destination: str) -> list[tuple[DeliveryState, str]]:
    return [(row.state, row.reason) for row in purging.rows(Delivery) if row.destination == destination]


def test_results_of_late_images_say_when_their_series_began(purging: Inbox) -> None:
    for number in (1, 2):
        analysed(purging, number)
    series = defaultdict(list)
    for made in map(dcmread, (purging.folder / "results").rglob("*.dcm")):
        series[made.SeriesInstanceUID].append(made)
    shared = [objects for objects in series.values() if len(objects) > 1]
    assert shared
    for objects in shared:
        assert len({(made.SeriesDate, made.SeriesTime) for made in objects}) == 1
        assert len({made.InstanceCreationTime for made in objects}) > 1


def test_a_result_that_was_deleted_is_sent_nowhere_and_its_delivery_says_why(purging: Inbox) -> None:
    uid = analysed(purging)
    files = purged(purging)
    wanted_by_another(purging)
    analysed(purging)
    rerun(purging, uid)
    second = states_at(purging, "second")
    assert len(second) == len(files)
    assert all(state is DeliveryState.CANCELLED and "result_days" in reason for state, reason in second)
    assert purging.column(EventRow.number).count(4006) == len(files)
    assert not any(file.exists() for file in files)
    assert set(purging.column(Job.state)) <= {JobState.SUCCEEDED, JobState.CANCELLED}
    assert purging.study(uid).state is StudyState.DELIVERED


class Measuring(Obedient):
    """Reads what it is to measure and to suspect from the Series Description: ``0.51 effusion``."""

    card = PipelineCard(name="measuring", version="1")
    version = "1"

    def models(self) -> tuple[ModelRef, ...]:
        return (ModelRef("measuring", self.version, "0" * 64, "1" * 64),)

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        [image], [model] = images, self.models()
        words = image.header.attributes["SeriesDescription"].split()
        quantity, unit = (
            Code("CARDIOTHORACIC", "99TEST", "Cardiothoracic ratio"),
            Code("{ratio}", "UCUM", "ratio"),
        )
        if "fetus" in words:
            quantity, unit = Code("11984-2", "LN", "Head Circumference"), Code("mm", "UCUM", "mm")
        number = Measurement(
            image.uid,
            quantity.meaning,
            quantity,
            float(words[0]),
            unit,
            (((10.0, 10.0), (60.0, 10.0)),),
            model,
            fetus="1" if "fetus" in words else "",
            statement="A number",
            error=8.0 if "fetus" in words else 0.05,
        )
        score, decision = (0.7, Decision.PRESENT) if "effusion" in words else (0.1, Decision.ABSENT)
        return PipelineResult(
            (Finding("Effusion", EFFUSION, score, 0.5, decision, image.uid, model),),
            measurements=(number,),
            models=(model,),
            quality=(QualityNote("unsure", "White.", image.uid, on_faces=True),) * ("white" in words),
        )


def settings_compare(folder: Path, results: Sequence[str] = ("sr",), **rule: Any) -> Settings:
    made = configuration()
    del made["rules"][0]["options"]
    made["rules"][0] |= {"pipeline": "measuring", "compare": True} | rule
    made["peers"][1]["results"] = results
    return Settings.model_validate({**made, "node": {"data_dir": folder}})


@pytest.fixture
def comparing(open_inbox: Make, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    monkeypatch.setitem(
        pipelines.PIPELINES,
        "measuring",
        EntryPoint("measuring", f"{__name__}:Measuring", pipelines.GROUP),
    )
    comparing = open_inbox()
    go_on(comparing, settings_compare(comparing.folder))
    return comparing


def take(comparing: Inbox, day: str, words: str, **given: Any) -> Path:
    """Receive and analyse one film of a study of that day; the file of its report."""
    file = comparing.folder.parent / f"{len(comparing.rows(Study))}.dcm"
    about = {"StudyDate": day, "SeriesDescription": words, "PatientID": "P1"} | given
    image = dcmread(write_image(file, CR, grey_image(), **about))
    comparing.settle(image)
    work(comparing)
    study = comparing.study_of(image).id
    [report] = [row for row in comparing.rows(Result) if (row.study_id, row.kind) == (study, ResultKind.SR)]
    return comparing.folder / report.path


def compared(report: Path) -> list[str]:
    return [line for line in stated_report.read_report(report).short_result if line.startswith("Before, ")]


def test_the_newest_earlier_study_counts_and_a_difference_within_the_error_is_no_change(
    comparing: Inbox,
) -> None:
    take(comparing, "20260101", "0.70")
    take(comparing, "20230302", "0.40")
    take(comparing, "20240302", "0.51 effusion")
    [line] = compared(take(comparing, "20250102", "0.56"))
    assert line == (
        "Before, 2024-03-02: cardiothoracic ratio was 0.51, no change (±0.05)."
        " No longer suspected: pleural effusion."
    )
    assert "suspected" not in str(compared(take(comparing, "20250103", "0.56 white")))


def test_nothing_else_is_compared_with(comparing: Inbox) -> None:
    for other in (
        {"PatientID": "P2"},
        {"IssuerOfPatientID": "ANOTHER"},
        {"IssuerOfPatientID": ""},
        {"PatientBirthDate": "19800101"},
        {"PatientName": "Somebody^Else"},
        {"ViewPosition": "AP"},
        {"ViewPosition": ""},
        {"BodyPartExamined": "SHOULDER"},
        {"StudyDate": "20250102"},
        {"StudyDate": ""},
    ):
        take(comparing, "20240302", "0.51", **other)
    take(comparing, "20240302", "0.51")
    comparing.put(Result, outdated=True)  # by a correction
    assert compared(take(comparing, "20250102", "0.60 effusion")) == []


def trends_of(inbox: Inbox, study: int) -> list[Any]:
    """What the page of the patient of a study shows over time."""
    shown = inbox.read(patients.history, inbox.settings, *inbox.read(patients.patient_of, study))
    return list(shown["trends"])


@pytest.mark.parametrize(
    ("patient_id", "birth", "name"),
    [("UNKNOWN", "", ""), ("0", "19000101", "Unbekannt^Mann"), ("A-4711", "18000101", "TRAUMA")],
)
def test_two_emergencies_under_one_placeholder_are_not_compared(
    comparing: Inbox, patient_id: str, birth: str, name: str
) -> None:
    about = {"PatientID": patient_id, "PatientBirthDate": birth, "PatientName": name, "PatientSex": "M"}
    take(comparing, "20240302", "0.41", **about)
    assert compared(take(comparing, "20250102", "0.62 effusion", **about)) == []
    assert trends_of(comparing, 1) == []
    known = about | {"PatientName": "Miller^Jane", "PatientSex": "F", "PatientID": "P2"}
    take(comparing, "20240302", "0.41", **known)
    assert len(compared(take(comparing, "20250102", "0.62", **known))) == 1, "by name and sex"
    assert len(trends_of(comparing, 3)) == 1


def test_another_model_version_is_said_and_not_compared(
    comparing: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(comparing, "20240302", "0.51")
    monkeypatch.setattr(Measuring, "version", "2")
    [line] = compared(take(comparing, "20250102", "0.60 effusion"))
    assert "cardiothoracic ratio by another model version, not compared" in line
    assert "+" not in line
    assert "Newly suspected" not in line


def test_a_fetus_grows_and_is_not_compared_with_its_sister(comparing: Inbox) -> None:
    take(comparing, "20240302", "300 fetus")
    take(comparing, "20241001", "180 fetus")
    [line] = compared(take(comparing, "20241201", "260 fetus"))
    assert line == "Before, 2024-10-01: head circumference was 180 mm."
    assert "head" not in " ".join(compared(take(comparing, "20241220", "100 fetus")))


@pytest.mark.parametrize("rule", [{"compare": False}, {"assess_first": True}])
def test_without_the_rule_or_while_the_earlier_report_waits_for_a_person_nothing_is_compared(
    comparing: Inbox, rule: dict[str, bool]
) -> None:
    go_on(comparing, settings_compare(comparing.folder, **rule))
    take(comparing, "20240302", "0.51")
    alone = take(comparing, "20250102", "0.60")
    assert compared(alone) == []
    assert "PertinentOtherEvidenceSequence" not in dcmread(alone)


def test_the_report_quotes_the_earlier_one_and_is_valid(comparing: Inbox) -> None:
    go_on(comparing, settings_compare(comparing.folder, ("sr", "sc", "summary", "gsps")))
    earlier = take(comparing, "20240302", "0.51")
    report = take(comparing, "20250102", "0.60 effusion")
    assert dciodvfy_errors(report) == []
    document, quoted = srread(report), dcmread(earlier)
    whole, own = document.get_evidence(), document.get_evidence(current_procedure_only=True)
    others = {uid for _, _, uid, _ in whole} - {uid for _, _, uid, _ in own}
    [series] = quoted.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert others == {quoted.SOPInstanceUID, series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID}
    for word in ("Time Point", "2024-03-02", stated_report.read_report(earlier).numbers[0].tracking_uid):
        assert word in str(document)
    # Today's numbers alone are read back as this report's own.
    assert [row["number"] for row in stated_report.measurements(report)] == ["0.6 {ratio}"]


def test_a_hostile_header_gives_no_comparison(comparing: Inbox) -> None:
    take(comparing, "20240302", "0.51")
    [image] = comparing.rows(Instance)
    comparing.put(Study, study_date="2024'); "[:8])
    comparing.put(Instance, attributes={**image.attributes, "ViewPosition": "PA\\AP" * 1000})
    assert compared(take(comparing, "20250102", "0.60")) == []


@pytest.mark.parametrize("text", ["2.1.2024", "02.01.2024", "2024-01-02"])
def test_a_day_may_come_first_where_dots_are_between(text: str) -> None:
    assert date_of(text) == date(2024, 1, 2)


@pytest.mark.parametrize(
    "text", ["20240230", "2024", "99999999", "２０２４０１０１", "2024 1 1", "02/01/2024", "31.31.2024"]
)
def test_what_names_no_day_is_no_date(text: str) -> None:
    assert date_of(text) is None


def test_a_report_whose_file_is_lost_is_not_compared_with(comparing: Inbox) -> None:
    take(comparing, "20240302", "0.51").unlink()
    assert compared(take(comparing, "20250102", "0.60 effusion")) == []


class Scrubber(Obedient):
    """Says that each image is clean, unless it is told to say nothing of the kind."""

    card = replace(Obedient.card, name="scrubber")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        verified = options["do"] == "clean"
        sources: Any = [Mock(image=image) for image in images]
        pictures = [
            one for of in sources for one in without_text(of, np.s_[:, 4:20, 8:60], verified=verified)
        ]
        return PipelineResult(tuple(map(self._finding, images)), tuple(pictures), models=(MODEL,))


@pytest.fixture
def make(open_inbox: Make) -> Make:
    """Makes a node without a network that sends to these peers."""
    pipelines.PIPELINES["scrubber"] = EntryPoint("scrubber", f"{__name__}:Scrubber", pipelines.GROUP)

    def make(
        do: str = "clean",
        send_to: Sequence[str] = ("pacs", "archive"),
        registry: Mapping[str, Any] = {},
        **pacs: Any,
    ) -> Inbox:
        config = configuration(do)
        config["rules"][0].update(pipeline="scrubber", send_to=list(send_to))
        config["peers"][1].update(pacs)
        hidden = {"deidentify": True, "results": ["cleaned", "seg", "sr"]}
        config["peers"].append(config["peers"][1] | a_peer("archive", **hidden))
        config["peers"].append(config["peers"][2] | a_peer("registry", **registry))
        return open_inbox(config)

    return make


def test_each_destination_gets_its_own_objects_and_only_those(make: Make) -> None:
    node = make(results=["sr", "sc", "cleaned", "seg"])
    waiting = analysed_deidentified(node, ultrasound("one"))
    assert sorted(row.kind for row in waiting["pacs"]) == ["cleaned", "sc", "seg", "sr"]
    assert sorted(row.kind for row in waiting["archive"]) == ["cleaned", "seg", "sr"]
    for name, rows in waiting.items():
        for file, row in ((node.folder / row.path, row) for row in rows):
            hidden = b"ID-one" not in file.read_bytes()
            assert row.deidentified == is_deidentified(dcmread(file)) == hidden == (name == "archive")


def test_a_late_image_replaces_the_report_of_each_side_by_one_of_its_own(make: Make) -> None:
    node = make(results=["sr"])
    first, late = ultrasounds("one", 2)
    analysed_deidentified(node, first)
    waiting = analysed_deidentified(node, late)
    for rows in waiting.values():
        old, new = (row for row in rows if row.kind == "sr")
        assert (old.supersedes, new.supersedes) == ("", old.sop_instance_uid)
    report = dcmread(node.folder / [row for row in waiting["archive"] if row.kind == "sr"][1].path)
    before = report.PredecessorDocumentsSequence[0]
    assert before.StudyInstanceUID == report.StudyInstanceUID != first.StudyInstanceUID


def test_a_report_on_an_image_that_came_after_the_purge_replaces_none_on_either_side(make: Make) -> None:
    node = make(results=["sr"])
    first, late = ultrasounds("one", 2)
    analysed_deidentified(node, first)
    confirm(node)
    spool.delete_by_uid(node.settings, [first.StudyInstanceUID])
    for rows in analysed_deidentified(node, late).values():
        old, new = (row for row in rows if row.kind == "sr")
        assert (old.supersedes, new.supersedes) == ("", "")
        assert b"No longer here: image 1 of this study" in (node.folder / new.path).read_bytes()


def test_an_archive_is_told_what_it_retains(make: Make) -> None:
    node = make(
        send_to=["archive", "registry"],
        registry={"pseudonym_domain": "own", "retain": ["patient_characteristics"]},
    )
    waiting = analysed_deidentified(node, changed(ultrasound("one"), PatientSex="F"))
    sexes = {
        name: {dcmread(node.folder / row.path).PatientSex for row in rows} for name, rows in waiting.items()
    }
    assert sexes == {"archive": {""}, "registry": {"F"}}


def test_what_may_not_leave_holds_nobody_else_up(make: Make) -> None:
    node = make("not-verify", results=["sr"])
    waiting = analysed_deidentified(node, ultrasound("one"))
    assert [row.kind for row in waiting["pacs"]] == ["sr"]
    assert "archive" not in waiting
    assert node.column(Job.state) == [JobState.SUCCEEDED]
    assert 4004 in set(node.column(EventRow.number))


def test_a_job_for_the_archive_alone_builds_nothing_that_names_the_patient(make: Make) -> None:
    node = make(send_to=["archive"])
    assert len(analysed_deidentified(node, ultrasound("one"))["archive"]) == 3
    assert list(node.folder.glob("results/**/*.dcm")) == []
