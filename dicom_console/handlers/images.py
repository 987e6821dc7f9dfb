"""Images: a received image with the node's results for it, and the content of a result."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Response

from dicom_console.views import contents, listing, masks, pictures, samples
from dicom_console.views.pictures import PictureKind, Shown
from dicom_console.web.access import Asked, Number, Visit, needs
from dicom_node.errors import NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.services import images as received

router = APIRouter(prefix="/studies")


@router.get("/images/{number}")
@needs(UserRole.VIEWER)
def image(asked: Asked, number: Number, frame: int = 1, layer: int = 0, beside: int = 0) -> Response:
    """Show one received image; ``layer``: number of the result shown in its place, 0: the image as
    received. ``beside``: number of an image of an earlier study of the patient.
    """
    site = asked.site
    with site.database.read() as session:
        shown = pictures.find(session, site.settings, PictureKind.IMAGES, number)
        found = received.view(session, site.settings, number)
        found["masks"] = masks.masks(session, site.settings, found["study"], found["uid"])
        earlier = received.earlier(session, number)
        prior = next((one for one in earlier if one["id"] == beside), None)
        past = received.view(session, site.settings, beside) | {"masks": []} if prior else None
        past_file = pictures.find(session, site.settings, PictureKind.IMAGES, beside) if prior else None
    chosen = next((one for one in found["layers"] if one["id"] == layer), None)
    about = samples.described(shown, site.settings) | {"frame": frame}
    past_about = samples.described(past_file, site.settings) | {"frame": 1} if past_file else None
    if past_file:
        audit.note_sight(site.database, asked.person, past_file.study)
    return _frame(
        asked,
        "image.html",
        shown,
        frame,
        image=found,
        layer=chosen,
        about=about,
        earlier=earlier,
        prior=prior,
        past=past,
        past_about=past_about,
    )


@router.get("/results/{number}/content")
@needs(UserRole.VIEWER)
def content(asked: Asked, number: Number) -> Response:
    """Show the content of a result object."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, PictureKind.RESULTS, number)
        study = listing.study_heading(session, asked.site.settings, shown.study)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    tree, whole = contents.contents(shown.path)
    return asked.page("content.html", shown=shown, study=study, number=number, tree=tree, whole=whole)


@router.get("/results/{number}")
@needs(UserRole.VIEWER)
def result(asked: Asked, number: Number, frame: int = 1) -> Response:
    """Show one frame of a result, with links to the other frames."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, PictureKind.RESULTS, number)
    return _frame(asked, "result.html", shown, frame, number=number)


@router.get("/results/{number}/masks/{segment}")
@needs(UserRole.VIEWER)
def mask(asked: Asked, number: Number, segment: int) -> Response:
    """A segment of a segmentation, to lie on its image."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, PictureKind.RESULTS, number)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    return Response(masks.mask_png(shown, segment), media_type="image/png")


@router.get("/{which}/{number}/{frame}/samples")
@needs(UserRole.VIEWER)
def frame_samples(asked: Asked, which: PictureKind, number: Number, frame: int) -> Response:
    """The real samples of a frame, described in the header X-Samples (``views.samples``)."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, which, number)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    found = samples.samples(shown, asked.site.settings, frame)
    headers = {"X-Samples": json.dumps(found.about)}
    return Response(found.data, media_type="application/octet-stream", headers=headers)


@router.get("/{which}/{number}/{frame}")
@needs(UserRole.VIEWER)
def png(
    asked: Asked, which: PictureKind, number: Number, frame: int, longest: int = pictures.LARGEST
) -> Response:
    """The frame itself, of a received image or of a result."""
    with asked.site.database.read() as session:
        shown = pictures.find(session, asked.site.settings, which, number)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    return Response(pictures.png(shown, asked.site.settings, frame, longest), media_type="image/png")


def _frame(asked: Visit, template: str, shown: Shown, frame: int, **values: Any) -> Response:
    audit.note_sight(asked.site.database, asked.person, shown.study)
    frames = pictures.frames(shown, asked.site.settings)
    if not 1 <= frame <= frames:
        raise NotFound("there is no such frame")
    with asked.site.database.read() as session:
        study = listing.study_heading(session, asked.site.settings, shown.study)
    return asked.page(template, shown=shown, study=study, frame=frame, frames=frames, **values)
