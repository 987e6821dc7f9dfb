"""Where an image's device writes text, by its device rules (:mod:`ai_pipeline.burnin.devices.rules`)."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ai_pipeline.burnin.annotation.pixels import Box
from ai_pipeline.burnin.devices.rules import DeviceRule, device_rules
from ai_pipeline.contract import ImageHeader, Meaning, QualityNote


@dataclass(frozen=True, slots=True)
class DeviceBox:
    """A rectangle of a device rule, in the pixels of a picture."""

    rule: str
    meaning: Meaning
    box: Box


def matching_rules(header: ImageHeader, folder: Path | None = None) -> tuple[DeviceRule, ...]:
    """The rules that match this image. Raises :class:`ai_pipeline.errors.DeviceRuleError`."""
    return tuple(rule for rule in device_rules(folder) if rule.match.fits(header))


def device_boxes(
    header: ImageHeader, shape: tuple[int, ...], folder: Path | None = None
) -> tuple[DeviceBox, ...]:
    """The rectangles of the device rules that match this image, clipped to a picture of ``shape`` (rows,
    columns, …).
    """
    return tuple(
        DeviceBox(rule.name, rule.meaning, box)
        for rule in matching_rules(header, folder)
        for rectangle in rule.rectangles
        if (box := rectangle.box(shape[0], shape[1]))
    )


def device_note(
    header: ImageHeader, folder: Path | None = None, source_uid: str | None = None
) -> QualityNote | None:
    """A note that names the device rules that match this image; None if none does."""
    names = ", ".join(rule.name for rule in matching_rules(header, folder))
    text = f"device rules for this image: {names}"
    return QualityNote("device_rules", text, source_uid) if names else None


def conditions_of(header: ImageHeader) -> dict[str, str | int]:
    """The conditions that a device rule for this image could have, by the rule's keys; conditions on
    attributes that the image lacks are left out.
    """
    texts = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions")
    maker, model, software = (escape(header.attributes.get(text, "").split("\\")[0]) for text in texts)
    conditions: dict[str, str | int] = {
        "modality": header.modality,
        "manufacturer": maker,
        "model": model,
        "software": software,
        "rows": header.rows,
        "columns": header.columns,
        "sop_class": header.sop_class_uid,
    }
    return {key: value for key, value in conditions.items() if value}
