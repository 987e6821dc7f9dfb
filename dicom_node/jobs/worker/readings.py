"""Stores readings of burned-in annotation encrypted, readable only with the site key.

The texts that a pipeline reads are encrypted (AES-256-GCM under a key derived from the site key) into the
table ``annotation_reading``, and the result is passed on without them, so that neither the analyses on disk
nor the objects that are sent can contain them.
"""

import hashlib
import json
import os
import pwd
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ai_pipeline.contract import Pipeline, PipelineResult
from dicom_node import sitekey
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigProblem, ConfigurationError, FaultyInput
from dicom_node.events import READINGS_SHOWN
from dicom_node.sitekey import Seal
from dicom_node.store import burned_in as table
from dicom_node.store.database import Database
from dicom_node.store.tables import AnnotationReading
from dicom_node.store.transitions import record, utc_now
from dicom_node.store.views import columns, find_study

_PURPOSE = "mark readings"
_LOGIN_UID, _NOBODY_LOGGED_IN = Path("/proc/self/loginuid"), 2**32 - 1


class ReadingRecord:
    """The readings of one node. The site key is read when the first text is encrypted."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._data_dir = settings.node.data_dir
        self._keeps = settings.privacy.keep_readings

    def take(
        self, pipeline: Pipeline, options: Mapping[str, object], uids: Collection[str], result: PipelineResult
    ) -> PipelineResult:
        """Store the texts that a new analysis read in these images; return the result without the texts.

        Texts of an earlier analysis with the same pipeline and options are replaced. Raises
        ConfigurationError when the site key cannot be used.
        """
        if self._keeps:
            analysis = json.dumps([pipeline.card.name, dict(options)], sort_keys=True, default=str)
            analysis_sha256 = hashlib.sha256(analysis.encode()).hexdigest()
            texts = [self._seal.close(reading.text, reading.source_uid) for reading in result.readings]
            with self._database.write() as session:
                known = table.images(session, uids)
                rows = [
                    AnnotationReading(
                        study_id=known[reading.source_uid][1],
                        instance_id=known[reading.source_uid][0],
                        analysis_sha256=analysis_sha256,
                        frame=reading.frame,
                        kind=reading.kind,
                        meaning=reading.meaning.value,
                        **dict(zip(("left", "top", "right", "bottom"), reading.bounds, strict=True)),
                        confidence=reading.confidence,
                        removed=reading.removed,
                        sealed=sealed,
                        read_at=utc_now(),
                    )
                    for reading, sealed in zip(result.readings, texts, strict=True)
                    if reading.source_uid in known
                ]
                table.replace(session, [number for number, _ in known.values()], analysis_sha256, rows)
        return replace(result, readings=())

    @cached_property
    def _seal(self) -> Seal:
        return Seal(self._data_dir, _PURPOSE)


def show(
    database: Database,
    settings: Settings,
    study_instance_uid: str,
    also: Callable[[Session, int], object] | None = None,
) -> list[dict[str, Any]]:
    """The readings of a study, decrypted with the site key; an event records who looked at them.

    ``also`` writes further rows about the study in the same transaction. Raises NotFound, ConfigurationError
    if the key cannot be read, FaultyInput if another key encrypted the readings.
    """
    with database.write() as session:
        study = find_study(session, study_instance_uid)
        rows = table.of_study(session, study.id)
        seal = _existing_seal(settings.node.data_dir) if rows else None
        shown = [_shown(row, uid, seal) for row, uid in rows if seal is not None]
        record(
            session,
            READINGS_SHOWN,
            study.id,
            study=study.study_instance_uid,
            user=_user(),
            readings=len(shown),
        )
        if also is not None:
            also(session, study.id)
    return shown


def _existing_seal(data_dir: Path) -> Seal:
    """The seal of the existing key; no key is created for reading."""
    path = sitekey.path_of(data_dir)
    try:
        found = path.exists()
    except PermissionError:
        remedy = "only the user of the node may read it: run the command as that user"
        raise ConfigurationError([ConfigProblem(str(path), "site key", "", remedy)]) from None
    if not found:
        raise FaultyInput("the site key that encrypted the readings is missing: restore keys/site.key")
    return Seal(data_dir, _PURPOSE)


def _shown(row: AnnotationReading, image_uid: str, seal: Seal) -> dict[str, Any]:
    text = seal.open(row.sealed, image_uid)
    if text is None:
        raise FaultyInput(
            "the readings of this study were sealed with another site key: put back keys/site.key"
        )
    return {
        "sop_instance_uid": image_uid,
        **columns(row, "frame", "kind", "meaning"),
        "text": text,
        "bounds": [row.left, row.top, row.right, row.bottom],
        "confidence": round(row.confidence, 3),
        **columns(row, "removed", "read_at"),
    }


def _user() -> str:
    """Who logged in on this machine, also under sudo (audit's login uid), else who runs this process."""
    uid = os.getuid()
    with suppress(OSError, ValueError):
        logged_in = int(_LOGIN_UID.read_text(encoding="ascii"))
        uid = uid if logged_in == _NOBODY_LOGGED_IN else logged_in
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
