"""The form of a peer: fields for common keys, and lines of the configuration file for all others."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ai_pipeline.images.numbers import whole
from dicom_console.forms import Form, further_of, problem, text_of
from dicom_console.web.languages import N_
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.sample import documented_fields
from dicom_node.base.errors import ConfigProblem, FaultyInput
from dicom_node.base.lifecycle import NOT_LISTED, ResultKind
from dicom_node.base.store.views import View
from dicom_node.people import entered

KINDS = [kind.value for kind in ResultKind if kind not in NOT_LISTED]
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


def empty(form: Form) -> View:
    """Return the template values of the form for a new peer, with usual settings of a modality.

    ``form``: values of fields that are known already.
    """
    known = {key: text for key in (*_TEXTS, "port") if (text := text_of(form, key))}
    return _template_values({**_USUAL, **known}, name="", version=0)


def filled(row: View) -> View:
    """Return the template values of the form for a peer that was added in the console.

    ``row``: the stored peer.
    """
    return _template_values({**_USUAL, **row["content"]}, name=row["name"], version=row["version"])


def content(form: Form, name: str) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """Return (settings of the peer in the form, mistakes).

    ``name``: the peer that is changed, "" for a new one.
    """
    given: dict[str, Any] = {key: text for key in _TEXTS if (text := text_of(form, key))}
    given["name"] = name or given.get("name", "")
    wrong: dict[str, str] = {}
    if port := text_of(form, "port"):
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
        rest = further_of(form, "peers")
        if twice := sorted(set(rest) & set(_FIELDS)):
            wrong["rest"] = f"{', '.join(twice)}: there is a field for it above"
        else:
            given |= rest
    except FaultyInput as error:
        wrong["rest"] = str(error)
    return given, [problem("peers", given["name"], key, remedy) for key, remedy in wrong.items()]


def faults(problems: Sequence[ConfigProblem], name: str) -> dict[str, list[str]]:
    """Return the mistakes by form field, in words; under "" those that belong to no field.

    ``name``: of the peer.
    """
    found: dict[str, list[str]] = {}
    for one in problems:
        key = one.key.partition(f"peers.{name}.")[2].partition("[")[0]
        if not key and one.key == f"peers.{name}":  # "host and port are missing"
            key = next((field for field in _FIELDS if one.remedy.startswith(field)), "")
        is_field, said = key in _FIELDS or key == "rest", one.remedy
        if one.value:
            said = f"{one.value}: {said}"
        if key and not is_field and key not in PeerSettings.model_fields:
            said = f"unknown key; there are {', '.join(sorted(_settings_without_field()))}"
        field = key if is_field else "rest" if key else ""
        found.setdefault(field, []).append(said if is_field else f"{key or one.key}: {said}")
    return found


def as_given(form: Form, name: str) -> View:
    """Return the template values of the form as the user sent it, to be corrected.

    ``name``: the peer that is changed, "" for a new one.
    """
    given: View = {key: text_of(form, key) for key in (*_TEXTS, "port")}
    given |= {key: list(form.get(key, ())) for key in ("may", "results")}
    given |= {key: bool(form.get(key)) for key in SWITCHES}
    version = whole(text_of(form, "version")) or 0
    return _template_values(given, name=name, version=version) | {"rest": text_of(form, "rest")}


def _settings_without_field() -> dict[str, str]:
    """Return the settings of a peer for which the form has no field: what each does, by key."""
    known = documented_fields(PeerSettings).items()
    return {key: about.description or "" for key, about in known if key not in (*_FIELDS, *_NO_FIELD)}


def _template_values(content: Mapping[str, Any], *, name: str, version: int) -> View:
    """Return the template values of the form for a peer with the settings ``content``.

    ``version``: of the stored peer, 0 for a new one.
    """
    rest = {key: value for key, value in content.items() if key not in _FIELDS}
    return {
        "peer": {key: content.get(key, "") for key in _FIELDS},
        "rest": entered.as_text("peers", rest),
        "kinds": KINDS,
        "switches": SWITCHES,
        "further": _settings_without_field(),
        "name": name,
        "edition": version,
        "above": [],
        "faults": {},
        "is_old": False,
    }
