"""The form of a rule: fields for most keys, and lines of the configuration file for all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ai_pipeline import pipelines
from ai_pipeline.contract import PipelineCard, PipelineOption
from ai_pipeline.errors import PluginError
from dicom_node.config.settings import Conditions, RuleSettings
from dicom_node.errors import ConfigProblem, FaultyInput
from dicom_node.services import entered

Form = Mapping[str, Sequence[str]]
"""What a browser sent: each field with its values."""
Place = tuple[str, ...]
"""("name",), ("when", "modality"), ("options", "policy")."""

_KINDS: Final[Mapping[str, type]] = {
    "name": str, "pipeline": str, "send_to": list, "priority": str, "max_study_age_days": float,
    "daily_cap": int, "secondary_captures_from": list, "tell_pacs_refusals": bool, "assess_first": bool,
    "compare": bool, "forward": list,
}  # fmt: skip
_TICKED: Final = ("send_to", "forward", "secondary_captures_from")
_NEEDED: Final = {
    "when": "fill in at least one of these", "pipeline": "choose one", "send_to": "choose at least one",
}  # fmt: skip
"""What a rule needs: all that is missing is shown at once, in the words of the form."""
_WANTED: Final[Mapping[type, str]] = {int: "must be a whole number", float: "must be a number"}


def as_form(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """The form's fields for a rule. The keys for which the form has no field go into ``rest`` as lines of
    TOML.
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
    """The rule from the form's fields, and the fields that cannot be read. ``name``: the rule that is
    changed.
    """
    pipeline = _text(form, "pipeline")
    found: dict[str, Any] = {"name": name or _text(form, "name"), "send_to": []}
    problems = []
    for place, kind in _kinds(pipeline).items():
        given = form.get(field(place, pipeline), ())
        try:
            value = list(given) if place[0] in _TICKED else _read(kind, " ".join(given).strip())
        except ValueError as error:
            problems.append(_problem(str(found["name"]), ".".join(place), str(error)))
            continue
        if value not in (None, "", [], {}, _default(place)) and place != ("name",):
            _put(found, place, value[0] if place[0] == "when" and len(value) == 1 else value)
    try:
        further = entered.parsed("rules", f'name = "x"\n{_text(form, "rest")}')
    except FaultyInput as error:
        return found, [*problems, _problem(str(found["name"]), "rest", str(error))]
    for place, value in _leaves({key: value for key, value in further.items() if key != "name"}):
        if _at(found, place) not in (None, []):
            remedy = f"{'.'.join(place)}: there is a field for it above"
            problems.append(_problem(str(found["name"]), "rest", remedy))
        else:
            _put(found, place, value)
    lacking = (_problem(str(found["name"]), key, text) for key, text in _NEEDED.items() if not found.get(key))
    return found, [*problems, *lacking]


def field(place: Place, pipeline: str) -> str:
    """The name of the form field for a key. The options of several pipelines share one form."""
    return ".".join((place[0], pipeline, *place[1:]) if place[0] == "options" else place)


def card_of(pipeline: str) -> PipelineCard | None:
    """The card of a pipeline; None if the pipeline cannot be loaded (``check`` reports that)."""
    try:
        return pipelines.card_of(pipeline)
    except (KeyError, PluginError):
        return None


def options_of(pipeline: str) -> tuple[PipelineOption, ...]:
    """The options of a pipeline; none if the pipeline cannot be loaded."""
    card = card_of(pipeline)
    return card.options.listed() if card else ()


def faults(problems: Sequence[ConfigProblem], name: str, pipeline: str) -> dict[str, list[str]]:
    """The mistakes by form field; under "" the mistakes in keys without a field, with the key."""
    found: dict[str, list[str]] = {}
    places = {".".join(place): place for place in (*_kinds(pipeline), ("when",), ("rest",))}
    for problem in problems:
        key = problem.key.partition(f"rules.{name}.")[2].partition("[")[0]
        shown = f"{problem.value}: " if problem.value else ""
        if key in places:
            found.setdefault(field(places[key], pipeline), []).append(f"{shown}{problem.remedy}")
        else:
            about = name if problem.key == f"rules.{name}" else f"{problem.key}:"
            found.setdefault("", []).append(f"{about} {shown}{problem.remedy}")
    return found


def _kinds(pipeline: str) -> dict[Place, type]:
    """Every field that the form has for a rule of this pipeline."""
    found: dict[Place, type] = {(key,): kind for key, kind in _KINDS.items()}
    found |= {("when", key): list for key in Conditions.model_fields}
    return found | {("options", one.key): one.kind for one in options_of(pipeline)}


def _leaves(content: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    for key, value in content.items():
        if key in ("when", "options") and isinstance(value, Mapping):
            yield from (((key, inner), item) for inner, item in value.items())
        else:
            yield (key,), value


def _shown(place: Place, kind: type | None, value: Any) -> list[str] | None:
    """A value as its field has it, None where the field would not give it back as it is."""
    if place[0] == "when" and isinstance(value, str):
        value = [value]
    if kind is None or (kind is list and not (isinstance(value, list) and _are_texts(value))):
        return None
    if place[0] in _TICKED:
        return list(value)
    try:
        text = _written(value)
        return [text] if _read(kind, text) == value else None
    except (TypeError, ValueError):
        return None


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "; ".join(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key} = {share:g}" for key, share in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(kind: type, text: str) -> Any:
    """What a field says, None for an empty one. Raises ValueError with a remedy."""
    if not text:
        return None
    if kind is bool:
        return {"true": True, "false": False}[text] if text in ("true", "false") else None
    if kind in _WANTED:
        return _number(kind, text)
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if kind is dict:
        return dict(map(_pair, parts))
    return parts if kind is list else text


def _number(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(_WANTED[kind]) from None


def _pair(part: str) -> tuple[str, float]:
    key, sign, number = part.rpartition("=")
    if not sign:
        raise ValueError("write name = number, several separated by ;")
    return key.strip(), _number(float, number.strip())


def _default(place: Place) -> Any:
    """The default of a key; None for a key without one."""
    known = RuleSettings.model_fields.get(place[0])
    return known.get_default() if known is not None and len(place) == 1 else None


def _are_texts(value: Sequence[Any]) -> bool:
    return all(isinstance(one, str) for one in value)


def _put(content: dict[str, Any], place: Place, value: Any) -> None:
    for key in place[:-1]:
        content = content.setdefault(key, {})
    content[place[-1]] = value


def _at(content: Mapping[str, Any], place: Place) -> Any:
    found: Any = content
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _problem(name: str, key: str, remedy: str) -> ConfigProblem:
    return ConfigProblem("", f"rules.{name}.{key}", "", remedy)


def _text(form: Form, key: str) -> str:
    return " ".join(form.get(key, ())).strip()
