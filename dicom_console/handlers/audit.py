"""Who did what."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Since, needs
from dicom_console.web.faces import ROWS, page_and_next
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import audit

router = APIRouter()

Who = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f]*$")]


@router.get("/audit")
@needs(UserRole.ADMIN)
def show(asked: Asked, who: Who = "", what: AuditAction | Literal[""] = "", before: Since = None) -> Response:
    """List audit records, the newest first; of one person or of one kind where asked for."""
    rows = asked.read(audit.rows, before=before, limit=ROWS + 1, actor=who.strip(), action=what or None)
    shown, more = page_and_next(rows, "number")
    filters = {key: value for key, value in (("who", who.strip()), ("what", what)) if value}
    return asked.page(
        "audit.html",
        rows=shown,
        more=more,
        first=before is None,
        named=asked.read(listing.named, [{"study_instance_uid": row["study"]} for row in shown]),
        filters=filters,
        kinds=sorted(AuditAction),
    )
