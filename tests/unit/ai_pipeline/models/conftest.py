"""A store of models, and a model to add to it."""

import shutil
from pathlib import Path

import pytest

from ai_pipeline.models.registry import MODELS_DIR
from tests.unit.ai_pipeline.models.store_lab import Model, add, models
from tests.unit.ai_training import small_models


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models that the environment names."""
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv(MODELS_DIR, str(models))
    return models


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model and its card, not yet in the store."""
    return small_models.write(tmp_path / "made")


@pytest.fixture(scope="module")
def activated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose model is active: to try a model takes seconds."""
    folder, made = (tmp_path_factory.mktemp(name) for name in ("models", "made"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_DIR, str(folder))
        assert add(*small_models.write(made)).exit_code == models("activate", "small").exit_code == 0
    return folder


@pytest.fixture
def active(store: Path, activated: Path) -> Path:
    """The store, with a copy of it."""
    return Path(shutil.copytree(activated, store, dirs_exist_ok=True))
