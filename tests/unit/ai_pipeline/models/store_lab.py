"""`ai-pipeline models` as a person calls it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from typer.testing import CliRunner, Result

from ai_pipeline.cli import app

SHIPPED = "chest-efficientnet-lite0"


def models(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, words)])


def add(file: Path | str, card: Path, *more: str) -> Result:
    return models("add", file, "--card", card, "--accept-licence", *more)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(models_dir: Path) -> set[str]:
    return {str(path.relative_to(models_dir)) for path in models_dir.rglob("*") if path.name != ".lock"}
