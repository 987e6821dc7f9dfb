"""The figures of the ovarian model, for docs/models/ovarian.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ai_pipeline.models.card import Card
from ai_training.text import interval, markdown_table

BINARY = (
    "auc",
    "recall",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "accuracy",
    "ppv_at_31",
    "npv_at_31",
    "f1_at_31",
)
SETS = {
    "us_ovarian": "ovarian frames, held out",
    "us_fetal_head": "fetal heads (HC18), test split",
    "us_fetal_planes": "fetal planes, test split",
    "us_breast": "breasts, test split",
    "cxr_nih": "chest X-rays, test split",
    "dicom": "ultrasound files of all kinds, never learned from",
}


def ovarian_lines(card: Card) -> list[str]:
    """Labels, cross-validation, answers, gate and outline; no lines without figures."""
    metrics = card.details.get("metrics", {})
    if "cross_validation" not in metrics:
        return []
    return [*_classes(card, metrics), *_answers(card, metrics), *_others(metrics)]


def _classes(card: Card, metrics: Mapping[str, Any]) -> Iterator[str]:
    found = metrics["cross_validation"]
    seeds = f"{found['seeds']} seed{'s' if found['seeds'] > 1 else ''}"
    looks = card.details.get("training", {}).get("held_out_looks", 1)
    yield "### Cross-validation"
    yield ""
    yield (
        f"{found['frames']} frames in {found['groups']} groups of near-duplicates, five folds by group, "
        f"{seeds}; every frame is scored by the network that has not seen its group. There are no patient "
        "identifiers: leakage cannot be excluded. Intervals are 95 %, by bootstrap over groups "
        f"(`ai-pipeline evaluate ovarian`). The held-out frames were scored {looks} times, once for each "
        "version. What ships was trained on all frames by the same recipe; these "
        "figures are taken for its own."
    )
    yield ""
    yield (
        f"Macro AUC of the eight classes: **{interval(found['macro_auc'])}** (target .90); accuracy "
        f"{interval(found['accuracy'])}."
    )
    yield ""
    rows = [
        [
            label.name,
            f"{label.code.value} {label.code.scheme} *{label.code.meaning}*",
            "yes" if label.supported else "research only",
            str(found["labels"][label.name]["frames"]),
            interval(found["labels"][label.name]["auc"]),
        ]
        for label in card.labels
    ]
    yield from markdown_table(("class", "code", "reported", "frames", "AUC"), rows)
    names = {"malignant": "malignant or not (descriptive)", "neoplasm": "neoplasm or not"}
    binary = [
        [names[name], str(row["positives"]), *(interval(row[key], 2) for key in BINARY)]
        for name, row in found["binary"].items()
    ]
    headings = ("task", "positives", "AUC", *(key.replace("_at_31", " at 31 %") for key in BINARY[1:]))
    yield from markdown_table(headings, binary)


def _answers(card: Card, metrics: Mapping[str, Any]) -> Iterator[str]:
    found, answers = metrics["cross_validation"], metrics["answers"]
    calibration = found["calibration"]
    called, of = answers["malignant_called_another_class"]
    normal = answers["would_be_normal"]
    yield "### When it answers"
    yield ""
    table = card.details["calibration"]
    answered, right, absent = (
        interval(answers[key]) for key in ("answered", "right", "own_class_called_absent")
    )
    yield f"Probabilities: {table['method']}. Thresholds: {table['thresholds']}."
    yield (
        f"At these it answers for {answered} of the frames, of which {right} are right; {absent} of the "
        "frames "
        f"have their own class called absent. Of {of} malignant frames {called} are called another class. An "
        f"ovary is never called normal: of {normal['frames']} such answers {interval(normal['right'])} would "
        f"be right, and {normal['malignant']} of the frames are malignant. "
        f"Likeliest class: calibration error {calibration['ece']:.3f}, Brier {calibration['brier']:.3f}, "
        f"slope {interval(calibration['slope'])}, intercept {interval(calibration['intercept'])}."
    )
    yield ""
    by_class = [
        [name, str(row["frames"]), interval(row["right"])] for name, row in answers["by_class"].items()
    ]
    yield from markdown_table(("called", "frames", "right"), by_class)
    rows = [
        [f"{row['coverage']:.0%}", f"{row['least_probability']:.2f}", interval(row["right"])]
        for row in found["risk_coverage"]
    ]
    yield from markdown_table(("answered", "least probability", "right"), rows)


def _others(metrics: Mapping[str, Any]) -> Iterator[str]:
    outline = metrics["outline"]
    withheld = "; ".join(f"{count} × {fault}" for fault, count in outline["withheld"].items()) or "none"
    yield "### Gate and outline"
    yield ""
    rows = [
        [SETS.get(name, name), str(row["pictures"]), interval(row["passed"])]
        for name, row in metrics["gate"].items()
    ]
    yield from markdown_table(("pictures", "number", "passed by the gate of the pixels"), rows)
    yield (
        f"Outline on the manifest's test split: Dice {interval(outline['dice'])} (median "
        f"{outline['median']:.3f}) of the {outline['shown']} that are shown in {outline['frames']} frames, "
        f"below .5 in {outline['below_half']}; withheld: {withheld}."
    )
    yield ""
    if metrics["study"]:
        yield "What cleaning does to it: [studies/ovarian.md](../studies/ovarian.md)."
        yield ""
