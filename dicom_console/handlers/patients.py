"""Patients: the patients that the node has received studies of, and their findings."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Response

from dicom_console.views import patients as seen
from dicom_console.web.faces import Asked, Faces, Number, Since, Visit, back_to, see_other
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, patients, studies, users
from dicom_node.services.patients import Registered, RegisteredRow, Registration
from dicom_node.store.views import View

faces = Faces()


@faces.page("GET", "/patients", UserRole.VIEWER)
def list_patients(asked: Asked, after: Since = None, person: bool = False) -> Response:
    """One page. ``person``: of the ID that was searched for: no address has it."""
    return _list(asked, after, users.search_of(asked.site.database, asked.token) if person else {})


@faces.page("POST", "/patients/search", UserRole.VIEWER)
def search(asked: Asked) -> Response:
    """Keep the searched Patient ID in the session, so that no address contains it."""
    wanted = asked.text("patient")[:64]
    users.keep_search(asked.site.database, asked.token, {"patient": wanted} if wanted else {}, asked.person)
    return see_other("/patients", person="1" if wanted else "")


@faces.handler("GET", "/patients/registered", UserRole.OPERATOR)
def list_registered(asked: Asked) -> list[RegisteredRow]:
    """Who is registered for uploads."""
    audit.note_list(asked.site.database, asked.person, "patients")
    return [RegisteredRow(**row) for row in asked.read(patients.registered, asked.settings)]


@faces.handler("POST", "/patients/registered", UserRole.OPERATOR)
def register(asked: Asked, patient: Annotated[Registration, Body()]) -> Registered:
    """Register a patient for uploads."""
    number = patients.register(asked.settings, patient.model_dump(), asked.person)
    return Registered(registration=number)


@faces.page("POST", "/patients/register", UserRole.OPERATOR)
def register_by_form(asked: Asked) -> Response:
    """Register the patient of a form; a form with a mistake is shown again."""
    given = {key: asked.text(key) for key in Registration.model_fields}
    try:
        done = register(asked, Registration.model_construct(None, **given))
    except FaultyInput as error:
        return _list(asked, None, {}, problem=str(error), given=given)
    return see_other("/upload", patient=str(done.registration))


@faces.handler(
    "DELETE",
    "/patients/registered/{number}",
    UserRole.OPERATOR,
    back_to("/patients"),
    at="/patients/registered/{number}/remove",
)
def unregister(asked: Asked, number: Number) -> None:
    """Take a registration back; studies stay."""
    patients.remove(asked.settings, number, asked.person)


@faces.page("GET", "/patients/{number}", UserRole.VIEWER)
def show(asked: Asked, number: Number) -> Response:
    """The patient of this study."""
    return _page(asked, number)


@faces.page("POST", "/patients/{number}/delete", UserRole.ADMIN)
def delete(asked: Asked, number: Number) -> Response:
    """Delete the received objects of this patient, as far as that is allowed."""
    numbers = asked.read(seen.studies_of, number)
    return _page(asked, number, studies.delete_received(asked.settings, numbers, asked.person))


def _list(
    asked: Visit,
    after: int | None,
    about: dict[str, str],
    *,
    problem: str = "",
    given: dict[str, str] | None = None,
) -> Response:
    audit.note_list(asked.site.database, asked.person, "patients")
    may_register = asked.user.role.includes(UserRole.OPERATOR)
    rows, more = asked.read(seen.patients, about.get("patient", ""), after)
    return asked.page(
        "patients.html",
        400 if problem else 200,
        rows=rows,
        more=more,
        first=after is None,
        about=about,
        registered=asked.read(patients.registered, asked.settings) if may_register else [],
        problem=problem,
        given=given or {},
    )


def _page(asked: Visit, number: int, deleted: list[View] | None = None) -> Response:
    patient = asked.read(seen.show, asked.settings, number)
    for study in patient["studies"]:
        audit.note_sight(asked.site.database, asked.person, study["id"])
    return asked.page("patient.html", patient=patient, most=seen.HISTORY, number=number, deleted=deleted)
