"""What persons say of findings, as an object: what it refers to, whose it is, and that others can read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.config.settings import PeerSettings
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import ReaderVerdict, RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.results.sr import reading
from dicom_node.services import assessments, results
from dicom_node.services.assessments import FindingAssessed
from dicom_node.services.audit import Person
from dicom_node.services.studies import rerun_rules
from dicom_node.store.tables import Delivery, Instance, Result, Study
from dicom_node.studies.quarantine import stop_study
from tests.inbox_lab import Inbox
from tests.result_reading import content, groups_of, named, of_type
from tests.unit.jobs.worker_lab import work
from tests.validators import dciodvfy_errors

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
    with node.database.read() as session:
        about = assessments.findings_of_study(session, node.settings, study_of(node))[place]
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
    given = FindingAssessed(**which, verdict=verdict, because=why)
    assessments.assess(node.settings, 1, given, by)


def send(node: Inbox, by: Person = ANNA) -> list[str]:
    return assessments.send_assessments(node.settings, study_of(node), by)


def study_of(node: Inbox) -> str:
    return str(dcmread(objects(node, ResultKind.SR)[0]).StudyInstanceUID)


def objects(node: Inbox, kind: ResultKind) -> list[Path]:
    with node.database.read() as session:
        paths = session.scalars(select(Result.path).where(Result.kind == kind).order_by(Result.id))
        return [node.settings.node.data_dir / path for path in paths]


def deliveries(node: Inbox) -> list[tuple[str, str]]:
    with node.database.read() as session:
        chosen = select(Delivery).join(Result).where(Result.kind == ResultKind.ASSESSMENT)
        return [(row.destination, row.state.value) for row in session.scalars(chosen.order_by(Delivery.id))]


def test_it_refers_to_the_report_and_to_the_tracking_uids_of_its_findings(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    say(site, ReaderVerdict.REJECTED, place=1, why="a rib")
    assert send(site) == ["pacs"]
    [report], [made] = objects(site, ResultKind.SR), objects(site, ResultKind.ASSESSMENT)
    about, document = dcmread(report), dcmread(made)
    [related] = document.ReferencedInstanceSequence
    assert (related.ReferencedSOPClassUID, related.ReferencedSOPInstanceUID) == (
        about.SOPClassUID,
        about.SOPInstanceUID,
    )
    assert related.PurposeOfReferenceCodeSequence[0].CodeValue == "ASSESSEDREPORT"
    assert [item.UID for item in document.ContentSequence if "UID" in item][-1] == about.SOPInstanceUID
    in_tree = {
        one.ReferencedSOPInstanceUID
        for item in content(document)
        for one in item.get("ReferencedSOPSequence", ())
    }
    assert about.SOPInstanceUID not in in_tree, "what the tree refers to are images of the examination"
    evidence = {
        item.ReferencedSOPInstanceUID
        for series in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert about.SOPInstanceUID in evidence and len(evidence) == 3, "and the images"
    found = reading.findings(report)
    assert [str(named(group, "112040")[0].UID) for group in groups_of(document)] == [
        row["tracking_uid"] for row in found
    ]
    said = [
        item.ConceptCodeSequence[0].CodeValue
        for group in groups_of(document)
        for item in named(group, "ASSESSMENT")
    ]
    assert said == ["ACCEPTED", "REJECTED"]
    texts = [item.TextValue for group in groups_of(document) for item in of_type(group, "TEXT")]
    assert "a rib" in texts and "obedient" in texts
    names = [str(item.PersonName) for item in document.ContentSequence if "PersonName" in item]
    assert names == ["anna^"]
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
    rerun_rules(site.settings, [study_of(site)])
    assert deliveries(site) == [("pacs", "pending")]
    work(site)
    with site.database.write() as session:
        for row in session.scalars(select(Delivery).join(Result).where(Result.kind == ResultKind.SR)):
            row.state = DeliveryState.DISCARDED
    say(site, ReaderVerdict.REJECTED, why="a rib")
    with pytest.raises(NotAllowedNow, match="nothing new"):
        send(site)


def test_nothing_that_was_said_leaves_with_a_former_name(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    with site.database.read() as session:
        images = [
            dcmread(site.settings.node.data_dir / path) for path in session.scalars(select(Instance.path))
        ]
    for image in images:
        image.PatientName = "NEW^NAME"
    site.receive(*images)
    site.settle()
    assert deliveries(site) == [("pacs", "cancelled")]
    work(site)
    assert deliveries(site) == [("pacs", "cancelled")], "it is of the former report"


def test_what_was_said_of_a_report_that_comes_again_as_it_was_is_sent(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    with site.database.write() as session:
        stop_study(session, session.get_one(Study, 1), "the study is in quarantine")
    assert deliveries(site) == [("pacs", "cancelled")]
    rerun_rules(site.settings, [study_of(site)])
    work(site)
    assert deliveries(site) == [("pacs", "pending")]


def test_what_was_said_of_a_report_is_withdrawn_with_it(site: Inbox) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    send(site)
    with site.database.read() as session:
        [report] = session.scalars(select(Result.id).where(Result.kind == ResultKind.SR))
    reason = RejectionReason.QUALITY
    results.withdraw(site.settings, study_of(site), [report], reason=reason, because="other patient")
    assert deliveries(site) == [("pacs", "discarded")]


def test_an_assessment_is_of_no_peers_results_and_of_no_deidentified_peer() -> None:
    about = {"name": "p", "ae_title": "P", "host": "h", "port": 1, "may": ["receive"]}
    with pytest.raises(ValueError, match="assessments = true"):
        PeerSettings.model_validate({**about, "results": ["sr", "assessment"]})
    with pytest.raises(ValueError, match="names the patient"):
        PeerSettings.model_validate(
            {**about, "results": ["cleaned"], "assessments": True, "deidentify": True}
        )


@pytest.mark.debian("dicom3tools")
def test_it_is_valid(site: Inbox, tmp_path: Path) -> None:
    say(site, ReaderVerdict.ACCEPTED)
    say(site, ReaderVerdict.MODIFIED, place=1, why="further to the left")
    send(site)
    [made] = objects(site, ResultKind.ASSESSMENT)
    assert dciodvfy_errors(made) == []
