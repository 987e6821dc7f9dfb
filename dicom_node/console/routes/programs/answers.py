"""What the endpoints of the REST API share: their place, errors, and rows of lists."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from dicom_node.console.web.access import API
from dicom_node.services import work

VERSION = f"{API}v1"
Printable = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, Path(max_length=64, pattern=Printable)]
"""Of a peer or a rule."""


class ErrorText(BaseModel):
    """Why it was not done."""

    error: str


class Row(BaseModel):
    """The keys of ``dicom-node … list --json`` (docs/admin.md), and further ones."""

    model_config = ConfigDict(extra="allow")


class Asking(BaseModel):
    """What a program sends: a key that is unknown is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Because(Asking):
    """Why, without names."""

    because: str = Field(min_length=work.SHORTEST, max_length=work.LONGEST, pattern=Printable)


class Done(BaseModel):
    """How many objects it concerns."""

    objects: int


STATUSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorText, "description": "The address or the body cannot be read"},
    401: {"model": ErrorText, "description": "No token, or one that is not valid"},
    403: {"model": ErrorText, "description": "The user of this token may not do this"},
    404: {"model": ErrorText, "description": "There is no such thing"},
    409: {"model": ErrorText, "description": "Its state does not allow this now"},
    503: {"model": ErrorText, "description": "Database away, or too much at once: try again"},
}
