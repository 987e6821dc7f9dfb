"""Assessments as objects: an SR with a person's verdicts, for the peers that have the report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import allowed_to
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    AuditAction,
    DeliveryState,
    ResultKind,
    StudyState,
    UserRole,
)
from dicom_node.base.store import results
from dicom_node.base.store.tables import Feedback, Result, Study
from dicom_node.base.store.transitions import FOR_UPDATE, settle_study, utc_now
from dicom_node.base.store.views import find_study
from dicom_node.deliver import outbox
from dicom_node.people import audit, pictures, writing
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.verdicts import finding_key, possibly_missing, reported_findings, verdict_key

if TYPE_CHECKING:
    from dicom_node.results.built_object import BuiltObject


@allowed_to(UserRole.READER)
def send_assessments(settings: Settings, study_instance_uid: str, by: Person = COMMAND_LINE) -> list[str]:
    """Send this person's assessments of a study to the peers that have the report and accept assessments.

    Returns the names of the peers. Raises NotFound, or NotAllowedNow if there is nothing (new) to send, no
    peer accepts assessments, or the study is being received or in quarantine.
    """
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        state = session.get_one(Study, study, with_for_update=FOR_UPDATE).state
        if state in (StudyState.RECEIVING, StudyState.QUARANTINED):
            raise NotAllowedNow(f"the study is {state}: nothing of it goes anywhere now")
        if not (names := queue_assessments(session, settings, study, by)):
            raise NotAllowedNow(
                "there is nothing new to send: assess a finding first; a peer gets it that has "
                "assessments = true and the report"
            )
        audit.note(session, by, AuditAction.ASSESSMENT_SENT, study_id=study, peers=names)
        settle_study(session, study)
    return names


def queue_assessments(session: Session, settings: Settings, study: int, by: Person) -> list[str]:
    """Build and queue an assessment object (SR) for each report that this person assessed; returns the peers'
    names.
    """
    findings = reported_findings(session, settings, study)
    known = (*possibly_missing(settings, findings), *findings)
    codes = {finding_key(row): (row["code"][0], row["code"][1]) for row in known}
    reached = set()
    for report in reports_of(session, settings, study):
        peers = takers_of(settings, report)
        given = session.scalars(
            select(Feedback)
            .filter_by(study_id=study, actor=by.name, report_uid=report.sop_instance_uid)
            .order_by(Feedback.id)
        )
        verdicts = [verdict for verdict in given if verdict_key(verdict) in codes]
        if not peers or not verdicts:
            continue
        built = _build(session, settings, report, verdicts, codes)
        if not results.is_result(session, built.sop_instance_uid):
            _store(session, settings, report, verdicts, built, peers)
            reached |= {peer.name for peer in peers}
    return sorted(reached)


def _build(
    session: Session,
    settings: Settings,
    report: Result,
    verdicts: Sequence[Feedback],
    codes: Mapping[tuple[str, ...], tuple[str, str]],
) -> "BuiltObject":
    """Build the assessment object of a report from one person's ``verdicts`` on its findings; it replaces the
    one in which they were sent.

    ``codes``: code value and coding scheme of each finding, by ``verdict_key``.
    """
    from dicom_node.results.assessment import FindingAssessment, build_assessment

    former = session.scalar(
        select(Result.sop_instance_uid)
        .where(Result.kind == ResultKind.ASSESSMENT)
        .where(Result.sop_instance_uid.in_([verdict.sent_in for verdict in verdicts]))
        .order_by(Result.id.desc())
        .limit(1)
    )
    said = [
        FindingAssessment(
            finding=verdict.finding,
            code=codes[verdict_key(verdict)],
            tracking_uid=verdict.tracking_uid,
            model=verdict.model,
            version=verdict.version,
            verdict=verdict.verdict,
            because=verdict.because,
            at=verdict.at,
        )
        for verdict in verdicts
    ]
    return build_assessment(
        Files(settings).here(session, report.path),
        said,
        verdicts[0].actor,
        settings.node.ae_title,
        results.this_installation(session),
        former or "",
    )


def _store(
    session: Session,
    settings: Settings,
    report: Result,
    verdicts: Sequence[Feedback],
    built: "BuiltObject",
    peers: Sequence[PeerSettings],
) -> None:
    """Store the new assessment object of a report, note it in its verdicts, and queue it for these peers."""
    from dicom_node.results.files import put_in_place, row_values, temporary_files

    door = Files(settings)
    with temporary_files([built], door) as files:
        file = files[built.sop_instance_uid]
        made = Result(
            study_id=report.study_id,
            job_id=report.job_id,
            created_at=utc_now(),
            **row_values(built, file, door),
        )
        outbox.enqueue(session, results.add(session, made), peers)
        for verdict in verdicts:
            verdict.sent_in = built.sop_instance_uid
        session.flush()
        put_in_place([] if file.was_there else [file], door)


def reports_of(session: Session, settings: Settings, study: int) -> list[Result]:
    """The rows of a study's newest reports that name the patient (not de-identified ones)."""
    reports = pictures.report_files(session, settings, study).values()
    return [report for report in reports if not report.outdated]


def takers_of(settings: Settings, report: Result) -> list[PeerSettings]:
    """The peers that accept assessments, and have the report or will get it."""
    have = {
        one.destination
        for one in report.deliveries
        if one.state in OPEN_DELIVERIES | {DeliveryState.CONFIRMED}
    }
    return [
        peer for peer in settings.peers if peer.assessments and "receive" in peer.may and peer.name in have
    ]
