"""Wheels of our packages and of examples, built offline from a copy: no ``build`` folder is left."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "pipeline"
"""The package that docs/pipelines.md shows."""
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")


def build(project: Path, folder: Path, *parts: str) -> Path:
    """The wheel of ``project`` in ``folder``; ``parts`` of it are copied, all without them.

    Skips without setuptools or pip, which CI has.
    """
    for tool in ("setuptools", "pip"):
        if importlib.util.find_spec(tool) is None:
            missing = pytest.fail if os.environ.get("CI") else pytest.skip
            missing(f"needs {tool}")
    copy = folder / "source"
    copy.mkdir(parents=True)
    for part in parts or sorted(path.name for path in project.iterdir()):
        if (project / part).is_dir():
            shutil.copytree(project / part, copy / part, ignore=_NOT_COPIED)
        else:
            shutil.copy(project / part, copy)
    _pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> None:
    """Put what a wheel brings into ``folder``, which a ``PYTHONPATH`` may name."""
    _pip("install", "--target", str(folder), str(wheel))


def _pip(verb: str, *words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", verb, "--no-deps", "--no-index", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
