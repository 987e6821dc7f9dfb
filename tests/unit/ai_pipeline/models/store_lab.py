"""`ai-pipeline models` as a person calls it, and files of other projects to call it with."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from ai_pipeline.cli import app

MAKER = Path(__file__).parents[2] / "ai_training/foreign_checkpoints.py"
SHIPPED = "chest-efficientnet-lite0"


def models(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, words)])


def add(file: Path | str, card: Path, *more: str) -> Result:
    return models("add", file, "--card", card, "--accept-licence", *more)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(models_dir: Path) -> set[str]:
    return {str(path.relative_to(models_dir)) for path in models_dir.rglob("*") if path.name != ".lock"}


def let_make(kind: str, folder: Path) -> None:
    """Run the program that makes foreign files of a ``kind`` in ``folder``."""
    command = [sys.executable, "-W", "ignore", str(MAKER), kind, str(folder)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
