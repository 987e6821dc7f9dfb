"""Trials: a person drops a picture, and sees what the AI says of it; nothing of it is sent."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fastapi import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from dicom_console.handlers.uploads import described, progress_of, received, takers_of
from dicom_console.views import listing, pictures, viewer
from dicom_console.views.models import trial_scores
from dicom_console.views.pictures import PictureKind
from dicom_console.web.access import read_form
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number, see_other
from dicom_node.base.errors import RequestRefused
from dicom_node.base.lifecycle import Intake, StudyState
from dicom_node.base.store import views
from dicom_node.people.described import VIEWS
from dicom_node.people.stow import StowRequest
from dicom_node.people.uploads import is_dicom, prepare, take_files

faces = Faces()

PATH: Final = "/try"
MODALITIES: Final = ("DX", "US")
"""What a picture may be: a film of the chest, or ultrasound."""
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
        about = viewer.described(found) | {"frame": 1}
        lead["masks"] = request.read(viewer.masks, request.settings, study["id"], lead["uid"])
    over = next((layer for layer in lead["layers"] if layer["same_size"]), None) if lead else None
    return request.page(
        "trial_result.html",
        now=now,
        study=shown,
        image=lead,
        about=about,
        over=over,
        scores=request.read(trial_scores, request.settings, study["id"]),
    )


def _take(request: ConsoleRequest, form: FormData) -> Response:
    """Store the one file of a form, and redirect to its page; show the form again if it is refused.

    A DICOM file is stored as an upload is: it is of a real patient, whose results must not stay away from the
    PACS because somebody tried it first.
    """
    sent = [one for one in form.getlist("files") if isinstance(one, UploadFile) and one.filename]
    given = described(form)
    if len(sent) != 1 or given["Modality"] not in MODALITIES:
        return _form(request, "Choose one file, and what it shows.", given)
    [file] = sent
    intake, about = Intake.UPLOAD, dict.fromkeys(given, "")  # what a person says is of pictures alone
    if not is_dicom(file.file):
        intake = Intake.TRIAL
        about |= {"Modality": given["Modality"], "View": given["View"], "StudyDescription": "Trial"}
    files = [(file.filename or "", file.file)]
    try:
        number, rows = take_files(
            request.site.database, request.settings, files, about, request.person, intake
        )
    except RequestRefused as error:
        return _form(request, str(error), given)
    refusal = next((row["refusal"] for row in rows if row["refusal"]), "")
    return _form(request, refusal, given) if refusal else see_other(f"{PATH}/{number}")


def _form(
    request: ConsoleRequest, problem: str = "", given: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """Return the page with the form. ``problem``: why a file was refused; ``given``: the fields as chosen."""
    return request.page(
        "try.html",
        400 if problem else 200,
        choices={"View": VIEWS},
        given=given,
        problem=problem,
        takers=takers_of(request.settings),
        largest=request.settings.console.upload_mib * 2**20,
    )
