"""Patients as groups of studies with the same Patient ID and issuer. Nothing is merged."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from ai_pipeline.contract import Decision
from ai_pipeline.images.dates import date_of
from dicom_console.views.activity import DatedNumber, trends
from dicom_console.views.search import names, with_withdrawals
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.store import intake, views
from dicom_node.base.store.tables import ReceivedObject, Study, StudyName
from dicom_node.base.store.views import View, as_json
from dicom_node.people import pictures
from dicom_node.results import stated_report

PAGE = 50
"""Patient IDs of one page."""
HISTORY = 50
"""Studies of a patient that are shown, the newest."""
_LOOKED_INTO = 20  # of these, whose reports are read


def patients(
    session: Session, wanted: str = "", after: int | None = None, words: Sequence[str] = ()
) -> tuple[list[View], int | None]:
    """Return (one page of patients in the order of Patient IDs, ``after`` for the next page or None).

    ``wanted``: a Patient ID, or its beginning and ``*``; "": all. Each row has the number of one of the
    patient's studies, which stands for the patient in addresses, because a Patient ID must not. Studies
    without an ID are left out. ``words``: of the name, as ``search.name_words`` returns them.
    """
    chosen = select(Study.patient_id).where(Study.patient_id != "").distinct()
    if wanted.endswith("*"):
        begin = wanted.rstrip("*")
        # In SQLite LIKE makes no difference of case.
        same = func.substr(Study.patient_id, 1, len(begin)) == begin
        chosen = chosen.where(Study.patient_id.startswith(begin, autoescape=True), same)
    elif wanted:
        chosen = chosen.where(Study.patient_id == wanted)
    for word in words:
        chosen = chosen.where(Study.id.in_(select(StudyName.study_id).where(StudyName.word == word)))
    if after is not None and (last := session.get(Study, after)) is not None:
        chosen = chosen.where(Study.patient_id > last.patient_id)
    found = list(session.scalars(chosen.order_by(Study.patient_id).limit(PAGE + 1)))
    rows = _patient_rows(session, found[:PAGE])
    return rows, rows[-1]["study"] if len(found) > PAGE else None


def patient_of(session: Session, number: int) -> tuple[str, str]:
    """Return Patient ID and issuer of study ``number``. Raises NotFound if there is no such study, or it has
    no Patient ID.
    """
    study = session.get(Study, number)
    if study is None or not study.patient_id:
        raise NotFound("there is no such study, or it has no Patient ID")
    return study.patient_id, study.issuer_of_patient_id


def studies_of(session: Session, number: int) -> list[int]:
    """Return the numbers of all studies of the patient whom study ``number`` is of. Raises NotFound."""
    chosen = select(Study.id).where(*_of_patient(*patient_of(session, number)))
    return list(session.scalars(chosen.order_by(Study.id)))


def history(session: Session, settings: Settings, patient_id: str, issuer: str) -> View:
    """Return everything that the page of the patient with this Patient ID and issuer shows."""
    newest = (
        select(Study)
        .where(*_of_patient(patient_id, issuer))
        .order_by(Study.study_date.desc(), Study.id.desc())
        .limit(HISTORY)
    )
    accessions = {row.id: row.accession_number for row in session.scalars(newest)}
    named = names(session, settings, accessions)
    rows = [
        {"id": number, "accession": accessions.get(number, ""), "name": named.get(number, ""), **view}
        for number, view in views.numbered_studies(session, newest).items()
    ]
    measured: list[DatedNumber] = []
    for row in rows[:_LOOKED_INTO]:
        stated = [
            stated_report.read_report(path) for path in pictures.report_files(session, settings, row["id"])
        ]
        found = [one for read in stated for one in read.findings if one.decision is Decision.PRESENT]
        # "Look at it first" is no finding, and nothing beside it would look like an all-clear.
        calls = [call for read in stated for call in read.calls]
        row["findings"] = list(dict.fromkeys([*(one.meaning for one in found), *calls]))
        if on := date_of(row["study_date"]):
            measured += [DatedNumber(row["id"], on, one) for read in stated for one in read.numbers]
    is_one = len(rows) < 2 or intake.of_one_patient(session, accessions)
    of_patient = select(Study.id).where(*_of_patient(patient_id, issuer))
    received = ReceivedObject.study_id.in_(of_patient), ReceivedObject.purged.is_(False)
    same_id = _patient_rows(session, [patient_id])
    return {
        "patient_id": patient_id,
        "issuer": issuer,
        "is_one": is_one,
        "person": _person(session, settings, list(accessions)[:_LOOKED_INTO]) if is_one else None,
        "studies": with_withdrawals(session, rows),
        "trends": trends(measured) if is_one else [],
        "more": len(rows) == HISTORY,
        "has_images": session.scalar(select(ReceivedObject.id).where(*received).limit(1)) is not None,
        # The same ID of other issuers: other patients, unless a person knows better.
        "others": [row for row in same_id if row["issuer"] != issuer],
    }


def _person(session: Session, settings: Settings, studies: Sequence[int]) -> dict[str, str] | None:
    """Return what the first of these studies that has images says of the patient; None if none has."""
    people = (pictures.person_of(session, settings, number) for number in studies)
    return next((person for person in people if any(person.values())), None)


def _of_patient(patient_id: str, issuer: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the SQL conditions for studies with this Patient ID and issuer."""
    return Study.patient_id == patient_id, Study.issuer_of_patient_id == issuer


def _patient_rows(session: Session, ids: Sequence[str]) -> list[View]:
    """Return the patients with these Patient IDs as lists show them, one row for each issuer."""
    patient = Study.patient_id, Study.issuer_of_patient_id
    chosen = select(*patient, func.max(Study.id), func.count(), func.max(Study.last_received_at))
    chosen = chosen.where(Study.patient_id.in_(ids)).group_by(*patient).order_by(*patient)
    return [
        {"patient_id": name, "issuer": issuer, "study": study, "studies": studies, "last": as_json(last)}
        for name, issuer, study, studies, last in session.execute(chosen)
    ]
