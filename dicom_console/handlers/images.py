"""Images: a received image with the node's results for it, and the content of a result."""

import json
from typing import Any

from fastapi import Response

from dicom_console.views import contents, listing, pictures, viewer
from dicom_console.views.pictures import PictureKind, Shown
from dicom_console.web.faces import Asked, Faces, Number, Visit
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import audit
from dicom_node.people import studies as received

faces = Faces()


@faces.page("GET", "/studies/images/{number}", UserRole.VIEWER)
def image(asked: Asked, number: Number, frame: int = 1, layer: int = 0) -> Response:
    """Show one received image; ``layer``: number of the result shown in its place, 0: the image as
    received.
    """
    shown = asked.read(pictures.find, asked.settings, PictureKind.IMAGES, number)
    found = asked.read(received.image_view, asked.settings, number)
    return _frame(
        asked,
        "image.html",
        shown,
        frame,
        image=found | {"masks": asked.read(viewer.masks, asked.settings, found["study"], found["uid"])},
        layer=next((one for one in found["layers"] if one["id"] == layer), None),
        about=viewer.described(shown) | {"frame": frame},
    )


@faces.page("GET", "/studies/results/{number}/content", UserRole.VIEWER)
def content(asked: Asked, number: Number) -> Response:
    """Show the content of a result object."""
    shown = _seen(asked, PictureKind.RESULTS, number)
    study = asked.read(listing.study_heading, asked.settings, shown.study)
    tree, whole = contents.contents(shown.path)
    return asked.page("content.html", shown=shown, study=study, number=number, tree=tree, whole=whole)


@faces.page("GET", "/studies/results/{number}", UserRole.VIEWER)
def result(asked: Asked, number: Number, frame: int = 1) -> Response:
    """Show one frame of a result, with links to the other frames."""
    shown = asked.read(pictures.find, asked.settings, PictureKind.RESULTS, number)
    return _frame(asked, "result.html", shown, frame, number=number)


@faces.page("GET", "/studies/results/{number}/masks/{segment}", UserRole.VIEWER)
def mask(asked: Asked, number: Number, segment: int) -> Response:
    """A segment of a segmentation, to lie on its image."""
    shown = _seen(asked, PictureKind.RESULTS, number)
    return Response(viewer.mask_png(shown, segment), media_type="image/png")


@faces.page("GET", "/studies/{which}/{number}/{frame}/samples", UserRole.VIEWER)
def frame_samples(asked: Asked, which: PictureKind, number: Number, frame: int) -> Response:
    """The real samples of a frame, described in the header X-Samples (``views.viewer``)."""
    found = viewer.samples(_seen(asked, which, number), frame)
    headers = {"X-Samples": json.dumps(found.about)}
    return Response(found.data, media_type="application/octet-stream", headers=headers)


@faces.page("GET", "/studies/{which}/{number}/{frame}", UserRole.VIEWER)
def png(
    asked: Asked, which: PictureKind, number: Number, frame: int, longest: int = pictures.LARGEST
) -> Response:
    """The frame itself, of a received image or of a result."""
    shown = _seen(asked, which, number)
    return Response(pictures.png(shown, frame, longest), media_type="image/png")


def _seen(asked: Visit, which: PictureKind, number: int) -> Shown:
    """What has pixels; the audit says that the person sees its study. Raises NotFound."""
    shown = asked.read(pictures.find, asked.settings, which, number)
    audit.note_sight(asked.site.database, asked.person, shown.study)
    return shown


def _frame(asked: Visit, template: str, shown: Shown, frame: int, **values: Any) -> Response:
    audit.note_sight(asked.site.database, asked.person, shown.study)
    frames = pictures.frames(shown)
    if not 1 <= frame <= frames:
        raise NotFound("there is no such frame")
    study = asked.read(listing.study_heading, asked.settings, shown.study)
    return asked.page(template, shown=shown, study=study, frame=frame, frames=frames, **values)
