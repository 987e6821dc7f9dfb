"""Check foreign files (:mod:`.formats`) in a process of its own, with limits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ai_pipeline.errors import CardError
from ai_pipeline.models.store import sandbox
from ai_pipeline.models.store.confined import EXIT_DATA

SECONDS = 300


def inspect(paths: Sequence[Path]) -> None:
    """Raise CardError if one of the files may not be run, or cannot be checked within :data:`SECONDS`."""
    names = ", ".join(path.name for path in paths)
    request = json.dumps([str(path.absolute()) for path in paths])
    run_check("ai_pipeline.models.store.formats", request, paths, SECONDS, f"{names} cannot be looked into")


def run_check(program: str, request: str, reads: Sequence[Path], seconds: int, otherwise: str) -> None:
    """Run a module of this package in the sandbox, with ``request`` on its standard input.

    Raises CardError: if the module exits with 65, with the line that it printed; if it fails in another way
    or takes longer than ``seconds``, with ``otherwise`` before that line.
    """
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        ended = sandbox.run(program, request, Path(scratch), reads=reads, seconds=seconds)
    if ended.status == EXIT_DATA:
        raise CardError(ended.line)
    if ended.status != 0:
        raise CardError(f"{otherwise}: {ended.line}")
