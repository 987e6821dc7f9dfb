"""Who did what."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Since, needs
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import audit

router = APIRouter()

_PAGE = 100
Who = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f]*$")]


@router.get("/audit")
@needs(UserRole.ADMIN)
def show(asked: Asked, who: Who = "", what: AuditAction | Literal[""] = "", before: Since = None) -> Response:
    """List audit records, the newest first; of one person or of one kind where asked for."""
    with asked.site.database.read() as session:
        rows = audit.rows(session, before=before, limit=_PAGE + 1, actor=who.strip(), action=what or None)
        named = listing.named(session, [{"study_instance_uid": row["study"]} for row in rows])
    more = rows[_PAGE - 1]["number"] if len(rows) > _PAGE else None
    filters = {key: value for key, value in (("who", who.strip()), ("what", what)) if value}
    return asked.page(
        "audit.html",
        rows=rows[:_PAGE],
        more=more,
        first=before is None,
        named=named,
        filters=filters,
        kinds=sorted(AuditAction),
    )
