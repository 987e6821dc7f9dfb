"""docs/models.md says what the cards say."""

from __future__ import annotations

from pathlib import Path

from ai_training.pages import models as cardpage

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"


def test_the_page_about_the_models_is_that_of_the_shipped_cards() -> None:
    assert PAGE.read_text() == cardpage.page(), "run python -m ai_training.pages.models > docs/models.md"
