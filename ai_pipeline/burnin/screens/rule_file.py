"""The file of a screen profile: a device rule with texts, which other sites may take; it names nobody."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ai_pipeline.burnin.devices.rules import DeviceRule, conditions_of
from ai_pipeline.burnin.screens.offers import Choice, Offer
from ai_pipeline.contract import ImageHeader

_CONDITIONS: Final = ("modality", "manufacturer", "model", "software", "rows", "columns")
LONGEST_CONDITION: Final = 64
"""Characters of manufacturer, model and software, at most."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device with one screen: the conditions that its pictures meet, by the keys of ``match``."""

    conditions: tuple[tuple[str, str | int], ...]

    @classmethod
    def of(cls, header: ImageHeader) -> Device | None:
        """The device of an ultrasound image; None if its header names neither maker nor model, or has no
        values that a rule could have.
        """
        found = {key: value for key, value in conditions_of(header).items() if key in _CONDITIONS}
        texts = [value for value in found.values() if isinstance(value, str)]
        if not {"manufacturer", "model"} & found.keys() or not all(
            len(text) <= LONGEST_CONDITION and text.isprintable() for text in texts
        ):
            return None
        return cls(tuple((key, found[key]) for key in _CONDITIONS if key in found))

    def has(self, key: str) -> str:
        """The condition of this key as text; "" without one."""
        return str(dict(self.conditions).get(key, ""))

    @property
    def rule_name(self) -> str:
        """The name of its rule and file, the same wherever it is learnt."""
        digest = hashlib.sha256(json.dumps(sorted(self.conditions)).encode()).hexdigest()[:8]
        words = re.sub("[^a-z0-9]+", "-", f"{self.has('manufacturer')} {self.has('model')}".lower())
        return f"screen-{words.strip('-')[:40]}-{digest}"


def is_screen_rule(rule: DeviceRule) -> bool:
    """Whether a rule is of the screen of one device: it has texts, no rectangles, a name as screens have, and
    conditions without patterns on a maker or model and on the size.
    """
    match = rule.match.model_dump(exclude_none=True)
    written = [re.sub(r"\[[\[*?]\]", "", value) for value in match.values() if isinstance(value, str)]
    names_device = {"manufacturer", "model"} & match.keys() and {"rows", "columns"} <= match.keys()
    is_exact = match.keys() <= {*_CONDITIONS} and not any(set("*?[") & set(text) for text in written)
    is_named = re.fullmatch(r"screen-[a-z0-9-]*[0-9a-f]{8}", rule.name) is not None
    return bool(rule.texts) and not rule.rectangles and bool(names_device) and is_exact and is_named


def screen_rule(device: Device, offers: Sequence[Offer], texts: Collection[str]) -> DeviceRule:
    """The device rule by which those of ``texts`` stay that are offered. Raises ValueError if it would have
    none or too many.
    """
    chosen = [offer for offer in offers if offer.choice is not Choice.GOES and offer.text in texts]
    if not chosen:
        raise ValueError("no text of this screen would stay")
    edges = ("left", "top", "right", "bottom")
    given = [dict(zip(edges, offer.box, strict=True)) | {"text": offer.text} for offer in chosen]
    return DeviceRule.model_validate(
        {"name": device.rule_name, "match": dict(device.conditions), "rectangles": [], "texts": given}
    )


def file_text(source: str, rules: Sequence[DeviceRule]) -> str:
    """The TOML of a file with these rules of screens."""
    return f"source = {_toml(source)}\n" + "".join(map(_rule_text, rules))


def _rule_text(rule: DeviceRule) -> str:
    """The TOML of one rule."""
    match = rule.match.model_dump(exclude_none=True)
    texts = ",\n    ".join(_table(text.model_dump()) for text in rule.texts)
    return (
        f"\n[[rule]]\nname = {_toml(rule.name)}\nmatch = {_table(match)}\nrectangles = []\n"
        f"texts = [\n    {texts},\n]\n"
    )


def _table(values: Mapping[str, Any]) -> str:
    """An inline table."""
    return f"{{ {', '.join(f'{key} = {_toml(value)}' for key, value in values.items())} }}"


def _toml(value: str | int) -> str:
    """A text without control characters, or a number: TOML writes them as JSON does."""
    return json.dumps(value, ensure_ascii=False)
