"""docs/models.md and docs/models/*.md, written from the cards: ``python -m ai_training.pages.models``.

A test holds the pages equal to the cards, so no figure in them can be older than its model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.models.card import Card
from ai_training.despeckle.compared import compared_cards
from ai_training.pages.anatomy import anatomy_lines
from ai_training.pages.boxes import box_lines
from ai_training.pages.chest import chest_lines
from ai_training.pages.despeckle import despeckle_lines
from ai_training.pages.fetal import head_lines
from ai_training.pages.operating_points import operating_point_lines
from ai_training.pages.ovarian import ovarian_lines
from ai_training.pages.training import training_lines
from ai_training.pages.ultrasound import ultrasound_lines
from ai_training.text import NOT_DIAGNOSTIC, interval, sentence
from ai_training.ultrasound.inpaint.compared import cards_with_compared

DOCS = Path(__file__).resolve().parents[2] / "docs"
CARDS = "models.md"
OPENING = """# Models

**None of these models is for diagnostic use.** These are the cards of what ships, in
`ai_pipeline/cards/`, and of two inpainters and an autoencoder that it was compared with and that no pipeline
runs, in `ai_training/ultrasound/inpaint/compared/` and `ai_training/despeckle/compared/`.
This page and the pages it leads to are written from the cards (`python -m ai_training.pages.models`).

No card, no model: a network is loaded only through a card that names its weights with their SHA-256, and
is refused when a byte is different. To use a model of one's own, put its card and weights into one folder and
name the folder (`--models-dir`, the node's `models_dir`, or `AI_PIPELINE_MODELS_DIR`); a card with the id of
a shipped one replaces it. `ai-pipeline models list` and `models verify` say what is there and whether intact.

[How they were trained](models/training.md) · [how figures are made](training.md) · [a model of one's
own](models-own.md) · [the works that this follows, repeated](studies/README.md)
"""
PICTURES = {
    "burnin-text": ("cleaning-first-now.png", "Ultrasound as it came, and cleaned by two versions"),
    "chest-efficientnet-lite0": (
        "chest-sc-heatmap.png",
        "A finding with its box, the lines of the cardiothoracic ratio, and the heat map",
    ),
    "ovarian-efficientnet-lite0": ("ovarian-activation.png", "Frames, and where the network looks"),
    "ultrasound-despeckle-residual": ("despeckle.png", "Frame, median filter, this network"),
    "ultrasound-inpaint-oci-gan": ("inpainting-1.png", "Overlaid, filled, truth"),
    "ultrasound-marks-unet": ("ultrasound-source-sc-cleaned.png", "As it came, marks found, cleaned"),
}


@dataclass(frozen=True, slots=True)
class FigurePage:
    """A page of figures. ``sections``: functions that write the lines of one card; none for a card of another
    page.
    """

    file: str
    title: str
    sections: tuple[Callable[[Card], Sequence[str]], ...]
    note: str = ""


FIGURES = (
    FigurePage("chest.md", "Chest X-rays: findings", (chest_lines,)),
    FigurePage(
        "chest-calls.md", "Chest X-rays: what calls and boxes are worth", (operating_point_lines, box_lines)
    ),
    FigurePage("outlines.md", "Outlines of hearts, lungs and fetal heads", (anatomy_lines, head_lines)),
    FigurePage("ovarian.md", "Ovaries", (ovarian_lines,)),
    FigurePage("ultrasound.md", "Ultrasound: marks, filling, speckle", (ultrasound_lines, despeckle_lines)),
)
TRAINING = FigurePage(
    "training.md",
    "How the models were trained",
    (training_lines,),
    " Commands: [training](../training.md), [ultrasound](../training-ultrasound.md). A recipe has the keys "
    "of the training's file or options.",
)


def pages() -> dict[str, str]:
    """The text of each page by its name below docs/, from the shipped cards and the cards for comparison."""
    known = {**cards_with_compared(), **{card.id: card for card in compared_cards()}}
    cards = [card for _, card in sorted(known.items())]
    found = {CARDS: "\n".join([OPENING, *(line for card in cards for line in card_lines(card))])}
    return found | {f"models/{page.file}": _written(page, cards) for page in (*FIGURES, TRAINING)}


def card_lines(card: Card) -> list[str]:
    """The lines on a card: what it is for, its licence, weights and limits, a picture, and where its figures
    are.
    """
    drawn = PICTURES.get(card.id)
    leading = [page for page in FIGURES if figure_lines(page, card)]
    links = [f"[{page.title}](models/{page.file}#{_anchor(card)})" for page in leading]
    return [
        f"## {_title(card)}",
        "",
        f"**{NOT_DIAGNOSTIC}**",
        "",
        f"{sentence(card.task)}{_headline(card)}",
        "",
        *([f"![{drawn[1]}](pictures/{drawn[0]})", ""] if drawn else []),
        f"* **Intended use:** {card.intended_use}",
        f"* **Architecture:** {card.architecture}",
        f"* **Licence:** {card.licence}",
        *(f"* **Weights ({w.role}):** `{w.path.name}`, SHA-256 `{w.sha256[:16]}…`" for w in card.weights),
        f"* **Probabilities calibrated:** {'yes' if card.calibrated else 'no'}",
        *([f"* **Figures:** {'; '.join(links)}"] if links else []),
        "",
        "Limits:",
        "",
        *(f"* {limit}" for limit in card.limits),
        "",
    ]


def figure_lines(page: FigurePage, card: Card) -> list[str]:
    """The lines of ``page`` on ``card``; none if the page has no figures of this card."""
    return [line for section in page.sections for line in section(card)]


def _written(page: FigurePage, cards: Sequence[Card]) -> str:
    lines = [
        f"# {page.title}",
        "",
        f"**{NOT_DIAGNOSTIC}** From the [cards](../{CARDS}), where limits and licences are.{page.note}",
        "",
    ]
    for card in cards:
        if found := figure_lines(page, card):
            lines += [f"## {_title(card)}", "", *found]
    return "\n".join(lines)


def _headline(card: Card) -> str:
    """The one figure to know a classifier by, as a sentence; nothing for the others."""
    metrics = card.details.get("metrics", {})
    if "mean_auc" in metrics:
        return f" Mean AUC of {len(metrics['mean_auc_labels'])} labels: {interval(metrics['mean_auc'])}."
    if "cross_validation" in metrics:
        return f" Macro AUC of the classes: {interval(metrics['cross_validation']['macro_auc'])}."
    return ""


def _title(card: Card) -> str:
    return f"{card.id}, version {card.version}"


def _anchor(card: Card) -> str:
    """The heading of a card as the part of an address after ``#``."""
    return "".join(c for c in _title(card).lower() if c.isalnum() or c in "-_ ").replace(" ", "-")


if __name__ == "__main__":
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, text in pages().items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
