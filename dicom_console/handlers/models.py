"""Models: their cards, their recent use, and the active model of each pipeline."""

from __future__ import annotations

import threading

from fastapi import APIRouter, HTTPException, Response

from dicom_console.views import models
from dicom_console.web.access import Asked, needs, see_other
from dicom_node.model.roles import UserRole
from dicom_node.services import assessments, audit
from dicom_node.services import models as used

router = APIRouter(prefix="/models")

_place = threading.Lock()  # a model is tried in a process of its own, with all its memory


@router.get("")
@needs(UserRole.VIEWER)
def list_models(asked: Asked) -> Response:
    """All models."""
    settings = asked.site.settings
    return asked.page(
        "models.html",
        rows=models.models(settings),
        used={one.slot: one.model for one in used.in_use(settings)},
        history=models.history(settings),
        models_dir=settings.workers.models_dir is not None,
    )


@router.get("/{identifier}/{version}")
@needs(UserRole.VIEWER)
def show(asked: Asked, identifier: str, version: str) -> Response:
    """One model."""
    settings = asked.site.settings
    with asked.site.database.read() as session:
        counts = assessments.counts_by_finding(session, identifier, version)
        groups = assessments.counts_by_group(session, identifier, version)
    return asked.page(
        "model.html",
        counts=counts,
        groups=groups,
        model=models.model(settings, identifier, version),
        drift=models.drift(settings, identifier, version),
    )


@router.get("/{identifier}/{version}/feedback.csv")
@needs(UserRole.READER)
def export(asked: Asked, identifier: str, version: str) -> Response:
    """The readers' assessments of this model's findings, as a CSV file."""
    audit.note_export(asked.site.database, asked.person, "feedback")
    with asked.site.database.read() as session:
        rows = assessments.all_assessments(session, model=identifier, version=version)
    attached = {"Content-Disposition": 'attachment; filename="feedback.csv"'}
    return Response(assessments.as_csv(rows), media_type="text/csv; charset=utf-8", headers=attached)


@router.post("/{identifier}/{version}/activate")
@needs(UserRole.ADMIN)
def activate(asked: Asked, identifier: str, version: str) -> Response:
    """Try the model, and let a pipeline use it."""
    pipeline, name = asked.text("pipeline")[:64], f"{identifier}@{version}"
    if not _place.acquire(blocking=False):
        raise HTTPException(503, "Another model is being tried: wait until it is done.")
    try:
        used.activate(asked.site.settings, pipeline, name, asked.person)
    finally:
        _place.release()
    return see_other("/models")


@router.post("/{pipeline}/rollback")
@needs(UserRole.ADMIN)
def roll_back(asked: Asked, pipeline: str) -> Response:
    """Let a pipeline use the model that was active before."""
    used.roll_back(asked.site.settings, pipeline, asked.person)
    return see_other("/models")
