"""How far small pictures are enlarged where the rule is not what networks read."""

import pytest

from ai_pipeline.burnin.find import text


@pytest.fixture
def less_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters of 16 pixels are found as surely at one and a half times their size, which takes a quarter."""
    monkeypatch.setattr(text, "LARGEST_ENLARGEMENT", 1.5)
