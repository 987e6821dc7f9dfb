"""Wheels of our packages and of examples, built offline from a copy: no ``build`` folder is left."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

EXAMPLE = ROOT / "examples" / "pipeline"
"""The package that docs/pipelines.md shows."""


def build(project: Path, folder: Path, *parts: str) -> Path:
    """The wheel of ``project`` in ``folder``; ``parts`` of it are copied, all without them.

    Skips without setuptools, which CI has.
    """
    if importlib.util.find_spec("setuptools") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs setuptools")
    copy = folder / "source"
    copy.mkdir(parents=True)
    for part in parts or sorted(path.name for path in project.iterdir()):
        if (project / part).is_dir():
            shutil.copytree(
                project / part,
                copy / part,
                ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"),
            )
        else:
            shutil.copy(project / part, copy)
    call = "import sys, setuptools.build_meta; setuptools.build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", call, str(folder.resolve())]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> None:
    """Put what a wheel brings into ``folder``, which a ``PYTHONPATH`` may name."""
    zipfile.ZipFile(wheel).extractall(folder)
