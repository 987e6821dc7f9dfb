"""docs/models.md and the pages beside it say what the cards say."""

from __future__ import annotations

from ai_training import pages as cardpage
from ai_training.text import figures_text

MOST_WORDS = 3000


def test_the_pages_about_the_models_are_those_of_the_shipped_cards() -> None:
    written = [cardpage.DOCS / cardpage.CARDS, *sorted((cardpage.DOCS / "models").iterdir())]
    found = {path.relative_to(cardpage.DOCS).as_posix(): path.read_text("utf-8") for path in written}
    assert found == cardpage.pages(), "run python -m ai_training.pages"
    assert {name: len(text.split()) for name, text in found.items() if len(text.split()) > MOST_WORDS} == {}


def test_each_row_of_plain_values_is_a_line() -> None:
    figures = {
        "model": "made",
        "mean_auc": [0.71234, 0.65, None],
        "nothing": [None, None, None],
        "labels": [{"label": "Mass", "auc": 0.5, "deep": {"a": 1}}, {"label": "Nodule", "auc": 1.0}],
        "gate": {"threshold": 0.9, "kinds": {"chest_x": {"passed": True}, "other": {"passed": False}}},
        "left_out": {},
    }

    assert figures_text(figures).splitlines() == [
        "model: made",
        "mean auc: 0.7123, 0.65, –",
        "nothing: –, –, –",
        "labels:",
        "  1 Mass:",
        "    label: Mass",
        "    auc: 0.5",
        "    deep: a 1",
        "  2 Nodule: label Nodule; auc 1",
        "gate:",
        "  threshold: 0.9",
        "  kinds:",
        "    chest x: passed yes",
        "    other: passed no",
        "left out: none",
        "",
        "Not for diagnostic use.",
    ]
