"""Rules: their list, what they or changed ones make of recent studies, and the form that makes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Response

from dicom_node.config.settings import RuleSettings, Settings
from dicom_node.console.web.access import Asked, Visit, needs
from dicom_node.errors import ChangedMeanwhile, ConfigProblem, FaultyInput, NotAllowedNow
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered
from dicom_node.services.console.rules import form, page, trial
from dicom_node.services.console.studies import listing
from dicom_node.store.views import View

router = APIRouter(prefix="/rules")


@router.get("")
@needs(UserRole.VIEWER)
def list_rules(asked: Asked) -> Response:
    """The rules, and what they make of the newest studies."""
    with asked.site.database.read() as session:
        tried = trial.tried(session, asked.site.settings)
    return _page(asked, tried, trial.as_toml(asked.site.settings))


@router.post("/try")
@needs(UserRole.OPERATOR)
def try_rules(asked: Asked) -> Response:
    """The same with the rules of the form beside those in force; nothing is changed."""
    settings, text = asked.site.settings, asked.text("rules")
    try:
        other = trial.parsed(settings, text)
    except FaultyInput as error:
        return _page(asked, [], text, problem=str(error), status=400)
    with asked.site.database.read() as session:
        tried = trial.tried(session, settings, other)
    return _page(asked, tried, text, changed=True)


@router.get("/new")
@needs(UserRole.ADMIN)
def new(asked: Asked) -> Response:
    """An empty form."""
    return _form(asked, _Draft("", 0))


@router.post("/new")
@needs(UserRole.ADMIN)
def add(asked: Asked) -> Response:
    """Try the rule of the form, or add it."""
    return _answer(asked, "")


@router.get("/{name}/change")
@needs(UserRole.ADMIN)
def change(asked: Asked, name: str) -> Response:
    """A form with what it is now."""
    row = entered.of(asked.site.settings, "rules", name)
    return _form(asked, _Draft(name, row["version"], form.as_form(row["content"]), row["keys"]))


@router.post("/{name}/change")
@needs(UserRole.ADMIN)
def save(asked: Asked, name: str) -> Response:
    """Try the form, or save it, unless somebody else did meanwhile."""
    return _answer(asked, name)


@router.post("/{name}/remove")
@needs(UserRole.ADMIN)
def remove(asked: Asked, name: str) -> Response:
    """Take it out."""
    entered.remove(asked.site.settings, "rules", name, asked.number("version"), asked.person)
    return asked.in_force(f"{name} is removed.", "/rules")


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
        """The rule, and fields that cannot be read; what was not written is written from it.

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

    def checked(self, settings: Settings) -> dict[str, Any]:
        """The rule. Raises FaultyInput with every mistake, NotAllowedNow, ChangedMeanwhile."""
        content, problems = self.content()
        try:
            entered.check(settings, "rules", content, self.version)
        except FaultyInput as error:
            told = {problem.key for problem in problems}  # in the words of the form
            problems += [problem for problem in error.problems if problem.key not in told]
            if not error.problems:
                raise
        except NotAllowedNow as error:
            if self.name:
                raise
            problems.append(ConfigProblem("", f"rules.{content['name']}.name", "", str(error)))
        if problems:
            raise FaultyInput("", problems)
        return content


def _answer(asked: Visit, name: str) -> Response:
    settings, act = asked.site.settings, asked.text("act")
    by_text = act.endswith("_text")
    text = "\n".join(asked.text("rule").splitlines())
    is_typed = bool(text) and asked.text("written") != _mark(text)
    draft = _Draft(name, asked.number("version"), asked.fields(), text, by_text, is_typed)
    try:
        content = draft.checked(settings)
        rule = RuleSettings.model_validate(content).model_dump(mode="json")
        mark = _mark(json.dumps(rule, sort_keys=True))
        if act.startswith("save") and asked.text("tried") == mark:
            saved = entered.save(settings, "rules", content, draft.version, asked.person)
            return asked.in_force(f"{saved} is saved.", "/rules")
        with asked.site.database.read() as session:
            tried = trial.tried(session, settings, trial.with_rule(settings, content))
    except FaultyInput as error:
        return _form(asked, draft, error=error, status=400)
    except (NotAllowedNow, ChangedMeanwhile) as error:
        return _form(asked, draft, error=FaultyInput(str(error)), status=409)
    return _form(asked, draft, tried=tried, mark=mark, unseen=act.startswith("save"))


def _form(
    asked: Visit,
    draft: _Draft,
    *,
    tried: list[View] | None = None,
    mark: str = "",
    unseen: bool = False,
    error: FaultyInput | None = None,
    status: int = 200,
) -> Response:
    """``unseen``: it was to be saved before anybody saw what it makes of the newest studies."""
    text = draft.text or page.SAMPLE
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
        named=_named(asked, tried or []),
        **page.shown(asked.site.settings, draft.fields, draft.name, error),
    )


def _mark(text: str) -> str:
    """By which the next request tells whether this was changed."""
    return hashlib.sha256(text.encode()).hexdigest()


def _page(
    asked: Visit, tried: list[View], text: str, *, problem: str = "", changed: bool = False, status: int = 200
) -> Response:
    rows = trial.rules(asked.site.settings)
    with asked.site.database.read() as session:
        known = entered.listed(session, "rules")
    return asked.page(
        "rules.html",
        status,
        entered=known,
        rows=rows,
        conditions={key: label for key, (label, _) in page.CONDITIONS.items()},
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
