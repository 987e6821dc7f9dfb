"""Rules: their list, and what they or changed ones make of recent studies."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dicom_node.console.web.access import Asked, Visit, needs
from dicom_node.errors import ChangedMeanwhile, FaultyInput, NotAllowedNow
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered
from dicom_node.services.console import rules
from dicom_node.services.console.studies import listing
from dicom_node.store.views import View

router = APIRouter(prefix="/rules")

_SAMPLE = 'name = ""\nwhen = { modality = "US" }\npipeline = "ultrasound"\nsend_to = []\n'


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


@router.get("/new")
@needs(UserRole.ADMIN)
def new(asked: Asked) -> Response:
    """An empty form."""
    return _form(asked, "", _SAMPLE, 0)


@router.post("/new")
@needs(UserRole.ADMIN)
def add(asked: Asked) -> Response:
    """Try the rule of the form, or add it."""
    return _saved(asked, "")


@router.get("/{name}/change")
@needs(UserRole.ADMIN)
def change(asked: Asked, name: str) -> Response:
    """A form with what it is now."""
    row = entered.of(asked.site.settings, "rules", name)
    return _form(asked, name, row["keys"], row["version"])


@router.post("/{name}/change")
@needs(UserRole.ADMIN)
def save(asked: Asked, name: str) -> Response:
    """Try the form, or save it, unless somebody else did meanwhile."""
    return _saved(asked, name)


@router.post("/{name}/remove")
@needs(UserRole.ADMIN)
def remove(asked: Asked, name: str) -> Response:
    """Take it out."""
    entered.remove(asked.site.settings, "rules", name, asked.number("version"), asked.person)
    return asked.in_force(f"{name} is removed.", "/rules")


def _saved(asked: Visit, name: str) -> Response:
    settings, text, version = asked.site.settings, asked.text("rule"), asked.number("version")
    try:
        content = entered.parsed("rules", text)
        if name and content["name"] != name:
            raise FaultyInput(f"the name of a rule stays: {name}")
        if asked.text("act") == "try":
            with asked.site.database.read() as session:
                tried = rules.tried(session, settings, rules.with_rule(settings, content))
            return _form(asked, name, text, version, tried=tried)
        saved = entered.save(settings, "rules", content, version, asked.person)
    except (FaultyInput, NotAllowedNow, ChangedMeanwhile) as error:
        status = 400 if isinstance(error, FaultyInput) else 409
        return _form(asked, name, text, version, problem=str(error), status=status)
    return asked.in_force(f"{saved} is saved.", "/rules")


def _form(
    asked: Visit,
    name: str,
    text: str,
    version: int,
    *,
    tried: list[View] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    return asked.page(
        "rule_form.html",
        status,
        name=name,
        text=text,
        edition=version,
        tried=tried,
        named=_named(asked, tried or []),
        problem=problem,
    )


def _page(
    asked: Visit, tried: list[View], text: str, *, problem: str = "", changed: bool = False, status: int = 200
) -> Response:
    rows = rules.rules(asked.site.settings)
    with asked.site.database.read() as session:
        known = entered.listed(session, "rules")
    return asked.page(
        "rules.html",
        status,
        entered=known,
        rows=rows,
        tried=tried,
        named=_named(asked, tried),
        text=text,
        problem=problem,
        changed=changed,
    )


def _named(asked: Visit, tried: list[View]) -> dict[str, View]:
    """How the list names these studies, with their Patient IDs: who sees it is noted."""
    if tried:
        audit.note_list(asked.site.database, asked.person, "rules")
    with asked.site.database.read() as session:
        return listing.named(session, tried)
