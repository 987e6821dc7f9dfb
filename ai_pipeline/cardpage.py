"""docs/models.md, written from the cards: ``python -m ai_pipeline.cardpage > docs/models.md``.

A test holds the page equal to the cards, so no figure in it can be older than the model it speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_pipeline.registry import Card, cards

OPENING = """# Models

**None of these models is for diagnostic use.** This page is written from the cards in `ai_pipeline/cards/`
(`python -m ai_pipeline.cardpage > docs/models.md`); [training.md](training.md) says how the figures are made.

No card, no model: a network is loaded only through a card that names its weights with their SHA-256, and
is refused when a byte is different. To use a model of one's own, put its card and weights into one folder and
name the folder (`--models-dir`, the node's `models_dir`, or `AI_PIPELINE_MODELS_DIR`); a card with the id of
a shipped one replaces it. `ai-pipeline models list` and `models verify` say what is there and whether intact.
"""


def page() -> str:
    """The whole page, from the shipped cards."""
    return "\n".join([OPENING, *(_card(card) for card in cards())])


def _card(card: Card) -> str:
    lines = [
        f"## {card.id}, version {card.version}",
        "",
        f"{_sentence(card.task)}",
        "",
        f"* **Intended use:** {card.intended_use}",
        f"* **Architecture:** {card.architecture}",
        f"* **Licence:** {card.licence}",
        *(f"* **Weights ({w.role}):** `{w.path.name}`, SHA-256 `{w.sha256[:16]}…`" for w in card.weights),
        f"* **Probabilities calibrated:** {'yes' if card.calibrated else 'no'}",
        "",
        "Limits:",
        "",
        *(f"* {limit}" for limit in card.limits),
        "",
    ]
    metrics = card.details.get("metrics", {})
    if card.labels and metrics:
        lines += _classifier(card, metrics)
    return "\n".join(lines)


def _classifier(card: Card, metrics: Mapping[str, Any]) -> list[str]:
    training, calibration = card.details["training"], card.details["calibration"]
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
            f"| {label.absent_below:.3f} | {_yes(label.box)} |"
            for label in card.labels
        ),
        "",
        "### Test figures",
        "",
        f"{metrics['set']}.",
        "",
        f"Mean AUC of the {len(metrics['mean_auc_labels'])} labels with at least 15 positives: "
        f"**{_interval(metrics['mean_auc'])}**. "
        f"HOG + kernel ridge with the same labels: {_interval(metrics['mean_auc_hog'])}, "
        f"paired difference {_interval(metrics['difference_to_hog'])}. "
        f"Age, sex and view alone: {_interval(metrics['mean_auc_age_sex_view'])}.",
        "",
        "| label | positives | AUC | average precision | sensitivity / specificity, present "
        "| … not absent | calibration error, all sources |",
        "|---|---|---|---|---|---|---|",
        *(_figures(name, row) for name, row in metrics["labels"].items()),
        "",
        f"Boxes: the map's peak lies in the true box in {_interval(metrics['pointing']['model'])} of "
        f"cases (one fixed map per label: {_interval(metrics['pointing']['constant'])}, difference "
        f"{_interval(metrics['pointing']['difference'])}); the box overlaps it by at least .3 in "
        f"{_interval(metrics['iou_at_least_0.3']['model'])} (one fixed box per label: "
        f"{_interval(metrics['iou_at_least_0.3']['constant'])}, difference "
        f"{_interval(metrics['iou_at_least_0.3']['difference'])}).",
        "",
        "Refused by the pixel gate, as a share: "
        + ", ".join(f"{name} {share:.3f}" for name, share in metrics["gate_refuses"].items())
        + ".",
        "",
        f"{calibration['method']}, whose rates are {calibration['prevalence']}. Thresholds: "
        f"{calibration['thresholds']}.",
        "",
        "### Training",
        "",
        *(f"* {source}" for source in training["data"]),
        f"* {training['images']} images of {training['patients']} patients; chosen at iteration "
        f"{training['chosen_iteration']} by a validation AUC of {training['validation_auc_within_sources']} "
        f"(inside sources, {training['validation_images']} images).",
        "",
    ]


def _figures(name: str, row: Mapping[str, Any]) -> str:
    return (
        f"| {name} | {row['positives']} | {_interval(row['auc'])} | {row['average_precision']:.2f} "
        f"| {row['sensitivity_present']:.2f} / {row['specificity_present']:.2f} "
        f"| {row['sensitivity_not_absent']:.2f} / {row['specificity_not_absent']:.2f} "
        f"| {row['ece_all_sources']:.3f} |"
    )


def _interval(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    print(page(), end="")
