"""The first page: the present state of the node, and what needs a person's attention."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dicom_console.views import overview
from dicom_console.web.access import Asked, needs
from dicom_node.model.roles import UserRole

router = APIRouter()


@router.get("/")
@needs(UserRole.VIEWER)
def show(asked: Asked) -> Response:
    """Show counts, each with a link to its list."""
    with asked.site.database.read() as session:
        found = overview.overview(session, asked.site.settings)
    return asked.page("overview.html", now=found)
