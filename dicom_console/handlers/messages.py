"""HL7 messages that came, and what peers have of patients under their former ID or data."""

from typing import Any

from fastapi import Response

from dicom_console.web.faces import ROWS, ConsoleRequest, CurrentRequest, Faces
from dicom_node.base.actions.nouns import MESSAGES
from dicom_node.people import Row, hl7_messages

faces = Faces()

list_messages = faces.list_of(hl7_messages.list_messages)


@faces.page_of(list_messages)
def _messages_page(request: ConsoleRequest, found: Any) -> Response:
    """Return the page of HL7 messages."""
    return request.list_page(MESSAGES, found)


@faces.handler("GET", "/former", hl7_messages.list_sent_under_former)
def list_former(request: CurrentRequest) -> list[Row]:
    """Return what was sent with an ID or data of the patient that HL7 changed since, the newest first."""
    request.note_list("former")
    return [Row(**row) for row in request.read(hl7_messages.list_sent_under_former, limit=ROWS)]


@faces.page_of(list_former)
def _former_page(request: ConsoleRequest, rows: list[Row]) -> Response:
    """Return the page of what was sent with a former ID or former data."""
    return request.page("former.html", rows=rows, named=request.named(rows))
