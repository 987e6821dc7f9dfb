"""Rules: the list, the form of a rule, and a trial of rules on recent studies."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response

from dicom_console.forms import rule as form
from dicom_console.handlers.entered import add_handlers, put
from dicom_console.views import listing
from dicom_console.web.faces import Asked, Faces, Keys, Name, Visit
from dicom_console.web.languages import SAVED
from dicom_node.base.config.settings import RuleSettings
from dicom_node.base.errors import ConfigProblem, FaultyInput, HoldUndercut, NotAllowedNow
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import Row, audit, configured
from dicom_node.people.configured import Warned

faces = Faces()
add_handlers(faces, "rules")


@faces.handler("GET", "/rules", UserRole.VIEWER)
def list_rules(asked: Asked) -> list[Row]:
    """The rules in their order."""
    return [Row(**row) for row in configured.list_rules(asked.settings)]


@faces.page_of(list_rules)
def _rules_page(asked: Visit, shown: list[Row]) -> Response:
    """The rules, and what they make of the newest studies."""
    tried = asked.read(configured.try_rules, asked.settings)
    conditions = {key: label for key, (label, _) in form.CONDITIONS.items()}
    return asked.page(
        "rules.html", rows=shown, conditions=conditions, tried=tried, named=_named(asked, tried)
    )


@faces.handler("POST", "/rules/{name}/try", UserRole.OPERATOR)
def try_rule(asked: Asked, name: Name, keys: Keys) -> list[Row]:
    """What the rules with this one would make of the newest studies; nothing is changed."""
    other = configured.check_entry(
        asked.settings, "rules", configured.from_keys("rules", name, keys)
    ).settings
    return [Row(**row) for row in asked.read(configured.try_rules, asked.settings, other)]


@faces.page("GET", "/rules/new", UserRole.ADMIN)
def new(asked: Asked) -> Response:
    """An empty form."""
    return _form(asked, "", 0, {})


@faces.page("GET", "/rules/{name}/change", UserRole.ADMIN)
def change(asked: Asked, name: str) -> Response:
    """Show the form filled in with the rule's present settings."""
    row = configured.show_entry(asked.settings, "rules", name)
    text = configured.as_text("rules", row["content"])
    return _form(asked, name, row["version"], form.as_form(row["content"]), text=text)


def _checked(
    asked: Visit, name: str, content: Mapping[str, Any], version: int, problems: list[ConfigProblem]
) -> Warned:
    """The warnings of a rule that is entered as ``name``, "" for one more.

    Raises FaultyInput (every mistake, with those that the form found), NotAllowedNow.
    """
    found = [*problems]
    try:
        warned = configured.check_entry(asked.settings, "rules", content, version)
    except FaultyInput as error:
        if not error.problems:
            raise
        named = {problem.key for problem in problems}  # in the words of the form
        found += [problem for problem in error.problems if problem.key not in named]
    except NotAllowedNow as error:
        if name:
            raise
        found.append(ConfigProblem("", f"rules.{content['name']}.name", "", str(error)))
    if found:
        raise FaultyInput("", found)
    return warned


@faces.page("POST", "/rules/new", UserRole.ADMIN)
@faces.page("POST", "/rules/{name}/change", UserRole.ADMIN)
def save(asked: Asked) -> Response:
    """Try the rule of the form, or save it, unless somebody else did meanwhile."""
    name = asked.request.path_params.get("name", "")
    saves, version, fields = asked.text("act") == "save", asked.number("version"), asked.fields()
    content, problems = form.as_content(fields, name)
    text = "" if problems else configured.as_text("rules", content)
    try:
        warned = _checked(asked, name, content, version, problems)
        rule = RuleSettings.model_validate(content).model_dump(mode="json")
        mark = hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()
        confirmed = bool(asked.text("despite_hold"))
        if saves and asked.text("tried") == mark and (confirmed or not warned.undercut):
            saved = put(asked, "rules", content, version, despite_hold=confirmed)
            return asked.in_force(SAVED, "/rules", *saved["warnings"], name=saved["name"])
        tried = asked.read(configured.try_rules, asked.settings, warned.settings)
    except FaultyInput as error:
        return _form(asked, name, version, fields, text=text, error=error, status=400)
    except (NotAllowedNow, HoldUndercut) as error:
        refused = FaultyInput(str(error))
        return _form(asked, name, version, fields, text=text, error=refused, status=409)
    return _form(asked, name, version, fields, text=text, tried=tried, mark=mark, unseen=saves, warned=warned)


def _form(
    asked: Visit,
    name: str,
    version: int,
    fields: Mapping[str, Sequence[str]],
    *,
    text: str = "",
    tried: list[View] | None = None,
    mark: str = "",
    unseen: bool = False,
    warned: Warned | None = None,
    error: FaultyInput | None = None,
    status: int = 200,
) -> Response:
    """``text``: its lines of the file; ``unseen``: it was to be saved before anybody saw its effect."""
    return asked.page(
        "rule_form.html",
        status,
        name=name,
        edition=version,
        text=text,
        tried=tried,
        mark=mark,
        unseen=unseen,
        warned=warned,
        named=_named(asked, tried or []),
        **form.page(asked.settings, fields, name, error),
    )


def _named(asked: Visit, tried: list[View]) -> dict[str, View]:
    """How the list names these studies, with their Patient IDs: who sees it is noted."""
    if tried:
        audit.note_list(asked.site.database, asked.person, "rules")
    return asked.read(listing.named, tried)
