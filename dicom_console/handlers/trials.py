"""Trials: a person drops a picture, and sees what the AI says of it; nothing of it is sent."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from fastapi import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from dicom_console.handlers.uploads import progress_of, received, takers_of
from dicom_console.views import listing, pictures, viewer
from dicom_console.views.models import trial_scores
from dicom_console.views.pictures import PictureKind
from dicom_console.web.access import read_form
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, see_other
from dicom_node.base.errors import NotFound, RequestRefused
from dicom_node.base.lifecycle import Intake, StudyState
from dicom_node.base.store import views
from dicom_node.people import Row
from dicom_node.people.described import FIELDS
from dicom_node.people.stow import StowRequest
from dicom_node.people.uploads import is_dicom, prepare, take_files

faces = Faces()

PATH: Final = "/try"
SHOWS: Final[Mapping[str, tuple[str, str]]] = {
    "DX PA": ("DX", "PA"),
    "DX AP": ("DX", "AP"),
    "DX": ("DX", ""),
    "US": ("US", ""),
}
"""What a picture may show, as the form says it: Modality and View of a chest film, or ultrasound. It is one
choice, so that a picture that is dropped first waits for the view too.
"""
_UNDER_WAY: Final = {StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING}


@faces.page("GET", PATH, StowRequest)
def ask(request: CurrentRequest) -> Response:
    """Show the form for a picture to try."""
    request.tasks.add_task(prepare)
    return _form(request)


@faces.page("POST", PATH, StowRequest, reads_form=True)
async def take_form(request: CurrentRequest) -> Response:
    """Receive a picture or a DICOM file, and redirect to the page of its result."""
    async with received(request, read_form) as form:
        return await run_in_threadpool(_take, request, form)


@faces.page("GET", PATH + "/{number}", StowRequest)
def follow(request: CurrentRequest, number: Number) -> Response:
    """Show how far a trial is, and its result when it has ended. ``number``: of the upload's audit record."""
    now = progress_of(request, number)
    study = next(iter(now["studies"]), None)
    if study is None or StudyState(study["state"]) in _UNDER_WAY:
        jobs = request.read(views.list_jobs, study_instance_uid=study["study"]) if study else []
        return request.page("trial.html", now=now, study=study, job=jobs[0] if jobs else None)
    request.note_sight(study["id"])
    shown = request.read(listing.show, request.settings, study["id"])
    lead, about = shown["lead"], None
    if lead is not None:
        found = request.read(pictures.find, request.settings, PictureKind.IMAGES, lead["id"])
        with suppress(NotFound):  # it does not decode: the reason of the study says so
            about = viewer.described(found) | {"frame": 1}
        lead["masks"] = request.read(viewer.masks, request.settings, study["id"], lead["uid"])
    over = next((layer for layer in lead["layers"] if layer["same_size"]), None) if lead else None
    return request.page(
        "trial_result.html",
        now=now,
        study=shown,
        image=lead if about else None,
        about=about,
        over=over,
        scores=request.read(trial_scores, request.settings, study["id"], shown["findings"]),
    )


def _take(request: ConsoleRequest, form: FormData) -> Response:
    """Store the one file of a form, and redirect to its page; show the form again if nothing of it is taken.

    A DICOM file is stored as an upload is: it is of a real patient, whose results must not stay away from the
    PACS because somebody tried it first.
    """
    sent = [one for one in form.getlist("files") if isinstance(one, UploadFile) and one.filename]
    shows = str(form.get("Shows", ""))
    if len(sent) != 1 or shows not in SHOWS:
        return _form(request, "Choose one file, and what it shows.", shows)
    [file] = sent
    intake, about = Intake.UPLOAD, dict.fromkeys(FIELDS, "")  # what a person says is of pictures alone
    if not is_dicom(file.file):
        intake = Intake.TRIAL
        modality, view = SHOWS[shows]
        about |= {"Modality": modality, "View": view, "StudyDescription": "Trial"}
    files = [(file.filename or "", file.file)]
    try:
        number, rows = take_files(
            request.site.database, request.settings, files, about, request.person, intake
        )
    except RequestRefused as error:
        return _form(request, str(error), shows)
    if all(row["refusal"] for row in rows):
        return _form(request, _refusals(rows), shows)
    return see_other(f"{PATH}/{number}")


def _refusals(rows: Sequence[Row]) -> str:
    """Return why the file was refused, or the first files of a ZIP."""
    if len(rows) == 1:
        why = str(rows[0]["refusal"])
        return why[:1].upper() + why[1:]
    return "; ".join(f"{row['name']}: {row['refusal']}" for row in rows[:3]) or "This ZIP has no file to try."


def _form(request: ConsoleRequest, problem: str = "", shows: str = "") -> Response:
    """Return the page with the form. ``problem``: why a file was refused; ``shows``: what it shows, as
    chosen, one of SHOWS.
    """
    return request.page(
        "try.html",
        400 if problem else 200,
        shows=shows,
        problem=problem,
        takers=takers_of(request.settings),
        largest=request.settings.console.upload_mib * 2**20,
    )
