"""Models: their cards, what they did lately, and which is in use."""

from __future__ import annotations

import threading

from fastapi import APIRouter, HTTPException, Response

from dicom_node import services
from dicom_node.console.web.access import Asked, needs, see_other
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.services.console import models
from dicom_node.services.console.studies import feedback, subgroups

router = APIRouter(prefix="/models")

_place = threading.Lock()  # a model is tried in a process of its own, with all its memory


@router.get("")
@needs(UserRole.VIEWER)
def list_models(asked: Asked) -> Response:
    """All models."""
    settings = asked.site.settings
    shadow = models.shadow(settings)
    return asked.page(
        "models.html",
        shadow=shadow,
        compared=services.model_comparison(settings) if shadow else [],
        rows=models.models(settings),
        used=models.active(settings),
        history=models.history(settings),
        models_dir=settings.workers.models_dir is not None,
    )


@router.get("/{identifier}/{version}")
@needs(UserRole.VIEWER)
def show(asked: Asked, identifier: str, version: str) -> Response:
    """One model."""
    settings = asked.site.settings
    with asked.site.database.read() as session:
        counts = feedback.counts(session, identifier, version)
        groups = subgroups.counts(session, identifier, version)
    return asked.page(
        "model.html", counts=counts, groups=groups, model=models.model(settings, identifier, version),
        drift=models.drift(settings, identifier, version), used=models.active(settings),
    )  # fmt: skip


@router.get("/{identifier}/{version}/feedback.csv")
@needs(UserRole.READER)
def export(asked: Asked, identifier: str, version: str) -> Response:
    """What was said of its findings, as a file."""
    audit.note_export(asked.site.database, asked.person, "feedback")
    with asked.site.database.read() as session:
        rows = feedback.rows(session, model=identifier, version=version)
    attached = {"Content-Disposition": 'attachment; filename="feedback.csv"'}
    return Response(feedback.as_csv(rows), media_type="text/csv; charset=utf-8", headers=attached)


@router.post("/{identifier}/{version}/activate")
@needs(UserRole.ADMIN)
def activate(asked: Asked, identifier: str, version: str) -> Response:
    """Try the model, and let a pipeline use it."""
    pipeline, name = asked.text("pipeline")[:64], f"{identifier}@{version}"
    if not _place.acquire(blocking=False):
        raise HTTPException(503, "Another model is being tried: wait until it is done.")
    try:
        models.activate(asked.site.settings, pipeline, name, asked.person)
    finally:
        _place.release()
    return see_other("/models")


@router.post("/{pipeline}/rollback")
@needs(UserRole.ADMIN)
def roll_back(asked: Asked, pipeline: str) -> Response:
    """Back to the model before."""
    models.roll_back(asked.site.settings, pipeline, asked.person)
    return see_other("/models")
