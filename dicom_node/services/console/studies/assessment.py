"""What a person says of results: those that wait are accepted or rejected; assessments sent as objects."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import outbox
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import AuditAction, HoldVerdict, ResultKind
from dicom_node.model.lifecycle import OPEN_DELIVERIES, DeliveryState, StudyState
from dicom_node.object_store.files import Files
from dicom_node.outbox import held
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.console.studies import feedback
from dicom_node.services.console.studies.viewer import report_files
from dicom_node.services.work import said
from dicom_node.store import results as stored
from dicom_node.store.accounts import Feedback
from dicom_node.store.tables import Result, Study
from dicom_node.store.transitions import FOR_UPDATE, settle_study, utc_now
from dicom_node.store.views import View, as_json, columns, find_study

_HAVE = OPEN_DELIVERIES | {DeliveryState.CONFIRMED}


def show(session: Session, settings: Settings, study: int) -> View:
    """What waits of a study or was rejected, since when, and what was decided by whom.

    ``takers``: peers that have a report of it and take assessments. ``as_of`` is to be given with a decision,
    so that it is about what was seen.
    """
    rows = outbox.in_question(session, study)
    decisions = {
        (row.decided_at, row.decided_by, row.verdict): columns(
            row, "decided_at", "decided_by", "verdict", "because"
        )
        for row in held.decided(session, study)
    }
    return {
        "waiting": sum(row.verdict is None for row in rows),
        "rejected": sum(row.verdict is HoldVerdict.REJECTED for row in rows),
        "since": as_json(min((row.since for row in rows), default=None)),
        "as_of": outbox.mark(rows) if rows else "",
        "decisions": list(decisions.values()),
        "takers": sorted(
            {peer.name for one in _reports(session, settings, study) for peer in _takers(settings, one)}
        ),
    }


def accept(
    settings: Settings,
    study_instance_uid: str,
    by: Person = COMMAND_LINE,
    *,
    as_of: str | None = None,
    rejected: bool | None = None,
) -> int:
    """Let the results of a study leave that wait, or those that were rejected; returns how many.

    ``as_of`` is of what the person saw. Without it those that wait are meant, with ``rejected`` the others.
    What they call present and nobody has assessed counts as accepted by this person. Peers that take it get
    this person's assessment with them. Raises NotFound, or
    NotAllowedNow where nothing waits, other results wait than those of ``as_of``, or a finding in them was
    not accepted: who gets them would see it all the same.
    """
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        session.get_one(Study, study, with_for_update=FOR_UPDATE)  # nobody assesses a finding meanwhile
        if others := feedback.contested(session, settings, study):
            raise NotAllowedNow(
                f"{', '.join(others)}: not accepted as it stands in the results, and they cannot be changed. "
                "Reject the results, or assess the finding anew"
            )
        number = outbox.accept(session, study, by.name, as_of, rejected=rejected)
        feedback.accept_rest(session, settings, study, by)
        _send(session, settings, study, by)
        _note(session, by, study, HoldVerdict.ACCEPTED, number)
    return number


def reject(
    settings: Settings,
    study_instance_uid: str,
    by: Person = COMMAND_LINE,
    *,
    because: str,
    as_of: str | None = None,
) -> int:
    """Let none of a study's results leave that wait; returns how many. Raises NotFound, NotAllowedNow,
    FaultyInput."""
    words = said(because)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        number = outbox.reject(session, study, by.name, words, as_of)
        _note(session, by, study, HoldVerdict.REJECTED, number)
    return number


def send(settings: Settings, study_instance_uid: str, by: Person = COMMAND_LINE) -> list[str]:
    """Send what this person said of a study's findings to peers that have the report and take it.

    Returns their names. Raises NotFound, or NotAllowedNow where there is nothing (new) to send, nobody takes
    it, or the study is being received or in quarantine.
    """
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        state = session.get_one(Study, study, with_for_update=FOR_UPDATE).state
        if state in (StudyState.RECEIVING, StudyState.QUARANTINED):
            raise NotAllowedNow(f"the study is {state}: nothing of it goes anywhere now")
        if not (names := _send(session, settings, study, by)):
            raise NotAllowedNow(
                "there is nothing new to send: assess a finding first; a peer gets it that has "
                "assessments = true and the report"
            )
        audit.note(session, by, AuditAction.ASSESSMENT_SENT, study_id=study, peers=names)
        settle_study(session, study)
    return names


def _send(session: Session, settings: Settings, study: int, by: Person) -> list[str]:
    """An object for each report that this person assessed; returns the peers that get one."""
    from dicom_node.results import build_assessment, put_in_place, written

    reached: set[str] = set()
    door = Files(settings)
    for report in _reports(session, settings, study):
        peers = _takers(settings, report)
        rows, said = feedback.of_report(session, settings, study, report.sop_instance_uid, by)
        if not peers or not said:
            continue
        path = door.here(session, report.path)
        built = build_assessment(path, said, by.name, settings.node.ae_title, _former(session, rows))
        if stored.is_result(session, built.sop_instance_uid):
            continue
        with written([built], door) as files:
            file = files[built.sop_instance_uid]
            row = Result(
                study_id=study, job_id=report.job_id, kind=built.kind,
                sop_instance_uid=built.sop_instance_uid, sop_class_uid=built.sop_class_uid,
                series_instance_uid=built.series_instance_uid,
                path=door.relative(file.final), sha256=file.sha256,
                bytes=file.size, supersedes=built.supersedes, created_at=utc_now(),
            )  # fmt: skip
            outbox.enqueue(session, stored.add(session, row), peers)
            for one in rows:
                one.sent_in = built.sop_instance_uid
            session.flush()
            put_in_place([] if file.was_there else [file], door)
        reached |= {peer.name for peer in peers}
    return sorted(reached)


def _reports(session: Session, settings: Settings, study: int) -> Sequence[Result]:
    """The newest reports of a study that name the patient."""
    uids = [path.stem for path in report_files(session, settings, study)]
    return session.scalars(select(Result).where(Result.sop_instance_uid.in_(uids)).order_by(Result.id)).all()


def _takers(settings: Settings, report: Result) -> list[PeerSettings]:
    """Peers that take assessments, and have the report or will have it."""
    have = {one.destination for one in report.deliveries if one.state in _HAVE}
    return [
        peer for peer in settings.peers if peer.assessments and "receive" in peer.may and peer.name in have
    ]


def _former(session: Session, rows: Sequence[Feedback]) -> str:
    """The object that was the last to tell of these."""
    chosen = select(Result.sop_instance_uid).where(
        Result.kind == ResultKind.ASSESSMENT, Result.sop_instance_uid.in_([row.sent_in for row in rows])
    )
    return session.scalar(chosen.order_by(Result.id.desc()).limit(1)) or ""


def _note(session: Session, by: Person, study: int, verdict: HoldVerdict, results: int) -> None:
    audit.note(
        session, by, AuditAction.RESULTS_ASSESSED, study_id=study, verdict=verdict.value, results=results
    )
