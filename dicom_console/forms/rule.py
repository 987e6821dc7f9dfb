"""The form of a rule: fields for most keys, and lines of the configuration file for all others.

At the end: its page, with labels, choices, typed values and mistakes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ai_pipeline import pipelines
from ai_pipeline.contract import PipelineCard, PipelineOption
from ai_pipeline.errors import PluginError
from dicom_console.forms import Form, further_of, problem, text_of
from dicom_console.web.languages import N_
from dicom_node.base.config.rule import PROGRAMS, Conditions, RuleSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ConfigProblem, FaultyInput
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, CONSOLE_NAME
from dicom_node.base.store.views import View
from dicom_node.people import entered

Place = tuple[str, ...]
"""("name",), ("when", "modality"), ("options", "policy")."""

_KINDS: Final[Mapping[str, type]] = {
    "name": str, "pipeline": str, "send_to": list, "priority": str, "max_study_age_days": float,
    "secondary_captures_from": list, "tell_pacs_refusals": bool, "assess_first": bool,
    "compare": bool, "forward": list,
}  # fmt: skip
_TICKED: Final = ("send_to", "forward", "secondary_captures_from")
_NEEDED: Final = {
    "when": "fill in at least one of these", "pipeline": "choose one", "send_to": "choose at least one",
}  # fmt: skip
"""What a rule needs: all that is missing is shown at once, in the words of the form."""
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
_DEFAULTS: Final[Mapping[Place, Any]] = {
    (key,): about.get_default() for key, about in RuleSettings.model_fields.items()
}
_WANTED: Final[Mapping[type, str]] = {int: "must be a whole number", float: "must be a number"}


def as_form(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the values of the form's fields for a rule with the settings ``content``.

    Settings without a field go into the field ``rest`` as TOML.
    """
    found: dict[str, list[str]] = {}
    rest: dict[str, Any] = {}
    pipeline = content.get("pipeline")
    kinds = _kinds(pipeline if isinstance(pipeline, str) else "")
    for place, value in _leaves(content):
        texts = _shown(place, kinds.get(place), value)
        if texts is None:
            _put(rest, place, value)
        else:
            found[field(place, str(pipeline))] = texts
    return found | {"rest": [entered.as_text("rules", rest)]}


def as_content(form: Form, name: str) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """Return (settings of the rule in the form, mistakes in the form).

    ``name``: the rule that is changed, "" for a new one.
    """
    pipeline = text_of(form, "pipeline")
    found: dict[str, Any] = {"name": name or text_of(form, "name"), "send_to": []}
    wrong: list[tuple[str, str]] = []
    for place, kind in _kinds(pipeline).items():
        given = form.get(field(place, pipeline), ())
        try:
            value = list(given) if place[0] in _TICKED else _read(kind, " ".join(given).strip())
        except ValueError as error:
            wrong.append((".".join(place), str(error)))
            continue
        if value not in (None, "", [], {}, _DEFAULTS.get(place)) and place != ("name",):
            _put(found, place, value[0] if place[0] == "when" and len(value) == 1 else value)
    try:
        for place, value in _leaves(further_of(form, "rules")):
            beside = found if len(place) == 1 else found.get(place[0], {})
            if beside.get(place[-1]) not in (None, []):
                wrong.append(("rest", f"{'.'.join(place)}: there is a field for it above"))
            else:
                _put(found, place, value)
        wrong += [(key, text) for key, text in _NEEDED.items() if not found.get(key)]
    except FaultyInput as error:
        wrong.append(("rest", str(error)))
    return found, [problem("rules", str(found["name"]), key, remedy) for key, remedy in wrong]


def field(place: Place, pipeline: str) -> str:
    """Return the name of the form field for a setting.

    ``place``: its path in the rule; ``pipeline``: its options have fields of their own, because one form has
    the options of all pipelines.
    """
    return ".".join((place[0], pipeline, *place[1:]) if place[0] == "options" else place)


def card_of(pipeline: str) -> PipelineCard | None:
    """Return the description of a pipeline (its texts and options); None if the pipeline cannot be loaded,
    which ``check`` reports.
    """
    try:
        return pipelines.card_of(pipeline)
    except (KeyError, PluginError):
        return None


def options_of(pipeline: str) -> tuple[PipelineOption, ...]:
    """Return the options of a pipeline; () if the pipeline cannot be loaded."""
    card = card_of(pipeline)
    return card.options.listed() if card else ()


def faults(problems: Sequence[ConfigProblem], name: str, pipeline: str) -> dict[str, list[str]]:
    """Return the mistakes by form field, in words; under "" those that belong to no field.

    ``name``: of the rule; ``pipeline``: the one chosen in the form.
    """
    found: dict[str, list[str]] = {}
    places = {".".join(place): place for place in (*_kinds(pipeline), ("when",), ("rest",))}
    for one in problems:
        key = one.key.partition(f"rules.{name}.")[2].partition("[")[0]
        said = f"{one.value}: {one.remedy}" if one.value else one.remedy
        if key in places:
            found.setdefault(field(places[key], pipeline), []).append(said)
        else:
            about = name if one.key == f"rules.{name}" else f"{one.key}:"
            found.setdefault("", []).append(f"{about} {said}")
    return found


def _kinds(pipeline: str) -> dict[Place, type]:
    """Return the type of the value of each field in the form, by the setting's path.

    ``pipeline``: the rule's.
    """
    found: dict[Place, type] = {(key,): kind for key, kind in _KINDS.items()}
    found |= {("when", key): list for key in Conditions.model_fields}
    return found | {("options", one.key): one.kind for one in options_of(pipeline)}


def _leaves(content: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Yield (path, value) of each setting of a rule; of the tables ``when`` and ``options`` each key as a
    setting of its own.
    """
    for key, value in content.items():
        if key in ("when", "options") and isinstance(value, Mapping):
            yield from (((key, inner), item) for inner, item in value.items())
        else:
            yield (key,), value


def _shown(place: Place, kind: type | None, value: Any) -> list[str] | None:
    """Return the text (or texts) with which a field shows ``value``; None if the field cannot express it.

    ``kind``: type of the field, None if there is no field.
    """
    if place[0] == "when" and isinstance(value, str):
        value = [value]
    are_texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind is None or (kind is list and not are_texts):
        return None
    if place[0] in _TICKED:
        return list(value)
    try:
        text = _written(value)
        return [text] if _read(kind, text) == value else None
    except (TypeError, ValueError):
        return None


def _written(value: Any) -> str:
    """Return a setting's value as one types it into a field."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "; ".join(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key} = {share:g}" for key, share in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(kind: type, text: str) -> Any:
    """Return the value of type ``kind`` that a field's text means; None if it is empty.

    Raises ValueError that says what to type.
    """
    if not text:
        return None
    if kind is bool:
        return {"true": True, "false": False}[text] if text in ("true", "false") else None
    if kind in _WANTED:
        return _number(kind, text)
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if kind is dict:
        pairs = [part.rpartition("=") for part in parts]
        if not all(sign for _, sign, _ in pairs):
            raise ValueError("write name = number, several separated by ;")
        return {key.strip(): _number(float, number.strip()) for key, _, number in pairs}
    return parts if kind is list else text


def _number(kind: type, text: str) -> Any:
    """Return the number in a field. Raises ValueError that says what to type."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(_WANTED[kind]) from None


def _put(content: dict[str, Any], place: Place, value: Any) -> None:
    """Set the value at the path ``place`` in the nested tables ``content``, which are created if they are
    missing.
    """
    for key in place[:-1]:
        content = content.setdefault(key, {})
    content[place[-1]] = value


def page(settings: Settings, form: Form, name: str, error: FaultyInput | None) -> View:
    """Return the template values of a rule's form.

    ``form``: the fields as typed, empty for a new rule; ``name``: the rule that is changed, "" for a new one;
    ``error``: the mistakes to show, None for none.
    """
    chosen = _typed(form, "pipeline")
    conditions = [_field(f"when.{key}", label, example, form) for key, (label, example) in CONDITIONS.items()]
    switches = ("assess_first", "compare", "tell_pacs_refusals")
    return {
        **_mistakes(error, name or _typed(form, "name").strip(), chosen),
        **_peers_to_tick(settings, form),
        "conditions": conditions,
        "pipelines": [_pipeline(pipeline, form, chosen) for pipeline in _offered(chosen)],
        "given": {key: _typed(form, key) for key in ("name", "rest")},
        "priorities": _PRIORITIES,
        "priority": _typed(form, "priority") or "routine",
        "numbers": [_limit("max_study_age_days", N_("Hold studies older than (days)"), form)],
        "flags": {key for key in switches if "true" in form.get(key, ())},
        "callers": sorted(settings.sender_names),
    }


def _typed(form: Form, key: str) -> str:
    """Return the text of the form field ``key`` with its spaces; "" if the form has no such field."""
    return "".join(form.get(key, ()))


def _mistakes(error: FaultyInput | None, name: str, pipeline: str) -> View:
    """Return ``faults`` beside their fields, and the lines ``above`` the form.

    ``name`` and ``pipeline``: of the rule, as typed.
    """
    wrong = faults(error.problems, name, pipeline) if error else {}
    above = wrong.pop("", [])
    if error and not error.problems:
        above = str(error).splitlines()
    return {"faults": wrong, "above": above}


def _offered(chosen: str) -> list[str]:
    """Return the pipelines to choose from; the chosen one even where it is not allowed, with the mistake."""
    offered = sorted(name for name in pipelines.PIPELINES if name not in PROGRAMS)
    return offered if not chosen or chosen in offered else [*offered, chosen]


def _pipeline(pipeline: str, form: Form, chosen: str) -> View:
    """Return the template values of a pipeline to choose."""
    card = card_of(pipeline)
    return {
        "name": pipeline,
        "about": card.about if card else "",
        "chosen": pipeline == chosen,
        "options": list(_options(pipeline, form)),
    }


def _peers_to_tick(settings: Settings, form: Form) -> View:
    """Return the check boxes of peers: ``receivers`` of results with the kinds that they take, ``archives``
    to forward images to, and ``grabbers`` whose secondary captures are analysed.
    """
    receiving = [peer for peer in settings.peers if "receive" in peer.may]
    kinds = {
        peer.name: ", ".join([*peer.results, *(["de-identified"] if peer.deidentify else [])])
        for peer in receiving
    }
    archives = {peer.name: peer.ae_title for peer in receiving if not peer.deidentify}
    senders = {peer.name: peer.ae_title for peer in settings.peers if "send" in peer.may}
    senders[CONSOLE_NAME] = CONSOLE_AE_TITLE
    return {
        "receivers": _ticks(kinds, form.get("send_to", ())),
        "archives": _ticks(archives, form.get("forward", ())),
        "grabbers": _ticks(senders, form.get("secondary_captures_from", ())),
    }


def _field(key: str, label: str, example: str, form: Form, **more: Any) -> View:
    """Return the template values of one form field.

    ``key``: the field's name; ``more``: further values, such as choices.
    """
    return {
        "key": key,
        "label": label,
        "example": example,
        "value": " ".join(form.get(key, ())),
        "note": "",
        "choices": [],
    } | more


def _limit(key: str, label: str, form: Form) -> View:
    """Return the template values of the field for the numerical limit ``key``, with its default as
    example.
    """
    usual = f"{RuleSettings.model_fields[key].get_default():g}"
    note = N_("left empty: no limit") if usual == "0" else N_("left empty: as shown; 0: no limit")
    return _field(key, label, usual, form, note=note)


def _options(pipeline: str, form: Form) -> Iterator[View]:
    """Yield the template values of a field for each option of a pipeline; a selection if the option has a
    fixed set of values.
    """
    for option in options_of(pipeline):
        choices = _YES_NO if option.kind is bool else [(value, value) for value in option.choices]
        usual = "required" if option.required else f"usual ({option.default})"
        unit = f" ({option.unit})" if option.unit else ""
        yield _field(
            field(("options", option.key), pipeline),
            f"{option.label}{unit}",
            usual,
            form,
            note=option.help,
            choices=[("", usual), *choices] if choices else [],
        )


def _ticks(known: Mapping[str, str], ticked: Sequence[str]) -> list[View]:
    """Return the template values of check boxes, one for each name.

    ``known``: descriptions by name; ``ticked``: the chosen names, which may include some that no longer
    exist.
    """
    names = [*known, *(name for name in ticked if name not in known)]
    return [
        {"name": name, "about": known.get(name, N_("no such peer")), "ticked": name in ticked}
        for name in names
    ]
