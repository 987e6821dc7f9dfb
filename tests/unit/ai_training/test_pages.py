"""docs/models.md and the pages beside it say what the cards say."""

from __future__ import annotations

from ai_training import pages as cardpage

MOST_WORDS = 3000


def test_the_pages_about_the_models_are_those_of_the_shipped_cards() -> None:
    written = [cardpage.DOCS / cardpage.CARDS, *sorted((cardpage.DOCS / "models").iterdir())]
    found = {path.relative_to(cardpage.DOCS).as_posix(): path.read_text("utf-8") for path in written}
    assert found == cardpage.pages(), "run python -m ai_training.pages"
    assert {name: len(text.split()) for name, text in found.items() if len(text.split()) > MOST_WORDS} == {}
