"""The figures of a chest X-ray classifier, for docs/models/chest.md (from its card)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_pipeline.models.card import Card
from ai_training.text import interval, sentence


def chest_lines(card: Card) -> list[str]:
    """Labels, test figures, calibration, subgroups and external measurements; no lines without figures."""
    metrics = card.details.get("metrics", {})
    if "labels" not in metrics:
        return []
    parts = (
        _findings(card),
        _figures(metrics),
        _calibration(card, metrics),
        _subgroups(metrics),
        _external(card),
    )
    return [line for part in parts for line in part]


def _findings(card: Card) -> list[str]:
    return [
        "### Findings",
        "",
        "A label is reported only when its test images hold at least 15 positives and the lower end of the",
        "interval of its AUC is above .5; the others are measured here, hidden unless `all_labels` is set.",
        "",
        "| label | code | place | reported | present from | absent below | box |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {label.name} | {label.code.value} {label.code.scheme} *{label.code.meaning}* "
            f"| {label.site.meaning if label.site else ''} | {_yes(label.supported)} | {label.threshold:.3f} "
            f"| {label.absent_below:.3f} | {_yes(label.detector if card.plays('detector') else label.box)} |"
            for label in card.labels
        ),
        "",
    ]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    looks = f" Looks at the test split with these weights: {metrics['looks']}." if "looks" in metrics else ""
    lines = ["### Test figures", "", f"{metrics['set']}.{looks}", ""]
    if "mean_auc" in metrics:
        lines += [
            f"Mean AUC of the {len(metrics['mean_auc_labels'])} labels with at least 15 positives: "
            f"**{interval(metrics['mean_auc'])}**.{_compared(metrics)}",
            "",
        ]
    if "with_children" in metrics:
        row = metrics["with_children"]
        lines += [f"With children: {row['images']} images, {interval(row['mean_auc'])}.", ""]
    if "within_source" in metrics:
        lines += [*_within(metrics["within_source"], metrics.get("source_probe", {})), ""]
    lines += [
        "Sensitivity and specificity at the thresholds of `balanced`:",
        "",
        "| label | positives | AUC | average precision | sensitivity / specificity, present | … not absent |",
        "|---|---|---|---|---|---|",
        *(_row(name, row) for name, row in metrics["labels"].items()),
        "",
    ]
    return [*lines, *_shown(metrics), *_others(metrics)]


def _compared(metrics: Mapping[str, Any]) -> str:
    titles = {"hog": "HOG + kernel ridge with the same labels", "age_sex_view": "Age, sex and view alone"}
    return "".join(
        f" {title}: {interval(metrics[f'mean_auc_{name}'])}, paired difference "
        f"{interval(metrics[f'difference_to_{name}'])}."
        for name, title in titles.items()
        if f"mean_auc_{name}" in metrics
    )


def _within(within: Mapping[str, Any], probe: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Mean of {within['cells']} AUCs, each of one label inside one source: {interval(within['model'])}"
        + (f" (HOG {interval(within['hog'])})" if "hog" in within else "")
        + "."
    ]
    if probe:
        known = ", ".join(f"{label} {auc:.2f}" for label, auc in probe["pooled_auc"].items() if auc >= 0.7)
        lines.append(
            "What pooled figures are worth: a classifier that sees nothing but the source of an image "
            f"reaches {interval(probe['mean_pooled_auc'])} over all sources{f' ({known})' if known else ''}."
        )
    return lines


def _row(name: str, row: Mapping[str, Any]) -> str:
    def cell(key: str) -> str:
        return _share(row[key]) if key in row else "–"  # without positives there is no sensitivity

    present = f"{cell('sensitivity_present')} / {cell('specificity_present')}"
    not_absent = f"{cell('sensitivity_not_absent')} / {cell('specificity_not_absent')}"
    precision = cell("average_precision")
    auc = interval(row["auc"]) if "auc" in row else "–"
    return f"| {name} | {row['positives']} | {auc} | {precision} | {present} | {not_absent} |"


def _shown(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader gets to see: the top three, all findings, boxes, and what the gate turns away."""
    lines: list[str] = []
    if "top3" in metrics:
        top = metrics["top3"]
        constant = f" (the three most frequent labels for everyone: {interval(top['constant'])})"
        lines.append(
            f"One of the top three labels is right in {interval(top['all_labels'])} of the images with a "
            f"finding{constant if 'constant' in top else ''}."
        )
    if "all_findings" in metrics:
        row = metrics["all_findings"]
        lines.append(
            "All findings of the supported labels at `balanced`: precision "
            f"{interval(row['precision'])}, recall {interval(row['recall'])}, {row['called_per_image']} an "
            "image."
        )
    if "pointing" in metrics:
        point, overlap = metrics["pointing"], metrics["iou_at_least_0.3"]
        lines.append(
            f"Boxes: the map's peak lies in the true box in {interval(point['model'])} of cases (one fixed "
            f"map per label: {interval(point['constant'])}, difference {interval(point['difference'])}); "
            f"the box overlaps it by at least .3 in {interval(overlap['model'])} (one fixed box per label: "
            f"{interval(overlap['constant'])}, difference {interval(overlap['difference'])})."
        )
    return [*(text for line in lines for text in (line, "")), *_gate(metrics.get("gate", {}))]


def _gate(gate: Mapping[str, Any]) -> list[str]:
    if not gate:
        return []
    return [
        "What the gate does with pictures; false positives: the share that passes as shown where 95 % of the "
        "adults do.",
        "",
        "| picture | number | false positives | accepted | reoriented | refused |",
        "|---|---|---|---|---|---|",
        _outcome("chests of adults", gate["adults"]),
        *(_outcome(name, row) for name, row in gate["kinds"].items()),
        "",
    ]


def _outcome(name: str, row: Mapping[str, Any]) -> str:
    passes = interval(row["false_positives_at_95"]) if "false_positives_at_95" in row else ""
    shares = " | ".join(f"{row[key]:.3f}" for key in ("accepted", "mended", "refused"))
    return f"| {name} | {row['images']} | {passes} | {shares} |"


def _others(metrics: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if "sources" in metrics:
        lines += ["| source | images | patients | labels | mean AUC |", "|---|---|---|---|---|"]
        for name, row in metrics["sources"].items():
            auc = interval(row["mean_auc"]) if "mean_auc" in row else "–"
            lines.append(f"| {name} | {row['images']} | {row['patients']} | {len(row['labels'])} | {auc} |")
        left = [
            f"{label} of {source}: {why}"
            for source, row in metrics["sources"].items()
            for label, why in row.get("left_out", {}).items()
        ]
        lines += ["", *([f"Left out: {'; '.join(left)}.", ""] if left else [])]
    taught = metrics.get("teacher", {})
    for name, row in taught.get("sources", {}).items():
        lines += [
            f"Beside the teacher on {row['images']} images of {name} that it scored, "
            f"{len(row['labels'])} labels: {interval(row['model'])}, teacher {interval(row['teacher'])}, "
            f"difference {interval(row['difference'])}.",
            "",
        ]
    return [*lines, *([f"{sentence(taught['note'])}", ""] if "note" in taught else [])]


def _external(card: Card) -> list[str]:
    """What others measured; a label is hidden where the lower limit is not above .5 there."""
    found = card.details.get("external")
    if not found:
        return []
    rows = [f"| {label} | {interval(auc)} |" for label, auc in found["auc"].items()]
    return [
        "### Elsewhere",
        "",
        f"AUC on {found['images']} {found['source']}; {found['called_present']}. "
        "A label is shown only if the lower limit of its AUC is above .5 there too.",
        "",
        "| label | AUC |",
        "| --- | --- |",
        *rows,
        "",
    ]


def _calibration(card: Card, metrics: Mapping[str, Any]) -> list[str]:
    found = card.details.get("calibration", {})
    if not found:
        return []
    rates = found["prevalence"]
    if isinstance(rates, Mapping):
        rates = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
    lines = [
        "### Calibration",
        "",
        f"{found['method']}, whose rates are {rates}. Thresholds: {found['thresholds']}.",
        "",
    ]
    for name, row in metrics.get("calibration", {}).items():
        kind = "natural prevalence" if row["natural_prevalence"] else "chosen by disease"
        lines += [
            f"{name} ({kind}), {row['images']} images; slope 1 and intercept 0 are perfect:",
            "",
            "| label | prevalence | ECE | Brier score | slope | intercept |",
            "|---|---|---|---|---|---|",
            *(_believed(label, cells) for label, cells in row["labels"].items()),
            "",
        ]
    return lines


def _believed(label: str, row: Mapping[str, Any]) -> str:
    cells = (interval(row[key]) if key in row else "–" for key in ("ece", "brier", "slope", "intercept"))
    return f"| {label} | {row['prevalence']:.3f} | {' | '.join(cells)} |"


def _subgroups(metrics: Mapping[str, Any]) -> list[str]:
    rows = metrics.get("subgroups", [])
    if not rows:
        return []
    return [
        "### Subgroups",
        "",
        "Labels with at least 20 positives in the group; the mean is over the labels that all groups have.",
        "",
        "| set | group | images | mean AUC (labels) | AUC of the labels (positives) |",
        "|---|---|---|---|---|",
        *(_subgroup(row) for row in rows),
        "",
    ]


def _subgroup(row: Mapping[str, Any]) -> str:
    mean = f"{interval(row['mean_auc'])} ({len(row['labels_of_mean'])})" if "mean_auc" in row else "–"
    cells = "; ".join(f"{k} {interval(v['auc'])} ({v['positives']})" for k, v in row["labels"].items())
    return f"| {row['set']} | {row['attribute']} {row['group']} | {row['images']} | {mean} | {cells} |"


def _share(value: float | Sequence[float]) -> str:
    return f"{value:.2f}" if isinstance(value, float) else interval(value, 2)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
