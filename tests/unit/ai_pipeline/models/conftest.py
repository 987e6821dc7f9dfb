"""A store of models, and a model to add to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_pipeline.models.registry import MODELS_DIR
from tests.unit.ai_training import small_models


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models that the environment names."""
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv(MODELS_DIR, str(models))
    return models


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """A model and its card, not yet in the store."""
    return small_models.write(tmp_path / "made")
