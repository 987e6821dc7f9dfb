"""Rules: their list, and what they or changed ones make of recent studies."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dicom_node.console.web.access import Asked, Visit, needs
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services.console import rules
from dicom_node.store.views import View

router = APIRouter(prefix="/rules")


@router.get("")
@needs(UserRole.VIEWER)
def list_rules(asked: Asked) -> Response:
    """The rules, and what they make of the newest studies."""
    with asked.site.database.read() as session:
        tried = rules.tried(session, asked.site.settings)
    return _page(asked, tried, rules.as_toml(asked.site.settings))


@router.post("/try")
@needs(UserRole.OPERATOR)
def try_rules(asked: Asked) -> Response:
    """The same with the rules of the form beside those in force; nothing is changed."""
    settings, text = asked.site.settings, asked.text("rules")
    try:
        other = rules.parsed(settings, text)
    except FaultyInput as error:
        return _page(asked, [], text, problem=str(error), status=400)
    with asked.site.database.read() as session:
        tried = rules.tried(session, settings, other)
    return _page(asked, tried, text, changed=True)


def _page(
    asked: Visit, tried: list[View], text: str, *, problem: str = "", changed: bool = False, status: int = 200
) -> Response:
    rows = rules.rules(asked.site.settings)
    return asked.page(
        "rules.html", status, rows=rows, tried=tried, text=text, problem=problem, changed=changed
    )
