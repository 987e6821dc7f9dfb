"""The card of a pipeline: its description in one place.

``check``, the command line, the form of a rule, the documentation and the results read it from here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from ai_pipeline.contract.findings import Code


@dataclass(frozen=True, slots=True)
class PipelineOption:
    """One option of a pipeline.

    ``kind``: type of the value: bool, int, float, str, list (of texts) or dict (of numbers by name).
    ``choices``: the texts that the value may be; empty: any text. ``default``: in words. ``help``: the text
    in the form of a rule. ``manual``: the text in the documentation. ``lifts``: when the option is set, this
    condition of a rule ("modality") does not bind the pipeline. ``leaves_text``: True when the option, once
    set, leaves text in pictures; such pictures must not go to a de-identified peer.
    """

    key: str
    kind: type
    label: str
    default: str
    required: bool
    choices: tuple[str, ...] = ()
    help: str = ""
    manual: str = ""
    unit: str = ""
    wanted: str = ""
    lifts: str = ""
    leaves_text: bool = False


def option(
    default: Any = ...,
    label: str = "",
    help: str = "",
    *,
    unit: str = "",
    usual: str = "",
    wanted: str = "",
    lifts: str = "",
    leaves_text: bool = False,
    **limits: Any,
) -> Any:
    """A field of :class:`PipelineOptions`. Without ``default``, a rule must set the option.

    ``label`` and ``help`` appear in the form of a rule; the docstring below the field is its manual.
    ``usual``: the default in words, if its value is not clear. ``wanted``: the end of "must be …" in the
    message on a faulty value ("a share above 0"). ``limits``: ``ge``, ``le``, ``pattern`` … as
    ``pydantic.Field`` has them. Others as in :class:`PipelineOption`.
    """
    further: dict[str, JsonValue] = {
        "help": help,
        "unit": unit,
        "usual": usual,
        "wanted": wanted,
        "lifts": lifts,
        "leaves_text": leaves_text,
    }
    return Field(default, title=label or None, json_schema_extra=further, **limits)


class PipelineOptions(BaseModel):
    """The options that a rule may set for a pipeline, one field for each. This base class has none.

    ``former``: options of earlier versions, which rules may still name, and what to do instead.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    former: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Self:
        """The options that a rule sets, with defaults for the others. Raises pydantic.ValidationError.

        Former options are left out: jobs of an earlier version still have them, and do not fail for it.
        """
        known = {key: value for key, value in options.items() if key not in cls.former}
        return cls.model_validate_json(json.dumps(known, default=str))

    @classmethod
    def faults(cls, options: Mapping[str, object]) -> dict[str, str]:
        """The faults in the values of ``options``, by option, as a remedy for a person."""
        known = {one.key: one for one in cls.listed()}
        try:
            cls.of(options)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            faulty = {str(one["loc"][0]): one for one in reversed(found) if one["loc"]}
            return {key: _remedy(known.get(key), one) for key, one in reversed(faulty.items())}
        return {}

    @classmethod
    def sets(cls, key: str, options: Mapping[str, object]) -> bool:
        """Whether ``options`` set the option ``key`` to another value than its default."""
        return bool(getattr(cls.of(options), key) != cls.model_fields[key].get_default())

    @classmethod
    def listed(cls) -> tuple[PipelineOption, ...]:
        """Every option, in the order of the fields."""
        return tuple(_option(key, field) for key, field in cls.model_fields.items())


@dataclass(frozen=True, slots=True)
class MeasuredQuantity:
    """A quantity that a pipeline measures; ``about``: what its lines show, as the end of a sentence."""

    name: str
    code: Code
    about: str = ""


@dataclass(frozen=True, slots=True)
class CodingScheme:
    """A private coding scheme (PS3.3 C.12.1.1.7): its designator, which begins with 99, and its name."""

    designator: str
    name: str
    organization: str


@dataclass(frozen=True, slots=True)
class ModelSlot:
    """A place for a model in a pipeline; a site may put its own model there.

    ``shipped``: the id of the card that is run by default, "" for none. ``role``: a ``classifier``, or a
    ``detector`` of boxes.
    """

    name: str
    shipped: str
    role: Literal["classifier", "detector"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCard:
    """The description of a pipeline.

    ``name``: the name of its entry point, which results carry. ``version``: raised with every change that
    alters a result (the UIDs of results are derived from it and from the models). ``about``: one line, for
    the form of a rule. ``intended_use``: whom and what it is for, and what not. ``per_image``: an image's
    result does not depend on the others, so the node may run the pipeline on each image as it arrives.

    ``modalities``, ``views``: Modality (0008,0060) and View Position (0018,5101) of the images that it takes,
    empty for any; ``auto_for``: modalities for which ``ai-pipeline run --pipeline auto`` chooses it.
    ``region``: the part of the body (PS3.16 CID 4031), which reports name where an image does not.

    ``codes``: of its findings, unless a model's card has them; ``outlines``: structures that it outlines in
    Segmentations (PS3.16 CID 7151); ``measures``: quantities that it measures; ``scheme``: the coding scheme
    of its private codes. ``slots``: models that a site may exchange.
    """

    name: str
    version: str
    about: str = ""
    intended_use: str = ""
    options: type[PipelineOptions] = PipelineOptions
    per_image: bool = True
    modalities: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    auto_for: frozenset[str] = frozenset()
    region: Code | None = None
    codes: tuple[Code, ...] = ()
    outlines: tuple[Code, ...] = ()
    measures: tuple[MeasuredQuantity, ...] = ()
    scheme: CodingScheme | None = None
    slots: tuple[ModelSlot, ...] = ()

    def slot(self, role: str) -> ModelSlot | None:
        """The slot with this ``role``; None if the pipeline has none."""
        return next((one for one in self.slots if one.role == role), None)

    @property
    def private_codes(self) -> tuple[Code, ...]:
        """The pipeline's codes that belong to no standard (PS3.3 8.2)."""
        codes = (*self.codes, *self.outlines, *(one.code for one in self.measures))
        return tuple(code for code in codes if code.scheme.startswith("99"))


_WANTED: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes",
    list: 'a list, such as ["a", "b"]',
    dict: "a table, such as { key = 1 }",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _remedy(known: PipelineOption | None, fault: Any) -> str:
    if known is None:
        return "no such option"
    if fault["type"] == "missing":
        return f"must be given: {known.wanted}" if known.wanted else "must be given"
    if fault["type"] == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    bounds = [f"{word} {fault['ctx'][key]:g}" for key, word in _BOUNDS.items() if key in fault.get("ctx", {})]
    if bounds:
        return f"must be {bounds[0]}{f' {known.unit}' if known.unit else ''}"
    if known.choices:
        joined = " or " if len(known.choices) == 2 else ", "
        return f"must be {'' if len(known.choices) == 2 else 'one of '}{joined.join(known.choices)}"
    return f"must be {known.wanted or _WANTED.get(known.kind, 'another value')}"


def _option(key: str, field: FieldInfo) -> PipelineOption:
    further = dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
    usual = str(further.pop("usual", ""))
    kind, choices = _kind(field.annotation)
    return PipelineOption(
        key,
        kind,
        field.title or key,
        usual or ("" if field.is_required() else _in_words(field.get_default(call_default_factory=True))),
        field.is_required(),
        choices,
        manual=" ".join((field.description or "").split()),
        **further,  # type: ignore[arg-type]
    )


def _kind(annotation: Any) -> tuple[type, tuple[str, ...]]:
    """The kind of a value, and all its choices."""
    if get_origin(annotation) in (Union, UnionType):
        [annotation] = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    kind = get_origin(annotation) or annotation
    if issubclass(kind, StrEnum):
        return str, tuple(one.value for one in kind)
    if issubclass(kind, Mapping):
        return dict, ()
    return (list if issubclass(kind, tuple | list | frozenset) else kind), ()


def _in_words(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, int | float):
        return f"{default:g}"
    if isinstance(default, tuple | list | frozenset | Mapping) or default is None:
        return ", ".join(map(str, default or ())) or "none"
    return str(default)
