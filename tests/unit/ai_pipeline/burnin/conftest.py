"""Readers of what is left, and how far small pictures are enlarged: as far as the rule needs it."""

from dataclasses import replace

import pytest

from ai_pipeline.burnin import frames as cines
from ai_pipeline.burnin.decide.texts import NOTHING_READ
from ai_pipeline.burnin.find import text
from ai_pipeline.burnin.tools import Tools, shared_tools
from tests.ultrasound_lab import Reader
from tests.unit.ai_pipeline.burnin.cleaning_lab import Sees


@pytest.fixture
def less_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters of 16 pixels are found as surely at one and a half times their size, which takes a quarter."""
    monkeypatch.setattr(text, "LARGEST_ENLARGEMENT", 1.5)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture(scope="module")
def quick() -> Reader:
    return Reader(side=240)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cines, "WINDOW", 4)


@pytest.fixture
def unsure() -> Tools:
    """One place on tissue looks like text, and nothing can be read in it."""
    return replace(shared_tools(), reader=Sees(NOTHING_READ, (200, 150, 270, 166)))
