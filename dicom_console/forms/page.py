"""The content of the page with the form of a rule: labels, choices, typed values and mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ai_pipeline.pipelines import PIPELINES
from dicom_console.forms import rule as form
from dicom_console.forms.rule import Form
from dicom_console.web.languages import N_
from dicom_node.config.settings import RuleSettings, Settings
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import CONSOLE_AE_TITLE, CONSOLE_NAME
from dicom_node.services.entered import PROGRAMS
from dicom_node.store.views import View

SAMPLE: Final = 'name = ""\nwhen = { modality = "US" }\npipeline = ""\nsend_to = []\n'
CONDITIONS: Final[Mapping[str, tuple[str, str]]] = {
    "modality": (N_("Modality"), "US; IVUS"),
    "body_part": (N_("Body part examined"), "CHEST; THORAX*"),
    "view": (N_("View position"), "PA; AP"),
    "calling_ae": (N_("AE title that sent it"), "US1"),
    "called_ae": (N_("AE title of ours that it called"), "AINODE"),
    "station": (N_("Station name"), "ROOM1"),
    "study_description": (N_("Study description"), "*chest*"),
    "series_description": (N_("Series description"), "*pa*"),
}
"""Label and example of each condition."""
_PRIORITIES: Final = (
    ("stat", N_("stat: before all others")), ("routine", N_("routine")), ("low", N_("low: after all others")),
)  # fmt: skip
_YES_NO: Final = (("true", N_("yes")), ("false", N_("no")))


def shown(settings: Settings, given: Form, name: str, error: FaultyInput | None) -> View:
    """The content of the page. ``given``: the fields as typed, empty for a new rule."""
    chosen = "".join(given.get("pipeline", ()))
    named = name or "".join(given.get("name", ())).strip()
    faults = form.faults(error.problems, named, chosen) if error else {}
    above = list(faults.pop("", ()))
    return {
        "faults": faults,
        "above": above if error is None or error.problems else str(error).splitlines(),
        "conditions": [
            _field(f"when.{key}", label, example, given) for key, (label, example) in CONDITIONS.items()
        ],
        "pipelines": [_pipeline(pipeline, chosen, given) for pipeline in _pipelines(chosen)],
        "given": {key: "".join(given.get(key, ())) for key in ("name", "rest")},
        "priorities": _PRIORITIES,
        "priority": "".join(given.get("priority", ())) or "routine",
        "numbers": [
            _limit("max_study_age_days", N_("Hold studies older than (days)"), given),
            _limit("daily_cap", N_("Most jobs a day and sender"), given),
        ],
        "flags": {
            key for key in ("assess_first", "compare", "tell_pacs_refusals") if "true" in given.get(key, ())
        },
        "receivers": _ticks(_receivers(settings), given.get("send_to", ())),
        "archives": _ticks(_archives(settings), given.get("forward", ())),
        "grabbers": _ticks(_senders(settings), given.get("secondary_captures_from", ())),
        "callers": sorted(settings.sender_names),
    }


def _field(key: str, label: str, example: str, given: Form, **more: Any) -> View:
    return {
        "key": key,
        "label": label,
        "example": example,
        "value": " ".join(given.get(key, ())),
        "note": "",
        "choices": [],
    } | more


def _limit(key: str, label: str, given: Form) -> View:
    usual = f"{RuleSettings.model_fields[key].get_default():g}"
    note = N_("left empty: no limit") if usual == "0" else N_("left empty: as shown; 0: no limit")
    return _field(key, label, usual, given, note=note)


def _pipelines(chosen: str) -> list[str]:
    """The pipelines that a form offers for a rule.

    The ``chosen`` one is among them even where it is not allowed, so that the form can show the mistake.
    """
    offered = sorted(name for name in PIPELINES if name not in PROGRAMS)
    return [*offered, *([chosen] if chosen and chosen not in offered else [])]


def _pipeline(name: str, chosen: str, given: Form) -> View:
    card = form.card_of(name)
    return {
        "name": name,
        "about": card.about if card else "",
        "chosen": name == chosen,
        "options": list(_options(name, given)),
    }


def _options(pipeline: str, given: Form) -> Iterator[View]:
    """A choice where the values are known, else a field."""
    for option in form.options_of(pipeline):
        choices = _YES_NO if option.kind is bool else [(value, value) for value in option.choices]
        place = form.field(("options", option.key), pipeline)
        usual = "required" if option.required else f"usual ({option.default})"
        unit = f" ({option.unit})" if option.unit else ""
        yield _field(
            place,
            f"{option.label}{unit}",
            usual,
            given,
            note=option.help,
            choices=[("", usual), *choices] if choices else [],
        )


def _ticks(known: Mapping[str, str], ticked: Sequence[str]) -> list[View]:
    """Each name with its description; also ticked names that no longer exist."""
    names = [*known, *(name for name in ticked if name not in known)]
    return [
        {"name": name, "about": known.get(name, N_("no such peer")), "ticked": name in ticked}
        for name in names
    ]


def _receivers(settings: Settings) -> dict[str, str]:
    """What each peer gets."""
    return {
        peer.name: ", ".join([*peer.results, *(["de-identified"] if peer.deidentify else [])])
        for peer in settings.peers
        if "receive" in peer.may
    }


def _archives(settings: Settings) -> dict[str, str]:
    """AE titles of the peers that may get received images."""
    taking = (peer for peer in settings.peers if "receive" in peer.may and not peer.deidentify)
    return {peer.name: peer.ae_title for peer in taking}


def _senders(settings: Settings) -> dict[str, str]:
    found = {peer.name: peer.ae_title for peer in settings.peers if "send" in peer.may}
    return found | {CONSOLE_NAME: CONSOLE_AE_TITLE}
