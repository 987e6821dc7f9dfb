"""The form of a peer: fields for common keys, and lines of the configuration file for all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ai_pipeline.images.numbers import whole
from dicom_console.web.languages import N_
from dicom_node.config.docstrings import documented_fields
from dicom_node.config.settings import PeerSettings
from dicom_node.errors import ConfigProblem, FaultyInput
from dicom_node.model.kinds import NOT_CHOSEN, ResultKind
from dicom_node.services import entered
from dicom_node.store.views import View

KINDS = [kind.value for kind in ResultKind if kind not in NOT_CHOSEN]
_TEXTS = ("name", "ae_title", "host")
SWITCHES: Final[Mapping[str, str]] = {
    "check_address": N_("its objects must come from this host"),
    "mpps": N_("it reports on its procedure steps (MPPS): a study is complete when they say so"),
    "tls": N_("call it by DICOM TLS"),
    "iocm": N_("tell it of withdrawn results by a rejection note (IHE IOCM)"),
    "assessments": N_("send it readers' verdicts on findings, as an SR"),
}
"""Keys that are on or off, in words."""
_FIELDS = (*_TEXTS, "port", "may", "results", *SWITCHES)
_NO_FIELD = ("username", "password", "token", "entered")
_USUAL = {"may": ["send"], "results": ["sr", "gsps", "sc", "summary"]}


Form = Mapping[str, Sequence[str]]
"""What a browser sent: each field with its values."""


def empty(given: Form) -> View:
    """The form of a new peer, filled with the usual values of a modality and the known values ``given``."""
    known = {key: _text(given, key) for key in (*_TEXTS, "port") if _text(given, key)}
    return _shown({**_USUAL, **known}, name="", version=0)


def filled(row: View) -> View:
    """The form filled with the values of an entered peer."""
    return _shown({**_USUAL, **row["content"]}, name=row["name"], version=row["version"])


def content(form: Form, name: str) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """The peer in the form, and the mistakes in the form. ``name``: the peer that is changed."""
    given: dict[str, Any] = {key: _text(form, key) for key in _TEXTS if _text(form, key)}
    given["name"] = name or given.get("name", "")
    wrong: dict[str, str] = {}
    if port := _text(form, "port"):
        if (number := whole(port)) is None:
            wrong["port"] = "must be a number"
        else:
            given["port"] = number
    given["may"] = [word for word in ("send", "receive", "query") if word in form.get("may", ())]
    if not given["may"]:
        wrong["may"] = "it must be allowed to send, to receive or to be queried"
    if "receive" in given["may"]:
        given["results"] = [kind for kind in KINDS if kind in form.get("results", ())]
        if not given["results"]:
            wrong["results"] = "it gets results: choose at least one that it can show"
    given |= {key: True for key in SWITCHES if form.get(key)}
    try:
        given |= _rest(form)
    except FaultyInput as error:
        wrong["rest"] = str(error)
    return given, [_problem(given["name"], key, remedy) for key, remedy in wrong.items()]


def faults(problems: Sequence[ConfigProblem], name: str) -> dict[str, list[str]]:
    """The mistakes by form field; under "" mistakes that concern no field."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        key = problem.key.partition(f"peers.{name}.")[2].partition("[")[0]
        if not key and problem.key == f"peers.{name}":  # "host and port are missing"
            key = next((field for field in _FIELDS if problem.remedy.startswith(field)), "")
        shown = f"{problem.value}: " if problem.value else ""
        if key in _FIELDS or key == "rest":
            found.setdefault(key, []).append(f"{shown}{problem.remedy}")
        elif key in PeerSettings.model_fields:
            found.setdefault("rest", []).append(f"{key}: {shown}{problem.remedy}")
        elif key:
            known = sorted(_further())
            found.setdefault("rest", []).append(f"{key}: unknown key; there are {', '.join(known)}")
        else:
            found.setdefault("", []).append(f"{problem.key}: {shown}{problem.remedy}")
    return found


def as_given(form: Form, name: str) -> View:
    """The form with the values that were sent, so that the user can correct them."""
    given: View = {key: _text(form, key) for key in (*_TEXTS, "port")}
    given |= {key: list(form.get(key, ())) for key in ("may", "results")}
    given |= {key: bool(form.get(key)) for key in SWITCHES}
    version = whole(_text(form, "version")) or 0
    return _shown(given, name=name, version=version) | {"rest": _text(form, "rest")}


def _rest(form: Form) -> dict[str, Any]:
    """Raises FaultyInput."""
    # A name of its own, so that the rest can be read as a peer is.
    rest = entered.parsed("peers", f'name = "x"\n{_text(form, "rest")}')
    del rest["name"]
    if twice := sorted(set(rest) & set(_FIELDS)):
        raise FaultyInput(f"{', '.join(twice)}: there is a field for it above")
    return rest


def _further() -> dict[str, str]:
    """Keys that have no field, with what they do."""
    known = documented_fields(PeerSettings).items()
    return {key: about.description or "" for key, about in known if key not in (*_FIELDS, *_NO_FIELD)}


def _shown(content: Mapping[str, Any], *, name: str, version: int) -> View:
    rest = {key: value for key, value in content.items() if key not in _FIELDS}
    return {
        "peer": {key: content.get(key, "") for key in _FIELDS},
        "rest": entered.as_text("peers", rest),
        "kinds": KINDS,
        "switches": SWITCHES,
        "further": _further(),
        "name": name,
        "edition": version,
        "above": [],
        "faults": {},
        "is_old": False,
    }


def _problem(name: str, key: str, remedy: str) -> ConfigProblem:
    return ConfigProblem("", f"peers.{name}.{key}", "", remedy)


def _text(form: Form, key: str) -> str:
    return " ".join(form.get(key, ())).strip()
