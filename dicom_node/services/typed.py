"""The base classes of typed requests and results, which command line, REST API and pages share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dicom_node.services.audit import LONGEST_REASON, SHORTEST_REASON, checked_reason

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


class ServiceResult(BaseModel):
    """The answer of a service; its keys can be read as those of a mapping."""

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)


class Row(ServiceResult):
    """The keys of ``dicom-node … list --json`` (docs/reference/lists.md), and further ones."""

    model_config = ConfigDict(extra="allow")


class ServiceRequest(BaseModel):
    """A request to a service; an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Because(ServiceRequest):
    """The reason that a person gives for a change; it must not contain names."""

    because: Annotated[
        str,
        Field(min_length=SHORTEST_REASON, max_length=LONGEST_REASON, pattern=PRINTABLE),
        # A refused one raises an error that says why.
        BeforeValidator(lambda text: checked_reason(text) if isinstance(text, str) else text),
    ]


class Done(ServiceResult):
    """How many results or jobs the request has changed, or results it has sent."""

    objects: int
