"""Persons' verdicts on the findings of a study's reports, and their counts by model and version.

The counts say how often the AI was right.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, allowed_to
from dicom_node.base.actions.columns import Column, fields, times
from dicom_node.base.actions.inputs import Since, StudyUid
from dicom_node.base.actions.nouns import MODELS, STUDIES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NotFound
from dicom_node.base.lifecycle import AuditAction, ReaderVerdict, UserRole
from dicom_node.base.store.tables import Feedback, Study
from dicom_node.base.store.transitions import FOR_UPDATE
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.people import PRINTABLE, ServiceRequest, ShortText, audit, writing
from dicom_node.people.audit import Person

COLUMNS = (
    "at", "actor", "study_instance_uid", "finding", "tracking_uid", "decision", "verdict", "because",
    "report_uid", "model", "version",
)  # fmt: skip
_KEYS = ("finding", "tracking_uid", "model")  # what tells a finding of a study from the others
CALL = "call"
"""In the place of a decision: what asks for a person's attention beside findings."""
NOT_ACCEPTED = (ReaderVerdict.MODIFIED, ReaderVerdict.REJECTED)


class FindingAssessed(ServiceRequest):
    """A request to store a person's verdict on a finding of a study's newest report.

    ``because``: the reason, needed if the finding is modified or rejected. ``tracking_uid``: of the finding,
    "" if it has none.
    """

    finding: ShortText
    model: str = Field(max_length=130, pattern=PRINTABLE)
    tracking_uid: ShortText = ""
    verdict: ReaderVerdict
    because: str = Field("", max_length=audit.LONGEST_REASON, pattern=PRINTABLE)


@allowed_to(UserRole.READER)
def assess(
    settings: Settings,
    study: int,
    assessment: FindingAssessed,
    by: Person,
) -> None:
    """Store a person's assessment of a finding of the study's newest report, or of one that the report lacks.

    ``study``: its number. A missing finding has no place, so its tracking UID is ignored. Raises NotFound if
    the report does not have the finding (any more), FaultyInput also if a finding is accepted that the report
    does not call present: nobody could tell what was meant.
    """
    verdict = assessment.verdict
    words = audit.checked_reason(assessment.because) if assessment.because or verdict in NOT_ACCEPTED else ""
    is_missing = verdict is ReaderVerdict.MISSING
    wanted = (assessment.finding, "" if is_missing else assessment.tracking_uid, assessment.model)
    with writing(settings) as session:
        session.get(Study, study, with_for_update=FOR_UPDATE)  # its results are not accepted meanwhile
        findings = reported_findings(session, settings, study)
        known = possibly_missing(settings, findings) if is_missing else findings
        row = next((one for one in known if finding_key(one) == wanted), None)
        if row is None:
            raise NotFound(
                "this model knows no such finding, or its report says something of it"
                if is_missing
                else "the newest report says nothing of this: load the page again"
            )
        if verdict is ReaderVerdict.ACCEPTED and row["decision"] in ("absent", "indeterminate"):
            raise FaultyInput("only a finding that the report calls present can be accepted")
        store_verdicts(session, study, [row], verdict, by, words)
        audit.note(
            session,
            by,
            AuditAction.FEEDBACK_GIVEN,
            study_id=study,
            what={
                "finding": {key: row[key] for key in (*_KEYS, "decision", "report_uid")},
                "verdict": verdict,
            },
            words=words,
            verdict=verdict,
            model=wanted[2],
        )


def _decided(row: View) -> str:
    """The decision on a finding in the words of pages."""
    from ai_pipeline.contract import Decision
    from ai_pipeline.summary import DECIDED

    return row["decision"] if row["decision"] == CALL else DECIDED[Decision(row["decision"])]


@Action(
    STUDIES,
    "findings",
    "Show what a study's newest reports found, and how each finding was assessed.",
    "1.2.840.113619.2.1 --config node.toml",
    columns=(
        *fields("finding"),
        Column("decision", _decided),
        Column(
            "numbers",
            lambda row: ", ".join(f"{name} {number}" for name, number in row["numbers"].items()),
        ),
        *fields("model", "tracking_uid"),
        Column(
            "assessed",
            lambda row: ", ".join(f"{one['verdict']} ({one['actor']})" for one in row["verdicts"]),
        ),
    ),
    none="No report of this study is here, or none names a finding: `studies show` has the short result.",
)
def findings_of_study(session: Session, settings: Settings, study_instance_uid: StudyUid) -> list[View]:
    """The calls of a study's newest reports ("Look at it first"), then their findings, as rows; findings with
    the ``verdicts`` of persons. Raises NotFound.
    """
    study = find_study(session, study_instance_uid).id
    found = with_verdicts(session, study, reported_findings(session, settings, study))
    return [*_reported_calls(session, settings, study), *found]


def _reported_calls(session: Session, settings: Settings, study: int) -> Iterator[View]:
    """Yield a row for each call of a study's newest reports, shaped as those of findings."""
    from dicom_node.people.pictures import report_files
    from dicom_node.results.stated_report import read_report

    about: View = {"decision": CALL, "numbers": {}, "model": "", "tracking_uid": "", "verdicts": []}
    for path in report_files(session, settings, study):
        for call in read_report(path).calls:
            yield {"finding": call, **about, "report_uid": path.stem}


def with_verdicts(session: Session, study: int, findings: Sequence[View]) -> list[View]:
    """The findings with ``verdicts``: each person's verdict and reason, the newest last; ``study``: its
    number.
    """
    given: dict[tuple[str, ...], list[View]] = {}
    for row in session.scalars(
        select(Feedback).where(Feedback.study_id == study).order_by(Feedback.at, Feedback.id)
    ):
        given.setdefault(verdict_key(row), []).append(columns(row, "actor", "verdict", "because"))
    return [row | {"verdicts": given.get(finding_key(row), [])} for row in findings]


def missing_findings(session: Session, settings: Settings, study: int, findings: Sequence[View]) -> View:
    """The findings that persons reported as missing (``said``), and those that may be so reported
    (``choices``).

    ``findings``: those in the study's newest reports.
    """
    return {
        "said": [
            columns(row, "actor", "finding", "model")
            for row in session.scalars(
                select(Feedback)
                .where(Feedback.study_id == study, Feedback.verdict == ReaderVerdict.MISSING)
                .order_by(Feedback.id)
            )
        ],
        "choices": [
            {"finding": row["finding"], "model": row["model"]} for row in possibly_missing(settings, findings)
        ],
    }


def counts_by_finding(session: Session, model: str, version: str) -> list[View]:
    """Rows for the findings of a model version: the number of verdicts of each sort, and the positive
    predictive value.

    ``ppv`` is the share of calls "present" that persons confirmed, with its 95 % interval (Wilson); None
    without verdicts. A modified finding counts as confirmed.
    """
    from ai_pipeline.contract import Decision
    from dicom_node.jobs.drift import wilson

    rows = session.execute(
        select(Feedback.finding, Feedback.decision, Feedback.verdict, func.count())
        .where(Feedback.model == model, Feedback.version == version)
        .group_by(Feedback.finding, Feedback.decision, Feedback.verdict)
    )
    found: dict[str, Counter[str]] = {}
    for finding, decision, verdict, number in rows:
        found.setdefault(finding, Counter())[f"{decision} {verdict.value}".strip()] += number
    present, absent = Decision.PRESENT, Decision.ABSENT
    return [
        {
            "finding": finding,
            "present_accepted": (accepted := number[f"{present} accepted"]),
            "present_modified": (modified := number[f"{present} modified"]),
            "present_rejected": (rejected := number[f"{present} rejected"]),
            "absent_accepted": number[f"{absent} accepted"],
            "missed": number[f"{absent} rejected"] + number[f"{absent} modified"] + number["missing"],
            "ppv": wilson(accepted + modified, accepted + modified + rejected),
        }
        for finding, number in sorted(found.items())
    ]


@Action(
    MODELS,
    "feedback",
    "How readers assessed findings: accepted, modified, rejected or missing, why, of which version.",
    "--since 30d --json --config node.toml",
    columns=(
        *times("at"),
        *fields("by: actor", "study: study_instance_uid"),
        *fields("finding", "decision", "verdict", "model", "version"),
    ),
    none="Nobody assessed a finding in this time.",
    role=UserRole.READER,
)
def all_assessments(
    session: Session, *, since: Since = None, model: str = "", version: str = ""
) -> list[View]:
    """Rows for all assessments, the oldest first, with the keys in COLUMNS.

    ``since``: only from then on, None for all. ``model`` and ``version``: only of this model, "" for all.
    """
    chosen = select(Feedback, Study.study_instance_uid).join(Study)
    if since is not None:
        chosen = chosen.where(Feedback.at >= since)
    if model:
        chosen = chosen.where(Feedback.model == model, Feedback.version == version)
    return [
        {
            **columns(row, *(name for name in COLUMNS if name != "study_instance_uid")),
            "study_instance_uid": uid,
        }
        for row, uid in session.execute(chosen.order_by(Feedback.id))
    ]


def store_verdicts(
    session: Session,
    study: int,
    findings: Sequence[Mapping[str, Any]],
    verdict: ReaderVerdict,
    by: Person,
    because: str,
) -> None:
    """Store a person's verdict on these findings; it replaces the person's earlier one."""
    for finding in findings:
        model, _, version = finding["model"].rpartition(" ")
        same = {
            "study_id": study,
            "actor": by.name,
            "finding": finding["finding"],
            "tracking_uid": finding["tracking_uid"],
            "model": model,
            "version": version,
        }
        row = session.scalar(select(Feedback).filter_by(**same))
        if row is None:
            row = Feedback(**same)
            session.add(row)
        row.at, row.decision, row.verdict, row.because = by.now, finding["decision"], verdict, because
        row.report_uid = finding["report_uid"]


def reported_findings(session: Session, settings: Settings, study: int) -> list[View]:
    """The findings of a study's newest reports as rows, each with the UID of its report."""
    from dicom_node.people.pictures import report_files
    from dicom_node.results.stated_report import findings

    return [
        row | {"report_uid": path.stem}
        for path in report_files(session, settings, study)
        for row in findings(path)
    ]


def finding_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The values that identify a finding of a study: name, tracking UID and model."""
    return tuple(row[key] for key in _KEYS)


def verdict_key(row: Feedback) -> tuple[str, ...]:
    """The values that identify the finding that a verdict is about, as ``finding_key`` gives them."""
    return row.finding, row.tracking_uid, f"{row.model} {row.version}"


def possibly_missing(settings: Settings, findings: Sequence[Mapping[str, Any]]) -> list[View]:
    """Rows for the findings that the models know and did not report, which a person may report as missing."""
    from ai_pipeline.errors import CardError
    from ai_pipeline.models import registry

    reported = {(row["finding"], row["model"]) for row in findings}
    reports = {row["model"]: row.get("report_uid", "") for row in reversed(findings) if row["model"]}
    found = []
    for model, report_uid in reversed(reports.items()):
        identifier, _, version = model.rpartition(" ")
        try:
            card = registry.find(f"{identifier}@{version}", settings.workers.models_dir)
        except CardError:
            continue  # of a pipeline of the site's own, or no longer here
        about = {"tracking_uid": "", "model": model, "decision": "", "report_uid": report_uid}
        found += [
            {"finding": label.code.meaning, "code": [label.code.value, label.code.scheme], **about}
            for label in card.labels
            if (label.code.meaning, model) not in reported
        ]
    return found
