"""Who did what."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dicom_node.console.web.access import Asked, Since, needs
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.services.console.studies import listing

router = APIRouter()

_PAGE = 100


@router.get("/audit")
@needs(UserRole.ADMIN)
def show(asked: Asked, before: Since = None) -> Response:
    """The newest first."""
    with asked.site.database.read() as session:
        rows = audit.rows(session, before=before, limit=_PAGE + 1)
        named = listing.named(session, [{"study_instance_uid": row["study"]} for row in rows])
    more = rows[_PAGE - 1]["number"] if len(rows) > _PAGE else None
    return asked.page("audit.html", rows=rows[:_PAGE], more=more, first=before is None, named=named)
