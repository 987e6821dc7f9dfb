"""Patients: the patients that the node has received studies of, and their findings."""

from fastapi import Response

from dicom_console.views import patients
from dicom_console.views.search import names
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, Since, see_other
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import audit, studies, users

faces = Faces()


@faces.page("GET", "/patients", UserRole.VIEWER)
def list_patients(request: CurrentRequest, after: Since = None, person: bool = False) -> Response:
    """One page of patients. ``person``: only the ID that was searched for, which is in the session, not in
    the address.
    """
    return _list(request, after, users.search_of(request.site.database, request.token) if person else {})


@faces.page("POST", "/patients/search", UserRole.VIEWER)
def search(request: CurrentRequest) -> Response:
    """Keep the searched Patient ID in the session, so that no address contains it."""
    wanted = request.text("patient")[:64]
    users.keep_search(
        request.site.database, request.token, {"patient": wanted} if wanted else {}, request.person
    )
    return see_other("/patients", person="1" if wanted else "")


@faces.page("GET", "/patients/{number}", UserRole.VIEWER)
def show(request: CurrentRequest, number: Number) -> Response:
    """The patient of this study."""
    return _page(request, number)


@faces.page("POST", "/patients/{number}/delete", UserRole.ADMIN)
def delete(request: CurrentRequest, number: Number) -> Response:
    """Delete the received objects of this patient, as far as that is allowed."""
    numbers = request.read(patients.studies_of, number)
    return _page(request, number, studies.delete_received(request.settings, numbers, request.person))


def _list(request: ConsoleRequest, after: int | None, about: dict[str, str]) -> Response:
    """One page of the list of patients."""
    audit.note_list(request.site.database, request.person, "patients")
    rows, more = request.read(patients.patients, about.get("patient", ""), after)
    people = request.read(names, request.settings, [row["study"] for row in rows])
    return request.page("patients.html", rows=rows, names=people, more=more, first=after is None, about=about)


def _page(request: ConsoleRequest, number: int, deleted: list[View] | None = None) -> Response:
    """The page of a patient. ``deleted``: the outcome of a deletion just done."""
    patient = request.read(patients.show, request.settings, number)
    for study in patient["studies"]:
        audit.note_sight(request.site.database, request.person, study["id"])
    return request.page(
        "patient.html", patient=patient, most=patients.HISTORY, number=number, deleted=deleted
    )
