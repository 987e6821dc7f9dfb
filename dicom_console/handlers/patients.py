"""Patients: the patients that the node has received studies of, and their findings."""

from fastapi import Response

from dicom_console.views import patients
from dicom_console.views.search import names
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, Since, see_other
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import spool, users

faces = Faces()


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
    """Delete the patient's received objects, as far as that is allowed, and show the outcome.

    ``number``: of one of the patient's studies.
    """
    numbers = request.read(patients.studies_of, number)
    return _page(request, number, spool.delete_received(request.settings, numbers, request.person))


def _list(request: ConsoleRequest, after: int | None, about: dict[str, str]) -> Response:
    """Return the page of a list of patients. ``about``: what was searched for; {} for all."""
    request.note_list("patients")
    rows, more = request.read(patients.patients, about.get("patient", ""), after)
    people = request.read(names, request.settings, [row["study"] for row in rows])
    return request.page("patients.html", rows=rows, names=people, more=more, first=after is None, about=about)


def _page(request: ConsoleRequest, number: int, deleted: list[View] | None = None) -> Response:
    """Return the page of a patient. ``deleted``: the outcome of a deletion just done, None without one."""
    patient = request.read(patients.show, request.settings, number)
    for study in patient["studies"]:
        request.note_sight(study["id"])
    return request.page(
        "patient.html", patient=patient, most=patients.HISTORY, number=number, deleted=deleted
    )
