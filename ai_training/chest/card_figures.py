"""Select the figures of an evaluation for a card's ``[metrics]``, from which
docs/models/chest.md is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPARED = (
    "mean_auc",
    "mean_auc_hog",
    "difference_to_hog",
    "mean_auc_age_sex_view",
    "difference_to_age_sex_view",
)
PLACED = ("pointing", "iou_at_least_0.3")
OPERATING = ("sensitivity_present", "specificity_present", "sensitivity_not_absent", "specificity_not_absent")


def card_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``[metrics]`` for the result of an evaluation: plain values, no None (TOML has none)."""
    main = result["main"]
    boxes = result["boxes"] or {}
    called = result["called"]
    metrics: dict[str, Any] = {
        "set": (
            f"{result['data']['main']}, {result['split']}: {main['images']} images of "
            f"{main['patients']} adults; [value, low, high], 95 % by bootstrap over patients"
        ),
        "images": main["images"],
        "patients": main["patients"],
        "mean_auc_labels": main["labels_counted"],
        **{key: main.get(key) for key in COMPARED},
        "mean_average_precision": main["mean_average_precision"],
        "permuted_labels": result["permuted_labels"],
        "with_children": {key: result["with_children"][key] for key in ("images", "mean_auc")},
        "within_source": result["within_source"],
        "source_probe": result["probes"].get("source"),
        "teacher": result["teacher"],
        "top3": called["top3"],
        "all_findings": called.get("all_findings"),
        "operating_points": result["operating_points"]["tested"],
        **{key: boxes.get(key) for key in PLACED},
        "gate": result["gate"],
        "labels": {row["label"]: _label(row) for row in main["labels"]},
        "sources": {row["source"]: _source(row) for row in result["sources"]},
        "calibration": {name: _calibration(found) for name, found in result["calibration"].items()},
        "subgroups": [
            {"set": name, **row}
            for name, rows in result["subgroups"].items()
            for row in rows
            if row["labels"]
        ],
    }
    return {
        key: known for key, value in metrics.items() if (known := known_only(value)) not in (None, {}, [])
    }


def supported(result: Mapping[str, Any]) -> dict[str, bool]:
    """For each label whether it has at least 15 positives and an AUC whose 95 % interval is above .5."""
    return {row["label"]: row["supported"] for row in result["main"]["labels"]}


def _label(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("positives", "auc", "average_precision", *OPERATING)}


def _source(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("images", "patients", "mean_auc", "labels", "left_out")}


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    labels = {name: {"prevalence": found["prevalence"][name], **row} for name, row in found["labels"].items()}
    known = ("natural_prevalence", "images", "mean_ece", "mean_brier")
    return {**{key: found[key] for key in known if key in found}, "labels": labels}


def known_only(value: Any) -> Any:
    """A copy of ``value`` without the figures that are None."""
    if isinstance(value, Mapping):
        known = {key: known_only(item) for key, item in value.items()}
        return {key: item for key, item in known.items() if item is not None}
    if isinstance(value, list):
        return None if None in value else [known_only(item) for item in value]
    return value
