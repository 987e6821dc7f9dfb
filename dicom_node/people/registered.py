"""Patients whom a person registers: chosen at an upload instead of typed again, and never mistaken.

What is registered and what studies with the same Patient ID and issuer say must not contradict each other
(``base/dicom/identity.py``): such a registration is refused, and such a study goes into quarantine.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input, allowed_to
from dicom_node.base.actions.columns import Column, fields, times
from dicom_node.base.actions.inputs import limit
from dicom_node.base.actions.nouns import PATIENTS
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, in_words, issuers_differ
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.events import REGISTRATION_FOLLOWED
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.sitekey import Seal, words
from dicom_node.base.store import patients, sight
from dicom_node.base.store.merges import PatientChange
from dicom_node.base.store.tables import RegisteredPatient, Study
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.base.store.views import View, columns
from dicom_node.people import ServiceRequest, audit, existing, writing
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.described import as_pn, checked

_UNKNOWN: Final = "no patient is registered under this number"
_PATIENT: Final = ("PatientName", "PatientBirthDate", "PatientSex")


class PatientData(ServiceRequest):
    """What is registered of a patient, by DICOM keyword; ``PatientBirthDate``: YYYY-MM-DD or "",
    ``PatientSex``: F, M, O or "".
    """

    PatientID: str
    IssuerOfPatientID: str = ""
    PatientName: str
    PatientBirthDate: str = ""
    PatientSex: str = ""

    def checked(self) -> dict[str, str]:
        """The values in the form of their VR. Raises FaultyInput that names all mistakes."""
        typed = {name: text.strip() for name, text in self.model_dump().items()}
        return checked(typed, needed=["PatientID", "PatientName"])


@Action(
    PATIENTS,
    "list",
    "List registered patients, the newest first.",
    "--id P-17 --config node.toml",
    columns=(
        *fields("patient", "ID: patient_id", "issuer", "name"),
        Column("born", lambda row: row["birth_date"]),
        *fields("sex"),
        *times("registered: registered_at"),
        *fields("by: registered_by"),
    ),
    none="Nobody is registered.",
    role=UserRole.VIEWER,
)
def list_patients(
    session: Session,
    settings: Settings,
    *,
    patient: Annotated[str, Input("Only this Patient ID, or all that begin so: P-1*.", "--id", "ID")] = "",
    limit: Annotated[int | None, limit(50)] = None,
    before: int | None = None,
    name: str = "",
) -> list[View]:
    """Rows for registered patients, the newest first; name, birth date and sex "" if they were sealed under
    another site key. ``before``: only those with a lower number. ``name``: words of the name or their
    beginnings; "": all. It is never in an address. Raises ConfigurationError (the site key).
    """
    chosen = select(RegisteredPatient).order_by(RegisteredPatient.id.desc())
    if patient.endswith("*"):
        chosen = chosen.where(RegisteredPatient.patient_id.startswith(patient.rstrip("*"), autoescape=True))
    elif patient:
        chosen = chosen.where(RegisteredPatient.patient_id == patient)
    if before is not None:
        chosen = chosen.where(RegisteredPatient.id < before)
    if not name.strip():
        return [_shown(settings, row) for row in session.scalars(chosen.limit(limit))]
    shown = (_shown(settings, row) for row in session.scalars(chosen))  # names are sealed: each is opened
    return list(islice((row for row in shown if _is_called(row["name"], name)), limit))


def _is_called(name: str, wanted: str) -> bool:
    """Whether each word of ``wanted`` begins a word of this name, as in a search of studies."""
    asked, known = words(wanted), words(name)
    return bool(asked) and all(any(word.startswith(begin) for word in known) for begin in asked)


def registered_patient(session: Session, settings: Settings, number: int) -> View:
    """The registered patient with this number, as :func:`list_patients` shows one. Raises NotFound."""
    return _shown(settings, existing(session, RegisteredPatient, number, _UNKNOWN))


def registered_under(session: Session, settings: Settings, patient_id: str, issuer: str) -> View | None:
    """The patient who is registered under a Patient ID with its issuer; None if nobody is."""
    row = patients.registration(session, patient_id, issuer)
    return None if row is None else _shown(settings, row)


def registered_otherwise(session: Session, settings: Settings, study: Study) -> dict[str, str] | None:
    """What is registered under the Patient ID of a study, by keyword, if the study's objects say another
    name, birth date or sex and no person has released it since; else None.
    """
    if not patients.differences_from_registration(session, study):
        return None
    row = patients.registration(session, study.patient_id, study.issuer_of_patient_id)
    return None if row is None else _opened(settings, row)


def as_typed(row: View) -> dict[str, str]:
    """The values of a registered patient's row by DICOM keyword, as a person types them."""
    keys = ("patient_id", "issuer", "name", "birth_date", "sex")
    return dict(zip(PatientData.model_fields, (str(row[key]) for key in keys), strict=True))


def described_as_registered(
    session: Session, settings: Settings, number: int, about: Mapping[str, str]
) -> dict[str, str]:
    """What a person says of pictures (``described.FIELDS``), with the registered patient of this number in
    the place of what they typed of one. Raises NotFound.
    """
    row = existing(session, RegisteredPatient, number, _UNKNOWN)
    return {**about, "PatientID": row.patient_id, **_opened(settings, row)}


def refuse_other_than_registered(session: Session, about: Mapping[str, str]) -> None:
    """Raise NotAllowedNow if what a person says of pictures contradicts the registration of this Patient
    ID.
    """
    row = patients.registration(session, about.get("PatientID", ""), "")
    if row is not None:
        typed = {**about, "PatientName": as_pn(about.get("PatientName", ""))}
        _refuse_contradiction(_identity(typed), [Patient.parse(row.patient)], "the patient registered under")


@allowed_to(UserRole.OPERATOR)
def register_patient(settings: Settings, given: PatientData, by: Person) -> int:
    """Register a patient; returns the number of the registration.

    Raises FaultyInput for what cannot be, NotAllowedNow if the ID is registered, or studies with it say
    another name, birth date or sex.
    """
    values = given.checked()
    with _writing(settings) as session:
        _refuse_studies(session, values)
        row = RegisteredPatient(
            patient_id=values["PatientID"],
            issuer_of_patient_id=values["IssuerOfPatientID"],
            registered_at=utc_now(),
            registered_by=by.name,
        )
        _enter(settings, row, values)
        session.add(row)
        try:
            session.flush()
        except IntegrityError:
            raise NotAllowedNow("this Patient ID of this issuer is registered already") from None
        audit.note(session, by, AuditAction.PATIENT_ADDED, patient=row.id)
        return row.id


@allowed_to(UserRole.OPERATOR)
def change_patient(settings: Settings, number: int, given: PatientData, by: Person) -> None:
    """Change name, birth date and sex of a registered patient; the ID stays as it is.

    Raises as :func:`register_patient`, and NotFound.
    """
    values = given.checked()
    with _writing(settings) as session:
        row = existing(session, RegisteredPatient, number, _UNKNOWN, lock=True)
        if (row.patient_id, row.issuer_of_patient_id) != (values["PatientID"], values["IssuerOfPatientID"]):
            raise NotAllowedNow("a Patient ID cannot be changed: register the patient under the other one")
        _refuse_studies(session, values)
        _enter(settings, row, values)
        audit.note(session, by, AuditAction.PATIENT_CHANGED, patient=number)


@Action(
    PATIENTS,
    "remove",
    "Remove a registration; the patient's studies stay.",
    "3 --config node.toml",
    says="Patient {number} is not registered any more.",
    role=UserRole.OPERATOR,
)
def remove_patient(
    settings: Settings,
    number: Annotated[int, Input("Its number, as `patients list` shows it.", metavar="PATIENT", least=1)],
    by: Person = COMMAND_LINE,
) -> None:
    """Remove a registration; studies of the patient stay. Raises NotFound."""
    with _writing(settings) as session:
        session.delete(existing(session, RegisteredPatient, number, _UNKNOWN, lock=True))
        audit.note(session, by, AuditAction.PATIENT_REMOVED, patient=number)


def follow_message(
    session: Session, settings: Settings, change: PatientChange, texts: Sequence[str], sender: str
) -> None:
    """Change registered patients as an HL7 message says: a replaced Patient ID becomes the new one, or goes
    where that is registered too; data that the message has (``texts``: name, birth date, sex) replace ours.

    ``sender``: for the audit.
    """
    stated = {name: text for name, text in zip(_PATIENT, texts, strict=True) if text}
    by, changed = Person(f"HL7: {sender}"[:64]), 0
    for former in _registered_as(session, change.former_id, change.authority):
        values = {**_opened(settings, former), **stated}
        row = patients.registration(session, change.patient_id, former.issuer_of_patient_id)
        if row is None:
            row = former
        elif row is not former:
            values = {**_opened(settings, row), **stated}
            audit.note(session, by, AuditAction.PATIENT_REMOVED, patient=former.id)
            session.delete(former)
        elif values == _opened(settings, row):
            continue
        row.patient_id = change.patient_id
        _enter(
            settings,
            row,
            {**values, "PatientID": row.patient_id, "IssuerOfPatientID": row.issuer_of_patient_id},
        )
        audit.note(session, by, AuditAction.PATIENT_CHANGED, patient=row.id)
        session.flush()
        changed += 1
    if changed:
        record(session, REGISTRATION_FOLLOWED, message=change.message, patients=changed)


def _registered_as(session: Session, patient_id: str, authority: str) -> list[RegisteredPatient]:
    """The registrations of a Patient ID whose issuer is this authority, or is not said."""
    rows = session.scalars(select(RegisteredPatient).where(RegisteredPatient.patient_id == patient_id))
    return [row for row in rows if not issuers_differ(authority, row.issuer_of_patient_id)]


@contextmanager
def _writing(settings: Settings) -> Iterator[Session]:
    """Context manager: a session that writes to the node's database. Raises NotAllowedNow for a user who sees
    the studies of some senders only: a registration judges the studies of all.
    """
    if sight.SENDERS.get():
        raise NotAllowedNow("who sees the studies of some senders only registers no patients")
    with writing(settings) as session:
        yield session


def _refuse_studies(session: Session, values: Mapping[str, str]) -> None:
    """Raise NotAllowedNow if studies with this Patient ID and issuer are of somebody else."""
    known = patients.in_studies(session, values["PatientID"], values["IssuerOfPatientID"])
    _refuse_contradiction(_identity(values), known, "a study here with")


def _refuse_contradiction(stated: Patient, known: Sequence[Patient], who: str) -> None:
    """Raise NotAllowedNow that names what ``known`` patients have otherwise than ``stated``; ``who``: they
    are, before "this Patient ID".
    """
    for other in filter(stated.disagrees, known):
        words = in_words(stated.differences(other))
        raise NotAllowedNow(f"{who} this Patient ID has another {words}; nothing was stored")


def _identity(values: Mapping[str, str]) -> Patient:
    """The identity of the patient with these values."""
    text = [values.get(name, "") for name in ("PatientID", "IssuerOfPatientID", *_PATIENT)]
    return Patient.from_values(*text)


def _enter(settings: Settings, row: RegisteredPatient, values: Mapping[str, str]) -> None:
    """Write these values into a row."""
    row.patient, row.changed_at = str(_identity(values)), utc_now()
    texts = json.dumps({name: values[name] for name in _PATIENT})
    row.sealed = _seal(settings.node.data_dir).close(texts, _sealed_to(row))


def _shown(settings: Settings, row: RegisteredPatient) -> View:
    """A registered patient as lists show one."""
    opened = _opened(settings, row)
    return {
        "patient": row.id,
        "patient_id": row.patient_id,
        "issuer": row.issuer_of_patient_id,
        "name": opened["PatientName"],
        "birth_date": opened["PatientBirthDate"],
        "sex": opened["PatientSex"],
        **columns(row, "registered_at", "registered_by", "changed_at"),
    }


def _opened(settings: Settings, row: RegisteredPatient) -> dict[str, str]:
    """Name, birth date and sex of a registered patient, by keyword; "" if they were sealed under another site
    key.
    """
    text = _seal(settings.node.data_dir).open(row.sealed, _sealed_to(row))
    known: dict[str, Any] = json.loads(text) if text else {}
    return {name: str(known.get(name, "")) for name in _PATIENT}


def _sealed_to(row: RegisteredPatient) -> str:
    """The context to which the texts of a row are bound: those of one patient open in no other row."""
    return json.dumps([row.patient_id, row.issuer_of_patient_id])


@cache
def _seal(data_dir: Path) -> Seal:
    """The seal of what is registered."""
    return Seal(data_dir, "registered patients")
