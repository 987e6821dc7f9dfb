"""Patients who are registered for uploads, so that a person chooses them instead of typing them again.

The database stores the Patient ID in plain text, as for studies; name, birth date and sex are encrypted
(AES-256-GCM under a key derived from the site key), because those of studies are only in their files.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import AuditAction
from dicom_node.services import (
    PRINTABLE,
    Row,
    ServiceRequest,
    ServiceResult,
    audit,
    existing,
    images,
    uploads,
    writing,
)
from dicom_node.sitekey import Seal
from dicom_node.store import sight, transitions
from dicom_node.store.tables import RegisteredPatient, Study
from dicom_node.store.views import View, columns

SHOWN = 500
"""Registered patients that are listed, the newest."""
_SEALED_KEYS = ("PatientName", "PatientBirthDate", "PatientSex")
_LABELS = {"PatientName": "name", "PatientBirthDate": "birth date", "PatientSex": "sex"}


class Registration(ServiceRequest):
    """A patient: birth date YYYY-MM-DD, sex M, F or O."""

    PatientID: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)
    PatientName: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)
    PatientBirthDate: str = Field("", max_length=10, pattern=PRINTABLE)
    PatientSex: str = Field("", max_length=1, pattern=PRINTABLE)


class Registered(ServiceResult):
    """The answer to a registration: its number."""

    registration: int


class RegisteredRow(Row):
    """A patient who is registered for uploads."""

    id: int
    PatientID: str


def register(settings: Settings, fields: Mapping[str, str], by: audit.Person) -> int:
    """Register PatientID, PatientName, PatientBirthDate (YYYY-MM-DD) and PatientSex; returns its number.

    Raises FaultyInput with all mistakes, also if the ID is registered, or studies with it name another
    patient; a user who sees some senders only registers nobody.
    """
    if sight.SENDERS.get():
        raise FaultyInput("registered patients are of all senders, and this user sees some only")
    about = uploads.Described.from_form({**fields, "Modality": "OT"})
    if about is None:
        raise FaultyInput("Patient ID: is missing")
    identifier = about.texts["PatientID"]
    with writing(settings) as session:
        if _row(session, identifier) is not None:
            raise FaultyInput("this Patient ID is registered already")
        # What the newest study with this ID and no issuer says, as far as its files are here.
        same = (Study.patient_id == identifier, Study.issuer_of_patient_id == "")
        newest = session.scalar(select(Study.id).where(*same).order_by(Study.id.desc()).limit(1))
        if newest is not None:
            _refuse_another(images.person(session, settings, newest), about.texts, "studies here")
        known = json.dumps({key: about.texts[key] for key in _SEALED_KEYS})
        row = RegisteredPatient(
            patient_id=identifier,
            sealed=_seal(settings.node.data_dir).close(known, identifier),
            registered_at=transitions.utc_now(),
            registered_by=by.name,
        )
        session.add(row)
        session.flush()
        audit.note(session, by, AuditAction.PATIENT_ADDED, registration=row.id)
        return row.id


def remove(settings: Settings, number: int, by: audit.Person) -> None:
    """Remove a registration; studies stay. Raises NotFound."""
    with writing(settings) as session:
        row = existing(session, RegisteredPatient, number, "there is no such registration")
        session.delete(row)
        what = {"registration": number, "registered_at": row.registered_at.isoformat()}
        audit.note(session, by, AuditAction.PATIENT_REMOVED, what=what, registration=number)


def registered(session: Session, settings: Settings) -> list[View]:
    """The registered patients, the newest first. Raises ConfigurationError if the site key is unusable."""
    chosen = select(RegisteredPatient).order_by(RegisteredPatient.id.desc()).limit(SHOWN)
    return [_shown(settings, row) for row in session.scalars(chosen)]


def one(session: Session, settings: Settings, number: int) -> View:
    """One registration as values by keyword. Raises NotFound."""
    return _shown(settings, existing(session, RegisteredPatient, number, "there is no such registration"))


def refuse_another(session: Session, settings: Settings, about: uploads.Described) -> None:
    """Raise FaultyInput if the form contradicts the registered patient with this Patient ID."""
    if (row := _row(session, about.texts["PatientID"])) is not None:
        _refuse_another(_open(settings, row), about.texts, "the registration")


def _row(session: Session, identifier: str) -> RegisteredPatient | None:
    """Whoever asks: pictures of somebody else are refused also to a user who sees no registration."""
    with sight.seen_by():
        return session.scalar(select(RegisteredPatient).where(RegisteredPatient.patient_id == identifier))


def _shown(settings: Settings, row: RegisteredPatient) -> View:
    return {
        **columns(row, "id", "registered_at", "registered_by"),
        "PatientID": row.patient_id,
        **_open(settings, row),
    }


def _refuse_another(known: Mapping[str, str], given: Mapping[str, str], who: str) -> None:
    """What only one of them says is no contradiction, but for the name."""
    differing = [
        _LABELS[key]
        for key in _SEALED_KEYS
        if known.get(key)
        and _plain(known[key]) != _plain(given[key])
        and (given[key] or key == "PatientName")
    ]
    if differing:
        raise FaultyInput(f"{who} with this Patient ID: another {' and '.join(differing)}; nothing was taken")


def _plain(text: str) -> str:
    """A name without case and the signs that may be left out at its end (PS3.5 6.2.1)."""
    return " ".join(text.casefold().rstrip("^= ").split())


def _open(settings: Settings, row: RegisteredPatient) -> dict[str, str]:
    """Empty texts where it was sealed under another key: the registration is to be made anew."""
    known = _seal(settings.node.data_dir).open(row.sealed, row.patient_id)
    if known is None:
        return dict.fromkeys(_SEALED_KEYS, "")
    return {key: str(value) for key, value in json.loads(known).items()}


@cache
def _seal(data_dir: Path) -> Seal:
    return Seal(data_dir, "registered patients")
