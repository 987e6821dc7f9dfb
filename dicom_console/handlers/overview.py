"""The first page: the present state of the node, and what needs a person's attention."""

from __future__ import annotations

from fastapi import Response

from dicom_console.views import overview
from dicom_console.web.faces import Asked, Faces
from dicom_node.model.roles import UserRole

faces = Faces()


@faces.page("GET", "/", UserRole.VIEWER)
def show(asked: Asked) -> Response:
    """Show counts, each with a link to its list."""
    return asked.page("overview.html", now=asked.read(overview.overview, asked.settings))
