"""Patients: those that the node has received studies of, with their findings, and registered ones."""

from typing import Annotated, Any

from fastapi import Body, Response

from dicom_console.views import patients
from dicom_console.views.search import names
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, Since, see_other
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import Row, ServiceResult, registered_patients, spool, users
from dicom_node.people.registered_patients import Registration

faces = Faces()
_SHOWN = 50
"""Registered patients on the page, the newest; a search looks through all."""


class Registered(ServiceResult):
    """The number of a patient who was registered."""

    patient: int


class RegisteredPatients(ServiceResult):
    """The newest registered patients."""

    patients: list[Row]


@faces.handler("GET", "/patients", registered_patients.list_patients)
def list_registered(request: CurrentRequest) -> RegisteredPatients:
    """Return all registered patients, the newest first."""
    request.note_list("patients")
    rows = request.read(registered_patients.list_patients, request.settings)
    return RegisteredPatients(patients=[Row(**row) for row in rows])


@faces.handler("POST", "/patients", registered_patients.register)
def register(request: CurrentRequest, given: Annotated[Registration, Body()]) -> Registered:
    """Register a patient; refused if studies of this Patient ID say somebody else."""
    values = given.model_dump()
    return Registered(patient=registered_patients.register(request.settings, by=request.person, **values))


@faces.handler("PUT", "/patients/{number}", registered_patients.change)
def change(request: CurrentRequest, number: Number, given: Annotated[Registration, Body()]) -> None:
    """Replace all that is registered of a patient."""
    registered_patients.change(request.settings, number, by=request.person, **given.model_dump())


@faces.handler("DELETE", "/patients/{number}", registered_patients.remove)
def remove(request: CurrentRequest, number: Number) -> None:
    """Remove a registered patient; studies and results stay."""
    registered_patients.remove(request.settings, number, request.person)


@faces.page("GET", "/patients/register", registered_patients.register)
def show_form(request: CurrentRequest) -> Response:
    """Show the form that registers a patient."""
    return _form(request, None, {})


@faces.page("GET", "/patients/registered/{number}", UserRole.VIEWER)
def show_registered(request: CurrentRequest, number: Number) -> Response:
    """Show a registered patient: on the page of the patient's studies, if there are any."""
    registered = request.read(registered_patients.show, request.settings, number)
    study = request.read(registered_patients.study_of, registered)
    if study is not None:
        return see_other(f"/patients/{study}")
    request.note_list("patients")
    return _form(request, number, _typed(registered))


@faces.page("GET", "/patients/registered/{number}/change", registered_patients.change)
def show_change(request: CurrentRequest, number: Number) -> Response:
    """Show the form with what is registered of a patient."""
    return _form(request, number, _typed(request.read(registered_patients.show, request.settings, number)))


@faces.page("POST", "/patients/register", registered_patients.register)
@faces.page("POST", "/patients/registered/{number}/change", registered_patients.change)
def save(request: CurrentRequest) -> Response:
    """Register the patient in the form, or change the registered one; a refused form is shown again."""
    number = request.http.path_params.get("number")
    given = {key: request.text(key) for key in Registration.model_fields}
    settings, by = request.settings, request.person
    try:
        if number is None:
            number = registered_patients.register(settings, by=by, **given)
        else:
            registered_patients.change(settings, int(number), by=by, **given)
    except (FaultyInput, NotAllowedNow) as error:
        status = 400 if isinstance(error, FaultyInput) else 409
        return _form(request, number and int(number), given, status, problem=str(error))
    return see_other(f"/patients/registered/{number}")


@faces.page("POST", "/patients/registered/{number}/remove", registered_patients.remove)
def remove_by_form(request: CurrentRequest, number: Number) -> Response:
    """Remove a registered patient, and show the list."""
    remove(request, number)
    return see_other("/patients")


def _typed(registered: View) -> dict[str, Any]:
    """The values of a registered patient as a form shows them."""
    return {key: registered[key] for key in Registration.model_fields}


def _form(
    request: ConsoleRequest,
    number: int | None,
    given: dict[str, Any],
    status: int = 200,
    *,
    problem: str = "",
) -> Response:
    """Return the form of a registered patient with the values ``given``. ``number``: None for a new one."""
    sexes = registered_patients.SEXES
    return request.page(
        "registered_patient.html", status, number=number, given=given, sexes=sexes, problem=problem
    )


@faces.page("GET", "/patients", UserRole.VIEWER)
def list_patients(request: CurrentRequest, after: Since = None, person: bool = False) -> Response:
    """Show one page of patients.

    ``after``: last row of the page before; ``person``: only the Patient ID that was searched for, which is
    stored in the session so that it is not in the address.
    """
    return _list(request, after, users.search_of(request.site.database, request.token) if person else {})


@faces.page("POST", "/patients/search", UserRole.VIEWER)
def search(request: CurrentRequest) -> Response:
    """Store the Patient ID that the person searches for in the session, and redirect to the list."""
    wanted = request.patient_id()
    users.keep_search(
        request.site.database, request.token, {"patient": wanted} if wanted else {}, request.person
    )
    return see_other("/patients", person="1" if wanted else "")


@faces.page("GET", "/patients/{number}", UserRole.VIEWER)
def show(request: CurrentRequest, number: Number) -> Response:
    """Show a patient. ``number``: of one of the patient's studies."""
    return _page(request, number)


@faces.page("POST", "/patients/{number}/delete", spool.delete_by_uid)
def delete(request: CurrentRequest, number: Number) -> Response:
    """Delete the patient's received objects, with built results if the form says so, as far as that is
    allowed, and show the outcome.

    ``number``: of one of the patient's studies.
    """
    numbers = request.read(patients.studies_of, number)
    results = bool(request.text("results"))
    deleted = spool.delete_received(request.settings, numbers, request.person, results=results)
    return _page(request, number, deleted)


def _list(request: ConsoleRequest, after: int | None, about: dict[str, str]) -> Response:
    """Return the page of a list of patients. ``about``: what was searched for; {} for all."""
    request.note_list("patients")
    rows, more = request.read(patients.patients, about.get("patient", ""), after)
    people = request.read(names, request.settings, [row["study"] for row in rows])
    registered = request.read(
        registered_patients.list_patients, request.settings, find=about.get("patient", ""), limit=_SHOWN
    )
    return request.page(
        "patients.html",
        rows=rows,
        names=people,
        registered=registered if after is None else [],
        more=more,
        first=after is None,
        about=about,
    )


def _page(request: ConsoleRequest, number: int, deleted: list[View] | None = None) -> Response:
    """Return the page of a patient. ``deleted``: the outcome of a deletion just done, None without one."""
    patient = request.read(patients.show, request.settings, number)
    for study in patient["studies"]:
        request.note_sight(study["id"])
    return request.page(
        "patient.html", patient=patient, most=patients.HISTORY, number=number, deleted=deleted
    )
