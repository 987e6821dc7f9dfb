"""The form of a peer: fields for what most need, lines as in the configuration file for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import NOT_CHOSEN, ResultKind
from dicom_node.services import entered
from dicom_node.store.views import View

KINDS = [kind.value for kind in ResultKind if kind not in NOT_CHOSEN]
_TEXTS = ("name", "ae_title", "host")
_FIELDS = (*_TEXTS, "port", "may", "results")


Form = Mapping[str, Sequence[str]]
"""What a browser sent: each field with its values."""


def empty() -> View:
    """Of a peer that is not there yet: a modality."""
    return _shown({"may": ["send"], "results": ["sr", "gsps", "sc"]}, name="", version=0)


def of(row: View) -> View:
    """Of one that was entered."""
    content = {"may": ["send"], "results": ["sr", "gsps", "sc"], **row["content"]}
    return _shown(content, name=row["name"], version=row["version"])


def content(form: Form, name: str) -> dict[str, Any]:
    """The peer that the form says; ``name``: of the one that is changed. Raises FaultyInput."""
    given: dict[str, Any] = {key: _text(form, key) for key in _TEXTS if _text(form, key)}
    given["name"] = name or given.get("name", "")
    if port := _text(form, "port"):
        if not port.isdecimal():
            raise FaultyInput("port must be a number")
        given["port"] = int(port)
    given["may"] = [word for word in ("send", "receive") if word in form.get("may", ())]
    if "receive" in given["may"]:
        given["results"] = [kind for kind in KINDS if kind in form.get("results", ())]
    # A name of its own, so that the rest can be read as a peer is.
    rest = entered.parsed("peers", f'name = "x"\n{_text(form, "rest")}')
    del rest["name"]
    if twice := sorted(set(rest) & set(_FIELDS)):
        raise FaultyInput(f"{', '.join(twice)}: there is a field for it above")
    if not given["may"]:
        raise FaultyInput("may: it must be allowed to send or to receive")
    return given | rest


def as_given(form: Form, name: str) -> View:
    """The form as it was sent, to be mended."""
    given: View = {key: _text(form, key) for key in (*_TEXTS, "port")}
    given |= {key: list(form.get(key, ())) for key in ("may", "results")}
    version = _text(form, "version")
    number = int(version) if version.isdecimal() else 0
    return _shown(given, name=name, version=number) | {"rest": _text(form, "rest")}


def _shown(content: Mapping[str, Any], *, name: str, version: int) -> View:
    rest = {key: value for key, value in content.items() if key not in _FIELDS}
    return {
        "peer": {key: content.get(key, "") for key in _FIELDS},
        "rest": entered.as_text("peers", rest),
        "kinds": KINDS,
        "name": name,
        "edition": version,
        "problem": "",
    }


def _text(form: Form, key: str) -> str:
    return " ".join(form.get(key, ())).strip()
