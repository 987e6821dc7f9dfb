"""Models: their cards, their recent use, and the active model of each pipeline."""

from threading import Semaphore

from fastapi import Response

from dicom_console.views import models
from dicom_console.web.faces import Asked, Faces, one_of, see_other
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import configured as used
from dicom_node.people import reviews

faces = Faces()

_place = Semaphore(1)  # a model is tried in a process of its own, with all its memory


@faces.page("GET", "/models", UserRole.VIEWER)
def list_models(asked: Asked) -> Response:
    """All models."""
    return asked.page(
        "models.html",
        rows=models.models(asked.settings),
        used=used.models_in_use(asked.settings),
        history=models.history(asked.settings),
        models_dir=asked.settings.workers.models_dir is not None,
    )


@faces.page("GET", "/models/{identifier}/{version}", UserRole.VIEWER)
def show(asked: Asked, identifier: str, version: str) -> Response:
    """One model, with the drift of its scores for each sender as in ``models drift``."""
    return asked.page(
        "model.html",
        counts=asked.read(reviews.counts_by_finding, identifier, version),
        model=models.model(asked.settings, identifier, version),
        drift=[
            row
            for row in used.model_drift(asked.settings)
            if (row["model"], row["version"]) == (identifier, version)
        ],
    )


@faces.page("POST", "/models/{identifier}/{version}/activate", UserRole.ADMIN)
def activate(asked: Asked, identifier: str, version: str) -> Response:
    """Try the model, and let a pipeline use it."""
    pipeline, name = asked.text("pipeline")[:64], f"{identifier}@{version}"
    with one_of(_place, "Another model is being tried: wait until it is done."):
        used.activate_model(asked.settings, pipeline, name, asked.person)
    return see_other("/models")


@faces.page("POST", "/models/{pipeline}/rollback", UserRole.ADMIN)
def roll_back(asked: Asked, pipeline: str) -> Response:
    """Let a pipeline use the model that was active before."""
    used.roll_back_model(asked.settings, pipeline, asked.person)
    return see_other("/models")
