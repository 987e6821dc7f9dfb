"""Rules: the list, the form of a rule, and a trial of rules on recent studies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response

from dicom_console.forms import rule as form
from dicom_console.handlers.entered import add_handlers, put
from dicom_console.views import listing
from dicom_console.web.faces import Asked, Faces, Keys, Name, Visit
from dicom_console.web.languages import SAVED
from dicom_node.config.settings import RuleSettings, Settings
from dicom_node.errors import ChangedMeanwhile, ConfigProblem, FaultyInput, HoldUndercut, NotAllowedNow
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered, rules
from dicom_node.services.entered import Warned
from dicom_node.services.rules import RuleRow, RuleTrial
from dicom_node.store.views import View

faces = Faces()
add_handlers(faces, "rules")


@faces.handler("GET", "/rules", UserRole.VIEWER)
def list_rules(asked: Asked) -> list[RuleRow]:
    """The rules in their order."""
    return [RuleRow(**row) for row in rules.listed(asked.settings)]


@faces.page_of(list_rules)
def _rules_page(asked: Visit, shown: list[RuleRow]) -> Response:
    """The rules, and what they make of the newest studies."""
    return _page(asked, shown, asked.read(rules.tried, asked.settings), rules.as_toml(asked.settings))


@faces.handler("POST", "/rules/{name}/try", UserRole.OPERATOR)
def try_rule(asked: Asked, name: Name, keys: Keys) -> list[RuleTrial]:
    """What the rules with this one would make of the newest studies; nothing is changed."""
    other = rules.with_rule(asked.settings, entered.from_keys("rules", name, keys))
    return [RuleTrial(**row) for row in asked.read(rules.tried, asked.settings, other)]


@faces.page("POST", "/rules/try", UserRole.OPERATOR)
def try_rules(asked: Asked) -> Response:
    """Apply the rules in force, and the rules of the form, to the newest studies; nothing is changed."""
    text = asked.text("rules")
    try:
        other = rules.parsed(asked.settings, text)
    except FaultyInput as error:
        return _page(asked, list_rules(asked), [], text, problem=str(error))
    return _page(asked, list_rules(asked), asked.read(rules.tried, asked.settings, other), text, changed=True)


@faces.page("GET", "/rules/new", UserRole.ADMIN)
def new(asked: Asked) -> Response:
    """An empty form."""
    return _form(asked, _Draft("", 0))


@faces.page("GET", "/rules/{name}/change", UserRole.ADMIN)
def change(asked: Asked, name: str) -> Response:
    """Show the form filled in with the rule's present settings."""
    row = entered.show_entry(asked.settings, "rules", name)
    return _form(
        asked,
        _Draft(
            name,
            row["version"],
            form.as_form(row["content"]),
            entered.as_text("rules", row["content"]),
        ),
    )


@dataclass(slots=True)
class _Draft:
    """A rule that a person writes, in fields and as text. ``name``: "" for one more."""

    name: str
    version: int
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    text: str = ""
    by_text: bool = False
    """Whether the text counts, and not the fields."""
    is_typed: bool = False
    """Whether a person changed the text: it is not written anew from the fields."""

    def content(self) -> tuple[dict[str, Any], list[ConfigProblem]]:
        """The rule, and the fields that cannot be read.

        The rule comes from the text or from the form's fields, whichever the person edited; the other one is
        brought up to date.

        Raises FaultyInput.
        """
        problems: list[ConfigProblem] = []
        if self.by_text:
            found = entered.parsed("rules", self.text)
            self.fields = form.as_form(found)
        else:
            found, problems = form.as_content(self.fields, self.name)
        if self.name and found["name"] != self.name:
            raise FaultyInput(f"the name of a rule stays: {self.name}")
        if not (self.by_text or self.is_typed or problems):
            self.text = entered.as_text("rules", found)
        return found, problems

    def checked(self, settings: Settings) -> tuple[dict[str, Any], Warned]:
        """The rule and its warnings. Raises FaultyInput (every mistake), NotAllowedNow, ChangedMeanwhile."""
        content, problems = self.content()
        warned: Warned | None = None
        try:
            warned = entered.check(settings, "rules", content, self.version)
        except FaultyInput as error:
            named = {problem.key for problem in problems}  # in the words of the form
            problems += [problem for problem in error.problems if problem.key not in named]
            if not error.problems:
                raise
        except NotAllowedNow as error:
            if self.name:
                raise
            problems.append(ConfigProblem("", f"rules.{content['name']}.name", "", str(error)))
        if problems or warned is None:
            raise FaultyInput("", problems)
        return content, warned


@faces.page("POST", "/rules/new", UserRole.ADMIN)
@faces.page("POST", "/rules/{name}/change", UserRole.ADMIN)
def save(asked: Asked) -> Response:
    """Try the rule of the form, or save it, unless somebody else did meanwhile."""
    name = asked.request.path_params.get("name", "")
    settings, act = asked.settings, asked.text("act")
    by_text = act.endswith("_text")
    text = "\n".join(asked.text("rule").splitlines())
    is_typed = bool(text) and asked.text("written") != _mark(text)
    draft = _Draft(name, asked.number("version"), asked.fields(), text, by_text, is_typed)
    try:
        content, warned = draft.checked(settings)
        rule = RuleSettings.model_validate(content).model_dump(mode="json")
        mark = _mark(json.dumps(rule, sort_keys=True))
        confirmed = bool(asked.text("despite_hold"))
        if act.startswith("save") and asked.text("tried") == mark and (confirmed or not warned.undercut):
            saved = put(asked, "rules", content, draft.version, despite_hold=confirmed)
            return asked.in_force(SAVED, "/rules", *saved.warnings, name=saved.name)
        tried = asked.read(rules.tried, settings, warned.settings)
    except FaultyInput as error:
        return _form(asked, draft, error=error, status=400)
    except (NotAllowedNow, ChangedMeanwhile, HoldUndercut) as error:
        return _form(asked, draft, error=FaultyInput(str(error)), status=409)
    return _form(asked, draft, tried=tried, mark=mark, unseen=act.startswith("save"), warned=warned)


def _form(
    asked: Visit,
    draft: _Draft,
    *,
    tried: list[View] | None = None,
    mark: str = "",
    unseen: bool = False,
    warned: Warned | None = None,
    error: FaultyInput | None = None,
    status: int = 200,
) -> Response:
    """``unseen``: it was to be saved before anybody saw what it makes of the newest studies."""
    text = draft.text or form.SAMPLE
    return asked.page(
        "rule_form.html",
        status,
        name=draft.name,
        edition=draft.version,
        text=text,
        written="" if draft.is_typed else _mark(text.strip()),
        by_text=draft.by_text,
        is_typed=draft.is_typed,
        tried=tried,
        mark=mark,
        unseen=unseen,
        warned=warned,
        named=_named(asked, tried or []),
        **form.page(asked.settings, draft.fields, draft.name, error),
    )


def _mark(text: str) -> str:
    """A mark of these values, by which the next request finds out whether they were changed."""
    return hashlib.sha256(text.encode()).hexdigest()


def _page(
    asked: Visit,
    rows: list[RuleRow],
    tried: list[View],
    text: str,
    *,
    problem: str = "",
    changed: bool = False,
) -> Response:
    return asked.page(
        "rules.html",
        400 if problem else 200,
        rows=rows,
        conditions={key: label for key, (label, _) in form.CONDITIONS.items()},
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
    return asked.read(listing.named, tried)
