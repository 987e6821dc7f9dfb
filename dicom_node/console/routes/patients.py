"""Patients: whom the node has seen, and what was found."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dicom_node.console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, retention
from dicom_node.services.console import patients, registration, sign_in
from dicom_node.store.views import View

router = APIRouter(prefix="/patients")

FIELDS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")


@router.get("")
@needs(UserRole.VIEWER)
def list_patients(asked: Asked, after: Since = None, person: bool = False) -> Response:
    """One page. ``person``: of the ID that was searched for: no address has it."""
    about = sign_in.search_of(asked.site.database, asked.token) if person else {}
    return _list(asked, after, about)


@router.post("/search")
@needs(UserRole.VIEWER)
def search(asked: Asked) -> Response:
    """Keep the ID in the session."""
    wanted = asked.text("patient")[:64]
    about = {"patient": wanted} if wanted else {}
    sign_in.keep_search(asked.site.database, asked.token, about, asked.person)
    return see_other("/patients", person="1" if wanted else "")


@router.post("/register")
@needs(UserRole.OPERATOR)
def register(asked: Asked) -> Response:
    """Register a patient for uploads."""
    given = {key: asked.text(key) for key in FIELDS}
    try:
        number = registration.register(asked.site.settings, given, asked.person)
    except FaultyInput as error:
        return _list(asked, None, {}, problem=str(error), given=given)
    return see_other("/upload", patient=str(number))


@router.post("/registered/{number}/remove")
@needs(UserRole.OPERATOR)
def remove(asked: Asked, number: Number) -> Response:
    """Take a registration back."""
    registration.remove(asked.site.settings, number, asked.person)
    return see_other("/patients")


@router.get("/{number}")
@needs(UserRole.VIEWER)
def show(asked: Asked, number: Number) -> Response:
    """The patient of this study."""
    return _page(asked, number)


@router.post("/{number}/delete")
@needs(UserRole.ADMIN)
def delete(asked: Asked, number: Number) -> Response:
    """Delete what was received of this patient, as far as that is allowed."""
    with asked.site.database.read() as session:
        studies = patients.studies_of(session, number)
    return _page(asked, number, retention.delete_received(asked.site.settings, studies, asked.person))


def _list(
    asked: Visit,
    after: int | None,
    about: dict[str, str],
    *,
    problem: str = "",
    given: dict[str, str] | None = None,
) -> Response:
    site = asked.site
    audit.note_list(site.database, asked.person, "patients")
    may_register = asked.user.role.includes(UserRole.OPERATOR)
    with site.database.read() as session:
        rows, more = patients.patients(session, about.get("patient", ""), after)
        registered = registration.registered(session, site.settings) if may_register else []
    return asked.page(
        "patients.html", 400 if problem else 200, rows=rows, more=more, first=after is None, about=about,
        registered=registered, problem=problem, given=given or {},
    )  # fmt: skip


def _page(asked: Visit, number: int, deleted: list[View] | None = None) -> Response:
    site = asked.site
    with site.database.read() as session:
        patient = patients.show(session, site.settings, number)
    for study in patient["studies"]:
        audit.note_sight(site.database, asked.person, study["id"])
    return asked.page("patient.html", patient=patient, most=patients.HISTORY, number=number, deleted=deleted)
