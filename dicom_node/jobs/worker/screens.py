"""Count what stands on the screens of devices, as a worker reads it when it cleans images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ai_pipeline.contract import Reading, SourceImage
from ai_pipeline.images.decode import DicomImage
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.sitekey import load_or_create
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import LearntScreen
from dicom_node.base.store.transitions import utc_now
from dicom_node.results.source import patient_of

_LOGGER = logging.getLogger(__name__)
_PURPOSE: Final = "screens of devices"


class ScreenLearner:
    """Counts what was read in images, by device (``ai_pipeline.burnin.screens``). What fails is logged and
    never an image's fault.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    def learn(self, image: SourceImage, readings: Sequence[Reading]) -> None:
        """Count the texts that were read in an ultrasound image of a known patient."""
        if not (readings and self._settings.workers.learn_screens and isinstance(image, DicomImage)):
            return
        try:
            self._count(image, readings)
        except (SQLAlchemyError, ConfigurationError, OSError) as error:
            _LOGGER.warning("the screen of a device is not learnt: %s", type(error).__name__)

    def _count(self, image: DicomImage, readings: Sequence[Reading]) -> None:
        """Count these texts in the row of the image's device."""
        from ai_pipeline.burnin.screens.counting import ENOUGH, ScreenCounts
        from ai_pipeline.burnin.screens.learning import subject_of

        subject, patient = subject_of(image), patient_of(image.dataset).key
        if isinstance(subject, str) or not patient:
            return
        name, key = subject.device.rule_name, key_of(self._settings.node.data_dir)
        with self._database.read() as session:
            if (
                session.scalar(select(LearntScreen.patients).where(LearntScreen.name == name)) or 0
            ) >= ENOUGH:
                return
        with self._database.write() as session:
            row = _row_of(session, name)
            if row is None:
                return
            counts = ScreenCounts.from_bytes(key, image.header.rows, row.counted)
            if counts.add(patient, readings, subject.identity):
                row.device = dict(subject.device.conditions)
                row.counted, row.patients, row.changed_at = counts.to_bytes(), counts.patients, utc_now()


def key_of(data_dir: Path) -> bytes:
    """The key of the hashes under which texts and patients are counted. Raises ConfigurationError."""
    return load_or_create(data_dir).derive(_PURPOSE)


def _row_of(session: Session, name: str) -> LearntScreen | None:
    """The locked row of the device of this name, a new one if there is none; None if there are too many
    devices.
    """
    from ai_pipeline.burnin.screens.learning import MOST_DEVICES

    row = session.scalar(select(LearntScreen).where(LearntScreen.name == name).with_for_update())
    if row is None:
        if session.query(LearntScreen).count() >= MOST_DEVICES:
            return None
        row = LearntScreen(name=name, device={}, patients=0, counted=b"", changed_at=utc_now())
        session.add(row)
        session.flush()
    return row
