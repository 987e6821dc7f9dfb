"""Trials of programs: an admin runs a rule's program once on a study, and sees what would be sent of it."""

from typing import Final

from fastapi import Response

from dicom_console.views import listing, pictures
from dicom_console.views.pictures import Shown
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, see_other
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store import views
from dicom_node.people import tried_programs

faces = Faces()

PATH: Final = "/programs"
_STUDIES: Final = 50
"""Studies that the form offers, the newest."""


@faces.page("GET", PATH, UserRole.ADMIN)
def ask(request: CurrentRequest, study: int = 0) -> Response:
    """Show the form: a study and a rule. ``study``: number of the one that is chosen."""
    return _form(request, study, "")


@faces.page("POST", PATH, UserRole.ADMIN)
def begin(request: CurrentRequest) -> Response:
    """Begin a trial, and redirect to its page; show the form again if it cannot begin."""
    study, rule = request.number("study"), request.text("rule")
    try:
        token = tried_programs.begin(request.site.database, request.settings, study, rule)
    except NotAllowedNow as error:
        return _form(request, study, rule, str(error))
    return see_other(f"{PATH}/{token}")


@faces.page("GET", PATH + "/{token}", UserRole.ADMIN)
def follow(request: CurrentRequest, token: str) -> Response:
    """Show whether a trial runs, and its result when it has ended."""
    trial = tried_programs.show(request.settings, token)
    request.note_sight(trial["study"])
    study = request.read(listing.study_heading, request.settings, trial["study"])
    return request.page("tried_program.html", trial=trial, study=study)


@faces.page("GET", PATH + "/{token}/{number}", UserRole.ADMIN)
def picture(request: CurrentRequest, token: str, number: Number) -> Response:
    """Return an object of a trial as PNG. ``number``: its place in the table, from 1."""
    trial = tried_programs.show(request.settings, token)
    request.note_sight(trial["study"])
    path = tried_programs.object_file(request.settings, token, number)
    return Response(pictures.png(Shown(path, trial["study"], "trial"), 1), media_type="image/png")


def _form(request: ConsoleRequest, study: int, rule: str, problem: str = "") -> Response:
    """Return the page with the form. ``study``, ``rule``: as chosen; ``problem``: why no trial began."""
    request.note_list("studies")
    studies = request.read(views.list_studies, limit=_STUDIES)
    return request.page(
        "try_program.html",
        409 if problem else 200,
        problem=problem,
        study=study,
        rule=rule,
        rules=tried_programs.rules_with_programs(request.settings),
        studies=studies,
        named=request.named(studies),
    )
