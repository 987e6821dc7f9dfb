"""Images: a received image with the node's results for it, and the content of a result."""

import json
from typing import Any

from fastapi import Response

from dicom_console.views import contents, listing, pictures, viewer
from dicom_console.views.pictures import PictureKind, Shown
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Number
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import UserRole
from dicom_node.people.pictures import image_view

faces = Faces()


@faces.page("GET", "/studies/images/{number}", UserRole.VIEWER)
def image(request: CurrentRequest, number: Number, frame: int = 1, layer: int = 0) -> Response:
    """Show one received image.

    ``number``: of the image; ``layer``: number of the result shown in its place, 0: the image as received.
    """
    shown = request.read(pictures.find, request.settings, PictureKind.IMAGES, number)
    found = request.read(image_view, request.settings, number)
    return _frame(
        request,
        "image.html",
        shown,
        frame,
        image=found | {"masks": request.read(viewer.masks, request.settings, found["study"], found["uid"])},
        layer=next((one for one in found["layers"] if one["id"] == layer), None),
        about=viewer.described(shown) | {"frame": frame},
    )


@faces.page("GET", "/studies/results/{number}/content", UserRole.VIEWER)
def content(request: CurrentRequest, number: Number) -> Response:
    """Show the content of a result object as a tree. ``number``: of the result."""
    shown = _find_and_note(request, PictureKind.RESULTS, number)
    study = request.read(listing.study_heading, request.settings, shown.study)
    tree, whole = contents.contents(shown.path)
    return request.page("content.html", shown=shown, study=study, number=number, tree=tree, whole=whole)


@faces.page("GET", "/studies/results/{number}", UserRole.VIEWER)
def result(request: CurrentRequest, number: Number, frame: int = 1) -> Response:
    """Show one frame of a result, with links to the other frames. ``number``: of the result."""
    shown = request.read(pictures.find, request.settings, PictureKind.RESULTS, number)
    return _frame(request, "result.html", shown, frame, number=number)


@faces.page("GET", "/studies/results/{number}/masks/{segment}", UserRole.VIEWER)
def mask(request: CurrentRequest, number: Number, segment: int, image: str = "") -> Response:
    """Return one segment of a segmentation as PNG, which the page lays over its image.

    ``number``: of the result. ``image``: SOP Instance UID of the image, for masks of several.
    """
    shown = _find_and_note(request, PictureKind.RESULTS, number)
    return Response(viewer.mask_png(shown, segment, image), media_type="image/png")


@faces.page("GET", "/studies/{which}/{number}/{frame}/samples", UserRole.VIEWER)
def frame_samples(request: CurrentRequest, which: PictureKind, number: Number, frame: int) -> Response:
    """Return the sample values of a frame; the header X-Samples describes them in JSON (``views.viewer``)."""
    found = viewer.samples(_find_and_note(request, which, number), frame)
    headers = {"X-Samples": json.dumps(found.about)}
    return Response(found.data, media_type="application/octet-stream", headers=headers)


@faces.page("GET", "/studies/{which}/{number}/{frame}", UserRole.VIEWER)
def png(
    request: CurrentRequest, which: PictureKind, number: Number, frame: int, longest: int = pictures.LARGEST
) -> Response:
    """Return one frame of a received image or a result as PNG.

    ``longest``: pixels of its longer side, at most.
    """
    shown = _find_and_note(request, which, number)
    return Response(pictures.png(shown, frame, longest), media_type="image/png")


def _find_and_note(request: ConsoleRequest, which: PictureKind, number: int) -> Shown:
    """Return the object ``number``, after recording in the audit that the person sees its study.

    Raises NotFound.
    """
    shown = request.read(pictures.find, request.settings, which, number)
    request.note_sight(shown.study)
    return shown


def _frame(request: ConsoleRequest, template: str, shown: Shown, frame: int, **values: Any) -> Response:
    """Return the page of one frame (from 1), after recording in the audit that the person sees the study.

    Raises NotFound if there is no such frame.
    """
    request.note_sight(shown.study)
    frames = pictures.frames(shown)
    if not 1 <= frame <= frames:
        raise NotFound("there is no such frame")
    study = request.read(listing.study_heading, request.settings, shown.study)
    return request.page(template, shown=shown, study=study, frame=frame, frames=frames, **values)
