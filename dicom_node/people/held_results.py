"""Results of a study that wait for a person's assessment: shown, accepted, rejected."""

from typing import Annotated

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.inputs import Reason, StudyUid
from dicom_node.base.actions.nouns import STUDIES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import UNDECIDED, AuditAction, HeldState, ReaderVerdict, UserRole
from dicom_node.base.store.tables import Result, Study
from dicom_node.base.store.transitions import FOR_UPDATE
from dicom_node.base.store.views import View, as_json, columns, find_study
from dicom_node.people import Because, ServiceRequest, ShortText, audit, writing
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.verdicts import NOT_ACCEPTED, reported_findings, store_verdicts, with_verdicts


class AcceptResults(ServiceRequest):
    """A request to accept the results of a study that wait for an assessment.

    ``as_of``: the hash of the results that the person saw; required for rejected results. The request is
    refused (409) if other results wait meanwhile.
    """

    as_of: ShortText | None = None


class RejectResults(Because):
    """A request to reject results that wait for an assessment, with the reason; ``as_of`` as in
    ``AcceptResults``.
    """

    as_of: ShortText | None = None


def held_results(session: Session, settings: Settings, study: int) -> View:
    """The results of a study that wait for an assessment or were rejected, since when they wait, and who
    decided what.

    ``takers``: peers that have a report of the study and accept assessments. A decision must pass ``as_of``
    back, so that it applies to the results that the person saw.
    """
    from dicom_node.deliver import holding
    from dicom_node.people.assessments import reports_of, takers_of

    rows = holding.decidable_results(session, study)
    decisions = {
        (row.decided_at, row.decided_by, row.state): {
            "verdict": row.state,
            **columns(row, "decided_at", "decided_by", "because"),
        }
        for row in holding.decided_results(session, study)
    }
    return {
        "waiting": sum(row.state in UNDECIDED for row in rows),
        "rejected": sum(row.state is HeldState.REJECTED for row in rows),
        "since": as_json(min((row.since for row in rows), default=None)),
        "as_of": holding.results_hash(rows) if rows else "",
        "decisions": list(decisions.values()),
        "takers": sorted(
            {peer.name for one in reports_of(session, settings, study) for peer in takers_of(settings, one)}
        ),
    }


@Action(
    STUDIES,
    "accept",
    "Accept results that wait for it (assess_first of a rule): they are sent.",
    "1.2.840.113619.2.1 --config node.toml",
    says="Accepted: {result} result{s} will be sent.",
    role=UserRole.READER,
)
def accept_results(
    settings: Settings,
    study_instance_uid: StudyUid,
    by: Person = COMMAND_LINE,
    *,
    as_of: str | None = None,
    rejected: Annotated[
        bool | None, Input("Accept rejected results instead of waiting ones.", "--rejected", default=False)
    ] = None,
) -> int:
    """Accept the results of a study that wait for an assessment, so that they are sent; returns how many.

    ``as_of``: the hash of the results that the person saw; None: not compared. ``rejected``: True to accept
    rejected results instead; None: as the hash says. A finding that the results suspect and that nobody has
    assessed counts as accepted by this person. Peers that take assessments get this person's assessment, too.

    Raises NotFound, or NotAllowedNow if no results wait, if they changed, or if a finding in them was not
    accepted: the receivers would see the finding all the same.
    """
    from ai_pipeline.contract import Decision
    from dicom_node.deliver import holding
    from dicom_node.people.assessments import queue_assessments

    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        session.get_one(Study, study, with_for_update=FOR_UPDATE)  # nobody assesses a finding meanwhile
        findings = with_verdicts(session, study, reported_findings(session, settings, study))
        # The last person who assessed them did not accept them.
        others = {
            row["finding"]
            for row in findings
            if row["verdicts"] and row["verdicts"][-1]["verdict"] in NOT_ACCEPTED
        }
        if others:
            raise NotAllowedNow(
                f"{', '.join(sorted(others))}: not accepted as it is in the results, and they cannot be "
                "changed. Reject the results, or assess the finding anew"
            )
        what = _decision(session, study, HeldState.ACCEPTED)
        number = holding.accept(session, study, by.name, as_of, rejected=rejected)
        # Whoever accepts the results accepts what they suspect and nobody has assessed yet.
        rest = [
            row
            for row in findings
            if row["decision"] == Decision.PRESENT and row["model"] and not row["verdicts"]
        ]
        store_verdicts(session, study, rest, ReaderVerdict.ACCEPTED, by, "")
        queue_assessments(session, settings, study, by)
        audit.note(
            session,
            by,
            AuditAction.RESULTS_ASSESSED,
            study_id=study,
            what=what,
            verdict=what["verdict"],
            results=number,
        )
    return number


@Action(
    STUDIES,
    "reject",
    "Reject results that wait for an assessment: they are not sent.",
    '1.2.3 --because "wrong side" --config node.toml',
    says="Rejected: {result} result{s} will not be sent.",
    role=UserRole.READER,
)
def reject_results(
    settings: Settings,
    study_instance_uid: StudyUid,
    by: Person = COMMAND_LINE,
    *,
    because: Reason,
    as_of: str | None = None,
) -> int:
    """Reject the results of a study that wait for an assessment, so that none is sent; returns how many.

    ``because``: the reason. ``as_of``: the hash of the results that the person saw; None: not compared.
    Raises NotFound, NotAllowedNow, FaultyInput.
    """
    from dicom_node.deliver import holding

    words = audit.checked_reason(because)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        what = _decision(session, study, HeldState.REJECTED)
        number = holding.reject(session, study, by.name, words, as_of)
        audit.note(
            session,
            by,
            AuditAction.RESULTS_ASSESSED,
            study_id=study,
            what=what,
            words=words,
            verdict=what["verdict"],
            results=number,
        )
    return number


def _decision(session: Session, study: int, verdict: HeldState) -> View:
    """A person's decision on a study's results, with UIDs in place of row numbers, for its copy outside the
    database.
    """
    from dicom_node.deliver import holding

    held_rows = holding.decidable_results(session, study)
    uids = select(Result.sop_instance_uid).where(Result.id.in_([row.result_id for row in held_rows]))
    return {
        "results": sorted(session.scalars(uids)),
        "rejected": [row.state for row in held_rows[:1]] == [HeldState.REJECTED],
        "verdict": verdict,
    }
