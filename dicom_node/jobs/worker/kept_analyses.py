"""Results of a pipeline for single images, stored on disk until the study's job uses them.

They contain no readings of burned-in annotation, which are encrypted and stored first (``readings``). One
folder per analysis: ``result.json`` and one ``.npy`` per array; arrays are mapped, not read, so that a cine
need not fit into memory. A folder is written under another name and renamed, so that nobody sees a
half-written one. Losing them costs only time: they are not synced, and a job that finds none analyses again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import TypeAdapter

from ai_pipeline.contract import Pipeline, PipelineResult
from dicom_node import __version__

_RESULT = "result.json"
_TYPE: Final = TypeAdapter(PipelineResult)
KEEP_SECONDS = 86_400.0
"""After this time an analysis that no job has used is deleted: no rule wants its study any more."""


def key_of(pipeline: Pipeline, options: Mapping[str, object], spool_name: str, pixels_sha256: str) -> str:
    """The name of an analysis, derived from all its inputs. ``spool_name``: of this version of the image."""
    models = [asdict(model) for model in pipeline.models()]
    shaped_by = [
        __version__,
        pipeline.card.name,
        pipeline.card.version,
        models,
        dict(options),
        spool_name,
        pixels_sha256,
    ]
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Analyses:
    """The stored analyses of one node, in ``folder``."""

    folder: Path

    def get(self, key: str) -> PipelineResult | None:
        """The stored analysis under ``key``; None if there is none or its files cannot be read."""
        try:
            return _read(self.folder / key)
        except (OSError, EOFError, ValueError):
            return None

    def put(self, key: str, result: PipelineResult) -> None:
        """Store an analysis under ``key``, unless a readable one is stored already."""
        draft = self.folder / f".{key}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            _write(draft, result)
            if self.get(key) is None:
                shutil.rmtree(self.folder / key, ignore_errors=True)
                draft.rename(self.folder / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def claim(self, key: str) -> bool:
        """Claim an analysis for this worker; returns False if another worker has begun it, or it exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / key).exists():
            return False
        try:
            (self.folder / f"{key}.claim").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def drop(self, key: str) -> None:
        """Delete the analysis and its claim, once a job has used the analysis."""
        shutil.rmtree(self.folder / key, ignore_errors=True)
        (self.folder / f"{key}.claim").unlink(missing_ok=True)

    def forget_old(self) -> None:
        """Delete analyses that no job has used for a day."""
        before = time.time() - KEEP_SECONDS
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # dropped meanwhile, by us or another worker
                if entry.stat().st_mtime < before:
                    self.drop(entry.name.removesuffix(".claim"))


def _write(folder: Path, result: PipelineResult) -> None:
    arrays: list[np.ndarray] = []
    # What was read may be a name: it stands in the record of readings alone.
    written = _TYPE.dump_json(replace(result, readings=()), context=arrays)
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", array, allow_pickle=False)
    (folder / _RESULT).write_bytes(written)


def _read(folder: Path) -> PipelineResult:
    """Raises OSError, EOFError or ValueError for what is not there, cut or of another version."""
    written, arrays = (folder / _RESULT).read_bytes(), _Arrays(folder)
    return _TYPE.validate_json(written, strict=True, extra="forbid", context=arrays)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The arrays of an analysis by their numbers, mapped, not read."""

    folder: Path

    def __getitem__(self, number: int) -> np.ndarray:
        array: np.ndarray = np.load(self.folder / f"{number}.npy", mmap_mode="r", allow_pickle=False)
        return array
