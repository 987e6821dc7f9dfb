"""The part of docs/models/outlines.md on the network that outlines fetal heads."""

from __future__ import annotations

from ai_pipeline.models.card import Card
from ai_training.text import interval


def head_lines(card: Card) -> list[str]:
    """Dice, circumference and gate on the test images; no lines without figures."""
    tested = card.details.get("metrics", {}).get("test")
    if "head" not in card.details or not tested:
        return []
    of, small = tested["circumference"], tested["small"]
    low, high = of["limits"]
    return [
        f"On the {tested['images']} test heads, looked at once (`ai-pipeline evaluate fetal`; "
        "intervals are 95 %, by bootstrap over examinations):",
        "",
        "| figure | all, whatever the gate says | measured: what the gate lets through |",
        "| --- | --- | --- |",
        f"| heads | {tested['images']} | {tested['measured']} |",
        f"| Dice | {interval(tested['dice'], 4)} | {interval(of['dice'], 4)} |",
        f"| head circumference, mean absolute error, mm | {interval(tested['error'], 2)} "
        f"| {interval(of['error'], 2)} |",
        f"| … bias; 95 % limits of agreement; worst, mm | | {of['bias']:+.2f}; {low:+.2f} to {high:+.2f}; "
        f"{of['worst']:.2f} |",
        f"| Dice of the {small['images']} heads below 120 mm | {interval(small['dice'], 4)} | |",
        f"| … their circumference, mm | {interval(small['error'], 2)} | |",
        "",
        "| pictures of the test split | number | the gate lets through |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {row['images']} | {interval(row['passed'])} |"
            for name, row in tested["gate"].items()
        ),
        "",
        "Looked at on pictures of another source: [studies/fetal-head.md](../studies/fetal-head.md).",
        "",
    ]
