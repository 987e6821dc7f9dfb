"""Models: their cards, their recent use, and the active model of each pipeline."""

from threading import Semaphore

from fastapi import Response

from dicom_console.views import models
from dicom_console.web.faces import CurrentRequest, Faces, one_of, see_other
from dicom_node.people import site_models, verdicts

faces = Faces()

_place = Semaphore(1)  # a model is tried in a process of its own, with all its memory


@faces.page("GET", "/models", site_models.list_models)
def list_models(request: CurrentRequest) -> Response:
    """Show all installed models, and which pipeline uses which."""
    return request.page(
        "models.html",
        rows=models.models(request.settings),
        used=site_models.models_in_use(request.settings),
        history=models.history(request.settings),
        models_dir=request.settings.workers.models_dir is not None,
    )


@faces.page("GET", "/models/{identifier}/{version}", site_models.model_drift)
def show(request: CurrentRequest, identifier: str, version: str) -> Response:
    """Show one model: its model card, readers' verdicts, and the drift of its scores for each sender."""
    return request.page(
        "model.html",
        counts=request.read(verdicts.counts_by_finding, identifier, version),
        model=models.model(request.settings, identifier, version),
        drift=[
            row
            for row in site_models.model_drift(request.settings)
            if (row["model"], row["version"]) == (identifier, version)
        ],
    )


@faces.page("POST", "/models/{identifier}/{version}/activate", site_models.activate_model)
def activate(request: CurrentRequest, identifier: str, version: str) -> Response:
    """Test the model, and let the pipeline named in the form use it from now on."""
    pipeline, name = request.text("pipeline")[:64], f"{identifier}@{version}"
    with one_of(_place, "Another model is being tried: wait until it is done."):
        site_models.activate_model(request.settings, pipeline, name, request.person)
    return see_other("/models")


@faces.page("POST", "/models/{pipeline}/rollback", site_models.roll_back_model)
def roll_back(request: CurrentRequest, pipeline: str) -> Response:
    """Let a pipeline use the model again that it used before its present one."""
    site_models.roll_back_model(request.settings, pipeline, request.person)
    return see_other("/models")
