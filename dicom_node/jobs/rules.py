"""Decides which rule takes which image, and why; without side effects, for the node and ``rules try``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from ai_pipeline.images.dates import date_of
from ai_pipeline.terms import shown_term
from dicom_node.base.config.settings import Conditions, RuleSettings, matches
from dicom_node.base.dicom.uids import SECONDARY_CAPTURES
from dicom_node.base.kinds import ObjectRole
from dicom_node.base.store.tables import Instance

# A rule's condition → where the image says it: a column of Instance, or a keyword of its attributes.
_ASKED = {
    "modality": "modality",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "calling_ae": "calling_ae",
    "called_ae": "called_ae",
    "station": "StationName",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
}
Senders = Mapping[str, str]
"""The names of peers by AE title."""
_CODED: Mapping[str, str] = {
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
}


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """A rule that takes images of a study. ``held_reason``: the limit that stops the job, "" for none."""

    rule: RuleSettings
    source_uids: tuple[str, ...]
    held_reason: str = ""


def decide(
    rules: Sequence[RuleSettings],
    study_date: str,
    images: Sequence[Instance],
    today: date,
    senders: Senders,
    *,
    asked_for: bool = False,
) -> list[RuleDecision]:
    """Every rule that takes at least one image, with the taken images in the order of the examination.

    ``asked_for``: whether a person had the study fetched, in which case it may be old.
    """
    ordered = sorted(images, key=_order)
    taken = [
        (rule, [image for image in ordered if not any(_mismatches(rule, image, senders))]) for rule in rules
    ]
    return [
        RuleDecision(
            rule,
            tuple(image.sop_instance_uid for image in its),
            "" if asked_for else _held(rule, study_date, today, its),
        )
        for rule, its in taken
        if its
    ]


def explain(
    rules: Sequence[RuleSettings], image: Instance, senders: Senders
) -> list[tuple[RuleSettings, str]]:
    """Each rule, in the order of the configuration, with the first condition that failed; "": it takes the
    image.
    """
    return [(rule, next(_mismatches(rule, image, senders), "")) for rule in rules]


def why_none(rules: Sequence[RuleSettings], images: Sequence[Instance], senders: Senders) -> str:
    """Why no rule takes any of these images: the rule that came closest, and its conditions that failed.

    Closest is the rule with the fewest failed conditions on an image; among equals, the first in the
    configuration. Header values are quoted only if they are no free text.
    """
    ordered = sorted(images, key=_order)
    tried = [(rule.name, list(_mismatches(rule, image, senders))) for rule in rules for image in ordered]
    if not tried:
        return "no rule applies: " + ("none is configured" if images else "the study has no images")
    name, failed = min(tried, key=lambda attempt: len(attempt[1]))
    return f"no rule applies; closest is {name}: {' and '.join(failed)}"


def _mismatches(rule: RuleSettings, image: Instance, senders: Senders) -> Iterator[str]:
    """Each condition of the rule that the image fails, as a sentence; none when it takes the image."""
    if image.role is ObjectRole.OWN:
        yield "it is a result of this node"
    elif image.sop_class_uid in SECONDARY_CAPTURES:
        if senders.get(image.calling_ae, "") not in rule.secondary_captures_from:
            yield "it is a secondary capture, and secondary_captures_from does not name its sender"
    elif image.role is not ObjectRole.SOURCE:
        yield "its SOP class is no ultrasound or X-ray image"
    for name in Conditions.model_fields:
        patterns: Sequence[str] = getattr(rule.when, name)
        asked = _ASKED[name]
        value = image.attributes.get(asked, "") if asked[0].isupper() else str(getattr(image, asked))
        values = [part.strip() for part in value.split("\\")]
        if patterns and not any(matches(pattern, value) for pattern in patterns for value in values):
            yield _sentence(name, patterns, values)


def _sentence(condition: str, patterns: Sequence[str], values: Sequence[str]) -> str:
    name = condition.replace("_", " ")
    wanted = " or ".join(patterns)
    if not any(values):
        return f"{name} is empty, not {wanted}"
    if keyword := _CODED.get(condition):
        return f"{name} {'/'.join(shown_term(keyword, value) for value in values)} does not match {wanted}"
    shown = f" {'/'.join(values)}" if condition.endswith("_ae") else ""
    return f"{name}{shown} does not match {wanted}"


def _held(rule: RuleSettings, study_date: str, today: date, images: Sequence[Instance]) -> str:
    most, taken = rule.max_study_age_days, date_of(study_date)
    if most and taken and (age := (today - taken).days) > most:
        return f"the study is {age} days old, rule {rule.name} takes {most:g}"
    # Without any date nothing says that it is old; zeros stand for none.
    if most and not taken and any(image.attributes.get("StudyDate", "").strip("0") for image in images):
        return f"the date of the study names no day, rule {rule.name} takes studies of {most:g} days"
    return ""


def _order(image: Instance) -> tuple[int, int, str]:
    from ai_pipeline.images.numbers import whole  # with pydicom, which `jobs retry` does without

    return (
        whole(image.attributes.get("SeriesNumber", "")) or 0,
        whole(image.attributes.get("InstanceNumber", "")) or 0,
        image.sop_instance_uid,
    )
