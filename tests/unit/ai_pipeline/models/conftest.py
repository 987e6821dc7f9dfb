"""A store of models, and a model to add to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.models.registry import MODELS_DIR
from ai_pipeline.models.store import sandbox
from tests.unit.ai_pipeline.models.store_lab import let_make
from tests.unit.ai_training import small_models

Expected = dict[str, npt.NDArray[Any]]


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


@pytest.fixture
def confinement() -> None:
    """Skips where root has no bubblewrap that can start: then nothing is converted (the next tests)."""
    if os.geteuid() == 0 and not sandbox._bubblewrap():
        pytest.skip(
            "this machine cannot confine a process: install bubblewrap, or run the tests as another user"
        )


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Expected]:
    """Let a library make ``checkpoint.*`` in the test's folder, and say what it expects of it."""

    def make(kind: str) -> Expected:
        let_make(kind, tmp_path)
        with np.load(tmp_path / "expected.npz") as arrays:
            return dict(arrays)

    return make
