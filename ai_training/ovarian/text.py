"""The figures of the ovarian model as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ai_training.ovarian.evaluate import TARGET
from ai_training.text import NOT_DIAGNOSTIC, interval


def as_text(result: Mapping[str, Any]) -> str:
    """All figures of :func:`ai_training.ovarian.evaluate.evaluate` for a terminal."""
    return "\n".join([*_classification(result), *_answers(result), *_others(result), NOT_DIAGNOSTIC])


def _classification(result: Mapping[str, Any]) -> Iterator[str]:
    found = result["cross_validation"]
    size = f"{found['frames']} frames in {found['groups']} groups, five folds"
    yield f"{result['model']} {result['version']}: {size}"
    yield f"macro AUC of eight classes {interval(found['macro_auc'])} (target {TARGET})"
    yield f"  of the folds {', '.join(f'{one:.3f}' for one in found['macro_auc_of_folds'])}"
    yield f"accuracy {interval(found['accuracy'])}"
    for label, row in found["labels"].items():
        yield f"  {label:30} {row['frames']:4} frames, AUC {interval(row['auc'])}"
    calibration = found["calibration"]
    yield (
        f"likeliest class: ECE {calibration['ece']:.3f}, Brier {calibration['brier']:.3f}, slope "
        f"{interval(calibration['slope'])}, intercept {interval(calibration['intercept'])}"
    )
    for row in found["risk_coverage"]:
        yield f"  answering {row['coverage']:.0%}: right {interval(row['right'])}"
    for name, row in found["binary"].items():
        columns = ", ".join(f"{key} {interval(row[key])}" for key in row if key not in {"positives", "auc"})
        yield f"{name} or not ({row['positives']} positives): AUC {interval(row['auc'])}, {columns}"


def _answers(result: Mapping[str, Any]) -> Iterator[str]:
    found = result["answers"]
    called, of = found["malignant_called_another_class"]
    right = interval(found["right"])
    yield f"at the card's thresholds: answers {interval(found['answered'])}, of them right {right}"
    yield f"  own class called absent {interval(found['own_class_called_absent'])}"
    yield f"  malignant frames called another class: {called} of {of}"
    for label, row in found["by_class"].items():
        yield f"  {label:30} called on {row['frames']} frames, right {interval(row['right'])}"
    row = found["would_be_normal"]
    yield (
        f"  a normal ovary is never called: on {row['frames']} frames it would be, right "
        f"{interval(row['right'])}, {row['malignant']} of them malignant"
    )


def _others(result: Mapping[str, Any]) -> Iterator[str]:
    for name, row in result["gate"].items():
        yield f"gate, {name}: {row['pictures']} pictures, passed {interval(row['passed'])}"
    outline = result["outline"]
    yield (
        f"outline: Dice {interval(outline['dice'])} (median {outline['median']:.3f}) of {outline['shown']} "
        f"shown in {outline['frames']} test frames, below .5: {outline['below_half']}"
    )
    study = result["study"]
    words = {"all_frames": "frames", "without_yellow_marks": "frames without yellow marks"}
    for name in filter(study.get, words):
        yield from _table(
            f"study, {study[name]['frames']} {words[name]}", study["margin"], study[name]["rows"]
        )
    learned = {"trained_on_cleaned": "learned from and tested on", "other_networks": "other networks"}
    for name in filter(result.get, learned):
        found = result[name]
        yield from _table(f"{learned[name]}, {found['frames']} frames", found["margin"], found["rows"])


def _table(what: str, margin: float, rows: Mapping[str, Any]) -> Iterator[str]:
    yield f"{what} (margin {margin}):"
    for variant, row in rows.items():
        shares = "".join(
            f", activation in {place} {row[key]:.3f}"
            for place in ("lesion", "marks")
            if (key := f"activation_in_{place}") in row
        )
        yield (
            f"  {variant:22} macro AUC {interval(row['macro_auc'])}, difference "
            f"{interval(row['difference'])}, accuracy {interval(row['accuracy'])}, same class "
            f"{row['same_class']:.0%}, neoplasm AUC {interval(row['neoplasm']['auc'])}, difference "
            f"{interval(row['neoplasm_difference'])}{shares}"
        )
