"""`ai-pipeline models` as a person calls it, and files of other projects to call it with."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from ai_pipeline.cli import app

Model = tuple[Path, Path]
"""A file and its card."""

ROOT = Path(__file__).parents[4]
SHIPPED = "chest-efficientnet-lite0"


def models(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, words)])


def add(file: Path | str, card: Path, *more: str) -> Result:
    return models("add", file, "--card", card, "--accept-licence", *more)


def ended(status: int, done: Result) -> str:
    """What a command printed that ended with this status."""
    assert done.exit_code == status, done.output
    return done.output


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(models_dir: Path) -> set[str]:
    return {str(path.relative_to(models_dir)) for path in models_dir.rglob("*") if path.name != ".lock"}


def run_quietly(*words: str | Path) -> None:
    """Run Python with these words, in one thread: libraries of others change warnings at import."""
    command = [sys.executable, "-W", "ignore", *map(str, words)]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "YOLO_AUTOINSTALL": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet, cwd=ROOT)
    assert done.returncode == 0, done.stderr
