"""The part of docs/models/outlines.md on the network that outlines heart and lungs."""

from __future__ import annotations

from ai_pipeline.models.card import Card
from ai_training.text import interval


def anatomy_lines(card: Card) -> list[str]:
    """Dice of each organ and agreement of the cardiothoracic ratio on the test images; no lines without
    figures.
    """
    tested = card.details.get("metrics", {}).get("test")
    if "anatomy" not in card.details or not tested:
        return []
    ratio = tested["ratio"]
    low, high = ratio["limits"]
    missed = "; ".join(f"{count} × {fault}" for fault, count in tested["not_measured"].items()) or "none"
    return [
        f"On the {tested['images']} test images, one a patient, looked at once "
        "(`ai-pipeline evaluate anatomy`; intervals are 95 %, by bootstrap over images):",
        "",
        "| figure | value |",
        "| --- | --- |",
        *(f"| Dice, {organ} | {interval(value, 3)} |" for organ, value in tested["dice"].items()),
        f"| cardiothoracic ratio, mean absolute error | {interval(ratio['error'], 4)} |",
        f"| … bias; 95 % limits of agreement | {ratio['bias']:+.4f}; {low:+.3f} to {high:+.3f} |",
        f"| … worst | {ratio['worst']:.3f} |",
        f"| measured | {tested['measured']} of {tested['images']} |",
        f"| not measured | {missed} |",
        "",
        "Looked at on 60 films of another hospital: [studies/anatomy.md](../studies/anatomy.md).",
        "",
    ]
