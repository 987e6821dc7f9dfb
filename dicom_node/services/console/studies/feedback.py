"""Findings that persons accepted, modified, rejected, or miss; counted by model and version."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ai_pipeline.contract import Decision
from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.model.kinds import AuditAction, ReaderVerdict
from dicom_node.monitoring.drift import wilson
from dicom_node.results.sr import reading as report
from dicom_node.services import audit, reading, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.console.studies import subgroups
from dicom_node.services.console.studies.viewer import report_files
from dicom_node.services.work import said
from dicom_node.store.accounts import Feedback
from dicom_node.store.tables import Study
from dicom_node.store.transitions import FOR_UPDATE, utc_now
from dicom_node.store.views import View, columns, find_study

if TYPE_CHECKING:
    from dicom_node.results import FindingAssessment

COLUMNS = (
    "at", "actor", "study_instance_uid", "finding", "tracking_uid", "decision", "verdict", "because",
    "report_uid", "model", "version", "age_group", "sex", "station",
)  # fmt: skip
_KEYS = ("finding", "tracking_uid", "model")  # what tells a finding of a study from the others
_BEGIN_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
_NOT_ACCEPTED = (ReaderVerdict.MODIFIED.value, ReaderVerdict.REJECTED.value)


def give(
    settings: Settings,
    study: int,
    about: Mapping[str, str],
    verdict: ReaderVerdict,
    by: Person,
    because: str = "",
) -> None:
    """Keep a person's assessment of a finding of the study's newest report, or of one that is missing.

    ``about`` says which: finding, tracking UID, model. What is missing has no place, so no tracking UID.
    ``because``: in the person's words, needed of what is modified or rejected. Raises NotFound where the
    report has no such finding (any more), FaultyInput.
    """
    words = said(because) if because or verdict.value in _NOT_ACCEPTED else ""
    is_missing = verdict is ReaderVerdict.MISSING
    tracking_uid = "" if is_missing else about.get("tracking_uid", "")
    wanted = _key({"finding": "", "model": "", **about, "tracking_uid": tracking_uid})
    with writing(settings) as session:
        session.get(Study, study, with_for_update=FOR_UPDATE)  # its results are not accepted meanwhile
        findings = _findings(session, settings, study)
        known = _may_be_missing(settings, findings) if is_missing else findings
        row = next((one for one in known if _key(one) == wanted), None)
        if row is None and is_missing:
            raise NotFound("this model knows no such finding, or its report says something of it")
        if row is None:
            raise NotFound("the newest report says nothing of this: load the page again")
        _keep(session, settings, study, [row], verdict, by, words)
        audit.note(
            session, by, AuditAction.FEEDBACK_GIVEN, study_id=study, verdict=verdict.value, model=wanted[2]
        )


def give_named(
    settings: Settings,
    study_instance_uid: str,
    about: Mapping[str, str],
    verdict: ReaderVerdict,
    by: Person = COMMAND_LINE,
    because: str = "",
) -> View:
    """The same by what tells the finding from the others: "" in ``about`` matches all; returns the finding.

    Raises NotFound where none matches, NotAllowedNow where several do, FaultyInput.
    """
    with reading(settings) as session:
        study = find_study(session, study_instance_uid).id
        rows = _findings(session, settings, study)
    if verdict is ReaderVerdict.MISSING:
        rows = _may_be_missing(settings, rows)
    found = [row for row in rows if all(row[key] == value for key, value in about.items() if value)]
    if not found:
        raise NotFound("no such finding: `dicom-node studies findings` shows those of the newest report")
    if len({_key(row) for row in found}) > 1:
        raise NotAllowedNow("several findings are called so: name the tracking UID or the model too")
    give(settings, study, dict(zip(_KEYS, _key(found[0]), strict=True)), verdict, by, because)
    return found[0]


def of_study(session: Session, settings: Settings, study_instance_uid: str) -> list[View]:
    """The findings of a study's newest reports with their ``verdicts``. Raises NotFound."""
    study = find_study(session, study_instance_uid).id
    return judged(session, study, _findings(session, settings, study))


def contested(session: Session, settings: Settings, study: int) -> list[str]:
    """Findings of the newest reports that the last person who assessed them did not accept, by name."""
    return sorted(
        {
            row["finding"]
            for row in judged(session, study, _findings(session, settings, study))
            if row["verdicts"] and row["verdicts"][-1]["verdict"] in _NOT_ACCEPTED
        }
    )


def accept_rest(session: Session, settings: Settings, study: int, by: Person) -> None:
    """Whoever accepts the results accepts what they call present and nobody has assessed yet."""
    rest = [
        row
        for row in judged(session, study, _findings(session, settings, study))
        if row["decision"] == Decision.PRESENT.value and row["model"] and not row["verdicts"]
    ]
    _keep(session, settings, study, rest, ReaderVerdict.ACCEPTED, by, "")


def of_report(
    session: Session, settings: Settings, study: int, report_uid: str, by: Person
) -> tuple[Sequence[Feedback], list[FindingAssessment]]:
    """What a person said of one of the newest reports: the rows, and the same for an object."""
    from dicom_node.results import FindingAssessment

    findings = _findings(session, settings, study)
    known = {_key(row): row for row in (*_may_be_missing(settings, findings), *findings)}
    same = {"study_id": study, "actor": by.name, "report_uid": report_uid}
    rows = [
        row
        for row in session.scalars(select(Feedback).filter_by(**same).order_by(Feedback.id))
        if (row.finding, row.tracking_uid, f"{row.model} {row.version}") in known
    ]
    said = []
    for row in rows:
        value, scheme = known[row.finding, row.tracking_uid, f"{row.model} {row.version}"]["code"]
        said.append(
            FindingAssessment(
                finding=row.finding, code=(value, scheme), tracking_uid=row.tracking_uid, model=row.model,
                version=row.version, verdict=row.verdict, because=row.because, at=row.at,
            )
        )  # fmt: skip
    return rows, said


def _keep(
    session: Session,
    settings: Settings,
    study: int,
    findings: Sequence[Mapping[str, Any]],
    verdict: ReaderVerdict,
    by: Person,
    because: str,
) -> None:
    """One assessment a person and finding: a later one replaces it."""
    asked = {finding["report_uid"] for finding in findings}
    paths = report_files(session, settings, study) if asked else []
    groups = {path.stem: subgroups.of_report(session, study, path) for path in paths if path.stem in asked}
    for finding in findings:
        model, _, version = finding["model"].rpartition(" ")
        named = {"finding": finding["finding"], "tracking_uid": finding["tracking_uid"]}
        same = {"study_id": study, "actor": by.name, **named, "model": model, "version": version}
        row = session.scalar(select(Feedback).filter_by(**same))
        if row is None:
            row = Feedback(**same)
            session.add(row)
        row.at, row.decision, row.verdict, row.because = utc_now(), finding["decision"], verdict, because
        row.report_uid = finding["report_uid"]
        for name, value in groups.get(row.report_uid, {}).items():
            setattr(row, name, value)


def judged(session: Session, study: int, findings: Sequence[View]) -> list[View]:
    """The findings with ``verdicts``: who said what of each and why, the last one last."""
    given: dict[tuple[str, ...], list[View]] = {}
    chosen = select(Feedback).where(Feedback.study_id == study).order_by(Feedback.at, Feedback.id)
    for row in session.scalars(chosen):
        key = (row.finding, row.tracking_uid, f"{row.model} {row.version}")
        given.setdefault(key, []).append(columns(row, "actor", "verdict", "because"))
    return [row | {"verdicts": given.get(_key(row), [])} for row in findings]


def missing(session: Session, settings: Settings, study: int, findings: Sequence[View]) -> View:
    """Findings that were said to be missing, and those that a person may name."""
    chosen = select(Feedback).where(Feedback.study_id == study, Feedback.verdict == ReaderVerdict.MISSING)
    said = [
        columns(row, "actor", "finding", "model") for row in session.scalars(chosen.order_by(Feedback.id))
    ]
    known = _may_be_missing(settings, findings)
    choices = [{"finding": row["finding"], "model": row["model"]} for row in known]
    return {"said": said, "choices": choices}


def counts(session: Session, model: str, version: str) -> list[View]:
    """By finding: how many verdicts of each sort, and the share of "present" that is there so far.

    A modified finding is there, so it counts for that. ``ppv`` is the share with its 95 % interval (Wilson),
    None where nothing was said.
    """
    chosen = select(Feedback.finding, Feedback.decision, Feedback.verdict, func.count())
    chosen = chosen.where(Feedback.model == model, Feedback.version == version)
    rows = session.execute(chosen.group_by(Feedback.finding, Feedback.decision, Feedback.verdict))
    found: dict[str, Counter[str]] = {}
    for finding, decision, verdict, number in rows:
        found.setdefault(finding, Counter())[f"{decision} {verdict.value}".strip()] += number
    present, absent = Decision.PRESENT.value, Decision.ABSENT.value
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


def rows(
    session: Session, *, since: datetime | None = None, model: str = "", version: str = ""
) -> list[View]:
    """All that was said, the oldest first; the keys are COLUMNS."""
    chosen = select(Feedback, Study.study_instance_uid).join(Study, Feedback.study_id == Study.id)
    if since is not None:
        chosen = chosen.where(Feedback.at >= since)
    if model:
        chosen = chosen.where(Feedback.model == model, Feedback.version == version)
    found = session.execute(chosen.order_by(Feedback.id))
    return [
        {
            **columns(row, *(name for name in COLUMNS if name != "study_instance_uid")),
            "study_instance_uid": uid,
        }
        for row, uid in found
    ]


def as_csv(found: Iterable[View]) -> str:
    """The rows as CSV (RFC 4180), with a line of names. A spreadsheet takes no cell for a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in found)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    """With a ' before what spreadsheets would work out (OWASP, CSV Injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_BEGIN_FORMULAS) else value


def _findings(session: Session, settings: Settings, study: int) -> list[dict[str, Any]]:
    """Those of the newest reports, each with the report's UID, by which its file is called."""
    files = report_files(session, settings, study)
    return [row | {"report_uid": path.stem} for path in files for row in report.findings(path)]


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in _KEYS)


def _may_be_missing(settings: Settings, findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the models of these findings know and said nothing of, like a finding without a place."""
    said = {(row["finding"], row["model"]) for row in findings}
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
            if (label.code.meaning, model) not in said
        ]
    return found
