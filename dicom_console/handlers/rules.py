"""Rules: the list, the form of a rule, and a trial of rules on recent studies."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response

from dicom_console.forms import rule as rule_form
from dicom_console.handlers.entered import add_handlers, put
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Keys, Name
from dicom_console.web.languages import SAVED
from dicom_node.base.config.rule import RuleSettings
from dicom_node.base.errors import ConfigProblem, FaultyInput, HoldUndercut, NotAllowedNow
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.views import View
from dicom_node.people import Row, entered, rule_flow, rule_trial
from dicom_node.people.entered import Warned

faces = Faces()
add_handlers(faces, "rules")


@faces.handler("GET", "/rules", UserRole.VIEWER)
def list_rules(request: CurrentRequest) -> list[Row]:
    """Return the rules in the order in which they apply."""
    return [Row(**row) for row in rule_trial.list_rules(request.settings)]


@faces.page_of(list_rules)
def _rules_page(request: ConsoleRequest, shown: list[Row]) -> Response:
    """Return the page of the rules, with the flow through each and their effect on the newest studies."""
    tried = request.read(rule_trial.try_rules, request.settings)
    conditions = {key: label for key, (label, _) in rule_form.CONDITIONS.items()}
    return request.page(
        "rules.html",
        rows=shown,
        conditions=conditions,
        flows=request.read(rule_flow.flow_of_rules, request.settings),
        tried=tried,
        named=_named(request, tried),
    )


@faces.handler("GET", "/rules/flow", rule_flow.flow_of_rules)
def flow(request: CurrentRequest) -> list[Row]:
    """Return the flow of the last 24 hours through each rule, and what waits."""
    return [Row(**row) for row in request.read(rule_flow.flow_of_rules, request.settings)]


@faces.handler("POST", "/rules/{name}/try", entered.check_entry)
def try_rule(request: CurrentRequest, name: Name, keys: Keys) -> list[Row]:
    """Return the effect on the newest studies that the rules would have with this rule.

    It replaces the present rule of its name for this test; nothing is changed.
    """
    other = entered.check_entry(request.settings, "rules", entered.from_keys("rules", name, keys)).settings
    return [Row(**row) for row in request.read(rule_trial.try_rules, request.settings, other)]


@faces.page("GET", "/rules/new", entered.save_entry)
def new(request: CurrentRequest) -> Response:
    """Show the empty form for a new rule."""
    return _form(request, "", 0, {})


@faces.page("GET", "/rules/{name}/change", entered.save_entry)
def change(request: CurrentRequest, name: str) -> Response:
    """Show the form for changing the rule ``name``, filled in with its present settings."""
    row = entered.show_entry(request.settings, "rules", name)
    text = entered.as_text("rules", row["content"])
    return _form(request, name, row["version"], rule_form.as_form(row["content"]), text=text)


def _checked(
    request: ConsoleRequest,
    name: str,
    content: Mapping[str, Any],
    version: int,
    problems: list[ConfigProblem],
) -> Warned:
    """Return the warnings for a rule that is to be saved.

    ``name``: the rule that is changed, "" for a new one; ``version``: the version changed; ``problems``:
    mistakes found in the form. Raises FaultyInput with all mistakes, or NotAllowedNow.
    """
    found = [*problems]
    try:
        warned = entered.check_entry(request.settings, "rules", content, version)
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


@faces.page("POST", "/rules/new", entered.save_entry)
@faces.page("POST", "/rules/{name}/change", entered.save_entry)
def save(request: CurrentRequest) -> Response:
    """Show the effect of the rule in the form, or save the rule if its effect was shown before.

    If it is refused, show the form again with the mistakes.
    """
    name = request.http.path_params.get("name", "")
    saves, version, fields = request.text("act") == "save", request.number("version"), request.fields()
    content, problems = rule_form.as_content(fields, name)
    text = "" if problems else entered.as_text("rules", content)
    try:
        warned = _checked(request, name, content, version, problems)
        rule = RuleSettings.model_validate(content).model_dump(mode="json")
        mark = hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()
        confirmed = bool(request.text("despite_hold"))
        if saves and request.text("tried") == mark and (confirmed or not warned.undercut):
            saved = put(request, "rules", content, version, despite_hold=confirmed)
            return request.in_force(SAVED, "/rules", *saved["warnings"], name=saved["name"])
        tried = request.read(rule_trial.try_rules, request.settings, warned.settings)
    except FaultyInput as error:
        return _form(request, name, version, fields, text=text, error=error, status=400)
    except (NotAllowedNow, HoldUndercut) as error:
        refused = FaultyInput(str(error))
        return _form(request, name, version, fields, text=text, error=refused, status=409)
    return _form(
        request, name, version, fields, text=text, tried=tried, mark=mark, unseen=saves, warned=warned
    )


def _form(
    request: ConsoleRequest,
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
    """Return the form of a rule.

    ``fields``: as typed; ``text``: the rule as TOML; ``tried``: its effect on the newest studies; ``mark``:
    hash of the rule whose effect is shown; ``unseen``: the user tried to save it before its effect was shown;
    ``warned``: warnings; ``error``: mistakes.
    """
    return request.page(
        "rule_form.html",
        status,
        name=name,
        edition=version,
        text=text,
        tried=tried,
        mark=mark,
        unseen=unseen,
        warned=warned,
        named=_named(request, tried or []),
        **rule_form.page(request.settings, fields, name, error),
    )


def _named(request: ConsoleRequest, tried: list[View]) -> dict[str, View]:
    """Return, by Study Instance UID, the patient and further fields with which a list names the studies in
    ``tried``.

    The audit records that the person sees them.
    """
    if tried:
        request.note_list("rules")
    return request.named(tried)
