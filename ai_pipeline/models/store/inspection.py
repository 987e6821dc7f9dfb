"""Foreign files are looked into (:mod:`.formats`) in a process apart, with a time and limits."""

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
    """Raises CardError when one of the files is not what may be run, or cannot be looked into in time."""
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        ended = sandbox.run(
            "ai_pipeline.models.store.formats", json.dumps([str(path.absolute()) for path in paths]),
            Path(scratch), reads=paths, seconds=SECONDS,
        )  # fmt: skip
    if ended.status == EXIT_DATA:
        raise CardError(ended.line)
    if ended.status != 0:
        names = ", ".join(path.name for path in paths)
        raise CardError(f"{names} cannot be looked into: {ended.line}")
