"""Patients: those whom the node has studies of, their findings, and the patients who are registered."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import Body, Response

from dicom_console.views import patients
from dicom_console.views.search import name_words, names
from dicom_console.web.faces import ROWS, ConsoleRequest, CurrentRequest, Faces, Number, Since, see_other
from dicom_node.base.errors import RequestRefused
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import Row, ServiceResult, registered, spool, users
from dicom_node.people.described import SEXES
from dicom_node.people.registered import PatientData

faces = Faces()

list_registered = faces.list_of(registered.list_patients)


class Registered(ServiceResult):
    """The number of a registration."""

    patient: int


class History(ServiceResult):
    """A registered patient, and the patient's ``studies``, the newest first, with what their newest reports
    suspect (``findings``).
    """

    patient: Row
    studies: list[Row]


@faces.page("GET", "/patients", UserRole.VIEWER)
def list_patients(request: CurrentRequest, after: Since = None, person: bool = False) -> Response:
    """Show one page of patients.

    ``after``: last row of the page before; ``person``: only the name and Patient ID that were searched for,
    which are stored in the session so that they are not in the address.
    """
    return _list(request, after, users.search_of(request.site.database, request.token) if person else {})


@faces.page("POST", "/patients/search", UserRole.VIEWER)
def search(request: CurrentRequest) -> Response:
    """Store the name and Patient ID that the person searches for in the session, and redirect to the list."""
    given = {"patient": request.patient_id(), "name": request.text("name")[:64]}
    wanted = {key: value for key, value in given.items() if value}
    users.keep_search(request.site.database, request.token, wanted, request.person)
    return see_other("/patients", person="1" if wanted else "")


@faces.handler("POST", "/patients", registered.register_patient)
def register(request: CurrentRequest, given: Annotated[PatientData, Body()]) -> Registered:
    """Register a patient; 409 if the ID is registered, or studies with it are of somebody else."""
    return Registered(patient=registered.register_patient(request.settings, given, request.person))


@faces.handler("GET", "/patients/{number}", registered.list_patients)
def history(request: CurrentRequest, number: Number) -> History:
    """Return a registered patient with the patient's studies. ``number``: of the registration."""
    request.note_list("patients")
    row = request.read(registered.registered_patient, request.settings, number)
    shown = request.read(patients.history, request.settings, row["patient_id"], row["issuer"])
    return History(patient=Row(**row), studies=[Row(**study) for study in shown["studies"]])


@faces.handler("PUT", "/patients/{number}", registered.change_patient)
def change(request: CurrentRequest, number: Number, given: Annotated[PatientData, Body()]) -> None:
    """Change name, birth date and sex of a registered patient. ``number``: of the registration."""
    registered.change_patient(request.settings, number, given, request.person)


@faces.handler("DELETE", "/patients/{number}", registered.remove_patient)
def remove(request: CurrentRequest, number: Number) -> None:
    """Remove a registration; the patient's studies stay. ``number``: of the registration."""
    registered.remove_patient(request.settings, number, request.person)


@faces.page("POST", "/patients/register", registered.register_patient)
def register_form(request: CurrentRequest) -> Response:
    """Register the patient in the form, and show the patient's page."""
    given = _typed(request)
    try:
        number = registered.register_patient(request.settings, PatientData(**given), request.person)
    except RequestRefused as error:
        return _list(request, None, {}, str(error), given)
    return see_other(f"/patients/registered/{number}")


@faces.page("GET", "/patients/registered/{number}", registered.list_patients)
def show_registered(request: CurrentRequest, number: Number) -> Response:
    """Show a registered patient. ``number``: of the registration."""
    return _registered_page(request, number)


@faces.page("POST", "/patients/registered/{number}", registered.change_patient)
def change_form(request: CurrentRequest, number: Number) -> Response:
    """Change a registered patient as the form says, and show the page. ``number``: of the registration."""
    try:
        registered.change_patient(request.settings, number, PatientData(**_typed(request)), request.person)
    except RequestRefused as error:
        return _registered_page(request, number, str(error))
    return see_other(f"/patients/registered/{number}")


@faces.page("POST", "/patients/registered/{number}/remove", registered.remove_patient)
def remove_form(request: CurrentRequest, number: Number) -> Response:
    """Remove a registration, and show the patients. ``number``: of the registration."""
    registered.remove_patient(request.settings, number, request.person)
    return see_other("/patients")


@faces.page("GET", "/patients/{number}", UserRole.VIEWER)
def show(request: CurrentRequest, number: Number) -> Response:
    """Show a patient. ``number``: of one of the patient's studies."""
    return _page(request, *request.read(patients.patient_of, number))


@faces.page("POST", "/patients/{number}/delete", spool.delete_by_uid)
def delete(request: CurrentRequest, number: Number) -> Response:
    """Delete the patient's received objects, as far as that is allowed, and show the outcome.

    ``number``: of one of the patient's studies.
    """
    numbers = request.read(patients.studies_of, number)
    deleted = spool.delete_received(request.settings, numbers, request.person)
    return _page(request, *request.read(patients.patient_of, number), deleted=deleted)


def _typed(request: ConsoleRequest) -> dict[str, str]:
    """Return the fields of the form about a patient."""
    return {name: request.text(name) for name in PatientData.model_fields}


def _list(
    request: ConsoleRequest,
    after: int | None,
    about: dict[str, str],
    problem: str = "",
    given: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Return the page of a list of patients. ``about``: what was searched for; {} for all.

    ``problem``: why a registration was refused, "" for none; ``given``: what was typed, to be corrected.
    """
    request.note_list("patients")
    wanted, name = about.get("patient", ""), about.get("name", "")
    rows, more = request.read(patients.patients, wanted, after, name_words(request.settings, name))
    people = request.read(names, request.settings, [row["study"] for row in rows])
    known = (
        []
        if after
        else request.read(registered.list_patients, request.settings, patient=wanted, name=name, limit=ROWS)
    )
    return request.page(
        "patients.html",
        400 if problem else 200,
        rows=rows,
        names=people,
        more=more,
        first=after is None,
        about=about,
        registered=known,
        problem=problem,
        given=given,
        choices={"PatientSex": SEXES},
    )


def _registered_page(request: ConsoleRequest, number: int, problem: str = "") -> Response:
    """Return the page of a registered patient. ``problem``: why a change was refused, "" for none."""
    row = request.read(registered.registered_patient, request.settings, number)
    return _page(request, row["patient_id"], row["issuer"], problem=problem)


def _page(
    request: ConsoleRequest,
    patient_id: str,
    issuer: str,
    problem: str = "",
    deleted: list[View] | None = None,
) -> Response:
    """Return the page of the patient with this Patient ID and issuer.

    ``problem``: why a change was refused, "" for none; ``deleted``: the outcome of a deletion just done, None
    without one.
    """
    patient = request.read(patients.history, request.settings, patient_id, issuer)
    known = request.read(registered.registered_under, request.settings, patient_id, issuer)
    request.note_list("patients")
    for study in patient["studies"]:
        request.note_sight(study["id"])
    values: dict[str, Any] = {"patient": patient, "registered": known, "problem": problem, "deleted": deleted}
    return request.page(
        "patient.html",
        400 if problem else 200,
        **values,
        given=registered.as_typed(known) if known else {},
        choices={"PatientSex": SEXES},
        most=patients.HISTORY,
    )
