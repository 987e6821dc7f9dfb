"""Registered patients: whom persons enter before, or without, any study, and choose at an upload.

Name, birth date and sex are encrypted in the database (``base.sitekey``), as names of studies are.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from pydicom.valuerep import PersonName
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import fields, times
from dicom_node.base.actions.inputs import limit
from dicom_node.base.actions.nouns import PATIENTS
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, patient_id_of
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.lifecycle import AuditAction, ObjectRole, UserRole
from dicom_node.base.sitekey import Seal, words
from dicom_node.base.store import sight
from dicom_node.base.store.tables import Instance, RegisteredPatient, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, columns
from dicom_node.people import PRINTABLE, ServiceRequest, ShortText, audit, existing, open_database, writing
from dicom_node.people.audit import COMMAND_LINE, Person

SEXES: Final = ("", "F", "M", "O")
"""Patient's Sex (0010,0040), PS3.3 C.7.1.1."""
_SEALED: Final = ("name", "birth_date", "sex")
_OLDEST: Final = timedelta(days=366 * 130)
_MOST: Final = 20_000  # a search by name opens each

_Number = Annotated[int, Input("Number, as `patients list` shows it.", metavar="PATIENT", least=1)]
_PatientId = Annotated[str, Input("Patient ID.", metavar="PATIENT_ID")]
_Name = Annotated[str, Input("Patient's Name, as DOE^JANE.", "--name", "NAME")]
_Born = Annotated[str, Input("Birth date, as 1970-01-31.", "--born", "DATE")]
_Sex = Annotated[str, Input("F, M or O.", "--sex", "SEX")]
_Issuer = Annotated[str, Input("Issuer of Patient ID, where there are several.", "--issuer", "ISSUER")]


class Registration(ServiceRequest):
    """A patient to register: Patient ID (0010,0020) with its issuer, Patient's Name (0010,0010), Birth Date
    (YYYY-MM-DD or YYYYMMDD) and Sex (F, M, O); "" for what is not known.
    """

    patient_id: ShortText
    issuer: ShortText = ""
    name: Annotated[str, Field(max_length=3 * 64 + 2, pattern=PRINTABLE)] = ""
    birth_date: ShortText = ""
    sex: ShortText = ""


@Action(
    PATIENTS,
    "list",
    "List registered patients, the newest first.",
    "--find DOE --config node.toml",
    columns=(
        *fields("patient", "Patient ID: patient_id", "issuer", "name", "born: birth_date", "sex"),
        *times("registered: registered_at"),
        *fields("by: registered_by"),
    ),
    none="No patient is registered.",
)
def list_patients(
    session: Session,
    settings: Settings,
    *,
    find: Annotated[
        str, Input("Patient ID, its beginning and *, or words of the name.", "--find", "TEXT")
    ] = "",
    limit: Annotated[int | None, limit(50)] = None,
    before: int | None = None,
) -> list[View]:
    """Rows for registered patients, the newest first. ``find``: only these, "" for all. ``before``: only
    those with a lower number.
    """
    chosen = select(RegisteredPatient).order_by(RegisteredPatient.id.desc())
    if before is not None:
        chosen = chosen.where(RegisteredPatient.id < before)
    if not find:
        chosen = chosen.limit(limit or None)
    registered = session.scalars(chosen).all()
    if not registered:  # a list makes no site key
        return []
    seal = _seal(settings)
    rows = [_row(seal, patient) for patient in registered]
    found = [row for row in rows if _is_found(row, find)]
    return found[: limit or None]


def show(session: Session, settings: Settings, number: int) -> View:
    """The row of a registered patient. Raises NotFound."""
    return _row(_seal(settings), existing(session, RegisteredPatient, number, _NONE))


def registered_as(session: Session, settings: Settings, patient_id: str, issuer: str) -> View | None:
    """The row of the registered patient with this Patient ID and issuer; None without one."""
    same_id = (
        RegisteredPatient.patient_id == patient_id,
        RegisteredPatient.issuer_of_patient_id == issuer,
    )
    found = session.scalar(select(RegisteredPatient).where(*same_id))
    return None if found is None else _row(_seal(settings), found)


@Action(
    PATIENTS,
    "register",
    "Register a patient; refused if studies of this Patient ID say somebody else.",
    "4711 --name DOE^JANE --born 1970-01-31 --sex F --config node.toml",
    says="Patient {result} is registered.",
    role=UserRole.OPERATOR,
)
def register(
    settings: Settings,
    patient_id: _PatientId,
    by: Person = COMMAND_LINE,
    *,
    name: _Name = "",
    birth_date: _Born = "",
    sex: _Sex = "",
    issuer: _Issuer = "",
) -> int:
    """Register a patient and return its number.

    Raises FaultyInput for values that DICOM does not allow, and NotAllowedNow if the ID is registered
    already, or a study with this Patient ID and issuer is of somebody else.
    """
    given = checked(patient_id=patient_id, issuer=issuer, name=name, birth_date=birth_date, sex=sex)
    _refuse_limited()
    with open_database(settings) as database, database.write() as session:
        if session.scalar(select(RegisteredPatient.id).offset(_MOST).limit(1)) is not None:
            raise NotAllowedNow(f"{_MOST} patients are registered: remove some first")
        _refuse_contradiction(session, given)
        registered = RegisteredPatient(registered_at=utc_now(), registered_by=by.name)
        _fill(settings, registered, given)
        session.add(registered)
        _flush(session)
        audit.note(session, by, AuditAction.PATIENT_SAVED, registered=registered.id)
        return registered.id


@Action(
    PATIENTS,
    "change",
    "Change a registered patient: what is given here replaces all that was registered.",
    "3 4711 --name DOE^JANE --born 1970-01-31 --config node.toml",
    says="Patient {number} is changed.",
    role=UserRole.OPERATOR,
)
def change(
    settings: Settings,
    number: _Number,
    patient_id: _PatientId,
    by: Person = COMMAND_LINE,
    *,
    name: _Name = "",
    birth_date: _Born = "",
    sex: _Sex = "",
    issuer: _Issuer = "",
) -> None:
    """Replace what is registered of a patient. Raises NotFound, and the errors of :func:`register`."""
    given = checked(patient_id=patient_id, issuer=issuer, name=name, birth_date=birth_date, sex=sex)
    _refuse_limited()
    with writing(settings) as session:
        registered = existing(session, RegisteredPatient, number, _NONE, lock=True)
        _refuse_contradiction(session, given)
        _fill(settings, registered, given)
        _flush(session)
        audit.note(session, by, AuditAction.PATIENT_SAVED, registered=number)


@Action(
    PATIENTS,
    "remove",
    "Remove a registered patient; studies and results stay.",
    "3 --config node.toml",
    says="Patient {number} is removed.",
    role=UserRole.OPERATOR,
)
def remove(settings: Settings, number: _Number, by: Person = COMMAND_LINE) -> None:
    """Remove a registered patient. Raises NotFound."""
    with writing(settings) as session:
        session.delete(existing(session, RegisteredPatient, number, _NONE))
        audit.note(session, by, AuditAction.PATIENT_REMOVED, registered=number)


def contradicting_studies(session: Session, registered: View) -> Collection[int]:
    """The numbers of studies with the Patient ID and issuer of this row whose images are of somebody else."""
    values = (registered[key] for key in ("patient_id", "issuer", *_SEALED))
    identity = Patient.from_values(*values)
    chosen = select(Instance.study_id, Instance.patient).distinct()
    chosen = chosen.join(Study, Study.id == Instance.study_id)
    same_id = (
        Study.patient_id == registered["patient_id"],
        Study.issuer_of_patient_id == registered["issuer"],
    )
    rows = session.execute(chosen.where(*same_id, Instance.role != ObjectRole.OWN))
    return {study for study, text in rows if text and Patient.parse(text).disagrees(identity)}


def study_of(session: Session, registered: View) -> int | None:
    """The number of the newest study with the Patient ID and issuer of this row; None without one."""
    return session.scalar(
        select(func.max(Study.id)).where(
            Study.patient_id == registered["patient_id"],
            Study.issuer_of_patient_id == registered["issuer"],
        )
    )


_NONE = "no patient is registered under this number"


def _refuse_limited() -> None:
    """Raise NotAllowedNow for a user who sees the studies of some senders only."""
    if sight.SENDERS.get():
        raise NotAllowedNow("patients are registered by users who see the studies of all senders")


def _refuse_contradiction(session: Session, given: Registration) -> None:
    """Raise NotAllowedNow if a study with this Patient ID and issuer is of somebody else."""
    if contradicting_studies(session, given.model_dump()):
        raise NotAllowedNow(
            "a study with this Patient ID has another name, birth date or sex: correct what you typed, or "
            "the study at its sender"
        )


def checked(**values: str) -> Registration:
    """The registration with these values as DICOM writes them. Raises FaultyInput with each mistake."""
    try:
        given = Registration(**values)
    except ValidationError as error:
        keys = ", ".join(str(one["loc"][-1]) for one in error.errors())
        raise FaultyInput(f"too long, or with characters that cannot be printed: {keys}") from None
    patient_id = patient_id_of(given.patient_id)
    born = date_of(given.birth_date) if given.birth_date.strip() else None
    today = datetime.now(UTC).date()
    name, sex = given.name.strip(), given.sex.strip().upper()
    mistakes = {
        "a Patient ID is needed": not patient_id,
        "Patient ID, issuer and name have no backslash": "\\" in patient_id + given.issuer + name,
        "a name has at most three groups with = between them, each of 64 characters and five parts with ^": (
            name.count("=") > 2 or any(len(part) > 64 or part.count("^") > 4 for part in name.split("="))
        ),
        "the birth date is no date: write 1970-01-31": bool(given.birth_date.strip()) and born is None,
        "the birth date lies in the future, or is of nobody who lives": born is not None
        and not today - _OLDEST <= born <= today + timedelta(days=1),
        f"the sex is one of {', '.join(SEXES[1:])}": sex not in SEXES,
    }
    if found := [mistake for mistake, is_made in mistakes.items() if is_made]:
        raise FaultyInput("; ".join(found))
    return Registration(
        patient_id=patient_id,
        issuer=given.issuer.strip(),
        name=str(PersonName(name)),
        birth_date=born.strftime("%Y%m%d") if born else "",
        sex=sex,
    )


def _fill(settings: Settings, registered: RegisteredPatient, given: Registration) -> None:
    """Write the values of ``given`` into the row."""
    registered.patient_id, registered.issuer_of_patient_id = given.patient_id, given.issuer
    known = {key: getattr(given, key) for key in _SEALED}
    registered.sealed = _seal(settings).close(json.dumps(known), _context(registered))


def _flush(session: Session) -> None:
    """Send the rows to the database. Raises NotAllowedNow if the Patient ID is registered already."""
    try:
        session.flush()
    except IntegrityError:
        raise NotAllowedNow("this Patient ID is registered already: change that entry") from None


def _row(seal: Seal, registered: RegisteredPatient) -> View:
    """The row of a list for a registered patient; what another site key sealed is empty."""
    opened = seal.open(registered.sealed, _context(registered))
    known: dict[str, Any] = json.loads(opened) if opened else dict.fromkeys(_SEALED, "")
    return {
        "patient": registered.id,
        "patient_id": registered.patient_id,
        "issuer": registered.issuer_of_patient_id,
        **known,
        **columns(registered, "registered_at", "registered_by"),
    }


def _seal(settings: Settings) -> Seal:
    """What encrypts the texts of registered patients."""
    return Seal(settings.node.data_dir, "registered patients")


def _context(registered: RegisteredPatient) -> str:
    """What the sealed text of a row is bound to."""
    return f"{registered.patient_id}\x1f{registered.issuer_of_patient_id}"


def _is_found(row: View, find: str) -> bool:
    """Whether a row has the searched Patient ID, or all searched words as beginnings of words of its name."""
    if not find or row["patient_id"] == patient_id_of(find):
        return True
    if find.endswith("*") and row["patient_id"].startswith(find.rstrip("*")):
        return True
    searched, own = words(find), words(row["name"])
    return bool(searched) and all(any(word.startswith(part) for word in own) for part in searched)
