"""Test figures of the ultrasound evaluations in the cards' tables ``[metrics]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_training.ultrasound.inpaint.export import file_id


def marks_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of ``evaluate marks`` for the detector's card, by split: ``[value, low, high]``, 95 %."""
    split = result["split"]
    figures: dict[str, Any] = {}
    if "synthetic" in result:
        copied = (
            "set",
            "threshold",
            "objects",
            "object_recall",
            "by_kind",
            "pixel_recall",
            "precision",
            "dice",
            "clean_area",
        )
        figures[f"synthetic_{split}"] = {key: result["synthetic"][key] for key in copied}
    for key in ("drawn", "coloured"):
        if key in result:
            found = result[key]
            rows = {
                name.replace(" ", "_"): {
                    part: value for part, value in row.items() if part not in {"missed", "refused"}
                }
                | {"refused": len(row["refused"])}
                for name, row in found["rows"].items()
            }
            figures[key] = {
                name: found[name] for name in ("frames", "objects", "found_from", "tolerance")
            } | rows
    if "clean" in result:
        figures[f"clean_{split}"] = {"frames": result["clean"]["frames"], **result["clean"]["rows"]}
    return figures


def legible_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of ``evaluate legible`` for the detector's card, without any text that was read."""
    engines = {
        name: {key: value for key, value in row.items() if key != "what"}
        for name, row in result["engines"].items()
    }
    quarantined = {key: value for key, value in result["quarantined"].items() if key != "reasons"}
    return {f"legible_{result['policy']}": {**result, "engines": engines, "quarantined": quarantined}}


def inpaint_figures(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of ``evaluate inpaint`` for each inpainter's card, by the card's id."""
    cards: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        own = cards.setdefault(file_id(row["name"]), {}).setdefault(result["split"], {"set": result["set"]})
        own[row["mask"]] = {key: value for key, value in row.items() if key not in {"mask", "name"}}
    return cards
