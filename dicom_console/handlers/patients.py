"""Patients: the patients that the node has received studies of, and their findings."""

from fastapi import Response

from dicom_console.views import patients as seen
from dicom_console.web.faces import Asked, Faces, Number, Since, Visit, see_other
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import audit, studies, users

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


@faces.page("GET", "/patients/{number}", UserRole.VIEWER)
def show(asked: Asked, number: Number) -> Response:
    """The patient of this study."""
    return _page(asked, number)


@faces.page("POST", "/patients/{number}/delete", UserRole.ADMIN)
def delete(asked: Asked, number: Number) -> Response:
    """Delete the received objects of this patient, as far as that is allowed."""
    numbers = asked.read(seen.studies_of, number)
    return _page(asked, number, studies.delete_received(asked.settings, numbers, asked.person))


def _list(asked: Visit, after: int | None, about: dict[str, str]) -> Response:
    audit.note_list(asked.site.database, asked.person, "patients")
    rows, more = asked.read(seen.patients, about.get("patient", ""), after)
    return asked.page("patients.html", rows=rows, more=more, first=after is None, about=about)


def _page(asked: Visit, number: int, deleted: list[View] | None = None) -> Response:
    patient = asked.read(seen.show, asked.settings, number)
    for study in patient["studies"]:
        audit.note_sight(asked.site.database, asked.person, study["id"])
    return asked.page("patient.html", patient=patient, most=seen.HISTORY, number=number, deleted=deleted)
